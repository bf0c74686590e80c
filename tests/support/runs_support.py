"""Histories of trainings that never were, and the comparison of histories."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from fused_rmsprop.monitor import History, Leaf
from fused_rmsprop.monitor.history import QUANTITIES, Point, Store

OPTIONS = ("lr", "alpha")


def a_store(
    names: Sequence[str] = ("layer1.W", "layer1.b"), groups: Sequence[str] = ("0",)
) -> Store:
    """An empty store, of leaves with these names."""
    leaves = [Leaf(name, (4, 3), "float32", i % len(groups)) for i, name in enumerate(names)]
    constants = {"kind": "numpy", "every": 10, "max_grad_norm": None, "eps": [1e-8] * len(groups)}
    return Store(leaves, groups, OPTIONS, constants, sys.maxsize)


def a_point(store: Store, step: int) -> Point:
    """A point with values that depend on the step alone."""
    rng = np.random.default_rng(step)
    rows = np.exp(rng.standard_normal((len(QUANTITIES), len(store.leaves) + 1)))
    return Point(step, rows, rng.random((len(OPTIONS), len(store.groups))))


def a_run(store: Store | None = None, steps: int = 30) -> History:
    """The history of a short training: a point every ten steps, and a loss at each."""
    store = store or a_store()
    for step in range(1, steps + 1):
        if step % 10 == 1:
            store.add([a_point(store, step)])
        store.log(step, {"loss": 1 / step})
    return store.history()


def assert_same(one: History, other: History) -> None:
    """Both tell the same, NaN included."""
    assert one.leaves == other.leaves
    assert one.groups == other.groups
    assert one.option_names == other.option_names
    assert one.constants == other.constants
    for name in ("steps", "rows", "option_values"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.logged.keys() == other.logged.keys()
    for name, series in one.logged.items():
        np.testing.assert_array_equal(series.steps, other.logged[name].steps)
        np.testing.assert_array_equal(series.values, other.logged[name].values)
