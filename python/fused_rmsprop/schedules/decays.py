"""Schedules that change in one way: constant, linear, cosine, exponential, in steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from operator import ge, le

from fused_rmsprop.schedules.base import Schedule, elapsed, half_cosine, line, miscounted, mix


@dataclass(frozen=True)
class Constant(Schedule):
    """``value`` at every step.

    optax: ``constant_schedule``. torch: no scheduler, or ``ConstantLR(factor=1)``.
    """

    value: float

    def _at(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from ``init_value`` to ``end_value``, up or down.

    ``init_value + (end_value - init_value) * t / transition_steps``, where
    ``t = step - transition_begin``, clipped to 0 and ``transition_steps``.

    optax: ``linear_schedule``. torch: ``LinearLR(start_factor=init_value / lr,
    end_factor=end_value / lr, total_iters=transition_steps)``.

    Examples
    --------
    >>> from fused_rmsprop.schedules import Linear
    >>> schedule = Linear(0.5, end_value=0.0, transition_steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    """

    init_value: float
    _: KW_ONLY
    end_value: float
    transition_steps: int
    transition_begin: int = 0

    def _at(self, step: int) -> float:
        steps = self.transition_steps
        passed = elapsed(step, self.transition_begin, steps)
        return line(self.init_value, self.end_value, passed, steps)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """From ``init_value`` to ``end_value`` as a power of the remaining steps.

    ``end_value + (init_value - end_value) * (1 - t / transition_steps) ** power``, ``t`` as in
    `Linear`.

    optax: ``polynomial_schedule``. torch: ``PolynomialLR(total_iters=transition_steps)``.
    """

    init_value: float
    _: KW_ONLY
    end_value: float = 0.0
    transition_steps: int
    power: float
    transition_begin: int = 0

    def _at(self, step: int) -> float:
        steps = self.transition_steps
        left = (steps - elapsed(step, self.transition_begin, steps)) / steps
        return mix(self.init_value, self.end_value, left**self.power)


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiplied by ``decay_rate`` every ``transition_steps``, gradually.

    ``init_value * decay_rate ** (t / transition_steps)``, where ``t = step - transition_begin``,
    0 before that. ``end_value`` is a bound.

    optax: ``exponential_decay``. torch: ``ExponentialLR(gamma=decay_rate)`` with
    ``transition_steps=1``.
    """

    init_value: float
    _: KW_ONLY
    decay_rate: float
    transition_steps: int
    transition_begin: int = 0
    end_value: float | None = None

    def _exponent(self, step: int) -> float:
        return max(step - self.transition_begin, 0) / self.transition_steps

    def _at(self, step: int) -> float:
        try:
            value = self.init_value * math.pow(self.decay_rate, self._exponent(step))
        except OverflowError:
            value = math.inf if self.init_value > 0 else 0.0
        if self.end_value is None:
            return value
        return (max if self.decay_rate < 1 else min)(value, self.end_value)

    def _problem(self) -> str:
        falls = self.decay_rate < 1
        moves, sign, fits = ("falls", "<=", le) if falls else ("rises", ">=", ge)
        if self.end_value is None or self.decay_rate == 1 or fits(self.end_value, self.init_value):
            return ""
        bound = f"{sign} init_value={self.init_value}, got {self.end_value}"
        return f"with decay_rate={self.decay_rate} the value {moves}, so end_value must be {bound}"


@dataclass(frozen=True)
class StepDecay(Exponential):
    """Multiplied by ``decay_rate`` once every ``transition_steps``: a staircase.

    ``init_value * decay_rate ** (t // transition_steps)``, otherwise as `Exponential`.

    optax: ``exponential_decay(staircase=True)``. torch: ``StepLR(step_size=transition_steps,
    gamma=decay_rate)``.
    """

    def _exponent(self, step: int) -> float:
        return max(step - self.transition_begin, 0) // self.transition_steps


@dataclass(frozen=True)
class Piecewise(Schedule):
    """``values[i]`` from step ``boundaries[i - 1]`` on; there is one more value than boundaries.

    torch: ``MultiStepLR(milestones=boundaries)``, which multiplies by ``gamma`` at each. optax:
    ``piecewise_constant_schedule``, whose dict has factors. Keras's ``PiecewiseConstantDecay`` has
    the same arguments but changes one step later.

    Examples
    --------
    >>> from fused_rmsprop.schedules import Piecewise
    >>> schedule = Piecewise([0.1, 0.01], boundaries=[1000])
    >>> schedule(999), schedule(1000)
    (0.1, 0.01)
    """

    values: Sequence[float]
    _: KW_ONLY
    boundaries: Sequence[int]

    def _at(self, step: int) -> float:
        return self.values[bisect_right(self.boundaries, step)]

    def _problem(self) -> str:
        return miscounted("values", self.values, self.boundaries)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from ``init_value`` to ``end_value``: slow, fast, slow.

    ``end_value + (init_value - end_value) * ((1 + cos(pi * t / transition_steps)) / 2) **
    exponent``, ``t`` as in `Linear`. From I. Loshchilov and F. Hutter, SGDR (arXiv:1608.03983,
    2017), equation 5, without restarts; use `Join` for these.

    optax: ``cosine_decay_schedule(decay_steps=transition_steps, alpha=end_value / init_value)``.
    torch: ``CosineAnnealingLR(T_max=transition_steps, eta_min=end_value)``, which rises again
    after ``T_max``.
    """

    init_value: float
    _: KW_ONLY
    end_value: float = 0.0
    transition_steps: int
    exponent: float = 1.0
    transition_begin: int = 0

    def _at(self, step: int) -> float:
        steps = self.transition_steps
        share = half_cosine(elapsed(step, self.transition_begin, steps) / steps)
        return mix(self.init_value, self.end_value, share**self.exponent)
