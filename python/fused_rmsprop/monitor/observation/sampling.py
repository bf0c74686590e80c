"""Which elements of each leaf a monitor samples, and what the kernel's sampler gives back."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.monitor.history import Array
from fused_rmsprop.options import SCHEDULABLE

Positions: TypeAlias = NDArray[np.int64]

_RUN = 4
_OPTION_ROWS = {name: row for row, name in enumerate(_core.Sampler.option_names())}
_SCHEDULABLE_ROWS = [_OPTION_ROWS[name] for name in SCHEDULABLE]


def draw_positions(shape: tuple[int, ...], most: int, rng: np.random.Generator) -> Positions:
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


class Batch(NamedTuple):
    """Observations that a sampler has made, on the first axis of each array; NaN: there is none."""

    steps: NDArray[np.int64]  # the number of steps with each
    sums: Array  # (., leaves, sums), in the order of `statistics.py`
    averages: Array  # (., elements): of squares, or variances
    options: Array  # (., options, groups)
    limits: Array  # (., 3): max_grad_norm, max_grad_norm_per_array, max_grad_value
    grad_norms: Array  # (.,)
    seen: NDArray[np.bool_]  # (., leaves): in that step, and not frozen
    with_grad: NDArray[np.bool_]  # (., leaves)

    def part(self, rows: slice) -> Batch:
        """Some of the observations."""
        parts: list[Any] = [array[rows] for array in self]
        return Batch(*parts)

    def fill_options(self, group: int, values: Any) -> None:
        """Set the options of a group where no leaf has shown them."""
        for name, row in _OPTION_ROWS.items():
            column = self.options[:, row, group]
            column[np.isnan(column)] = float(values[name])

    @property
    def scheduled(self) -> Array:
        """The options that can be scheduled, as a history records them."""
        return self.options[:, _SCHEDULABLE_ROWS]

    def option(self, name: str) -> Array:
        """One option; (., groups)."""
        values: Array = self.options[:, _OPTION_ROWS[name]]
        return values
