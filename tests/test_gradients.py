"""What happens to gradients before the formula: scaling, limits, clipping, checks, accumulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from reference import grad_norm, initial_state, rmsprop, same_bits
from support import Array, draw, threaded

OPTIONS: dict[str, Any] = {"lr": 0.013, "alpha": 0.93, "eps": 1e-7}
INF, NAN = float("inf"), float("nan")


def leaves() -> list[Array]:
    """Arrays of both dtypes, of sizes on both sides of what is summed together."""
    sizes = [1, 15, 16, 17, 4095, 4096, 4097, 20_000, 0]
    return [draw(n, dtype=(np.float32, np.float64)[i % 2]) for i, n in enumerate(sizes)]


def snapshot(opt: RMSProp, params: Any) -> bytes:
    """All bytes that a step could change, and the counters."""
    state = [array.tobytes() for s in opt.state.values() for array in s.values()]
    return b"|".join([*(p.tobytes() for p in params), *state, str(opt.step_count).encode()])


@pytest.mark.parametrize("max_grad_norm", [INF, 50.0, 1e-3])
@pytest.mark.parametrize("max_grad_value", [None, 0.7])
@pytest.mark.parametrize("grad_scale", [1.0, 1 / 1024, 3])
@pytest.mark.parametrize("maximize", [False, True])
def test_clipping_gives_the_bits_of_the_reference(
    instruction_set: str,
    max_grad_norm: float,
    max_grad_value: float | None,
    grad_scale: float,
    maximize: bool,
) -> None:
    options: dict[str, Any] = {**OPTIONS, "momentum": 0.9, "weight_decay": 0.01}
    options["maximize"] = maximize
    for threads in (1, 2, 3):
        params = leaves()
        expected = [(p.copy(), initial_state(p)) for p in params]
        limits: Any = {"max_grad_norm": max_grad_norm, "max_grad_value": max_grad_value}
        opt = threaded(RMSProp(params, **options, **limits, threads=threads))
        for _ in range(3):
            grads = leaves()
            before = [g.copy() for g in grads]
            opt.step(grads, grad_scale=grad_scale)
            assert all(same_bits(g, b) for g, b in zip(grads, before, strict=True))
            limit = INF if max_grad_value is None else max_grad_value
            norm = grad_norm(grads, grad_scale, limit)
            assert opt.grad_norm == norm
            factor = min(1.0, max_grad_norm / norm)
            for i, g in enumerate(grads):
                p, state = expected[i]
                expected[i] = rmsprop(
                    p, g, state, **options,
                    grad_scale=grad_scale, max_grad_value=limit, clip_factor=factor,
                )  # fmt: skip
        for p, (wanted, _) in zip(params, expected, strict=True):
            assert same_bits(p, wanted)


def test_the_norm_is_that_of_all_leaves_and_accurate(instruction_set: str) -> None:
    grads = leaves()
    opt = RMSProp([np.zeros_like(g) for g in grads], max_grad_norm=INF)
    opt.step(grads)
    exact = math.sqrt(math.fsum(float(x) ** 2 for g in grads for x in g))
    assert opt.grad_norm == pytest.approx(exact, rel=1e-14)
    opt.step([g if i == 7 else None for i, g in enumerate(grads)])
    assert opt.grad_norm == pytest.approx(float(np.linalg.norm(grads[7])), rel=1e-14)
    opt.step([None] * len(grads))
    assert opt.grad_norm == 0


def test_the_norm_of_many_chunks_is_the_same_for_any_number_of_threads(
    instruction_set: str,
) -> None:
    grads = [draw(3_000_000), draw(1_500_001, dtype=np.float64), draw(5), draw(2_000_000)]
    assert sum(-(-g.size // 4096) for g in grads) > 1024  # more chunks than segments
    norms = set()
    for threads in (1, 2, 3):
        opt = RMSProp([np.zeros_like(g) for g in grads], max_grad_norm=INF, threads=threads)
        opt.step(grads)
        norms.add(opt.grad_norm)
    assert norms == {grad_norm(grads)}


def test_a_norm_beyond_what_squares_can_hold() -> None:
    opt = RMSProp(np.zeros(1000), max_grad_norm=1.0, on_nonfinite="raise")
    for size in (1e200, 1e-200, 3e-308):
        opt.step(np.full(1000, size))
        assert opt.grad_norm == pytest.approx(size * math.sqrt(1000), rel=1e-14)
    opt.step(np.zeros(1000))
    assert opt.grad_norm == 0


def test_the_norm_is_measured_when_asked_for() -> None:
    g = draw(100)
    opt = RMSProp(np.zeros(100, np.float32))
    opt.step(g)
    assert opt.grad_norm is None
    opt.on_nonfinite = "skip"
    opt.step(g)
    assert opt.grad_norm == grad_norm([g])
    opt.on_nonfinite, opt.max_grad_norm = "propagate", 3
    opt.step(g)
    assert opt.grad_norm == grad_norm([g])
    opt.max_grad_norm = None
    opt.step(g)
    assert opt.grad_norm is None


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.filterwarnings("ignore:.* clipping by max_grad_norm carries it:RuntimeWarning")
def test_nonfinite_gradients_propagate_by_default(bad: float) -> None:
    g = draw(5)
    g[3] = bad
    p = draw(5)
    wanted, _ = rmsprop(p, g, initial_state(p), **OPTIONS)
    RMSProp(p, **OPTIONS).step(g)
    assert same_bits(p, wanted)
    opt = RMSProp(p, **OPTIONS, max_grad_norm=1.0)
    factor = 0.0 if np.isinf(bad) else NAN  # min(1, max_grad_norm / norm)
    wanted, _ = rmsprop(p, g, initial_state(p), **OPTIONS, clip_factor=factor)
    opt.step(g)
    assert same_bits(p, wanted)
    assert np.isnan(p[3])


def test_measuring_alone_limits_nothing() -> None:
    for bad in (NAN, INF):
        a, b = np.ones(3), np.ones(3)
        RMSProp([a, b], lr=0.1, max_grad_norm=INF).step([np.array([1, bad, 1]), np.ones(3)])
        assert np.isnan(a[1])
        assert np.isfinite([*b, a[0], a[2]]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_skip_and_raise_change_nothing(instruction_set: str, bad: float, dtype: type[Any]) -> None:
    for index in (0, 15, 16, 4095, 4096, 9999):  # in whole rows of lanes and in the rest
        params = [draw(7, dtype=dtype), draw(10_000, dtype=dtype)]
        grads = [draw(7, dtype=dtype), draw(10_000, dtype=dtype)]
        opt = RMSProp(
            params, **OPTIONS, momentum=0.9, centered=True, ema_decay=0.9, max_grad_norm=1,
            max_grad_value=0.5, on_nonfinite="skip",
        )  # fmt: skip
        opt.step(grads)
        before = snapshot(opt, params)
        wrong = [grads[0], grads[1].copy()]
        wrong[1][index] = bad
        opt.step(wrong)
        assert snapshot(opt, params) == before
        assert (opt.skipped_steps, opt.step_count) == (1, 1)
        opt.on_nonfinite = "raise"
        message = rf"grads\[1\] has 1 NaN or infinite element, the first at index \({index},\): "
        with pytest.raises(FloatingPointError, match=message):
            opt.step(wrong)
        assert snapshot(opt, params) == before
        assert (opt.skipped_steps, opt.step_count) == (1, 1)
        opt.step(grads)
        assert opt.step_count == 2


def test_where_a_gradient_of_nan_is_said_quickly() -> None:
    opt = RMSProp({"w": np.zeros((1000, 3000), np.float32)}, on_nonfinite="raise")
    grad = np.ones((1000, 3000), np.float32)
    grad[7:, :] = np.nan
    message = r"grads\['w'\] has 2979000 NaN or infinite elements, the first at index \(7, 0\): nan"
    with pytest.raises(FloatingPointError, match=message):
        opt.step({"w": grad})
    zero = RMSProp(np.zeros(()), on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"the first at index \(\): inf"):
        zero.step(np.array(INF))


def test_a_gradient_that_overflows_when_scaled_is_not_finite() -> None:
    opt = RMSProp(np.zeros(3, np.float32), on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match="grads is finite, but overflows .* scales or squares it"):
        opt.step(np.full(3, 1e38, np.float32), grad_scale=1e3)
    opt.step(np.full(3, 1e18, np.float32))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_accumulation_steps_on_the_mean(
    instruction_set: str, dtype: type[Any], threads: int
) -> None:
    params = [draw(n, dtype=dtype) for n in (3, 1000, 40_001)]
    expected = [(p.copy(), initial_state(p)) for p in params]
    opt = threaded(RMSProp(params, **OPTIONS, threads=threads))
    for count in (3, 1, 2):
        sums: list[Any] = [None, None, None]
        for k in range(count):
            grads: list[Any] = [draw(p.size, dtype=dtype) for p in params]
            if k == 1:
                grads[0] = None
            opt.accumulate(grads)
            for i, g in enumerate(grads):
                if g is not None:
                    sums[i] = g if sums[i] is None else sums[i] + g
        opt.step(grad_scale=0.5)
        for i, total in enumerate(sums):
            p, state = expected[i]
            expected[i] = rmsprop(p, total, state, **OPTIONS, grad_scale=0.5 / count)
    for p, (wanted, _) in zip(params, expected, strict=True):
        assert same_bits(p, wanted)
    assert opt.step_count == 3


def test_accumulated_leaves_without_gradient_are_left_alone() -> None:
    a, b = draw(3), draw(3)
    opt = RMSProp({"a": a, "b": b})
    kept = b.copy()
    opt.accumulate({"a": draw(3), "b": None})
    opt.accumulate({"a": draw(3), "b": None})
    opt.step()
    assert same_bits(b, kept)
    assert (int(opt.state["a"]["step"]), int(opt.state["b"]["step"])) == (1, 0)


def test_accumulation_of_bound_gradients_and_in_another_order() -> None:
    p = draw(4, 5)
    buffer = np.zeros_like(p)
    start = p.copy()
    opt = RMSProp(p, **OPTIONS, grads=buffer)
    first, second = draw(4, 5), draw(5, 4).T
    buffer[...] = first
    opt.accumulate()
    opt.accumulate(second)
    opt.step()
    wanted, _ = rmsprop(start, first + second, initial_state(start), **OPTIONS, grad_scale=0.5)
    assert same_bits(p, wanted)
    opt.step()  # the bound ones again
    assert opt.step_count == 2


def test_gradients_beside_accumulated_ones_are_refused() -> None:
    p = draw(3)
    opt = RMSProp(p)
    opt.accumulate(draw(3))
    before = snapshot(opt, [p])
    with pytest.raises(ValueError, match=r"accumulate\(grads\) adds these"):
        opt.step(draw(3))
    assert snapshot(opt, [p]) == before
    opt.discard_accumulated()
    opt.step(draw(3))
    with pytest.raises(ValueError, match="no gradients"):
        opt.step()


def test_a_wrong_gradient_is_not_accumulated() -> None:
    params = [draw(3), draw(4)]
    start = [p.copy() for p in params]
    opt = RMSProp(params, **OPTIONS)
    good = [draw(3), draw(4)]
    opt.accumulate(good)
    with pytest.raises(ValueError, match=r"grads\[1\]"):
        opt.accumulate([draw(3), draw(5)])
    with pytest.raises(ValueError, match="shares memory"):
        opt.accumulate([params[0], draw(4)])
    opt.step()
    for p, g, s in zip(params, good, start, strict=True):
        assert same_bits(p, rmsprop(s, g, initial_state(s), **OPTIONS)[0])


def test_nonfinite_sums() -> None:
    p = draw(3)
    opt = RMSProp({"w": p}, on_nonfinite="raise")
    opt.accumulate({"w": draw(3)})
    opt.accumulate({"w": np.array([1, INF, 2], np.float32)})
    before = snapshot(opt, [p])
    message = r"the accumulated gradient of params\['w'\] has 1 NaN or infinite"
    with pytest.raises(FloatingPointError, match=message):
        opt.step()
    assert snapshot(opt, [p]) == before
    with pytest.raises(FloatingPointError):  # it is still there
        opt.step()
    opt.on_nonfinite = "skip"
    opt.step()
    assert (opt.skipped_steps, opt.step_count) == (1, 0)
    opt.step({"w": draw(3)})  # skipping has dropped the sums
    assert opt.step_count == 1


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_grad_norm", 0, ValueError), ("max_grad_norm", -1.0, ValueError),
        ("max_grad_norm", NAN, ValueError), ("max_grad_norm", "1", TypeError),
        ("max_grad_value", 0.0, ValueError), ("max_grad_value", NAN, ValueError),
        ("max_grad_value", True, TypeError), ("on_nonfinite", "ignore", ValueError),
        ("on_nonfinite", None, ValueError),
    ],
)  # fmt: skip
def test_settings_out_of_bounds_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        RMSProp(np.ones(2), **{name: value})
    opt = RMSProp(np.ones(2))
    before = getattr(opt, name)
    with pytest.raises(error, match=name):
        setattr(opt, name, value)
    assert getattr(opt, name) == before


@pytest.mark.parametrize("scale", [NAN, INF, 1e39, 0.0, -1.0, "2", None, True])
def test_grad_scale_out_of_bounds_is_refused(scale: Any) -> None:
    p = np.ones(2, np.float32)
    opt = RMSProp(p, max_grad_norm=1.0)
    with pytest.raises((TypeError, ValueError), match="grad_scale"):
        opt.step(np.ones(2, np.float32), grad_scale=scale)
    assert (p == 1).all()
    assert opt.step_count == 0
