"""Histories of trainings that never were: a healthy one, and what is changed in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fused_rmsprop.monitor.history import QUANTITIES, History, Leaf, Series
from fused_rmsprop.options import SCHEDULABLE

LEAVES = (
    Leaf("layer1.W", (64, 32), "float32"),
    Leaf("layer1.b", (32,), "float32"),
    Leaf("layer2.W", (32, 32), "float32"),
    Leaf("layer2.b", (32,), "float32"),
    Leaf("head.W", (32, 10), "float32"),
    Leaf("head.b", (10,), "float32"),
)
USUAL = {
    "grad_rms": 1e-2,
    "update_rms": 1e-3,
    "param_rms": 0.1,
    "update_ratio": 1e-2,
    "reversed": 0.45,
    "cosine": 0.05,
    "zero_grad": 0.1,
    "nonfinite_grad": 0.0,
    "lost_update": 0.0,
    "clip_factor": np.nan,
    "effective_lr_p5": 0.01,
    "effective_lr_p25": 0.05,
    "effective_lr_p50": 0.1,
    "effective_lr_p75": 0.5,
    "effective_lr_p95": 1.0,
}
ROW = {name: i for i, name in enumerate(QUANTITIES)}


def healthy(points: int = 40, every: int = 10, leaves: tuple[Leaf, ...] = LEAVES) -> History:
    """A training without a fault, whose loss falls."""
    steps = 1 + every * np.arange(points)
    column = np.array([USUAL[name] for name in QUANTITIES])
    options = {"lr": 1e-3, "alpha": 0.9, "weight_decay": 0.0, "momentum": 0.0}
    values = np.array([options[name] for name in SCHEDULABLE])
    logged = np.arange(1, every * points + 1)
    noise = np.random.default_rng(0).standard_normal(len(logged))
    loss = 2.3 * np.exp(-logged / 100) + 0.05 + 0.01 * np.abs(noise)
    return History(
        leaves,
        ("0",),
        steps,
        np.tile(column[None, :, None], (points, 1, len(leaves) + 1)),
        SCHEDULABLE,
        np.tile(values[None, :, None], (points, 1, 1)),
        {"loss": Series(logged, loss)},
        {"kind": "numpy", "every": every, "eps": [1e-8], "on_nonfinite": "propagate"},
    )


def changed(history: History, quantity: str, values: ArrayLike, *leaves: int) -> History:
    """Other values of a quantity, for some leaves, -1 for all together; or for each."""
    rows = history.rows.copy()
    for leaf in leaves or range(rows.shape[2]):
        rows[:, ROW[quantity], leaf] = values
    return replace(history, rows=rows)


def with_option(history: History, name: str, values: ArrayLike) -> History:
    """Other values of a schedulable option."""
    options = history.option_values.copy()
    options[:, SCHEDULABLE.index(name), 0] = values
    return replace(history, option_values=options)


def with_constants(history: History, **constants: Any) -> History:
    """Other constants."""
    return replace(history, constants={**history.constants, **constants})


def with_loss(history: History, values: ArrayLike | None) -> History:
    """Another loss of each step, or none."""
    if values is None:
        return replace(history, logged={})
    every = history.constants["every"]
    steps = np.arange(1, every * len(history.steps) + 1)
    losses = np.broadcast_to(np.asarray(values, np.float64), steps.shape).copy()
    return replace(history, logged={"loss": Series(steps, losses)})


def ramp(history: History, first: float, last: float, from_point: int = 1) -> Any:
    """One value up to a point, another from there on."""
    return np.where(np.arange(len(history.steps)) < from_point, first, last)
