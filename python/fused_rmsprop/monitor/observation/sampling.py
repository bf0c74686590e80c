"""Samples of a leaf's elements, taken around a step: what a monitor measures, before it measures.

Nothing is computed here but differences. `statistics.py` turns observations into points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.monitor.history import Array, Leaf
from fused_rmsprop.options import SCHEDULABLE

#: An array for each leaf, or None.
Arrays: TypeAlias = list[NDArray[Any] | None]

_RUN = 4


def draw_positions(
    shape: tuple[int, ...], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The places in C order of a random sample of an array's elements; of all, if they are few.

    They are random runs of four neighbours, which lie in one line of the cache: most of the time
    goes into waiting for memory.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= most:
        return np.arange(size, dtype=np.int64)
    runs = rng.choice(size // _RUN, most // _RUN, replace=False, shuffle=False)
    starts = _RUN * np.sort(runs) + rng.integers(size % _RUN + 1)
    return (starts[:, None] + np.arange(_RUN)).ravel().astype(np.int64)


@dataclass
class Values:
    """The options of each group in an observed step, and the limits of the gradients."""

    options: Array  # (options, groups), as the history records them
    eps: Array  # (groups,)
    eps_inside_sqrt: NDArray[np.bool_]  # (groups,)
    max_grad_norm: float | None = None
    max_grad_norm_per_array: float | None = None
    max_grad_value: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether gradients are clipped."""
        return self.max_grad_norm is not None or self.max_grad_norm_per_array is not None

    @property
    def lr(self) -> Array:
        """The learning rate of each group."""
        rates: Array = self.options[SCHEDULABLE.index("lr")]
        return rates


class Observation:
    """Sampled elements of all leaves, one after the other, in one step.

    The rows are `param` before the update, `grad`, `average` (of squares, or the variance) after
    it, `update`, and the update of the next step. NaN: there is none.
    """

    def __init__(self, values: Values, size: int) -> None:
        self.values = values
        self.step = 0  # the number of steps with this one
        self.grad_norm: float | None = None
        self.rows = np.empty((5, size))
        self.param, self.grad, self.average, self.update, self.next_update = self.rows
        self.has_next = False
        self.with_grad: set[int] = set()  # leaves
        self.frozen: frozenset[int] = frozenset()


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
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        every: int,
        most: int,
        seed: int,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.positions = [draw_positions(leaf.shape, most, rng) for leaf in leaves]
        counts = [len(positions) for positions in self.positions]
        #: The end of each leaf's sample among those of all.
        self.ends = np.cumsum(counts, dtype=np.int64)
        self._every = every
        self._wait = 0  # steps until the next of which not only the update counts
        self._size = sum(counts)
        self._before = np.zeros(self._size)  # parameters before the step under way
        #: The step under way, if more than its update counts.
        self.now: Observation | None = None
        self._awaits: Observation | None = None  # the next update

    @property
    def steps_to_due(self) -> int:
        """How many steps come before the next one to sample."""
        return 0 if self._awaits is not None else self._wait

    @property
    def is_first(self) -> bool:
        """Whether the next step is the first of two, of which not only the update counts."""
        return self._wait == 0

    def pass_by(self, steps: int) -> None:
        """Count steps that were not sampled."""
        if steps > 0:
            self._awaits = None
            self._wait = max(self._wait - steps, 0)

    def begin(self, params: Arrays, values: Values | None, leaf_by_leaf: bool) -> None:
        """Begin a step that is due, with these options: before anything has changed.

        Without values only its update counts, as the second of two.
        """
        _core.gather(params, self.positions, self._before)
        if values is not None:
            now = Observation(values, self._size)
            now.param[...] = self._before
            if leaf_by_leaf:
                now.grad.fill(np.nan)
                now.average.fill(np.nan)
            self.now = now

    def take_gradients(self, grads: Arrays, averages: Arrays, scale: float) -> None:
        """Take the gradients of all leaves, times their factor, and their averages after it."""
        if (now := self.now) is not None:
            _core.gather(grads, self.positions, now.grad, factor=scale)
            _core.gather(averages, self.positions, now.average)
            now.with_grad = {index for index, grad in enumerate(grads) if grad is not None}

    def take_gradient(self, index: int, grad: Any, average: Any, scale: float) -> None:
        """Take those of one leaf."""
        if (now := self.now) is not None:
            positions = [self.positions[index]]
            part = slice(self.ends[index] - len(positions[0]), self.ends[index])
            _core.gather([grad], positions, now.grad[part], factor=scale)
            _core.gather([average], positions, now.average[part])
            now.with_grad.add(index)

    def end(self, params: Arrays) -> Observation | None:
        """End a step that was due; the observation that it completes, if any."""
        now, self.now = self.now, None
        before, self._awaits = self._awaits, None
        update = before.next_update if now is None and before is not None else None
        update = now.update if now is not None else update
        if update is not None:
            _core.gather(params, self.positions, update, self._before)
        if now is not None:
            self._awaits, self._wait = now, self._every
            if before is not None:
                before.next_update[...] = now.update
        self._wait = max(self._wait - 1, 0)
        if before is not None:
            before.has_next = True
        return before

    def abandon(self) -> None:
        """Forget the step under way, which was not made."""
        self.now = None

    def flush(self) -> Observation | None:
        """The observation that awaits another step, which will not come."""
        before, self._awaits = self._awaits, None
        if before is not None:
            before.next_update.fill(np.nan)
        return before
