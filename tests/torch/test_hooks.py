"""Closures, hooks and profiler labels around a step of the drop-in."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from support import needs
from torch_support import RMSprop, TorchRMSprop, torch

optimizer_module = needs("torch.optim.optimizer")
register_optimizer_step_pre_hook = optimizer_module.register_optimizer_step_pre_hook
register_optimizer_step_post_hook = optimizer_module.register_optimizer_step_post_hook


def test_closure_hooks_and_added_groups() -> None:
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
    opt = RMSprop([p], lr=0.1)
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append("before"))
    opt.register_step_post_hook(lambda *_: seen.append("after"))
    opt.add_param_group({"params": [q], "lr": 0.2})

    def closure() -> Any:
        opt.zero_grad()
        loss = (p**2 + q**2).sum()
        loss.backward()
        seen.append("closure")
        return loss

    assert opt.step(closure).item() == 6.0
    assert seen == ["before", "closure", "after"]
    assert torch.all(q < p)


class Counting(RMSprop):
    """A subclass with a step of its own."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        return super().step(closure)


@pytest.mark.parametrize("optimizer", [RMSprop, Counting])
def test_hooks_run_once_and_in_torchs_order(optimizer: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    opt = optimizer([p])
    seen: list[Any] = []
    opt.step()  # before there is any hook
    handles = [
        opt.register_step_pre_hook(lambda *a: seen.append(("pre", *a))),
        opt.register_step_post_hook(lambda *a: seen.append(("post", *a))),
        register_optimizer_step_pre_hook(lambda *a: seen.append(("global pre", *a))),
        register_optimizer_step_post_hook(lambda *a: seen.append(("global post", *a))),
    ]
    opt.step()
    for handle in handles:
        handle.remove()
    opt.step()
    order = ["global pre", "pre", "post", "global post"]
    theirs: list[Any] = []
    other = TorchRMSprop([p])
    other.register_step_pre_hook(lambda *_: theirs.append("pre"))
    other.register_step_post_hook(lambda *_: theirs.append("post"))
    with_global = [
        register_optimizer_step_pre_hook(lambda *_: theirs.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: theirs.append("global post")),
    ]
    other.step()
    for handle in with_global:
        handle.remove()
    assert sorted(theirs) == sorted(order)
    assert [name for name, *_ in seen] == theirs
    assert all(of is opt and kwargs == {} for _, of, _, kwargs in seen)
    arguments: dict[Any, list[Any]] = {}
    for o in (opt, other):
        o.register_step_post_hook(
            lambda o, args, kwargs: arguments.setdefault(o, []).append((len(args), kwargs))
        )
        o.step(closure=None)
        o.step(None)
        o.step()
        o._optimizer_step_post_hooks.clear()
    if optimizer is RMSprop:
        assert arguments[opt] == arguments[other] == [(1, {"closure": None}), (2, {}), (1, {})]

    opt.register_step_pre_hook(lambda *_: ((opt, lambda: torch.tensor(7.0)), {}))
    assert opt.step().item() == 7.0  # a hook may replace the arguments
    assert int(opt.state[p]["step"]) == 7
    assert inspect.signature(RMSprop.step) == inspect.signature(TorchRMSprop.step)


@pytest.mark.parametrize("optimizer", [RMSprop, Counting])
def test_a_step_has_its_label_in_a_profile(optimizer: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    opt = optimizer([p])
    with torch.profiler.profile() as profile:
        opt.step()
    labels = [event.key for event in profile.key_averages() if "Optimizer.step" in event.key]
    assert labels == [f"Optimizer.step#{optimizer.__name__}.step"]


@pytest.mark.parametrize(
    "register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook]
)
def test_a_single_hook_of_all_optimizers_runs(register: Any) -> None:
    seen = []
    handle = register(lambda opt, *_: seen.append(opt))
    opt = RMSprop([torch.ones(3)])
    try:
        opt.step()
    finally:
        handle.remove()
    opt.step()
    assert seen == [opt]
