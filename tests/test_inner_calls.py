"""Calls of an optimizer from within its own calls: schedules, signal handlers, conversions."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from reference import same_bits


def test_a_bad_learning_rate_is_asked_for_again() -> None:
    values: Iterator[float] = iter([0.1, -1.0, 0.5, float("nan"), 0.25])
    p = np.ones(2)
    opt = RMSProp(p, lr=lambda step: next(values))
    opt.step(np.ones(2))
    with pytest.raises(ValueError, match=r"by lr\(1\)"):
        opt.step(np.ones(2))
    assert opt.param_groups[0].current()["lr"] == 0.5
    opt.step(np.ones(2))


def test_a_signal_handler_may_read_in_the_middle_of_a_change() -> None:
    p = np.ones(2)
    opt = RMSProp(p, momentum=0.5)
    read: list[int] = []

    def handle(*_: object) -> None:
        read.append(len(opt.state_dict()["state"]))

    def lr(step: int) -> float:
        signal.raise_signal(signal.SIGTERM)
        return 0.5

    before = signal.signal(signal.SIGTERM, handle)
    try:
        opt.param_groups[0]["lr"] = lr
        opt.step(np.ones(2))
        with opt._stepper.change():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(read) == 2


def test_a_change_from_inside_a_change_says_so() -> None:
    opt = RMSProp(np.ones(2))

    def lr(step: int) -> float:
        opt.lr = 0.5
        return 0.25

    with pytest.raises(RuntimeError, match="runs the code that makes this call"):
        opt.param_groups[0]["lr"] = lr
    opt.step(np.ones(2))


def test_averages_that_are_shown_cannot_be_shown_again() -> None:
    p = np.zeros(3)
    opt = RMSProp(p, ema_decay=0.5)
    opt.step(np.ones(3))
    trained, averages = p.copy(), opt.use_ema()
    with averages, pytest.raises(RuntimeError, match="inside use_ema"):
        averages.__enter__()
    assert same_bits(p, trained)
    with averages:
        assert not same_bits(p, trained)
    assert same_bits(p, trained)


def test_a_step_between_a_schedule_and_its_step_is_noticed() -> None:
    p = np.ones(2)

    class Stepping:
        def __float__(self) -> float:
            if not opt.step_count:
                opt.step(np.ones(2))
            return 1.0

    opt = RMSProp(p, lr=lambda step: 0.5**step)
    with pytest.raises(RuntimeError, match="another step"):
        opt.step(np.ones(2), Stepping())
    assert opt.step_count == 1
    opt.step(np.ones(2), Stepping())


def test_an_option_that_a_schedule_changes_is_not_overwritten_by_it() -> None:
    p = np.zeros(2)

    def lr(step: int) -> float:
        if step == 1:
            opt.param_groups[0]["lr"] = 0.5
        return 0.25

    opt = RMSProp(p, lr=lr, alpha=0.0, eps=1e-300)
    for _ in range(3):
        opt.step(np.ones(2))
    assert opt.lr == 0.5
    assert same_bits(p, np.full(2, -0.25 - 0.5 - 0.5))


def test_a_schedule_that_sets_itself_anew_is_refused() -> None:
    def lr(step: int) -> float:
        if step == 1:
            opt.param_groups[0].update(weight_decay=0.5, lr=lr)
        return 0.25

    opt = RMSProp(np.zeros(2), lr=lr)
    opt.step(np.ones(2))
    with pytest.raises(RuntimeError, match="runs the code that makes this call"):
        opt.step(np.ones(2))
    assert opt.step_count == 1
