"""Fits the speeds of a machine to steps that mpi_steps.py, or the check of the model, has timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from mpi_formula import ITEM, NO_NETWORK, Copies, Machine, default_bucket, step_seconds

#: Elements from which on copies and updates count for themselves: caches do not hold as many.
FROM_MEMORY = 10_000_000
#: Of each parameter: a first guess.
START = {"step": 2e-4, "bucket": 5e-5, "copy": 1e10, "update": 1.5e10, "transport": 3e9}


@dataclass(frozen=True)
class Row:
    """A timed step of ranks with one thread each: seconds of all of it, and of some parts."""

    ranks: int
    elements: int
    bucket_bytes: int
    step: float
    update: float
    copies: float  # pack, add, write

    def modelled(self, machine: Machine) -> float:
        """The seconds of the model."""
        shared = machine.shared(self.ranks)
        return step_seconds(self.ranks, self.elements, self.bucket_bytes, shared, NO_NETWORK)

    def log_errors(self, machine: Machine) -> list[float]:
        """Logarithms of what is measured over what the model says."""
        errors = [math.log(self.step / self.modelled(machine))]
        if self.elements >= FROM_MEMORY:
            shared, own = machine.shared(self.ranks), self.elements / self.ranks
            copies = Copies.of(self.ranks)
            moved = (copies.pack + copies.add + copies.write) * own * ITEM
            errors += [
                math.log(self.update * shared.update / (5 * own * ITEM)),
                math.log(self.copies * shared.copy / moved),
            ]
        return errors


def rows_of(results: Sequence[dict[str, Any]], time: str = "step") -> list[Row]:
    """The steps that the model is about: one thread, ordered, no network.

    `time` is "step", the median over rounds, or "step_low", the lower quartile.
    """
    return [
        Row(
            found["ranks"],
            found["elements"],
            way["bucket_bytes"] or default_bucket(found["ranks"]),
            way[time],
            way["update"],
            way["pack"] + way["add"] + way["write"],
        )
        for found in results
        for way in found.get("ways", [])
        if way["threads"] == 1 and way["reduction"] == "ordered" and way["network"] is None
    ]


def fit(rows: Sequence[Row], cores: int) -> Machine:
    """The machine whose logarithms of times have the least squares of errors.

    Ranks that have a core each decide about all but the costs of taking turns, which the others
    tell. The contention needs rows of one rank and of several.
    """
    apart = [row for row in rows if row.ranks <= cores]
    crowded = [row for row in rows if row.ranks > cores]
    names = list(START)
    contends = len({row.ranks for row in apart}) > 1

    def machine_of(logs: Any) -> Machine:
        values = dict(zip(names, np.exp(logs[: len(names)]).tolist(), strict=True))
        contention = float(logs[-1]) if contends else 0.0
        return Machine(**values, contention=contention, cores=cores)

    def errors(logs: Any) -> list[float]:
        machine = machine_of(logs)
        return [error for row in apart for error in row.log_errors(machine)]

    start = [math.log(value) for value in START.values()]
    low, high = [value - 7 for value in start], [value + 7 for value in start]
    if contends:
        start, low, high = [*start, 0.2], [*low, 0.0], [*high, 1.0]
    machine = machine_of(least_squares(errors, start, bounds=(low, high)).x)
    if not crowded:
        return machine

    def crowded_errors(log: Any) -> list[float]:
        tried = replace(machine, switch=math.exp(log[0]))
        return [math.log(row.step / row.modelled(tried)) for row in crowded]

    found = least_squares(crowded_errors, [math.log(1e-3)], bounds=([-14], [0]))
    return replace(machine, switch=math.exp(found.x[0]))


def residuals(rows: Sequence[Row], machine: Machine) -> dict[str, dict[str, float]]:
    """The errors of whole steps as factors: root of the mean square, and the worst, by ranks."""
    found = {}
    for ranks in sorted({row.ranks for row in rows}):
        logs = np.array([math.log(r.step / r.modelled(machine)) for r in rows if r.ranks == ranks])
        worst = logs[np.argmax(np.abs(logs))]
        found[str(ranks)] = {
            "typical": math.exp(math.sqrt(float(np.mean(logs**2)))),
            "worst": math.exp(worst),
            "rows": len(logs),
        }
    return found
