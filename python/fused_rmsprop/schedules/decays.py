"""Schedules of one piece: constant, or from a first value to a last one."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

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
    ``t = step - transition_begin``, kept within 0 and ``transition_steps``.

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
    """From ``init_value`` to ``end_value`` as a power of the steps that are left.

    ``end_value + (init_value - end_value) * (1 - t / transition_steps) ** power``, where
    ``t = step - transition_begin``, kept within 0 and ``transition_steps``.

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
    """Multiplied with ``decay_rate`` every ``transition_steps``, a little at each step.

    ``init_value * decay_rate ** (t / transition_steps)``, where ``t = step - transition_begin``
    or 0 before that. With an ``end_value`` it stops there.

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
        if self.end_value is None or self.decay_rate == 1:
            return ""
        falls = self.decay_rate < 1
        if (self.end_value <= self.init_value) if falls else (self.end_value >= self.init_value):
            return ""
        return (
            f"with decay_rate={self.decay_rate} the value {'falls' if falls else 'rises'}, so "
            f"end_value must be {'<=' if falls else '>='} init_value={self.init_value}, "
            f"got {self.end_value}"
        )


@dataclass(frozen=True)
class StepDecay(Exponential):
    """Multiplied with ``decay_rate`` once every ``transition_steps``: a staircase.

    ``init_value * decay_rate ** (t // transition_steps)``, where ``t = step - transition_begin``
    or 0 before that. With an ``end_value`` it stops there.

    optax: ``exponential_decay(staircase=True)``. torch: ``StepLR(step_size=transition_steps,
    gamma=decay_rate)``.
    """

    def _exponent(self, step: int) -> float:
        return max(step - self.transition_begin, 0) // self.transition_steps


@dataclass(frozen=True)
class Piecewise(Schedule):
    """``values[i]`` from step ``boundaries[i - 1]`` on: one value more than boundaries.

    torch: ``MultiStepLR(milestones=boundaries)``, which multiplies with ``gamma`` at each. optax:
    ``piecewise_constant_schedule``, whose dict has factors. Keras's ``PiecewiseConstantDecay`` has
    the same arguments, and goes on to the next value one step later.

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
    exponent``, where ``t = step - transition_begin``, kept within 0 and ``transition_steps``.
    From I. Loshchilov and F. Hutter, SGDR (arXiv:1608.03983, 2017), equation 5, without restarts;
    a `Join` of several has them.

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
