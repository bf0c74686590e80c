"""`fused_rmsprop.autograd.rmsprop` against the library it stands in for, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fused_rmsprop.autograd import rmsprop
from reference import same_bits
from support import Array, needs, run_python

Optimize = Callable[..., Any]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_iters": 60, "step_size": 0.03, "gamma": 0.99, "eps": 1e-3},
    {"step_size": 1, "gamma": 0},
]


def theirs() -> Optimize:
    reason = "the trajectory is compared with autograd's own; pip install autograd"
    optimizers = needs("autograd.misc.optimizers", reason)
    optimize: Optimize = optimizers.rmsprop
    return optimize


def starts() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "array": rng.standard_normal((7, 3)),
        "0-d": np.array(2.5),
        "number": 1.5,
        "F order": np.asfortranarray(rng.standard_normal((4, 5))),
        "every second": rng.standard_normal(20)[::2],
        "network": [
            (rng.standard_normal((6, 4)), rng.standard_normal(4)),
            {"W": rng.standard_normal((4, 2)), "b": [0.5, rng.standard_normal((1, 2, 3))]},
        ],
    }


def each(function: Callable[[Array], Any], nest: Any) -> Any:
    if isinstance(nest, dict):
        return {key: each(function, item) for key, item in nest.items()}
    if isinstance(nest, (list, tuple)):
        return type(nest)(each(function, item) for item in nest)
    return function(nest)


def grad(nest: Any, i: int) -> Any:
    """Of some function with hills; now and then of another scale, as of another batch."""
    return each(lambda x: (3.0 if i % 7 == 3 else 0.2) * (x - np.cos(5 * x + i)), nest)


def flat(nest: Any) -> list[Array]:
    if isinstance(nest, dict):
        return [array for key in sorted(nest) for array in flat(nest[key])]
    if isinstance(nest, (list, tuple)):
        return [array for item in nest for array in flat(item)]
    return [nest]


def textbook(start: Array, options: dict[str, Any]) -> list[Array]:
    """The lines of autograd, for one array: x after every iteration."""
    step_size, gamma = options.get("step_size", 0.1), options.get("gamma", 0.9)
    x, square_avg, trace = start, np.ones_like(start), [start]
    for i in range(options.get("num_iters", 100)):
        g = grad(x, i)
        square_avg = square_avg * gamma + g**2 * (1 - gamma)
        x = x - step_size * g / (np.sqrt(square_avg) + options.get("eps", 10**-8))
        trace.append(x)
    return trace


@pytest.mark.parametrize("options", OPTIONS)
def test_the_trajectory_is_the_textbooks(options: dict[str, Any]) -> None:
    start = starts()["array"]
    trace: list[Array] = []
    end = rmsprop(grad, start, lambda x, i, g: trace.append(x), **options)
    expected = textbook(start, options)
    assert len(trace) == len(expected) - 1
    assert all(same_bits(a, b) for a, b in zip([*trace, end], expected, strict=True))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("structure", starts())
def test_the_trajectory_is_autograds(structure: str, options: dict[str, Any]) -> None:
    traces: list[list[Any]] = []
    for optimize in (theirs(), rmsprop):
        trace: list[Any] = []

        def keep(x: Any, i: int, g: Any, trace: list[Any] = trace) -> None:
            trace.append((i, x, g))

        end = optimize(grad, starts()[structure], callback=keep, **options)
        traces.append([*trace, (-1, end, end)])
    assert len(traces[0]) == options.get("num_iters", 100) + 1
    for (i, x, g), (our_i, our_x, our_g) in zip(*traces, strict=True):
        assert i == our_i
        assert type(x) is type(our_x)
        for a, b in zip(flat((x, g)), flat((our_x, our_g)), strict=True):
            assert a.shape == b.shape
            assert same_bits(a, b)


def test_gradients_of_autograd() -> None:
    optimize = theirs()
    import autograd
    import autograd.numpy as anp

    def loss(params: Any, i: int) -> Any:
        hidden = anp.tanh(params["W"] @ np.linspace(-1, 1, 5) + params["b"])
        return anp.sum((hidden - 0.1 * i) ** 2)

    rng = np.random.default_rng(1)
    x0 = {"W": rng.standard_normal((3, 5)), "b": np.zeros(3)}
    gradient = autograd.grad(loss)
    expected, got = optimize(gradient, x0), rmsprop(gradient, x0)
    assert all(same_bits(expected[key], got[key]) for key in x0)


def test_arguments_are_taken_in_autograds_order_and_by_its_names() -> None:
    x0 = starts()["array"]
    options: dict[str, Any] = {"num_iters": 5, "step_size": 0.3, "gamma": 0.5, "eps": 1e-4}
    by_name = rmsprop(grad=grad, x0=x0, callback=None, **options)
    assert same_bits(by_name, rmsprop(grad, x0, None, *options.values()))
    for optimize in (theirs(), rmsprop):
        assert same_bits(by_name, optimize(grad, x0=x0, callback=None, **options))
        assert same_bits(by_name, optimize(grad, x0, None, *options.values()))


@pytest.mark.parametrize("structure", ["array", "network"])
def test_what_a_callback_writes(structure: str) -> None:
    def write(x: Any, i: int, g: Any) -> None:
        for array in flat(x):
            array[...] = np.clip(array, -0.5, 0.5)
        for array in flat(g):
            array *= 0.5

    ends = [optimize(grad, starts()[structure], write) for optimize in (theirs(), rmsprop)]
    assert all(same_bits(a, b) for a, b in zip(flat(ends[0]), flat(ends[1]), strict=True))


def equal(nest: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(flat(nest), flat(other), strict=True))


def test_what_is_given_is_not_changed_and_what_is_shown_stays() -> None:
    x0 = starts()["network"]
    seen: list[Any] = []

    def keeps(nest: Any, i: int) -> Any:
        seen.append(nest)
        return nest  # its own argument, as the gradient of x**2 / 2

    end = rmsprop(keeps, x0, num_iters=3)
    assert equal(x0, starts()["network"])
    assert equal(x0, seen[0])
    assert not equal(seen[1], end)
    unmoved = rmsprop(keeps, x0, num_iters=0)
    assert equal(x0, unmoved)
    pairs = zip(flat(x0), flat(unmoved), strict=True)
    assert not any(np.shares_memory(a, b) for a, b in pairs)


def test_float32_is_trained_in_float64_as_in_autograd() -> None:
    x0 = starts()["array"].astype(np.float32)
    ours, expected = rmsprop(grad, x0), theirs()(grad, x0)
    assert ours.dtype == expected.dtype == np.float64
    # There, grad sees float32 the first time.
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"a": np.ones(3)}, ValueError, r"\bb\b"),
        ({"a": np.ones(3), "b": [np.ones(2), None]}, TypeError, r"grads\['b'\]\[1\] is not"),
        ({"a": np.ones(2), "b": [1.0, 1.0]}, ValueError, r"grads\['a'\] has shape \(2,\)"),
        ({"a": np.ones(3) + 1j, "b": [1.0, 1.0]}, TypeError, r"grads\['a'\].*complex128"),
        (np.ones(5), (TypeError, ValueError), "grads"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(
    wrong: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rmsprop(lambda x, i: wrong, {"a": np.zeros(3), "b": [0.0, 1.0]}, num_iters=1)


@pytest.mark.parametrize(
    ("x0", "options", "error", "message"),
    [
        ({"a": None}, {}, TypeError, r"x0\['a'\] is not an array of real numbers"),
        (["text"], {}, TypeError, r"x0\[0\] is not an array"),
        (np.ones(2), {"gamma": 1}, ValueError, "alpha"),
        (np.ones(2), {"step_size": -1}, ValueError, "lr"),
        (np.ones(2), {"eps": 0}, ValueError, "eps"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    x0: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rmsprop(grad, x0, **options)


def test_neither_autograd_nor_scipy_is_imported() -> None:
    run_python(
        "import sys, fused_rmsprop, fused_rmsprop.autograd\n"
        "fused_rmsprop.autograd.rmsprop(lambda x, i: x, 1.0)\n"
        "assert not {'autograd', 'scipy'} & sys.modules.keys()"
    )
