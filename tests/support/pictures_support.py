"""Histories as a monitor records them, to draw: a training that goes well, and damage to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fused_rmsprop.monitor.history import (
    PERCENTILES,
    QUANTITIES,
    Array,
    History,
    Leaf,
    Point,
    Store,
)

Damage = Callable[[int, dict[str, Array]], None]


def history(
    leaves: int = 6,
    points: int = 30,
    *,
    names: Sequence[str] = (),
    every: int = 10,
    steps: Sequence[int] = (),
    groups: Sequence[str] = ("",),
    lr: Callable[[int], float] = lambda step: 1e-3,
    log: Sequence[str] = ("loss",),
    damage: Damage | None = None,
    most: int = 10_000,
) -> History:
    """A history; ``damage(index, rows)`` may change the rows of a point by their names."""
    rng = np.random.default_rng(0)
    names = names or [f"layer{i // 2}.{'Wb'[i % 2]}" for i in range(leaves)]
    all_of = [Leaf(name, (30, 20), "float32", i % len(groups)) for i, name in enumerate(names)]
    options = ("lr", "alpha", "weight_decay", "momentum")
    store = Store(all_of, groups, options, {"kind": "numpy", "every": every}, most)
    size = np.append(10 ** rng.uniform(-4, -1, len(names)), 0.01)
    steps = steps or range(1, 1 + points * every, every)
    for i, step in enumerate(steps):
        rows = _rows(rng, size * 0.99**i, lr(step))
        if damage is not None:
            damage(i, rows)
        values = np.array([[lr(step)] * len(groups), *([x] * len(groups) for x in (0.9, 0, 0))])
        store.add([Point(step, np.array([rows[name] for name in QUANTITIES]), values)])
        store.log(step, {name: (j + 2) * 0.97**i for j, name in enumerate(log)})
    return store.history()


def _rows(rng: np.random.Generator, size: Array, lr: float) -> dict[str, Array]:
    noise = np.exp(rng.normal(0, 0.2, len(size)))
    rows = {name: np.zeros(len(size)) for name in QUANTITIES}
    rows |= {"grad_rms": size * noise, "param_rms": np.full(len(size), 0.1)}
    rows |= {"update_rms": lr * noise, "update_ratio": 10 * lr * noise}
    rows |= {"reversed": 0.4 + 0.1 * rng.random(len(size)), "cosine": rng.uniform(-1, 1, len(size))}
    rows |= {f"effective_lr_p{p}": lr / size * 10 ** (p / 50 - 1) for p in PERCENTILES}
    rows["clip_factor"] = np.ones(len(size))
    return rows
