"""The state of the drop-in: exchange with torch's optimizer, copies, refusals."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

from torch_support import (
    RMSprop,
    TorchRMSprop,
    assert_same,
    params_of,
    set_grads,
    some_params,
    torch,
)

OPTIONS = [{}, {"momentum": 0.9}, {"centered": True}, {"centered": True, "momentum": 0.9}]


@pytest.mark.parametrize("kwargs", OPTIONS, ids=str)
@pytest.mark.parametrize("through_file", [False, True])
def test_state_is_exchanged_both_ways_in_mid_training(kwargs: Any, through_file: bool) -> None:
    mine, others = some_params(torch.float64), some_params(torch.float64)
    first: Any = TorchRMSprop(others, lr=0.01, **kwargs)
    for step in range(10):
        set_grads(others, step)
        first.step()

    def hand_over(old: Any, new: Any, source: list[Any], target: list[Any]) -> None:
        with torch.no_grad():
            for p, q in zip(source, target, strict=True):
                q.copy_(p)
        saved = copy.deepcopy(old.state_dict())
        if through_file:
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file)
        new.load_state_dict(saved)

    ours = RMSprop(mine, lr=0.5, **kwargs)
    hand_over(first, ours, others, mine)
    for step in range(10, 20):
        for params, opt in ((mine, ours), (others, first)):
            set_grads(params, step)
            opt.step()
    assert_same(ours, first, mine, others)
    third_params = some_params(torch.float64)
    third = TorchRMSprop(third_params, lr=0.5)
    hand_over(ours, third, mine, third_params)
    for step in range(20, 30):
        for params, opt in ((third_params, third), (others, first)):
            set_grads(params, step)
            opt.step()
    assert_same(third, first, third_params, others)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_alike(copied: Any) -> None:
    params = some_params(torch.float32)[:4]
    opt = RMSprop(params, centered=True, momentum=0.5, nesterov=True, threads=1)
    for step in range(3):
        set_grads([*params, None], step)
        opt.step()
    twin = copied(opt)
    twins = twin.param_groups[0]["params"]
    set_grads([*params, None], 7)
    set_grads([*twins, None], 7)
    opt.step()
    twin.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    assert twin._stepper.threads == 1


def test_the_variance_survives_a_state_dict_and_torchs_steps_in_between() -> None:
    def steps(params: list[Any], opt: Any, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(60):
            for p in params:
                p.grad = 1 + 1e-2 * torch.randn(p.shape, generator=generator)
            opt.step()

    def loaded(make: Any, params: list[Any], opt: Any) -> tuple[list[Any], Any]:
        params = [p.detach().clone().requires_grad_() for p in params]
        twin = make(params, lr=1e-3, alpha=0.5, centered=True)
        twin.load_state_dict(copy.deepcopy(opt.state_dict()))
        return params, twin

    params = [torch.zeros(6, requires_grad=True)]
    opt = RMSprop(params, lr=1e-3, alpha=0.5, centered=True)
    steps(params, opt, 0)
    twin_params, twin = loaded(RMSprop, params, opt)
    again_params, again = loaded(RMSprop, twin_params, twin)  # saved before it has made a step
    steps(params, opt, 1)
    steps(twin_params, twin, 1)
    steps(again_params, again, 1)
    assert torch.equal(params[0], twin_params[0])
    assert torch.equal(params[0], again_params[0])
    # After torch's steps the variance that goes along is out of date.
    torch_params, torchs = loaded(TorchRMSprop, params, opt)
    steps(torch_params, torchs, 2)
    back_params, back = loaded(RMSprop, torch_params, torchs)
    bare_params = [p.detach().clone().requires_grad_() for p in torch_params]
    bare = RMSprop(bare_params, lr=1e-3, alpha=0.5, centered=True)
    state_dict = copy.deepcopy(torchs.state_dict())
    for state in state_dict["state"].values():
        del state["variance"]
    bare.load_state_dict(state_dict)
    steps(back_params, back, 3)
    steps(bare_params, bare, 3)
    assert torch.equal(back_params[0], bare_params[0])
    assert torch.isfinite(back_params[0]).all()


def test_state_that_means_something_else_is_refused() -> None:
    (p,) = params_of([1.0, 2.0])
    theirs = torch.optim.RMSprop([p], momentum=0.9)
    theirs.step()
    state_dict = theirs.state_dict()
    for own in ("bias_correction", "lr_in_momentum"):
        opt = RMSprop([p], momentum=0.5, **{own: True})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=rf"into param_groups\[0\]: {own} is fixed at False"):
            opt.load_state_dict(state_dict)
        assert not opt.state
        assert opt.param_groups[0]["momentum"] == 0.5
        fresh = torch.optim.RMSprop([p], momentum=0.9).state_dict()  # it has made no step
        opt.load_state_dict(fresh)
        assert opt.param_groups[0][own] is True
    opt = RMSprop([p], momentum=0.5, nesterov=True)
    with pytest.raises(ValueError, match=r"into param_groups\[0\]: nesterov needs momentum > 0"):
        opt.load_state_dict(torch.optim.RMSprop([p]).state_dict())


@pytest.mark.parametrize("own", ["bias_correction", "lr_in_momentum", "initial_square_avg"])
def test_what_state_means_cannot_be_changed_in_mid_training(own: str) -> None:
    (p,) = params_of([1.0, 2.0])
    opt = RMSprop([p], momentum=0.9)
    opt.param_groups[0][own] = type(opt.param_groups[0][own])(1)  # before the first step it can
    opt.step()
    before = p.detach().clone()
    opt.param_groups[0][own] = type(opt.param_groups[0][own])(0)
    with pytest.raises(ValueError, match=rf"param_groups\[0\]: {own} is fixed at (True|1)"):
        opt.step()
    assert torch.equal(p, before)
    opt.state.clear()
    opt.step()


def test_hooks_of_load_state_dict_come_last() -> None:
    (p,) = params_of([1.0])
    opt = RMSprop([p])
    opt.register_load_state_dict_post_hook(lambda o: o.param_groups[0].update(ema_decay=0.5))
    opt.load_state_dict(torch.optim.RMSprop([p]).state_dict())
    assert opt.param_groups[0]["ema_decay"] == 0.5
