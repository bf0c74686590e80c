"""The numbers that a monitor has recorded: a bounded store, and read-only copies of it.

Knows no optimizer. Rules, pictures and files read a `History`.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.base import unknown_name

Array: TypeAlias = NDArray[np.float64]

#: The percentiles of the effective learning rate.
PERCENTILES = (5, 25, 50, 75, 95)

#: What is recorded of each leaf and of all together, in the order of a point's rows.
QUANTITIES: Mapping[str, str] = {
    "grad_rms": "root mean square of the gradient, scaled as the step scales it",
    "update_rms": "root mean square of the update, the new value minus the old",
    "param_rms": "root mean square of the parameter before the update",
    "update_ratio": "update_rms / param_rms",
    "reversed": "share of elements whose next update has the opposite sign",
    "cosine": "cosine of the angle between the update and the next",
    "zero_grad": "share of zeros in the gradient",
    "nonfinite_grad": "share of NaN and infinities in the gradient",
    "lost_update": "share of elements with a gradient that the update left as they were",
    "clip_factor": "factor of the gradient by max_grad_norm and max_grad_norm_per_array",
    **{
        f"effective_lr_p{p}": f"percentile {p} of lr / (sqrt(v) + eps), where v > 0"
        for p in PERCENTILES
    },
}


class Leaf(NamedTuple):
    """A parameter: its name, shape and dtype, and the index of its group."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int = 0

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


class Series(NamedTuple):
    """A value that was logged, such as the loss: step counts and values, two arrays (points,)."""

    steps: NDArray[np.int64]
    values: Array


class Logged(dict[str, Series]):
    """The values that were logged, by their names."""

    def __missing__(self, name: str) -> Series:
        known = f"; there are {', '.join(self)}" if self else ": nothing was"
        raise KeyError(f"{name!r} was not logged{known}")


class Point(NamedTuple):
    """One observation."""

    step: int  # the number of steps with that one
    rows: Array  # (quantities, leaves + 1); the last column is of all leaves
    options: Array  # (options, groups)


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class History(Mapping[str, Array]):
    """A copy of what a monitor has recorded; a mapping from each quantity to an array.

    ``history["grad_rms"]`` has the shape (points, leaves), ``history.total("grad_rms")`` (points,).
    NaN stands where there was nothing to measure: no gradient, or no second step yet.

    Parameters
    ----------
    leaves : tuple of Leaf
        The parameters.
    groups : tuple of str
        The names of the parameter groups.
    steps : ndarray of int64, shape (points,)
        The number of steps at each point; 1 is the first step.
    rows : ndarray, shape (points, quantities, leaves + 1)
        The values in the order of `QUANTITIES`.
    option_names : tuple of str
        The options whose values are recorded: those that can be scheduled.
    option_values : ndarray, shape (points, options, groups)
        Their values in each step.
    logged : dict of Series
        What `Monitor.log` was given.
    constants : dict
        What does not change: ``eps`` of each group and options of the whole optimizer.
    """

    leaves: tuple[Leaf, ...]
    groups: tuple[str, ...]
    steps: NDArray[np.int64]
    rows: Array
    option_names: tuple[str, ...]
    option_values: Array
    logged: Mapping[str, Series] = field(default_factory=Logged)
    constants: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, quantity: str) -> Array:
        return self.rows[:, _row(quantity), :-1]

    def __iter__(self) -> Iterator[str]:
        return iter(QUANTITIES)

    def __len__(self) -> int:
        return len(QUANTITIES)

    def keys(self) -> KeysView[str]:
        """The names of the quantities."""
        return _ROWS.keys()

    def __repr__(self) -> str:
        span = f", steps {self.steps[0]} to {self.steps[-1]}" if len(self.steps) else ""
        logged = f", logged: {', '.join(self.logged)}" if self.logged else ""
        of = f"{counted(len(self.leaves), 'leaf', 'leaves')}, {counted(len(self.steps), 'point')}"
        return f"<History of {of}{span}{logged}>"

    @property
    def last_step(self) -> int:
        """The last step that was observed or logged; 0 if there is none."""
        steps = (self.steps, *(series.steps for series in self.logged.values()))
        return max((int(some[-1]) for some in steps if len(some)), default=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(leaf.name for leaf in self.leaves)

    def total(self, quantity: str) -> Array:
        """A quantity of all leaves together, weighted by their sizes; shape (points,)."""
        return self.rows[:, _row(quantity), -1]

    def of(self, name: str, quantity: str) -> Array:
        """A quantity of one leaf; shape (points,)."""
        if name not in self.names:
            raise unknown_name(name, self.names)
        return self[quantity][:, self.names.index(name)]

    def option(self, name: str) -> Array:
        """An option of each group, such as ``"lr"``; shape (points, groups)."""
        if name not in self.option_names:
            known = ", ".join(self.option_names)
            raise KeyError(f"there is no option {name!r} in the history; there are {known}")
        return self.option_values[:, self.option_names.index(name)]

    def points(self) -> Iterator[Point]:
        """One point after the other."""
        return map(Point, self.steps.tolist(), self.rows, self.option_values)

    def effective_lr(self) -> Array:
        """The percentiles of the effective learning rate; shape (points, 5, leaves + 1)."""
        first = _row(f"effective_lr_p{PERCENTILES[0]}")
        return self.rows[:, first : first + len(PERCENTILES)]


def counted(count: int, one: str, several: str = "") -> str:
    """A count and a noun: 1 point, 2,000 points."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _row(quantity: str) -> int:
    if quantity not in QUANTITIES:
        raise KeyError(
            f"there is no quantity {quantity!r} in a history; there are {', '.join(QUANTITIES)}"
        )
    return _ROWS[quantity]


_ROWS = {name: i for i, name in enumerate(QUANTITIES)}


class _Points:
    """Evenly spaced points, at most a number of them: the first, and each of a number of others."""

    def __init__(self, most: int) -> None:
        self._most, self._stride, self._count = most, 1, 0
        self._kept: list[Point] = []
        self._latest: Point | None = None

    def append(self, point: Point) -> None:
        if self._count % self._stride == 0:
            self._kept.append(point)
        self._latest = point
        self._count += 1
        if len(self._kept) >= self._most:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def list(self) -> list[Point]:
        latest = [] if self._latest is None or self._kept[-1] is self._latest else [self._latest]
        return self._kept + latest


class _Means:
    """Means of as many successive values each, at most a number of them."""

    def __init__(self, most: int) -> None:
        self._most, self._stride = most + most % 2, 1  # pairs become one
        self._kept: list[tuple[int, float]] = []  # the step of the last value, and the mean
        self._step, self._count, self._sum = 0, 0, 0.0  # of the values of the next mean

    def extend(self, steps: Sequence[int], values: Sequence[float]) -> None:
        step, count, total = self._step, self._count, self._sum
        for step, value in zip(steps, values, strict=True):
            count, total = count + 1, total + value
            if count >= self._stride:
                self._kept.append((step, total / count))
                count, total = 0, 0.0
                if len(self._kept) >= self._most:
                    self._halve()
        self._step, self._count, self._sum = step, count, total

    def _halve(self) -> None:
        pairs = zip(self._kept[::2], self._kept[1::2], strict=True)
        self._kept = [(step, (one + other) / 2) for (_, one), (step, other) in pairs]
        self._stride *= 2

    def series(self) -> Series:
        entries = self._kept + ([(self._step, self._sum / self._count)] if self._count else [])
        steps, values = zip(*entries, strict=True) if entries else ((), ())
        return Series(np.array(steps, np.int64), np.array(values, np.float64))


class Store:
    """The points of a monitor and the values that it was told: at most ``max_points`` of each.

    When they are full, every second point goes, and fewer of the coming ones stay, so that they
    are evenly spaced. The first and the latest are always there. Logged values become means of
    two neighbours. Any thread may write and read.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        groups: Sequence[str],
        option_names: Sequence[str],
        constants: Mapping[str, Any],
        max_points: int,
    ) -> None:
        self.leaves = tuple(leaves)
        self.groups = tuple(groups)
        self.option_names = tuple(option_names)
        self.constants = dict(constants)
        self.max_points = max_points
        self._points = _Points(max_points)
        self._logged: dict[str, _Means] = {}
        self._lock = threading.Lock()

    def take(self, history: History, last: int = sys.maxsize) -> None:
        """Append what a history has up to a step."""
        self.add(point for point in history.points() if point.step <= last)
        for name, series in history.logged.items():
            for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
                if step <= last:
                    self.log(step, {name: value})

    def add(self, points: Iterable[Point]) -> None:
        """Append points."""
        with self._lock:
            for point in points:
                self._points.append(point)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a logged value of each name."""
        self.log_all((name, [step], [value]) for name, value in values.items())

    def log_all(self, series: Iterable[tuple[str, Sequence[int], Sequence[float]]]) -> None:
        """Append logged values of names, with their steps."""
        with self._lock:
            for name, steps, values in series:
                if name not in self._logged:
                    self._logged[name] = _Means(self.max_points)
                self._logged[name].extend(steps, values)

    def renew_lock(self) -> None:
        """In a forked child, forget a thread that does not exist here."""
        self._lock = threading.Lock()

    def history(self) -> History:
        """A copy of all."""
        with self._lock:
            points = self._points.list()
            logged = Logged((name, means.series()) for name, means in self._logged.items())
        shape = (len(QUANTITIES), len(self.leaves) + 1)
        options = (len(self.option_names), len(self.groups))
        return History(
            self.leaves,
            self.groups,
            np.array([point.step for point in points], np.int64),
            np.array([point.rows for point in points], np.float64).reshape(-1, *shape),
            self.option_names,
            np.array([point.options for point in points], np.float64).reshape(-1, *options),
            logged,
            dict(self.constants),
        )

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            state = {name: value for name, value in vars(self).items() if name != "_lock"}
            return copy.deepcopy(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
