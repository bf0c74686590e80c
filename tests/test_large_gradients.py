"""Gradients so large, or clipped so strongly, that a square or a factor leaves the dtype."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from fused_rmsprop import RMSProp, rmsprop_step
from reference import flushed_denormals, grad_norm, initial_state, rmsprop, same_bits, scaled

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
#: A gradient that is finite, whose square is not.
LARGE = {np.float32: 2e19, np.float64: 2e154}
#: The greatest power of ten.
GREATEST = {np.float32: 1e38, np.float64: 1e308}
NAN = np.nan


def expected_step(p: Any, g: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    with flushed_denormals():
        return rmsprop(p, g, initial_state(p), lr=0.1, alpha=0.99, eps=1e-8, **options)


@DTYPES
@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"centered": True},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"bias_correction": True, "ema_decay": 0.9},
        {"maximize": True, "eps_inside_sqrt": True},
    ],
    ids=str,
)
def test_a_square_that_overflows_refuses_the_step(
    dtype: Any, on_nonfinite: str, options: dict[str, Any]
) -> None:
    params = {"a": np.ones(600, dtype), "b": np.ones((2, 300), dtype)}
    grads = {name: np.full_like(p, 0.5) for name, p in params.items()}
    opt = RMSProp(params, on_nonfinite=on_nonfinite, **options)
    opt.step(grads)
    before = {name: p.copy() for name, p in params.items()}
    state = opt.state_dict()["state"]
    grads["b"][1, 290] = -LARGE[dtype]
    if on_nonfinite == "skip":
        opt.step(grads)
        assert opt.skipped_steps == 1
    else:
        message = r"grads\['b'\] is finite, but overflows .* index \(1, 290\), is -2e\+"
        with pytest.raises(FloatingPointError, match=message):
            opt.step(grads)
    assert opt.step_count == 1
    assert all(same_bits(params[name], before[name]) for name in params)
    for name, entries in opt.state_dict()["state"].items():
        assert all(np.array_equal(entries[key], state[name][key]) for key in entries)


@DTYPES
def test_what_weight_decay_and_an_average_add_to_a_large_gradient_counts(dtype: Any) -> None:
    # Neither is too large, but their sum or difference is.
    half = 0.6 * np.sqrt(float(np.finfo(dtype).max))
    for decoupled, skipped in ((False, 1), (True, 0)):
        opt = RMSProp(
            np.full(3, half, dtype), lr=1e-3, weight_decay=1.0, on_nonfinite="skip",
            decoupled_weight_decay=decoupled,
        )  # fmt: skip
        opt.step(np.full(3, half, dtype))
        assert opt.skipped_steps == skipped
    centered = RMSProp(np.ones(3, dtype), centered=True, alpha=0.0, on_nonfinite="skip")
    centered.step(np.full(3, half, dtype))
    centered.step(np.full(3, -half, dtype))
    assert (centered.step_count, centered.skipped_steps) == (1, 1)


@DTYPES
def test_a_large_gradient_that_fits_is_not_refused(dtype: Any) -> None:
    p, g = np.ones(3, dtype), np.full(3, 0.99 * np.sqrt(float(np.finfo(dtype).max)), dtype)
    expected, state = expected_step(p, g)
    opt = RMSProp(p, lr=0.1, on_nonfinite="raise")
    opt.step(g)
    assert same_bits(p, expected)
    assert same_bits(opt.state["param"]["square_avg"], state["square_avg"])


@DTYPES
def test_a_clipped_gradient_is_judged_as_it_is_clipped(dtype: Any) -> None:
    p = np.ones(3, dtype)
    opt = RMSProp(p, on_nonfinite="raise", max_grad_norm=1.0)
    opt.step(np.full(3, LARGE[dtype], dtype))
    assert opt.step_count == 1
    assert (p != 1).all()


@DTYPES
def test_without_a_check_the_bits_are_those_of_the_expression(dtype: Any) -> None:
    p, g = np.ones(3, dtype), np.full(3, LARGE[dtype], dtype)
    expected, state = expected_step(p, g)
    opt = RMSProp(p, lr=0.1)
    opt.step(g)
    assert np.isinf(state["square_avg"]).all()
    assert same_bits(p, expected)
    assert same_bits(opt.state["param"]["square_avg"], state["square_avg"])


@DTYPES
def test_leafwise_refuses_a_square_that_overflows(dtype: Any) -> None:
    opt = RMSProp({"a": np.ones(2, dtype)}, on_nonfinite="raise")
    with opt.leafwise() as update, pytest.raises(FloatingPointError, match="scales or squares"):
        update("a", np.full(2, LARGE[dtype], dtype))
    assert opt.state["a"]["step"] == 0


@DTYPES
def test_clipping_to_a_small_norm_keeps_the_direction(dtype: Any) -> None:
    p = np.ones(2, dtype)
    g = np.array([GREATEST[dtype], GREATEST[dtype] / 2], dtype)
    opt = RMSProp(p, lr=0.1, max_grad_norm=1.0)
    opt.step(g)
    direction = np.array([2, 1]) / np.sqrt(5)
    v = opt.state["param"]["square_avg"]
    np.testing.assert_allclose(v, 0.01 * direction**2, rtol=1e-6)
    if dtype == np.float32:
        expected, state = expected_step(np.ones(2, dtype), g, clip_factor=1 / grad_norm([g]))
        assert same_bits(p, expected)
        assert same_bits(v, state["square_avg"])


@DTYPES
def test_clipping_where_the_norm_overflows(dtype: Any) -> None:
    p, g = np.ones(9, dtype), np.full(9, np.finfo(dtype).max, dtype)
    opt = RMSProp(p, max_grad_norm=3.0, on_nonfinite="raise")
    opt.step(g)
    np.testing.assert_allclose(opt.state["param"]["square_avg"], np.full(9, 0.01), rtol=1e-6)
    assert (opt.grad_norm == np.inf) == (dtype == np.float64)


@DTYPES
@pytest.mark.parametrize("flush_denormals", [True, False])
@pytest.mark.parametrize("maximize", [True, False])
def test_a_subnormal_grad_scale_keeps_the_direction(
    dtype: Any, flush_denormals: bool, maximize: bool
) -> None:
    g = np.array([GREATEST[dtype], -GREATEST[dtype] / 2, 1.0, 0.0], dtype)
    scale = 1 / GREATEST[dtype] / 8
    assert scale < np.finfo(dtype).tiny
    steps = []
    for call in ("step", "leafwise", "accumulate", "rmsprop_step"):
        p, v = np.ones(4, dtype), np.zeros(4, dtype)
        options: Any = {"lr": 0.1, "maximize": maximize, "flush_denormals": flush_denormals}
        opt = RMSProp(p, **options)
        if call == "step":
            opt.step(g, grad_scale=scale)
        elif call == "leafwise":
            with opt.leafwise(grad_scale=scale) as update:
                update("param", g)
        elif call == "accumulate":
            opt.accumulate(g)
            opt.step(grad_scale=scale)
        else:
            rmsprop_step(p, g, v, grad_scale=scale, alpha=0.99, eps=1e-8, **options)
        steps.append((p, v if call == "rmsprop_step" else opt.state["param"]["square_avg"]))
    # The bits do not depend on flushing here, and a processor that flushes cannot read the scale.
    expected, state = rmsprop(
        np.ones(4, dtype), g, initial_state(p), lr=0.1, alpha=0.99, eps=1e-8, grad_scale=scale,
        maximize=maximize,
    )  # fmt: skip
    assert (np.abs(expected[:2] - 1) > 0.05).all()
    for p, v in steps:
        assert same_bits(p, expected)
        assert same_bits(v, state["square_avg"])


def test_a_limit_survives_strong_clipping() -> None:
    p, g = np.ones(2, np.float32), np.array([3e38, -2e38], np.float32)
    opt = RMSProp(p, lr=0.1, max_grad_value=1e38, max_grad_norm=np.sqrt(2.0))
    opt.step(g)
    np.testing.assert_allclose(opt.state["param"]["square_avg"], [0.01, 0.01], rtol=1e-6)


def warnings_of(opt: RMSProp, grads: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opt.step(grads)
    assert all(w.category is RuntimeWarning and w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("bad", [NAN, np.inf])
def test_clipping_by_a_nan_warns_once(bad: float) -> None:
    params = {"a": np.ones(2), "b": np.ones(3)}
    grads = {"a": np.ones(2), "b": np.array([1.0, bad, 1.0])}
    opt = RMSProp(params, max_grad_norm=1.0, lr=lambda step: 0.1)
    with pytest.raises(RuntimeWarning, match=r"grads\['b'\] has a NaN .* on_nonfinite='skip'"):
        opt.step(grads)  # warnings are errors here
    assert opt.step_count == 0
    assert (params["a"] == 1).all()
    assert len(warnings_of(opt, grads)) == 1
    assert opt.step_count == 1
    assert np.isnan(params["b"]).any()
    assert warnings_of(opt, grads) == []
    assert opt.step_count == 2


def test_a_nan_that_clipping_does_not_spread_gives_no_warning() -> None:
    grads = {"a": np.array([NAN, 1.0]), "b": np.ones(3)}
    for options in (
        {},
        {"max_grad_norm": np.inf},
        {"max_grad_value": 1.0},
        {"max_grad_norm_per_array": 1.0},
        {"max_grad_norm": 1.0, "on_nonfinite": "skip"},
    ):
        params = {"a": np.ones(2), "b": np.ones(3)}
        assert warnings_of(RMSProp(params, **options), grads) == []
        assert np.isfinite(params["b"]).all()


def test_a_nan_in_accumulated_gradients_warns_and_keeps_the_sums() -> None:
    p = np.ones(2)
    opt = RMSProp(p, max_grad_norm=1.0)
    opt.accumulate(np.array([1.0, NAN]))
    with pytest.raises(RuntimeWarning, match="the accumulated gradient of params has a NaN"):
        opt.step()
    assert (p == 1).all()
    assert len(warnings_of(opt, None)) == 1
    assert np.isnan(p).all()


@DTYPES
@pytest.mark.parametrize("most", [0.3, 1e6, 1e200, np.inf])
@pytest.mark.parametrize("together", [None, 0.7])
def test_each_array_is_clipped_by_its_own_norm(
    dtype: DTypeLike, most: float, together: float | None
) -> None:
    rng = np.random.default_rng(3)
    shapes = {"a": (5000,), "b": (30, 7), "c": (), "d": (0,)}
    params = {
        n: rng.standard_normal(s).astype(dtype)[()] * np.ones(s, dtype) for n, s in shapes.items()
    }
    params = {n: np.array(p, dtype) for n, p in params.items()}
    grads = {n: np.array(rng.standard_normal(s), dtype) for n, s in shapes.items()}
    norms = {n: grad_norm([g], 0.5, 1.5) for n, g in grads.items()}
    factors = {
        n: 1.0 if norm <= most or most == np.inf else most / norm for n, norm in norms.items()
    }
    whole = grad_norm(list(grads.values()), 0.5, 1.5)
    if together is not None:
        largest = min(most, max(norms.values()))
        shares = [norms[n] * factors[n] / largest for n in grads]
        after = whole if most == np.inf else largest * float(np.sqrt(sum(s * s for s in shares)))
        common = 1.0 if after <= together else together / after
        factors = {n: factor * common for n, factor in factors.items()}
    expected = { # NumPy 1 would compute 0-d arrays in float64
        n: expected_step(
            params[n].reshape(-1), grads[n].reshape(-1),
            grad_scale=0.5, max_grad_value=1.5, clip_factor=f,
        )
        for n, f in factors.items()
    }  # fmt: skip
    for threads in (1, 2):
        mine = {n: p.copy() for n, p in params.items()}
        opt = RMSProp(
            mine, lr=0.1, threads=threads, max_grad_value=1.5,
            max_grad_norm_per_array=most, max_grad_norm=together,
        )  # fmt: skip
        opt._stepper.serial_below_bytes = 0
        opt.step(grads, grad_scale=0.5)
        assert opt.grad_norm == (None if together is None else whole)
        for name, (p, state) in expected.items():
            assert same_bits(mine[name].reshape(-1), p)
            assert same_bits(opt.state[name]["square_avg"].reshape(-1), state["square_avg"])


def test_leafwise_clips_each_array_by_its_own_norm() -> None:
    rng = np.random.default_rng(4)
    grads = {"a": rng.standard_normal(50), "b": rng.standard_normal(5)}
    ours, whole = ({"a": np.ones(50), "b": np.ones(5)} for _ in range(2))
    leaf, step = (RMSProp(p, max_grad_norm_per_array=0.5) for p in (ours, whole))
    with leaf.leafwise() as update:
        for name, grad in grads.items():
            update(name, grad)
    step.step(grads)
    assert all(same_bits(ours[n], whole[n]) for n in ours)


def test_scaled_is_the_product_where_that_is_normal() -> None:
    g = np.array([3.0, -1e-3], np.float32)
    assert same_bits(scaled(g, 0.3), 0.3 * g)
