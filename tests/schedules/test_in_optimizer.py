"""Functions of the step as options of `RMSProp`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, schedules
from reference import initial_state, rmsprop, same_bits
from support import draw, halved


def test_functions_of_the_step_give_the_bits_of_numbers() -> None:
    functions: dict[str, Any] = {
        "lr": schedules.Cosine(0.1, transition_steps=5),
        "momentum": lambda t: 0.5 + 0.05 * t,
        "weight_decay": lambda t: 0.01 * t,
    }
    p = draw(300)
    expected, state = p.copy(), initial_state(p)
    opt = RMSProp(p, alpha=0.9, **functions)
    for t in range(8):
        assert opt.step_count == t
        assert opt.lr == functions["lr"](t)
        g = draw(300)
        opt.step(g)
        values: dict[str, Any] = {name: function(t) for name, function in functions.items()}
        expected, state = rmsprop(expected, g, state, alpha=0.9, eps=1e-8, **values)
        assert same_bits(p, expected)
    assert opt.param_groups[0]["lr"] is functions["lr"]


def test_skipped_and_refused_steps_do_not_count() -> None:
    seen: list[int] = []

    def lr(step: int) -> float:
        seen.append(step)
        return 0.1

    p = draw(3)
    opt = RMSProp(p, lr=lr, on_nonfinite="skip")
    opt.step(np.full(3, np.nan, np.float32))
    with pytest.raises(ValueError, match="grads"):
        opt.step(draw(4))
    for _ in range(3):
        opt.step(draw(3))
        assert opt.lr == 0.1
    assert seen == [0, 1, 2, 3]  # once for each step


def test_what_a_function_returns_is_checked_before_anything_changes() -> None:
    p = draw(3)
    opt = RMSProp(p, lr=lambda t: 0.1 if t < 2 else -1.0)
    opt.step(draw(3))
    opt.step(draw(3))
    before, state = p.copy(), opt.state_dict()
    with pytest.raises(
        ValueError, match=r"param_groups\[0\], by lr\(2\): lr must be finite and >= 0"
    ):
        opt.step(draw(3))
    assert same_bits(p, before)
    assert opt.state_dict()["counters"] == state["counters"]
    opt.lr = schedules.Constant(0.1)
    opt.step(draw(3))
    with pytest.raises(TypeError, match=r"lr\(3\) must be a number, got 'x'"):
        opt.lr = lambda t: "x"  # type: ignore[assignment, return-value]
    assert opt.lr == 0.1
    with pytest.raises(TypeError, match="lr is the class Constant: pass an instance"):
        opt.lr = schedules.Constant  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"by alpha\(0\): alpha must be >= 0 and < 1, got 1"):
        RMSProp(p, alpha=lambda t: 1.0)
    with pytest.raises(TypeError, match="eps must be a number, got"):
        RMSProp(p, eps=lambda t: 0.9)  # type: ignore[arg-type]


def test_momentum_may_start_from_zero() -> None:
    p = draw(20)
    expected, state = p.copy(), initial_state(p)
    momentum = schedules.Linear(0.0, end_value=0.8, transition_steps=4)
    opt = RMSProp(p, momentum=momentum, nesterov=True)
    for t in range(6):
        g = draw(20)
        opt.step(g)
        expected, state = rmsprop(
            expected, g, state, lr=0.01, alpha=0.99, eps=1e-8, momentum=momentum(t), nesterov=True
        )
        assert same_bits(p, expected)


def test_schedules_survive_copies_and_state_dicts() -> None:
    p = draw(10)
    opt = RMSProp(p, lr=schedules.Exponential(0.1, decay_rate=0.5, transition_steps=3))
    for _ in range(4):
        opt.step(draw(10))
    g = draw(10)
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.lr == opt.lr
        assert other.step_count == 4
        q = other.param_groups[0]["params"]
        other.step(g)
        expected = copy.deepcopy(opt)
        expected.step(g)
        assert same_bits(q, expected.param_groups[0]["params"])
    fresh = RMSProp(p.copy())
    fresh.load_state_dict(opt.state_dict())
    assert fresh.lr == opt.lr
    assert isinstance(fresh.param_groups[0]["lr"], schedules.Exponential)


def test_copies_do_not_call_a_function_for_steps_that_are_over() -> None:
    seen: list[int] = []

    def lr(step: int) -> float:
        seen.append(step)
        return 0.1 / step

    p = np.ones(3)
    opt = RMSProp(p)
    opt.step(np.ones(3))
    opt.lr = lr
    opt.step(np.ones(3))
    other = copy.deepcopy(opt)
    other.step(np.ones(3))
    opt.accumulate(np.ones(3))  # does not need it
    assert set(seen) == {1, 2}


def test_reduce_on_plateau_refuses_a_function() -> None:
    with pytest.raises((TypeError, ValueError), match="schedule"):
        schedules.ReduceOnPlateau(RMSProp(draw(3), lr=halved))
