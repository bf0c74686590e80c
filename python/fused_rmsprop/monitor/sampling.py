"""Samples of a leaf's elements, taken around a step: what a monitor measures, before it measures.

Nothing is computed here but differences. `statistics` turns observations into points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.monitor.history import Array, Leaf
from fused_rmsprop.options import SCHEDULABLE


class Positions:
    """The places of a fixed random sample among an array's elements.

    Parameters
    ----------
    shape : tuple of int
        The array's shape.
    most : int
        The largest number of elements; a smaller array is taken as a whole.
    rng : numpy.random.Generator
        Draws them.
    """

    def __init__(self, shape: tuple[int, ...], most: int, rng: np.random.Generator) -> None:
        self._shape = shape
        size = int(np.prod(shape, dtype=np.int64))
        self.flat: NDArray[np.int64] | None = None
        self._indices: tuple[NDArray[np.int64], ...] | None = None
        if size > most:  # in order, because memory is read faster so
            self.flat = np.sort(rng.choice(size, most, replace=False, shuffle=False))
        self.count = min(size, most)

    def take(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sampled elements of an array of that shape, in any order of its axes."""
        if array.flags.c_contiguous:
            flat = array.reshape(-1)
            return flat if self.flat is None else flat.take(self.flat)
        if self.flat is None:
            return array.ravel()
        if self._indices is None:
            self._indices = np.unravel_index(self.flat, self._shape)
        return array[self._indices]


@dataclass
class Values:
    """The options of each group in an observed step, and the limits of the gradients."""

    options: Array  # (options, groups), as the history records them
    eps: Array  # (groups,)
    eps_inside_sqrt: NDArray[np.bool_]  # (groups,)
    max_grad_norm: float | None = None
    max_grad_norm_per_array: float | None = None

    @property
    def lr(self) -> Array:
        """The learning rate of each group."""
        rates: Array = self.options[SCHEDULABLE.index("lr")]
        return rates


@dataclass
class Observation:
    """Sampled elements of all leaves, one after the other, in one step."""

    values: Values
    step: int = 0  # the number of steps with this one
    grad_norm: float | None = None
    param: Array = field(default_factory=lambda: np.empty(0))  # before the update
    grad: Array = field(default_factory=lambda: np.empty(0))  # NaN throughout: there was none
    average: Array = field(default_factory=lambda: np.empty(0))  # square_avg or variance, after it
    update: Array = field(default_factory=lambda: np.empty(0))
    next_update: Array | None = None
    without_grad: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))  # (leaves,)
    frozen: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))  # (leaves,)


class Recorder:
    """Samples the leaves before and after a step, on every n-th step and the one after it.

    Oscillation has a period of two steps. So two successive updates are compared, whatever
    ``every`` is.

    Parameters
    ----------
    leaves : sequence of Leaf
        The parameters.
    every : int
        The first step is observed, and each so many steps after it.
    most : int
        The largest number of sampled elements of a leaf.
    seed : int
        Of the random samples.
    finish : callable
        Takes each observation when it is complete.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        every: int,
        most: int,
        seed: int,
        finish: Callable[[Observation], None],
    ) -> None:
        rng = np.random.default_rng(seed)
        self.positions = [Positions(leaf.shape, most, rng) for leaf in leaves]
        ends = np.cumsum([0, *(positions.count for positions in self.positions)])
        #: The places of each leaf's sample among those of all.
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        self._every, self._finish = every, finish
        self._count = 0  # of steps
        self._size = int(ends[-1])
        self._now: Observation | None = None  # the step under way
        self._awaits: Observation | None = None  # the next update

    @property
    def is_due(self) -> bool:
        """Whether the next step is to be sampled."""
        return self._awaits is not None or self._count % self._every == 0

    @property
    def is_sampling(self) -> bool:
        """Whether the step under way is sampled."""
        return self._now is not None

    @property
    def wants_gradients(self) -> bool:
        """Whether it is the first of two steps, of which not only the update counts."""
        return self._count % self._every == 0

    def begin(self, values: Values) -> None:
        """Begin to sample a step with these options; no leaf has a gradient yet."""
        leaves = len(self.positions)
        now = Observation(values, without_grad=np.ones(leaves, bool), frozen=np.zeros(leaves, bool))
        now.param, now.grad = np.full(self._size, np.nan), np.full(self._size, np.nan)
        now.average, now.update = np.full(self._size, np.nan), np.zeros(self._size)
        self._now = now

    def before(self, index: int, param: NDArray[Any]) -> None:
        """Take the sampled elements of a parameter before its update."""
        if self._now is not None:
            self._now.param[self.slices[index]] = param

    def after(self, index: int, param: NDArray[Any]) -> None:
        """Take them after its update."""
        if self._now is not None:
            part = self.slices[index]
            np.subtract(param, self._now.param[part], out=self._now.update[part])

    def gradient(self, index: int, grad: NDArray[Any], scale: float) -> None:
        """Take those of its gradient, times its factor."""
        if (now := self._now) is not None:
            now.without_grad[index] = False
            now.grad[self.slices[index]] = grad
            if scale != 1:
                now.grad[self.slices[index]] *= scale

    def average(self, index: int, average: NDArray[Any]) -> None:
        """Take those of its average of squares, or variance, after the update."""
        if self._now is not None:
            self._now.average[self.slices[index]] = average

    def freeze(self, index: int) -> None:
        """Note that steps leave a leaf alone."""
        if self._now is not None:
            self._now.frozen[index] = True

    def end(self, step: int, grad_norm: float | None) -> None:
        """Complete what a step was sampled for; it was the ``step``-th."""
        now, self._now = self._now, None
        before, self._awaits = self._awaits, None
        if now is None:
            return
        if self.wants_gradients:
            now.step, now.grad_norm = step, grad_norm
            self._awaits = now
        self._count += 1
        if before is not None:
            before.next_update = now.update
            self._finish(before)

    def pass_by(self) -> None:
        """Count a step that was not sampled."""
        self._awaits = None
        self._count += 1

    def abandon(self) -> None:
        """Forget the step under way, which was not made."""
        self._now = None

    def flush(self) -> None:
        """Finish the observation that awaits another step, which will not come."""
        before, self._awaits = self._awaits, None
        if before is not None:
            self._finish(before)
