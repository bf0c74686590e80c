"""A state that is saved by code that runs within a step of the same optimizer."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from typing import Any

import pytest

from torch_meddling_support import (
    TorchDispatchMode,
    TorchFunctionMode,
    meddling,
    params_out_of_order,
)
from torch_support import RMSprop, torch


def saved(opt: Any) -> Any:
    return copy.deepcopy(opt.state_dict())


def pickled(opt: Any) -> Any:
    return pickle.loads(pickle.dumps(opt)).state_dict()


def same(a: Any, b: Any) -> bool:
    """Whether two state_dicts have the same state; an empty one is as good as none."""
    one, other = ({k: v for k, v in s["state"].items() if v} for s in (a, b))
    return one.keys() == other.keys() and all(
        one[p].keys() == other[p].keys()
        and all(torch.equal(one[p][key], other[p][key]) for key in one[p])
        for p in one
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", [TorchDispatchMode, TorchFunctionMode])
@pytest.mark.parametrize("save", [saved, pickled])
@pytest.mark.parametrize("change", [{}, {"lr": 0.3}, {"momentum": 0.5}, {"centered": True}])
@pytest.mark.parametrize("steps_before", [0, 1])
def test_a_state_that_is_saved_in_a_step_of_the_kernel_is_whole(
    dtype: Any, mode: Any, save: Any, change: Any, steps_before: int
) -> None:
    results = []
    for meddles in (False, True):
        params = params_out_of_order(dtype)
        opt = RMSprop(params, lr=0.1, ema_decay=0.5)
        for _ in range(steps_before):
            opt.step()
        before = saved(opt)
        opt.param_groups[0].update(change)
        found: list[Any] = []

        def meddle(opt: Any = opt, found: list[Any] = found) -> None:
            with suppress(RuntimeError):  # where the step has begun to change states
                found.append(save(opt))

        if meddles:
            with meddling(mode, meddle):
                opt.step()
            assert found or not steps_before or change.keys() & {"momentum", "centered"}
        else:
            opt.step()
        after = saved(opt)
        assert all(same(state, before) or same(state, after) for state in found)
        opt.step()
        results.append([*params, *(opt.state[p]["param_avg"] for p in params)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("save", [saved, pickled])
def test_a_state_is_not_saved_when_torch_may_have_stepped_its_part(save: Any) -> None:
    gaps = torch.ones(4, 6)[:, ::2].requires_grad_()
    opt = RMSprop([*params_out_of_order(torch.float32), gaps], lr=0.1)
    gaps.grad = torch.ones(4, 3)
    opt.step()
    refusals: list[str] = []

    def meddle() -> None:
        with pytest.raises(RuntimeError) as refusal:
            save(opt)
        refusals.append(str(refusal.value))

    with meddling(TorchDispatchMode, meddle):
        opt.step()
    assert refusals
    assert all("which runs the code that makes this call" in text for text in refusals)
