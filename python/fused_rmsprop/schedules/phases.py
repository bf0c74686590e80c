"""Schedules of several phases: a warm-up and what follows it, a cycle, any others joined."""

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
    """A straight rise from ``init_value`` to ``peak_value``, then half a cosine to ``end_value``.

    `Linear` for ``warmup_steps``, then `Cosine` for ``total_steps - warmup_steps``. With an
    ``init_value`` of 0, the default, the first update changes nothing.

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
        return (
            f"total_steps counts the warm-up too, so it must be > warmup_steps="
            f"{self.warmup_steps}, got {self.total_steps}"
        )


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to ``peak_value``, down again, and further down to almost nothing.

    From ``peak_value / div_factor`` at step 0 up to ``peak_value`` at step ``pct_start *
    total_steps - 1`` (which need not be a whole number; the peak then lies between two steps), and
    down to ``peak_value / div_factor / final_div_factor`` at step ``total_steps - 1``, the last of
    ``total_steps`` updates; along half cosines, or straight lines with ``anneal_strategy=
    "linear"``. With ``three_phase`` it comes down as it went up, until step ``2 * pct_start *
    total_steps - 2``, and the rest of the way then. From L. Smith and N. Topin, Super-Convergence
    (arXiv:1708.07120, 2018).

    torch: ``OneCycleLR(max_lr=peak_value, cycle_momentum=False)``, with the same names and
    defaults. optax's ``cosine_onecycle_schedule`` and ``linear_onecycle_schedule`` have the peak
    and the end one step later: a `Join` of `Cosine` or `Linear`, see docs/schedules.md.
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
        """The steps and values between which the phases run."""
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
                "there is no step to rise in: pct_start * total_steps must be > 1, got "
                f"{self.pct_start} * {self.total_steps}; Cosine goes down only"
            )
        if steps[-2] >= steps[-1]:
            most = "0.5 with three_phase" if self.three_phase else "a little less than 1"
            return f"pct_start must be at most {most}, got {self.pct_start}"
        return ""


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """A straight rise to ``peak_value``, then down with the square root of the step.

    ``peak_value * min(t / warmup_steps, sqrt(warmup_steps / t))``, where ``t = step + 1`` counts
    the updates from 1: the peak is at the update number ``warmup_steps``, and there is no end. From
    A. Vaswani et al., Attention Is All You Need (arXiv:1706.03762, 2017), equation 3, where
    ``peak_value`` is ``(d_model * warmup_steps) ** -0.5``.

    Neither torch nor optax has it. Hugging Face's ``get_inverse_sqrt_schedule`` counts from 0, and
    so comes one step later, with a first update that changes nothing.
    """

    peak_value: float
    _: KW_ONLY
    warmup_steps: int

    def _at(self, step: int) -> float:
        t = step + 1
        if t < self.warmup_steps:
            return self.peak_value * (t / self.warmup_steps)
        return self.peak_value * math.sqrt(self.warmup_steps / t)

    def _problem(self) -> str:
        return "" if self.warmup_steps else "warmup_steps must be >= 1 (no rise at all), got 0"


@dataclass(frozen=True)
class Join(Schedule):
    """One schedule after the other, each counting its steps from its own beginning.

    ``schedules[i](step - boundaries[i - 1])`` from step ``boundaries[i - 1]`` on: one schedule
    more than boundaries. Any functions of the step will do; the join can be compared, hashed and
    pickled if they can.

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
