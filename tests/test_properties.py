"""Properties that hold for any arrays and options, searched by hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fused_rmsprop import RMSProp
from reference import same_bits
from support import Array, threaded

dtypes = st.sampled_from([np.float32, np.float64])
options = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 1),
        "alpha": st.floats(0, 0.9999),
        "eps": st.floats(1e-10, 1),
        "weight_decay": st.sampled_from([0.0, 0.01]),
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "centered": st.booleans(),
        "nesterov": st.booleans(),
        "maximize": st.booleans(),
        "eps_inside_sqrt": st.booleans(),
        "lr_in_momentum": st.booleans(),
        "decoupled_weight_decay": st.booleans(),
        "bias_correction": st.booleans(),
        "flush_denormals": st.booleans(),
    }
)
threads = st.sampled_from([1, 2])


@st.composite
def vectors(draw: st.DrawFn, count: int, max_size: int = 100) -> list[Array]:
    """Arrays of one dtype and one length, of finite values whose squares are finite too."""
    dtype, size = draw(dtypes), draw(st.integers(1, max_size))
    elements = st.floats(-(2.0**50), 2.0**50, width=32)
    return [draw(hnp.arrays(dtype, size, elements=elements)) for _ in range(count)]


def stepped(params: Any, grads: list[Any], kwargs: dict[str, Any], n_threads: int) -> Any:
    """``params`` after one step for each of ``grads``, however small they are by ``n_threads``."""
    kwargs = kwargs | {"nesterov": kwargs["nesterov"] and kwargs["momentum"] > 0}
    opt = threaded(RMSProp(params, **kwargs, threads=n_threads))
    for grad in grads:
        opt.step(grad)
    return params


@given(vectors(3), options, threads)
def test_lr_zero_leaves_params(arrays: list[Array], kwargs: dict[str, Any], n: int) -> None:
    p, *grads = arrays
    kwargs["flush_denormals"] = False  # else a subnormal parameter becomes zero
    assert np.array_equal(stepped(p.copy(), grads, kwargs | {"lr": 0.0}, n), p)


@given(vectors(3), options, threads)
def test_negating_params_and_grads_negates_the_result(
    arrays: list[Array], kwargs: dict[str, Any], n: int
) -> None:
    p, *grads = arrays
    there = stepped(p.copy(), grads, kwargs, n)
    negated = stepped(-p, [-g for g in grads], kwargs, n)
    assert np.array_equal(negated, -there)


@given(vectors(3), options, threads, st.lists(st.integers(0, 100), max_size=4))
def test_splitting_one_array_changes_no_bit(
    arrays: list[Array], kwargs: dict[str, Any], n: int, cuts: list[int]
) -> None:
    p, *grads = arrays
    whole = stepped(p.copy(), grads, kwargs, n)
    cuts = sorted(min(cut, p.size) for cut in cuts)
    pieces = stepped(np.split(p.copy(), cuts), [np.split(g, cuts) for g in grads], kwargs, n)
    assert same_bits(np.concatenate(pieces), whole)


@given(st.data(), options, threads, st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_permuting_leaves_changes_no_bit(
    data: st.DataObject, kwargs: dict[str, Any], n: int, sizes: list[int]
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    leaves = [rng.standard_normal((3, size)).astype(data.draw(dtypes)) for size in sizes]
    order = data.draw(st.permutations(range(len(sizes))))

    def run(indices: list[int]) -> dict[int, Array]:
        chosen = [leaves[i] for i in indices]
        grads = [[leaf[k] for leaf in chosen] for k in (1, 2)]
        params = stepped([leaf[0].copy() for leaf in chosen], grads, kwargs, n)
        return dict(zip(indices, params, strict=True))

    straight, permuted = run(list(range(len(sizes)))), run(order)
    assert all(same_bits(straight[i], permuted[i]) for i in straight)


@settings(max_examples=20, deadline=None)
@given(dtypes, st.floats(1e3, 1e12), st.floats(0.5, 0.999), st.integers(0, 2**32))
def test_centered_is_never_nan(dtype: type[Any], size: float, alpha: float, seed: int) -> None:
    # A large, nearly constant gradient: v - m**2 cancels, and is negative after a few steps.
    rng = np.random.default_rng(seed)
    p: Array = np.zeros(64, dtype)
    opt = RMSProp(p, alpha=alpha, centered=True)
    for _ in range(300):
        opt.step(np.asarray(size * (1 + 1e-7 * rng.standard_normal(64)), dtype))
    assert np.isfinite(p).all()
    assert (opt.state["param"]["variance"] >= 0).all()
