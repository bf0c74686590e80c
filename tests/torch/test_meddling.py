"""Code of users that runs within a step of the drop-in, or that its containers bring along."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from support import run_python
from torch_meddling_support import (
    TorchDispatchMode,
    TorchFunctionMode,
    meddling,
    params_out_of_order,
)
from torch_support import RMSprop, torch

both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def another_step(opt: Any) -> None:
    opt.step()


def another_lr(opt: Any) -> None:
    opt.param_groups[0]["lr"] = 0.5
    try:
        opt.step()
    finally:
        opt.param_groups[0]["lr"] = 0.1


def another_state(opt: Any) -> None:
    opt.load_state_dict({"state": {}, "param_groups": [{**opt.defaults, "params": [0, 1, 2]}]})


def another_group(opt: Any) -> None:
    opt.add_param_group({"params": [torch.ones(1)]})


def its_averages(opt: Any) -> None:
    with opt.use_ema():
        pass


@both_dtypes
@pytest.mark.parametrize("mode", [TorchDispatchMode, TorchFunctionMode])
@pytest.mark.parametrize(
    "act", [another_step, another_lr, another_state, another_group, its_averages]
)
@pytest.mark.parametrize("steps_before", [0, 1])
def test_an_optimizer_that_is_used_in_its_own_step_refuses(
    dtype: Any, mode: Any, act: Any, steps_before: int
) -> None:
    results = []
    for meddles in (False, True):
        params = params_out_of_order(dtype)
        opt = RMSprop(params, lr=0.1, ema_decay=0.5)
        for _ in range(steps_before):
            opt.step()
        refusals: list[str] = []

        def meddle(opt: Any = opt, refusals: list[str] = refusals) -> None:
            with pytest.raises(RuntimeError) as refusal:
                act(opt)
            refusals.append(str(refusal.value))

        if meddles:
            with meddling(mode, meddle):
                opt.step()
            assert refusals
            assert all("which runs the code that makes this call" in text for text in refusals)
        else:
            opt.step()
        opt.step()
        assert len(opt.param_groups) == 1
        results.append([*params, *(opt.state[p]["square_avg"] for p in params)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    "move",
    [
        lambda p, state: setattr(p, "data", p.detach().clone()),
        lambda p, state: state.update(square_avg=state["square_avg"].clone()),
        lambda p, state: state["square_avg"].set_(state["square_avg"].clone()),
        lambda p, state: state["step"].set_(state["step"].clone()),
        lambda p, state: p.grad.set_(p.grad.clone()),
    ],
)
def test_memory_that_moves_while_gradients_are_copied(move: Any) -> None:
    """All that was read before is read again."""
    results = []
    for meddles in (False, True):
        first = torch.ones(1000, requires_grad=True)
        params = [first, *params_out_of_order(torch.float32)]
        first.grad = torch.ones(1000)
        opt = RMSprop(params, lr=0.1)
        opt.step()
        moved: list[Any] = []

        def meddle(opt: Any = opt, first: Any = first, moved: list[Any] = moved) -> None:
            if not moved:
                moved.append(1)
                move(first, opt.state[first])

        if meddles:
            with torch.no_grad(), meddling(TorchDispatchMode, meddle):
                opt.step()
            assert moved
        else:
            opt.step()
        results.append([*params, *(opt.state[p]["square_avg"] for p in params)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_memory_that_always_moves_is_refused() -> None:
    params = params_out_of_order(torch.float32)
    opt = RMSprop(params, lr=0.1)
    opt.step()
    before = [p.detach().clone() for p in params]

    def move() -> None:
        params[0].data = params[0].detach().clone()

    refused = pytest.raises(RuntimeError, match="changed during the step")
    with torch.no_grad(), meddling(TorchDispatchMode, move), refused:
        opt.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    opt.step()


class Owner(dict[str, Any]):
    """A state that leads back to its optimizer."""

    owner: Any = None


def cycle_through_a_state() -> Any:
    p = torch.ones(3, requires_grad=True)
    opt = RMSprop([p], ema_decay=0.5)
    opt.state[p] = state = Owner()
    state.owner = opt
    return opt


def cycle_through_a_hook() -> Any:
    p = torch.ones(3, requires_grad=True)
    opt = RMSprop([p], ema_decay=0.5)
    p.register_hook(lambda _: opt)
    return opt


def cycle_through_a_parameter() -> Any:
    p = torch.ones(3, requires_grad=True)
    opt = RMSprop([p], ema_decay=0.5)
    p.owner = opt
    return opt


def cycle_through_shown_averages() -> Any:
    opt = cycle_through_a_parameter()
    opt.shown = opt.use_ema()
    return opt


def cycle_through_averages_that_are_still_shown() -> Any:
    opt = cycle_through_a_parameter()
    opt.step()
    p = opt.param_groups[0]["params"][0]
    p.grad = torch.ones(3)
    opt.step()
    opt.shown = opt.use_ema()
    opt.shown.__enter__()
    p.grad = None
    return opt


@pytest.mark.parametrize(
    "make",
    [
        cycle_through_a_state,
        cycle_through_a_hook,
        cycle_through_a_parameter,
        cycle_through_shown_averages,
        cycle_through_averages_that_are_still_shown,
    ],
)
def test_an_optimizer_that_is_part_of_a_cycle_is_collected(make: Any) -> None:
    opt = make()
    if not hasattr(opt, "shown"):
        (p,) = opt.param_groups[0]["params"]
        p.grad = torch.ones(3)
        opt.step()
        del p
    gone = weakref.ref(opt)
    del opt
    gc.collect()
    assert gone() is None


def test_averages_that_nobody_hides_are_hidden_at_the_end_of_their_life() -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    opt = RMSprop([p], lr=0.1, ema_decay=0.5)
    opt.step()
    trained = p.detach().clone()
    shown = opt.use_ema()
    shown.__enter__()
    assert not torch.equal(p, trained)
    del shown
    assert torch.equal(p, trained)
    opt.step()


def test_averages_of_parameters_that_have_moved_are_hidden_too() -> None:
    p, q = (torch.arange(3.0).requires_grad_() for _ in range(2))
    p.grad, q.grad = torch.ones(3), torch.ones(3)
    opt = RMSprop([p, q], lr=0.1, ema_decay=0.5)
    opt.step()
    trained = p.detach().clone()
    old = p.data
    with opt.use_ema():
        average = p.detach().clone()
        p.data = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(p, trained.double())
    assert torch.equal(q, trained)
    assert torch.equal(old, average)
    with pytest.raises(RuntimeError, match="size"), opt.use_ema():
        p.data = torch.zeros(5)
    assert torch.equal(q, trained)
    opt.param_groups[0]["params"] = [q]
    with opt.use_ema():
        version = q._version
    assert q._version == version + 1


HOSTILE = """
import gc
import sys
import torch
from fused_rmsprop.torch import RMSprop

class Key(str):
    "A key that clears its dict when it is compared, hashed or printed."
    owner = None
    def clear(self):
        if self.owner is not None:
            owner, Key.owner = self.owner, None
            owner.clear()
            [object() for _ in range(1000)]
            gc.collect()
    def __eq__(self, other):
        self.clear()
        return str.__eq__(self, other)
    def __hash__(self):
        self.clear()
        return str.__hash__(self)
    def __repr__(self):
        self.clear()
        return "key"

class Params(list):
    "A list that changes while it is read."
    def __iter__(self):
        for p in list(self):
            yield p
            if len(self) > 1:
                del self[-1]
    def __getitem__(self, i):
        return list.__getitem__(self, i)

def make(**options):
    params = [torch.ones(3, requires_grad=True) for _ in range(3)]
    opt = RMSprop(params, lr=0.1, **options)
    for p in params:
        p.grad = torch.ones(3)
    opt.step()
    return opt, params

def attempt(act):
    for _ in range(3):
        try:
            act()
        except (RuntimeError, TypeError, KeyError, ValueError, AttributeError, IndexError):
            pass

for name in ("step", "square_avg", "momentum_buffer", "unrelated"):
    for act in ("step", "state_dict", "copy"):
        opt, params = make(momentum=0.9, centered=True)
        key = Key(name)
        state = {k: v for k, v in opt.state[params[0]].items() if k != name}
        state[key] = torch.ones(())
        opt.state[params[0]] = state
        Key.owner = state
        attempt(opt.step if act == "step" else opt.state_dict if act == "state_dict"
                else lambda: opt.__setstate__(opt.__getstate__()))
        opt, params = make()
        group = opt.param_groups[0]
        group[Key("lr2")] = 1
        Key.owner = group
        attempt(opt.step)

opt, params = make(ema_decay=0.5)
opt.param_groups[0]["params"] = Params(params)
attempt(opt.step)
attempt(lambda: opt.use_ema().__enter__())
for wrong in (None, 1, "text", object(), [1], type("Fake", (), {"_cdata": 1, "dtype": torch.float32,
              "numel": lambda s: 3, "is_neg": lambda s: False})()):
    for name in ("step", "square_avg", "param_avg"):
        opt, params = make(ema_decay=0.5)
        opt.state[params[1]][name] = wrong
        attempt(opt.step)
        attempt(lambda: opt.use_ema().__enter__())
    opt, params = make()
    opt.state[params[0]] = wrong
    attempt(opt.step)
    attempt(opt.state_dict)
    opt, params = make()
    opt.param_groups[0]["params"] = [wrong, *params]
    attempt(opt.step)
    opt, params = make()
    opt.param_groups[0]["params"] = wrong
    attempt(opt.step)
    opt, params = make()
    opt.param_groups = wrong
    attempt(opt.step)
print("survived")
"""


def test_hostile_containers_crash_nothing() -> None:
    assert run_python(HOSTILE, PYTHONMALLOC="debug").stdout == "survived\n"


def test_a_state_that_is_no_dict_is_refused() -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    opt = RMSprop([p])
    opt.step()
    before, opt.state[p] = p.detach().clone(), [opt.state[p]]
    with pytest.raises((TypeError, ValueError)):
        opt.step()
    assert torch.equal(p, before)
    opt.state[p] = opt.state[p][0]
    opt.step()


@pytest.mark.parametrize("name", ["step", "square_avg"])
def test_an_object_in_the_place_of_a_tensor_is_named(name: str) -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    opt = RMSprop([p])
    opt.step()
    before = p.detach().clone()
    opt.state[p][name] = object()
    with pytest.raises(TypeError):
        opt.step()
    assert torch.equal(p, before)
