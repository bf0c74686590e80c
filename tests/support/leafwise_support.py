"""Twins of an optimizer: one steps leaf by leaf, the other all leaves at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fused_rmsprop import RMSProp
from reference import same_bits
from support import Array, threaded

Pair = tuple[RMSProp, dict[str, Array]]
NAMES = ["body.W", "body.s", "body.0", "head.b", "head.V"]


def make(dtype: type[Any] = np.float32, **options: Any) -> Pair:
    """An optimizer of two groups, always with the same values, and its arrays by their names."""
    rng = np.random.default_rng(7)
    shapes = [(13, 5), (), (0, 3), (700,), (4, 3, 2)]
    arrays = [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    arrays[0] = np.asfortranarray(arrays[0])
    w, s, empty, b, v = arrays
    groups: list[dict[str, Any]] = [
        {"params": {"W": w, "s": s, "0": empty, "none": None}, "name": "body"},
        {"params": {"b": b, "V": v}, "name": "head", "lr": 0.5, "alpha": 0.5},
    ]
    if "lr" in options:
        del groups[1]["lr"]
    return threaded(RMSProp(groups, **options)), dict(zip(NAMES, arrays, strict=True))


def gradients(params: dict[str, Array], seed: int, scale: float = 1.0) -> dict[str, Array]:
    """A gradient of each array, by its name."""
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(scale * rng.standard_normal(p.shape), p.dtype)
        for name, p in params.items()
    }


def nested(grads: dict[str, Array], names: Sequence[str]) -> Any:
    """The gradients of these leaves as step() takes them."""
    w, s, empty, b, v = (grads[name] if name in names else None for name in NAMES)
    return [{"W": w, "s": s, "0": empty, "none": None}, {"b": b, "V": v}]


def assert_twins(one: Pair, other: Pair) -> None:
    """Both have the same steps, parameters and state, bit for bit."""
    assert one[0].step_count == other[0].step_count
    for name in NAMES:
        a, b = ({**opt.state[name], "param": params[name]} for opt, params in (one, other))
        assert a.keys() == b.keys()
        for key in a:
            assert same_bits(np.atleast_1d(a[key]), np.atleast_1d(b[key])), (name, key)
