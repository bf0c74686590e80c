"""Schedules multiplied, asked for arrays of steps, and drawn; `scale_lr`; a scheduled alpha."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, rmsprop_step, schedules
from fused_rmsprop.schedules import Constant, Cosine, Exponential, Join, Linear, Scaled
from reference import initial_state, rmsprop, same_bits
from support import both_dtypes, draw, halved, needs, values

COSINE = Cosine(0.1, transition_steps=7)


def test_the_value_is_multiplied() -> None:
    scaled = Scaled(COSINE, factor=0.3)
    assert [scaled(t) for t in range(9)] == [0.3 * COSINE(t) for t in range(9)]
    assert Scaled(halved, factor=2)(3) == 2 * halved(3)


def test_nested_factors_are_one() -> None:
    assert Scaled(Scaled(COSINE, factor=0.3), factor=0.5) == Scaled(COSINE, factor=0.5 * 0.3)
    with pytest.raises(ValueError, match="Scaled: factor must be > 0 and finite"):
        Scaled(Scaled(COSINE, factor=1e200), factor=1e200)
    for wrong in (0, -1, np.inf, np.nan):
        with pytest.raises(ValueError, match="Scaled: factor must be > 0 and finite"):
            Scaled(COSINE, factor=wrong)
    with pytest.raises(TypeError, match="Scaled: schedule must be a function of the step"):
        Scaled(0.1, factor=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files_keep_scaled_schedules_and_those_of_alpha(tmp_path: Path, suffix: str) -> None:
    alpha = Linear(0.5, end_value=0.9, transition_steps=4)
    opt = RMSProp(np.ones(3), lr=Join([Scaled(COSINE, factor=0.5)], boundaries=[]), alpha=alpha)
    path = tmp_path / f"checkpoint.{suffix}"
    opt.save(path)
    again = RMSProp.load(path, np.ones(3))
    assert again.param_groups[0].options() == opt.param_groups[0].options()


def test_scale_lr_multiplies_numbers_and_functions() -> None:
    opt = RMSProp(
        [{"params": np.ones(1), "lr": 0.1}, {"params": np.ones(2), "lr": COSINE},
         {"params": np.ones(3), "lr": halved}]
    )  # fmt: skip
    opt.scale_lr(0.3)
    opt.scale_lr(0.5)
    a, b, c = (group["lr"] for group in opt.param_groups)
    assert a == 0.5 * (0.3 * 0.1)
    assert b == Scaled(COSINE, factor=0.5 * 0.3)
    assert c(2) == (0.5 * 0.3) * halved(2)


def test_a_wrong_factor_changes_nothing() -> None:
    opt = RMSProp([{"params": np.ones(1), "lr": 0.1}, {"params": np.ones(2), "lr": COSINE}])
    before = [group["lr"] for group in opt.param_groups]
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="factor must be > 0 and finite"):
            opt.scale_lr(wrong)
    with pytest.raises(TypeError, match="factor must be a number"):
        opt.scale_lr(COSINE)  # type: ignore[arg-type]
    small = RMSProp([{"params": draw(1), "lr": 1e-3}, {"params": draw(1), "lr": 1e30}])
    with pytest.raises(ValueError, match="overflows in float32"):
        small.scale_lr(1e20)
    assert [group["lr"] for group in small.param_groups] == [1e-3, 1e30]
    assert [group["lr"] for group in opt.param_groups] == before


def test_a_number_in_the_place_of_a_schedule_warns_once_before_anything_changes() -> None:
    opt = RMSProp([{"params": np.ones(1), "lr": COSINE}, {"params": np.ones(2), "lr": COSINE}])
    with pytest.raises(UserWarning, match=r"Cosine\(.*opt.scale_lr\(factor\).*schedules.Constant"):
        opt.lr *= 0.5  # warnings are errors here
    assert [group["lr"] for group in opt.param_groups] == [COSINE, COSINE]
    with pytest.warns(UserWarning, match="lr was the schedule") as caught:
        opt.lr *= 0.5
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert opt.lr == 0.05
    opt.lr = Constant(0.5)
    opt.lr = COSINE
    opt.param_groups[0]["lr"] = 0.1
    opt.param_groups[1].update(lr=0.1)
    opt.lr = 0.2


def test_arrays_of_steps() -> None:
    steps = np.arange(12)
    for schedule in (
        COSINE, Scaled(COSINE, factor=0.1), Join([COSINE, halved], boundaries=[4]), Constant(1),
        Exponential(0.1, decay_rate=0.5, transition_steps=2),
    ):  # fmt: skip
        got = schedule(steps)
        assert got.dtype == np.float64
        assert same_bits(got, values(schedule, 12))
        assert same_bits(schedule(steps.reshape(3, 4).T), got.reshape(3, 4).T.copy())
        assert schedule(np.array([], np.int32)).shape == (0,)
        assert type(schedule(np.int64(3))) is float
        assert type(schedule(np.array(3))) is float
    for wrong in (np.ones(3), np.ones(3, bool)):
        with pytest.raises(TypeError, match="step must hold integers, got an array of"):
            COSINE(wrong)
    with pytest.raises(ValueError, match="step must be >= 0"):
        COSINE(np.array([1, -1]))


@both_dtypes
@pytest.mark.parametrize("options", [{}, {"centered": True, "momentum": 0.5}])
def test_alpha_may_be_a_function_of_the_step(dtype: str, options: dict[str, Any]) -> None:
    alpha = Linear(0.5, end_value=0.99, transition_steps=4)
    p = draw(30, dtype=np.dtype(dtype).type)
    expected, state = p.copy(), initial_state(p)
    opt = RMSProp(p, alpha=alpha, **options)
    for t in range(6):
        assert opt.observation_window == 1 / (1 - alpha(t))
        g = draw(30, dtype=np.dtype(dtype).type)
        opt.step(g)
        expected, state = rmsprop(expected, g, state, lr=0.01, alpha=alpha(t), eps=1e-8, **options)
        assert same_bits(p, expected)
    other = copy.deepcopy(opt)
    assert other.param_groups[0]["alpha"] == alpha


def test_a_scheduled_alpha_is_refused_where_one_alpha_is_needed() -> None:
    with pytest.raises(ValueError, match="bias_correction divides by 1 - alpha"):
        RMSProp(np.ones(2), alpha=lambda t: 0.9, bias_correction=True)
    opt = RMSProp(np.ones(2), bias_correction=True)
    with pytest.raises(ValueError, match="make alpha a number, or set bias_correction=False"):
        opt.param_groups[0]["alpha"] = Constant(0.9)
    assert opt.param_groups[0]["alpha"] == 0.99
    scheduled: Any = Constant(0.9)
    with pytest.raises(TypeError, match="alpha must be a number here"):
        rmsprop_step(np.ones(1), np.ones(1), np.zeros(1), lr=0.1, alpha=scheduled, eps=1e-8)


def test_plot() -> None:
    needs("matplotlib").use("Agg")
    from matplotlib.figure import Figure

    def last(*given: Any, **options: Any) -> Any:
        ax = schedules.plot(*given, ax=Figure().subplots(), **options)
        assert len(ax.lines) == len(given)
        return ax.lines[0].get_xdata()[-1]

    assert last(COSINE) == 7
    assert last(Scaled(Join([halved, COSINE], boundaries=[5]), factor=2), COSINE) == 12
    assert last(Exponential(0.1, decay_rate=0.5, transition_steps=2), halved) == 1000
    assert last(schedules.WarmupCosine(0.1, warmup_steps=2, total_steps=40)) == 40
    assert last(COSINE, steps=20) == 20
    ax = schedules.plot(COSINE, halved, labels=["a", "b"], ax=Figure().subplots())
    assert same_bits(np.asarray(ax.lines[0].get_ydata()), values(COSINE, 8))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception]]] = [
        ((), {}, TypeError), ((0.1,), {}, TypeError),
        ((COSINE,), {"labels": []}, ValueError), ((COSINE,), {"steps": 0}, ValueError),
    ]  # fmt: skip
    for given, options, error in wrong:
        with pytest.raises(error):
            schedules.plot(*given, **options)


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        schedules.plot(COSINE)


def test_a_product_of_a_schedule_is_scaled() -> None:
    schedule = Linear(0.5, end_value=0.0, transition_steps=4)
    assert schedule * 0.5 == 0.5 * schedule == Scaled(schedule, factor=0.5)
    opt = RMSProp(np.ones(2), lr=schedule)
    opt.param_groups[0]["lr"] *= 0.5
    assert opt.lr == 0.25
    with pytest.raises(TypeError, match="factor must be a number"):
        schedule * "2"
