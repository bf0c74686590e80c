"""The kernel gives the bits of the NumPy expression: all options, sets, threads, sizes, orders."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from combinations_support import COMBINATIONS, SCALARS
from fused_rmsprop import RMSProp, _core
from reference import flushed_denormals, grad_norm, initial_state, rmsprop, same_bits
from support import Array, team, threaded

GUARD = 7  # elements on each side of an array, and what they are filled with
#: One combination for each loop of the kernels; what the loops do not know of is taken in turn.
LOOPS = list(
    {
        tuple(options[key] for key in ("weight_decay", "decoupled_weight_decay", "momentum",
                                       "nesterov", "centered", "eps_inside_sqrt")): options
        for options in random.Random(3).sample(COMBINATIONS, len(COMBINATIONS))
    }.values()
)  # fmt: skip
SIZES = [*range(71)] + [2**k + d for k in range(7, 15) for d in (-1, 0, 1)]
DTYPES = (np.float32, np.float64)


def describe(options: dict[str, Any]) -> str:
    return "-".join(k for k, v in options.items() if v and k not in SCALARS) or "plain"


class Guarded:
    """Makes arrays that start anywhere in memory, and can tell if a byte beside them changed."""

    def __init__(self) -> None:
        self._buffers: list[tuple[Array, int, int]] = []

    def copy(self, values: Array, offset: int) -> Array:
        """A copy of ``values`` that starts ``offset`` elements into its guarded memory."""
        start = GUARD + offset
        buffer = np.full(values.size + start + GUARD, 77, values.dtype)
        array = buffer[start : start + values.size].reshape(values.shape)
        array[...] = values
        self._buffers.append((buffer, start, values.size))
        return array

    def unharmed(self) -> bool:
        return all(
            (buffer[:start] == 77).all() and (buffer[start + size :] == 77).all()
            for buffer, start, size in self._buffers
        )


def special_values(dtype: type[Any], size: int, rng: np.random.Generator) -> Array:
    """Gradients of all kinds: ordinary, NaN, infinite, huge, tiny, subnormal, both zeros."""
    info = np.finfo(dtype)
    special: Array = np.array(
        [np.nan, np.inf, -np.inf, info.max, -info.max / 3, info.tiny, -info.tiny * 3,
         info.smallest_subnormal, -info.smallest_subnormal * 9, info.tiny / 2, 0.0, -0.0,
         np.sqrt(float(info.tiny)), 1e-18, -3e-20, 1e18],
        dtype,
    )  # fmt: skip
    values: Array = rng.standard_normal(size).astype(dtype)
    chosen = rng.random(size) < 0.5
    values[chosen] = rng.choice(special, chosen.sum())
    return values


Ways = Callable[[], Iterable[str]]


def check_steps(
    sizes: list[int],
    dtype: type[Any],
    options: dict[str, Any],
    ways: Ways,
    *,
    threads: tuple[int, ...] = (1, 2),
    special: bool,
    flush_denormals: bool,
    steps: int = 3,
    clipped: bool = False,
) -> None:
    """Step many leaves together, with slices cut anywhere, and compare each with the reference.

    All ``ways`` and numbers of ``threads`` have the same expected values, which are computed once.
    ``clipped``: with gradients that are scaled, limited and clipped by their norm.
    """
    limits: dict[str, Any] = {"max_grad_norm": 3.0, "max_grad_value": 0.8} if clipped else {}
    scale = 0.7 if clipped else 1.0
    rng = np.random.default_rng(17)
    starts: list[Array] = [rng.standard_normal(size).astype(dtype) for size in sizes]
    if special:  # subnormal parameters too, and such as are near to it
        tiny = np.finfo(dtype).tiny
        for start in starts:
            start[::3] = rng.choice(
                np.array([tiny / 2, -tiny / 3, tiny * 5], dtype), len(start[::3])
            )
    gradients = [
        [
            special_values(dtype, size, rng) if special else rng.standard_normal(size).astype(dtype)
            for size in sizes
        ]
        for _ in range(steps)
    ]
    norms = [grad_norm(g, scale, limits["max_grad_value"]) for g in gradients] if clipped else []
    with flushed_denormals() if flush_denormals and special else nullcontext():
        expected = reference_steps(starts, gradients, options, limits, scale, norms)
    for way in ways():
        for count in threads:
            guarded = Guarded()
            params = [guarded.copy(start, i % 16) for i, start in enumerate(starts)]
            opt = threaded(
                RMSProp(params, **options, **limits, threads=count, flush_denormals=flush_denormals)
            )
            for step, grads in enumerate(gradients):
                opt.step([guarded.copy(g, (3 * i + 1) % 16) for i, g in enumerate(grads)], scale)
                assert not clipped or opt.grad_norm == norms[step]
            assert opt.threads_used == (team(count) if sum(sizes) else 1)
            for i, (p, state) in enumerate(expected):
                where = f"{way}, {count} threads, leaf {i} of size {sizes[i]}"
                assert same_bits(params[i], p), where
                for key, array in opt.state[str(i)].items():
                    if key == "step":
                        assert array == steps, where
                    else:
                        wanted = state["square_avg" if key == "variance" else key]
                        assert same_bits(array, wanted), where
            assert guarded.unharmed(), (way, count)


def reference_steps(
    starts: list[Array],
    gradients: list[list[Array]],
    options: dict[str, Any],
    limits: dict[str, Any],
    scale: float,
    norms: list[float],
) -> list[tuple[Array, dict[str, Any]]]:
    """The parameters and states after all steps; ``norms`` has their norms if they are clipped."""
    reference_options = {k: v for k, v in options.items() if k != "initial_square_avg"}
    expected = [(p, initial_state(p, options["initial_square_avg"])) for p in starts]
    for step, grads in enumerate(gradients):
        if norms:
            reference_options["grad_scale"] = scale
            reference_options["max_grad_value"] = limits["max_grad_value"]
            reference_options["clip_factor"] = min(1.0, limits["max_grad_norm"] / norms[step])
        expected = [
            rmsprop(p, g, state, **reference_options)
            for (p, state), g in zip(expected, grads, strict=True)
        ]
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_combination(instruction_set: str, dtype: type[Any]) -> None:
    for i, options in enumerate(COMBINATIONS):
        check_steps(
            [1, 70, 300], dtype, options, lambda: [instruction_set],
            threads=(1 + i % 2,), special=i % 3 == 0, flush_denormals=i % 5 > 0, steps=4,
        )  # fmt: skip
        check_steps(
            [20, 270], dtype, options, lambda: [instruction_set],
            threads=(2 - i % 2,), special=False, flush_denormals=i % 2 > 0, clipped=True,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", LOOPS, ids=describe)
def test_every_size_together(each_way: Ways, options: dict[str, Any], dtype: type[Any]) -> None:
    check_steps(SIZES, dtype, options, each_way, special=False, flush_denormals=True)


@pytest.mark.parametrize("flush_denormals", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", LOOPS, ids=describe)
def test_special_values(
    each_way: Ways, options: dict[str, Any], dtype: type[Any], flush_denormals: bool
) -> None:
    check_steps(
        [1000, 3, 517], dtype, options, each_way,
        special=True, flush_denormals=flush_denormals, steps=6,
    )  # fmt: skip


# On both sides of the bounds of the refined quotient.
EDGES: list[dict[str, float]] = [
    {}, {"lr": 2.0**10, "eps": 2.0**-50}, {"lr": 2.0**-28, "eps": 2.0**40},
    {"lr": 2.0**20, "alpha": 0.5, "eps": 2.0**-50}, {"lr": 2.0**-80},
    {"alpha": 0.5, "eps": 2.0**-90},
]  # fmt: skip


@pytest.mark.parametrize("scalars", EDGES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", LOOPS, ids=describe)
def test_negative_square_avg(
    each_way: Ways, options: dict[str, Any], dtype: type[Any], scalars: dict[str, Any]
) -> None:
    """No step makes them, but users can write them; most here cancel the gradient or eps."""
    rng = np.random.default_rng(23)
    options = {**options, **SCALARS, **scalars, "bias_correction": False}
    size = 3000
    kind = np.arange(size) // 128 % 3  # of gradients: any, small and middling, large but cancelled
    exponents = rng.integers(np.array([-64, -46, 20])[kind], np.array([60, 36, 60])[kind])
    if dtype is np.float64:
        exponents *= 7
    g = np.ldexp(rng.standard_normal(size), exponents).astype(dtype)
    zeros = (kind == 0) & (np.arange(size) % 8 == 0)
    g[zeros] = rng.choice(np.array([0.0, -0.0], dtype), zeros.sum())
    cancelled = (rng.random(size) < 0.5) | (kind == 2)
    added = np.where(cancelled, (1 - options["alpha"]) * (g * g), options["eps"])
    v = (added / -options["alpha"]).astype(dtype)
    nearly = (kind != 2) & (np.arange(size) % 3 == 0)
    v[nearly] = np.nextafter(v[nearly], dtype(0))
    special = (kind != 2) & (np.arange(size) % 7 == 0)
    v[special] = rng.choice(np.array([-0.0, -np.inf, np.nan, -1e30], dtype), special.sum())
    start = rng.standard_normal(g.size).astype(dtype)
    start[::3] = -0.0
    reference_options = {k: x for k, x in options.items() if k != "initial_square_avg"}
    states = [(start, {**initial_state(start), "square_avg": v})]
    with flushed_denormals():
        for _ in range(2):
            states.append(rmsprop(states[-1][0], g, states[-1][1], **reference_options))
    name = "variance" if options["centered"] else "square_avg"
    for way in each_way():
        p = start.copy()
        opt = RMSProp(p, **options)
        opt.state["param"][name][...] = v
        for expected, state in states[1:]:
            opt.step(g)
            assert same_bits(p, expected), way
            assert same_bits(opt.state["param"][name], state["square_avg"]), way


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_each_size_alone(each_way: Ways, size: int, dtype: type[Any]) -> None:
    for options in (LOOPS[0], LOOPS[-1]):
        check_steps([size], dtype, options, each_way, special=False, flush_denormals=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", LOOPS, ids=describe)
def test_three_million(options: dict[str, Any], dtype: type[Any]) -> None:
    rng = np.random.default_rng(17)
    start, *grads = (rng.standard_normal(3_000_000).astype(dtype) for _ in range(1 + 2))
    expected = start, initial_state(start, options["initial_square_avg"])
    reference_options = {k: v for k, v in options.items() if k != "initial_square_avg"}
    for grad in grads:  # once for all sets and threads: it takes most of the time
        expected = rmsprop(expected[0], grad, expected[1], **reference_options)
    sets = _core.config()["instruction_sets"]
    try:
        for name, threads in itertools.product(sets["supported"], (1, 2)):
            _core.set_instruction_set(name)
            guarded = Guarded()
            param = guarded.copy(start, 0)
            opt = threaded(RMSProp(param, **options, threads=threads))
            for grad in grads:
                opt.step(guarded.copy(grad, 1))
            assert guarded.unharmed(), (name, threads)
            assert opt.threads_used == team(threads)
            assert same_bits(param, expected[0]), (name, threads)
            for key, array in opt.state["param"].items():
                if key != "step":
                    wanted = expected[1]["square_avg" if key == "variance" else key]
                    assert same_bits(array, wanted), (name, threads, key)
    finally:
        _core.set_instruction_set(sets["in_use"])


@pytest.mark.parametrize("options", LOOPS, ids=describe)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dense_order_and_shape(
    each_way: Ways, options: dict[str, Any], dtype: type[Any]
) -> None:
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape), dtype)

    params = {
        "0-d": draw(),
        "C": draw(5, 7),
        "F": np.asfortranarray(draw(5, 7)),
        "transposed": draw(3, 4, 5).transpose(1, 2, 0),
        "empty": draw(0, 3),
        "ones": draw(1, 6, 1),
    }
    expected = {
        # NumPy 1 computes with 0-d arrays in float64: the reference sees one element instead.
        name: (
            np.atleast_1d(p.copy(order="K")),
            initial_state(np.atleast_1d(p), options["initial_square_avg"]),
        )
        for name, p in params.items()
    }
    reference_options = {k: v for k, v in options.items() if k != "initial_square_avg"}
    gradients = [
        {
            name: np.array(draw(*p.shape), order="F" if order == "F" else "C")
            for (name, p), order in zip(params.items(), "CFCCCF", strict=True)
        }
        for _ in range(3)
    ]
    for grads in gradients:
        for name, (p, state) in expected.items():
            expected[name] = rmsprop(p, np.atleast_1d(grads[name]), state, **reference_options)
    for way in each_way():
        for threads in (1, 2):
            stepped = {name: p.copy(order="K") for name, p in params.items()}
            opt = threaded(RMSProp(stepped, **options, threads=threads))
            for grads in gradients:
                opt.step(grads)
            for name, (p, state) in expected.items():
                assert same_bits(np.atleast_1d(stepped[name]), p), (way, threads, name)
                for key, array in opt.state[name].items():
                    if key != "step":
                        wanted = state["square_avg" if key == "variance" else key]
                        assert same_bits(np.atleast_1d(array), wanted), (way, threads, name, key)
                        assert array.strides == params[name].strides == stepped[name].strides


def test_instruction_set_is_the_one_asked_for(instruction_set: str) -> None:
    assert _core.config()["instruction_sets"]["in_use"] == instruction_set


def test_each_way_is_another(each_way: Ways) -> None:
    used = []
    for _ in each_way():
        used.append((_core.config()["instruction_sets"]["in_use"], _core.plan()["forced"]))
    assert len({*used}) == len(used)
    assert {name for name, _ in used} == {*_core.config()["instruction_sets"]["supported"]}
