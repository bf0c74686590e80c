"""Samples of a leaf's elements, taken around a step: what a monitor measures, before it measures.

Nothing is computed here but differences. `statistics.py` turns observations into points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.monitor.history import Array, Leaf
from fused_rmsprop.options import SCHEDULABLE


def draw_positions(
    shape: tuple[int, ...], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The places in C order of a random sample of an array's elements; of all, if they are few.

    In order, because memory is read faster so.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= most:
        return np.arange(size, dtype=np.int64)
    return np.sort(rng.choice(size, most, replace=False, shuffle=False)).astype(np.int64)


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


class Observation:
    """Sampled elements of all leaves, one after the other, in one step.

    The rows are `param` before the update, `grad`, `average` (of squares, or the variance) after
    it, `update`, and the update of the next step. NaN: there is none.
    """

    def __init__(self, values: Values, size: int) -> None:
        self.values = values
        self.step = 0  # the number of steps with this one
        self.grad_norm: float | None = None
        self.rows = np.full((5, size), np.nan)
        self.param, self.grad, self.average, self.update, self.next_update = self.rows
        self.update.fill(0)
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
        self.positions = [draw_positions(leaf.shape, most, rng) for leaf in leaves]
        ends = np.cumsum([0, *(len(positions) for positions in self.positions)])
        #: The places of each leaf's sample among those of all.
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        self._every, self._finish = every, finish
        self._wait = 0  # steps until the next of which not only the update counts
        self._size = int(ends[-1])
        #: The step under way, if it is sampled.
        self.now: Observation | None = None
        self._awaits: Observation | None = None  # the next update

    @property
    def steps_to_due(self) -> int:
        """How many steps come before the next one to sample."""
        return 0 if self._awaits is not None else self._wait

    @property
    def wants_gradients(self) -> bool:
        """Whether the next step is the first of two, of which not only the update counts."""
        return self._wait == 0

    def pass_by(self, steps: int) -> None:
        """Count steps that were not sampled."""
        if steps > 0:
            self._awaits = None
            self._wait = max(self._wait - steps, 0)

    def begin(self, values: Values) -> Observation:
        """Begin to sample a step with these options."""
        self.now = Observation(values, self._size)
        return self.now

    def end(self, step: int, grad_norm: float | None) -> None:
        """Complete what a step was sampled for; it was the ``step``-th."""
        now, self.now = self.now, None
        before, self._awaits = self._awaits, None
        if now is None:
            return
        if self.wants_gradients:
            now.step, now.grad_norm = step, grad_norm
            self._awaits, self._wait = now, self._every
        self._wait -= 1
        if before is not None:
            before.next_update[...], before.has_next = now.update, True
            self._finish(before)

    def abandon(self) -> None:
        """Forget the step under way, which was not made."""
        self.now = None

    def flush(self) -> None:
        """Finish the observation that awaits another step, which will not come."""
        before, self._awaits = self._awaits, None
        if before is not None:
            self._finish(before)
