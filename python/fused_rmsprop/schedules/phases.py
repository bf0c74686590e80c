"""Schedules of several phases, and of others: with a warm-up, in a cycle, joined, scaled."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import SupportsFloat

from fused_rmsprop.schedules.base import Schedule, elapsed, half_cosine, line, miscounted, mix


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """A linear rise from ``init_value`` to ``peak_value``, then half a cosine to ``end_value``.

    `Linear` for ``warmup_steps``, then `Cosine` for ``total_steps - warmup_steps``. With the
    default ``init_value`` of 0, the first update changes nothing.

    optax: ``warmup_cosine_decay_schedule(decay_steps=total_steps)``. torch: ``SequentialLR`` of
    ``LinearLR`` and ``CosineAnnealingLR``.
    """

    peak_value: float
    _: KW_ONLY
    warmup_steps: int
    total_steps: int
    init_value: float = 0.0
    end_value: float = 0.0
    exponent: float = 1.0

    def _at(self, step: int) -> float:
        if step < self.warmup_steps:
            return line(self.init_value, self.peak_value, step, self.warmup_steps)
        steps = self.total_steps - self.warmup_steps
        share = half_cosine(elapsed(step, self.warmup_steps, steps) / steps)
        return mix(self.peak_value, self.end_value, share**self.exponent)

    def _problem(self) -> str:
        if self.total_steps > self.warmup_steps:
            return ""
        bound = f"warmup_steps={self.warmup_steps}, got {self.total_steps}"
        return f"total_steps includes the warm-up, so it must be > {bound}"


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to ``peak_value``, then down to almost zero.

    From ``peak_value / div_factor`` at step 0 up to ``peak_value`` at step ``pct_start *
    total_steps - 1`` (if that is not an integer, the peak lies between two steps), then down to
    ``peak_value / div_factor / final_div_factor`` at step ``total_steps - 1``, the last of
    ``total_steps`` updates. Each phase is half a cosine, or a line with
    ``anneal_strategy="linear"``. With ``three_phase`` the fall mirrors the rise until step
    ``2 * pct_start * total_steps - 2``, then continues to the end. From L. Smith and N. Topin,
    Super-Convergence (arXiv:1708.07120, 2018).

    torch: ``OneCycleLR(max_lr=peak_value, cycle_momentum=False)``, with the same names and
    defaults. In optax's ``cosine_onecycle_schedule`` and ``linear_onecycle_schedule`` the peak and
    the end come one step later; docs/schedules.md reproduces them with `Join`.
    """

    peak_value: float
    _: KW_ONLY
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def _points(self) -> list[tuple[float, float]]:
        """Return the steps and values at the ends of the phases."""
        init_value = self.peak_value / self.div_factor
        end = (self.total_steps - 1.0, init_value / self.final_div_factor)
        points = [(0.0, init_value), (self.pct_start * self.total_steps - 1, self.peak_value)]
        if self.three_phase:
            points.append((2 * self.pct_start * self.total_steps - 2, init_value))
        return [*points, end]

    def _at(self, step: int) -> float:
        points = self._points()
        for (begin, init_value), (end, end_value) in pairwise(points):
            if step < end:
                share = (step - begin) / (end - begin)
                left = half_cosine(share) if self.anneal_strategy == "cos" else 1 - share
                return mix(init_value, end_value, left)
        return points[-1][1]

    def _problem(self) -> str:
        steps = [step for step, _ in self._points()]
        if steps[1] <= 0:
            return (
                "no step is left for the rise: pct_start * total_steps must be > 1, got "
                f"{self.pct_start} * {self.total_steps}; use Cosine to fall only"
            )
        if steps[-2] >= steps[-1]:
            most = "0.5 with three_phase" if self.three_phase else "a little less than 1"
            return f"pct_start must be at most {most}, got {self.pct_start}"
        return ""


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """A linear rise to ``peak_value``, then decay with the inverse square root of the step.

    ``peak_value * min(t / warmup_steps, sqrt(warmup_steps / t))``, where ``t = step + 1`` counts
    updates from 1. Update ``warmup_steps`` has the peak; there is no end. From A. Vaswani et al.,
    Attention Is All You Need (arXiv:1706.03762, 2017), equation 3, where ``peak_value`` is
    ``(d_model * warmup_steps) ** -0.5``.

    Not in torch or optax. Hugging Face's ``get_inverse_sqrt_schedule`` counts from 0, so it is one
    step later and its first update changes nothing.
    """

    peak_value: float
    _: KW_ONLY
    warmup_steps: int

    def _at(self, step: int) -> float:
        t, rise = step + 1, self.warmup_steps
        return self.peak_value * (t / rise if t < rise else math.sqrt(rise / t))

    def _problem(self) -> str:
        return "" if self.warmup_steps else "warmup_steps must be >= 1, got 0"


@dataclass(frozen=True)
class Join(Schedule):
    """One schedule after another, each counting steps from its own start.

    ``schedules[i](step - boundaries[i - 1])`` from step ``boundaries[i - 1]`` on; there is one more
    schedule than boundaries. Any functions of the step will do. If they can be compared, hashed and
    pickled, so can the join.

    optax: ``join_schedules``. torch: ``SequentialLR(milestones=boundaries)``.

    Examples
    --------
    >>> from fused_rmsprop.schedules import Constant, Join, Linear
    >>> rise = Linear(0.0, end_value=0.25, transition_steps=2)
    >>> schedule = Join([rise, Constant(0.25)], boundaries=[2])
    >>> [schedule(step) for step in range(4)]
    [0.0, 0.125, 0.25, 0.25]
    """

    schedules: Sequence[Callable[[int], SupportsFloat]]
    _: KW_ONLY
    boundaries: Sequence[int]

    def _at(self, step: int) -> float:
        i = bisect_right(self.boundaries, step)
        return float(self.schedules[i](step - self.boundaries[i - 1] if i else step))

    def _problem(self) -> str:
        return miscounted("schedules", self.schedules, self.boundaries)


@dataclass(frozen=True)
class Scaled(Schedule):
    """Another schedule, multiplied by ``factor``: ``factor * schedule(step)``.

    Any function of the step will do. A `Scaled` of a `Scaled` becomes one, with the product of
    both factors. `RMSProp.scale_lr` makes these.

    Examples
    --------
    >>> from fused_rmsprop.schedules import Linear, Scaled
    >>> schedule = Scaled(Linear(0.5, end_value=0.0, transition_steps=4), factor=0.5)
    >>> [schedule(step) for step in range(5)]
    [0.25, 0.1875, 0.125, 0.0625, 0.0]
    """

    schedule: Callable[[int], SupportsFloat]
    _: KW_ONLY
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(inner := self.schedule, Scaled):
            object.__setattr__(self, "schedule", inner.schedule)
            object.__setattr__(self, "factor", self.factor * inner.factor)
            super().__post_init__()  # the product may be out of bounds

    def _at(self, step: int) -> float:
        return self.factor * float(self.schedule(step))
