"""Histories, and the store that they are copies of."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from fused_rmsprop.monitor.history import QUANTITIES, Store
from runs_support import OPTIONS, a_point, a_run, a_store


def bounded(most: int) -> Store:
    return Store(a_store().leaves, ("0",), OPTIONS, {}, most)


def test_the_memory_of_logged_values_is_bounded() -> None:
    store = bounded(16)
    sizes = []
    tracemalloc.start()
    try:
        for step in range(1, 40_001):
            store.log(step, {"loss": 0.5 * step})
            if step in (20_000, 40_000):
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] < sizes[0] + 1000
    steps, values = store.history().logged["loss"]
    assert len(steps) <= 17
    assert steps[-1] == 40_000
    stride = int(steps[0])
    assert values[:-1].tolist() == [
        0.5 * (k * stride - (stride - 1) / 2) for k in steps[:-1] / stride
    ]


@pytest.mark.parametrize("most", [16, 17, sys.maxsize])
def test_means_are_of_the_values_since_the_mean_before(most: int) -> None:
    store, values = bounded(most), np.random.default_rng(0).standard_normal(1000)
    for step, value in enumerate(values):
        store.log(step, {"loss": float(value)})
    steps, means = store.history().logged["loss"]
    parts = np.split(values, steps[:-1] + 1)
    np.testing.assert_allclose(means, [part.mean() for part in parts], rtol=1e-12, atol=1e-15)


def test_a_value_that_was_not_logged_is_answered_with_those_that_were() -> None:
    history = a_run()
    with pytest.raises(KeyError, match="'accuracy' was not logged; there are loss"):
        history.logged["accuracy"]
    with pytest.raises(KeyError, match="'loss' was not logged: nothing was"):
        a_store().history().logged["loss"]
    assert history.logged.get("accuracy") is None


def test_a_history_shows_what_it_has() -> None:
    assert repr(a_run()) == "<History of 2 leaves, 3 points, steps 1 to 21, logged: loss>"
    store = a_store(("w",))
    store.add([a_point(store, 1)])
    assert repr(store.history()) == "<History of 1 leaf, 1 point, steps 1 to 1>"
    keys: Any = a_run().keys()
    assert list(keys) == list(QUANTITIES)
    assert repr(keys).startswith("dict_keys(['grad_rms', 'update_rms', ")


def test_the_last_step_was_observed_or_logged() -> None:
    store = a_store()
    assert store.history().last_step == 0
    store.log(3, {"loss": 1.0})
    assert store.history().last_step == 3
    store.add([a_point(store, 11)])
    assert store.history().last_step == 11
