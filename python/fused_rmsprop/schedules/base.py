"""What every schedule is, its vocabulary, and the arithmetic that several share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, SupportsIndex

from fused_rmsprop.options import as_flag
from fused_rmsprop.schedules.checks import (
    as_boundaries,
    as_choice,
    as_count,
    as_functions,
    as_positive,
    as_share,
    as_value,
    as_values,
)

# A name means the same in every schedule, so it is checked in one place.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "value": as_value,
    "values": as_values,
    "init_value": as_value,
    "peak_value": as_value,
    "end_value": as_value,
    "transition_begin": as_count,
    "transition_steps": partial(as_count, least=1),
    "warmup_steps": as_count,
    "total_steps": partial(as_count, least=1),
    "decay_rate": as_positive,
    "power": as_positive,
    "exponent": as_positive,
    "boundaries": as_boundaries,
    "schedules": as_functions,
    "pct_start": as_share,
    "div_factor": as_positive,
    "final_div_factor": as_positive,
    "anneal_strategy": partial(as_choice, choices=("cos", "linear")),
    "three_phase": as_flag,
}


@dataclass(frozen=True)
class Schedule(ABC):
    """What all schedules are: immutable, checked when made, called with a step.

    Any function of an int that returns a number does as well where a schedule is wanted.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value, check = getattr(self, field.name), _CHECKS.get(field.name)
            if check is None or (value is None and field.default is None):
                continue
            checked = check(f"{type(self).__name__}: {field.name}", value)
            object.__setattr__(self, field.name, checked)
        if problem := self._problem():
            raise ValueError(f"{type(self).__name__}: {problem}")

    def __call__(self, step: SupportsIndex) -> float:
        """The value after ``step`` completed steps, an int or what has ``__index__``, ``>= 0``."""
        return self._at(as_count("step", step))

    @abstractmethod
    def _at(self, step: int) -> float: ...

    def _problem(self) -> str:
        """What is wrong with arguments that are all right one by one; empty if nothing is."""
        return ""


def elapsed(step: int, begin: int, steps: int) -> int:
    """How many of ``steps`` steps from ``begin`` on have passed."""
    return min(max(step - begin, 0), steps)


def mix(init_value: float, end_value: float, share: float) -> float:
    """``share`` of ``init_value`` and the rest of ``end_value``."""
    # Of two products, unlike end + (init - end) * share, this is exact at both ends.
    return init_value * share + end_value * (1 - share)


def line(init_value: float, end_value: float, passed: int, steps: int) -> float:
    """The way from ``init_value`` to ``end_value`` when ``passed`` of ``steps`` are over."""
    # Not mix, whose 1 - share would lose digits early in a rise from 0.
    return init_value * ((steps - passed) / steps) + end_value * (passed / steps)


def half_cosine(share: float) -> float:
    """From 1 down to 0 along half a period, as ``share`` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def miscounted(name: str, items: Sequence[Any], boundaries: Sequence[int]) -> str:
    """What is wrong with the number of ``items``; empty if nothing is."""
    if len(items) == len(boundaries) + 1:
        return ""
    return (
        f"{name} must be one more than boundaries: for {len(boundaries)} of these "
        f"{len(boundaries) + 1}, got {len(items)}"
    )
