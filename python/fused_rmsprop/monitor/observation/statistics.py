"""Turns samples of a step into the quantities of a history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.groups.state import rates
from fused_rmsprop.monitor.history import PERCENTILES, QUANTITIES, Array, Leaf, Point
from fused_rmsprop.monitor.observation.sampling import Observation

#: The number of elements that percentiles are taken from: of a leaf, and of all together.
_OF_LEAF, _OF_ALL = 256, 512

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
        width = int(min(self._counts.max(initial=1), _OF_LEAF))
        of_leaf = np.minimum(self._counts, width)
        step = self._counts / np.maximum(of_leaf, 1)
        places = (np.arange(width) * step[:, None]).astype(np.int64)
        self._is_there = np.arange(width) < of_leaf[:, None]  # others are padding
        self._places = np.where(self._is_there, places + (ends - self._counts)[:, None], 0)
        shares = np.ceil(_OF_ALL * self._sizes / max(self._sizes.sum(), 1))
        shares = np.minimum(shares, of_leaf)
        pooled = self._is_there & (np.arange(width) < shares[:, None])
        self._pool = self._places[pooled]
        self._pool_groups = np.broadcast_to(self._groups[:, None], pooled.shape)[pooled]

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
            rows[:, _RATES, :-1] = self._rates(average, observations).transpose(0, 2, 1)
            rows[:, _RATES, -1] = self._pooled_rates(average, observations)
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
        given = _flags([o.with_grad for o in observations], leaves)
        there = ~_flags([o.frozen for o in observations], leaves)
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

    def _rates(self, average: Array, observations: Sequence[Observation]) -> Array:
        """Percentiles of the effective learning rate; (observations, leaves, percentiles)."""
        v = average[:, self._places]
        v[~(self._is_there & (v > 0))] = np.nan
        v.sort(axis=-1)
        lr, eps, inside = _options(observations, self._groups)
        falling = _nearest(v, from_end=True)  # the rate falls with v
        return rates(lr[:, :, None], falling, eps[:, :, None], inside[:, :, None])

    def _pooled_rates(self, average: Array, observations: Sequence[Observation]) -> Array:
        """The same of all leaves together; (observations, percentiles)."""
        v = average[:, self._pool]
        lr, eps, inside = _options(observations, self._pool_groups)
        of_each = rates(lr, v, eps, inside)
        of_each[~(v > 0)] = np.nan
        of_each.sort(axis=-1)
        return _nearest(of_each)

    def _add_clip_factors(self, factors: Array, grad_rms: Array, o: Observation) -> None:
        """Set those of each leaf and of all; NaN where nothing is clipped."""
        norm, of_leaves = o.grad_norm, None
        if (limit := o.values.max_grad_norm_per_array) is not None:
            norms = grad_rms[:-1] * np.sqrt(self._sizes)
            of_leaves = np.minimum(1, limit / norms)
            factors[:-1] = of_leaves
            norm = float(np.sqrt(np.nansum((norms * of_leaves) ** 2)))  # max_grad_norm comes later
        if (limit := o.values.max_grad_norm) is not None and norm is not None:
            factors[-1] = min(1.0, limit / norm) if norm > 0 else 1.0
            factors[:-1] = factors[-1] * (1 if of_leaves is None else of_leaves)


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


def _options(observations: Sequence[Observation], groups: NDArray[np.int64]) -> tuple[Any, ...]:
    """lr, eps and eps_inside_sqrt of these groups; arrays (observations, groups)."""
    values = [o.values for o in observations]
    return (
        np.stack([v.lr for v in values])[:, groups],
        np.stack([v.eps for v in values])[:, groups],
        np.stack([v.eps_inside_sqrt for v in values])[:, groups],
    )


def _nearest(ordered: Array, from_end: bool = False) -> Array:
    """The elements at the nearest places to `PERCENTILES` on the last axis, which ends with NaN."""
    known = np.count_nonzero(~np.isnan(ordered), axis=-1)[..., None]
    last = np.maximum(known - 1, 0)
    places = np.rint(np.array(PERCENTILES) / 100 * last).astype(np.int64)
    places = last - places if from_end else places
    if ordered.shape[-1] == 0:
        return np.full(places.shape, np.nan)
    return np.take_along_axis(ordered, places, axis=-1)
