"""Turns samples of a step into the quantities of a history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.groups.state import rates
from fused_rmsprop.monitor.history import PERCENTILES, QUANTITIES, Array, Leaf, Point
from fused_rmsprop.monitor.observation.sampling import Observation

#: The number of a leaf's elements that percentiles are taken from.
_OF_LEAF = 256

_ROW = {name: i for i, name in enumerate(QUANTITIES)}
_RATES = slice(_ROW[f"effective_lr_p{PERCENTILES[0]}"], None)
#: The quantities before those, and the clip factor.
_SUMMED = slice(0, _ROW["clip_factor"])
#: The sums that `_core.sum_leaves` makes.
_SUMS = (
    "params", "updates", "squares", "following", "products", "finite", "moving", "lost",
    "compared", "reversals",
)  # fmt: skip


class Statistics:
    """Computes the points of observations.

    Parameters
    ----------
    leaves : sequence of Leaf
        The parameters.
    ends : ndarray of int64
        The end of each leaf's sample among those of all.
    """

    def __init__(self, leaves: Sequence[Leaf], ends: NDArray[np.int64]) -> None:
        self._leaves, self._ends = leaves, ends
        self._groups = np.array([leaf.group for leaf in leaves])
        self._sizes = np.array([leaf.size for leaf in leaves])
        self._counts = np.diff(ends, prepend=0)
        self._weights = self._sizes / np.maximum(self._counts, 1)  # elements for each sampled one
        width = int(min(self._counts.max(initial=0), _OF_LEAF))
        of_leaf = np.minimum(self._counts, width)
        step = self._counts / np.maximum(of_leaf, 1)
        places = (np.arange(width) * step[:, None]).astype(np.int64)
        self._is_there = np.arange(width) < of_leaf[:, None]  # others are padding
        self._places = np.where(self._is_there, places + (ends - self._counts)[:, None], 0)
        #: How many elements each of those places stands for.
        self._stand_for = np.where(
            self._is_there, (self._sizes / np.maximum(of_leaf, 1))[:, None], 0
        )

    def points(self, observations: Sequence[Observation]) -> list[Point]:
        """One point of each."""
        leaves = len(self._leaves)
        rows = np.full((len(observations), len(QUANTITIES), leaves + 1), np.nan)
        with np.errstate(all="ignore"):
            sums = self._sums(observations)
            total = {name: (self._weights * values).sum(axis=1) for name, values in sums.items()}
            for name, row in _ROW.items():
                if row < _SUMMED.stop:
                    rows[:, row, :-1] = _QUANTITY[name](sums)
                    rows[:, row, -1] = _QUANTITY[name](total)
            average = np.stack([o.average for o in observations])
            of_leaves, of_all = self._rates(average, observations)
            rows[:, _RATES, :-1], rows[:, _RATES, -1] = of_leaves.transpose(0, 2, 1), of_all
            for point, o in zip(rows, observations, strict=True):
                if o.values.is_limited:
                    self._add_clip_factors(point[_ROW["clip_factor"]], point[_ROW["grad_rms"]], o)
                if o.frozen:
                    point[:, :-1][:, [*o.frozen]] = np.nan
        pairs = zip(rows, observations, strict=True)
        return [Point(o.step, point, o.values.options) for point, o in pairs]

    def _sums(self, observations: Sequence[Observation]) -> dict[str, Array]:
        """Sums over the sampled elements of each leaf; arrays (observations, leaves)."""
        leaves = len(self._leaves)
        made = np.empty((len(observations), leaves, len(_SUMS)))
        for out, o in zip(made, observations, strict=True):
            _core.sum_leaves(o.rows, self._ends, out)
        sums = dict(zip(_SUMS, made.transpose(2, 0, 1), strict=True))
        there = ~_flags([o.frozen for o in observations], leaves)
        given = there & _flags([o.with_grad for o in observations], leaves)
        has_next = np.array([o.has_next for o in observations])[:, None]
        for names, known in (
            (("squares", "finite", "moving", "lost"), given),
            (("params",), there),
            (("following", "products", "compared"), has_next),
        ):
            for name in names:
                sums[name] = np.where(known, sums[name], 0)
        sums["elements"] = np.where(there, self._counts, 0.0)
        sums["grads"] = np.where(given, self._counts, 0.0)
        return sums

    def _rates(self, average: Array, observations: Sequence[Observation]) -> tuple[Array, Array]:
        """Percentiles of the effective learning rate, of each leaf and of all together.

        Arrays of shapes (observations, leaves, percentiles) and (observations, percentiles).
        """
        v = average[:, self._places] if average.shape[1] else np.empty((len(average), 0, 0))
        v = np.where(self._is_there & (v > 0), v, np.nan) if v.size else v
        options = [o.values for o in observations]
        lr = np.stack([o.lr for o in options])[:, self._groups, None]
        eps = np.stack([o.eps for o in options])[:, self._groups, None]
        inside = np.stack([o.eps_inside_sqrt for o in options])[:, self._groups, None]
        if not v.size:
            none = np.full((len(average), len(self._leaves), len(PERCENTILES)), np.nan)
            return none, np.full(none.shape[::2], np.nan)
        of_each = rates(lr, v, eps, inside)
        of_all = [_weighted(values.ravel(), self._stand_for.ravel()) for values in of_each]
        of_each.sort(axis=-1)
        return _nearest(of_each), np.stack(of_all)

    def _add_clip_factors(self, factors: Array, grad_rms: Array, o: Observation) -> None:
        """Set those of each leaf and of all; NaN where nothing is clipped."""
        norm, of_leaves = o.grad_norm, None
        if (limit := o.values.max_grad_norm_per_array) is not None:
            norms = self._limited_rms(grad_rms[:-1], o) * np.sqrt(self._sizes)
            of_leaves = np.minimum(1, limit / norms)
            factors[:-1] = of_leaves
            norm = float(np.sqrt(np.nansum((norms * of_leaves) ** 2)))  # max_grad_norm comes later
        if (limit := o.values.max_grad_norm) is not None and norm is not None:
            factors[-1] = min(1.0, limit / norm) if norm > 0 else 1.0
            factors[:-1] = factors[-1] * (1 if of_leaves is None else of_leaves)

    def _limited_rms(self, grad_rms: Array, o: Observation) -> Array:
        """The root mean squares of gradients whose elements `max_grad_value` has limited."""
        limit = o.values.max_grad_value
        if limit is None:
            return grad_rms
        limited = np.clip(np.nan_to_num(o.grad, posinf=0, neginf=0), -limit, limit) ** 2
        begins = self._ends - self._counts
        parts = [limited[a:b] for a, b in zip(begins, self._ends, strict=True)]
        return np.array([np.sqrt(part.mean()) if part.size else np.nan for part in parts])


_QUANTITY: Mapping[str, Callable[[Mapping[str, Array]], Array]] = {
    "grad_rms": lambda s: np.sqrt(s["squares"] / np.where(s["grads"] > 0, s["finite"], np.nan)),
    "update_rms": lambda s: np.sqrt(s["updates"] / s["elements"]),
    "param_rms": lambda s: np.sqrt(s["params"] / s["elements"]),
    "update_ratio": lambda s: np.sqrt(s["updates"] / s["params"]),
    "reversed": lambda s: s["reversals"] / s["compared"],
    "cosine": lambda s: s["products"] / np.sqrt(s["updates"] * s["following"]),
    "zero_grad": lambda s: (s["finite"] - s["moving"]) / s["grads"],
    "nonfinite_grad": lambda s: (s["grads"] - s["finite"]) / s["grads"],
    "lost_update": lambda s: s["lost"] / s["moving"],
}


def _flags(chosen: Sequence[Set[int]], leaves: int) -> NDArray[np.bool_]:
    """Which leaves are in each set; shape (sets, leaves)."""
    flags = np.zeros((len(chosen), leaves), bool)
    for row, indices in zip(flags, chosen, strict=True):
        row[list(indices)] = True
    return flags


def _weighted(values: Array, weights: Array) -> Array:
    """`PERCENTILES` of elements that stand for several each; NaN are left out."""
    order = np.argsort(values)  # NaN come last
    reached = np.cumsum(np.where(np.isnan(values), 0, weights)[order])
    if not reached[-1] > 0:
        return np.full(len(PERCENTILES), np.nan)
    places = np.searchsorted(reached, np.array(PERCENTILES) / 100 * reached[-1])
    return np.asarray(values[order][np.minimum(places, len(values) - 1)])


def _nearest(ordered: Array) -> Array:
    """The elements at the nearest places to `PERCENTILES` on the last axis, which ends with NaN."""
    known = np.count_nonzero(~np.isnan(ordered), axis=-1)[..., None]
    last = np.maximum(known - 1, 0)
    places = np.rint(np.array(PERCENTILES) / 100 * last).astype(np.int64)
    return np.take_along_axis(ordered, places, axis=-1)
