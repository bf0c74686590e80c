"""Turns what a sampler has seen into the quantities of a history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.groups.state import rates
from fused_rmsprop.monitor.history import PERCENTILES, QUANTITIES, Array, Leaf, Point
from fused_rmsprop.monitor.observation.sampling import Batch, Positions

Flags: TypeAlias = NDArray[np.bool_]

#: How many elements of a leaf, and of all leaves, percentiles are taken from.
_OF_LEAF = _OF_ALL = 128

#: As many elements are sorted at once.
_AT_ONCE = 2**14

_ROW = {name: i for i, name in enumerate(QUANTITIES)}
_RATES = slice(_ROW[f"effective_lr_p{PERCENTILES[0]}"], None)
#: The sums that the sampler makes; see sampled_sums.hpp.
_SUMS = (
    "params", "updates", "squares", "limited", "following", "products", "finite", "moving", "lost",
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

    def __init__(self, leaves: Sequence[Leaf], ends: Positions) -> None:
        groups = np.array([leaf.group for leaf in leaves], int)
        self._sizes = np.array([leaf.size for leaf in leaves], float)
        self._counts = np.diff(ends, prepend=0)
        self._weights = self._sizes / np.maximum(self._counts, 1)  # elements for each sampled one
        self._choose_elements(ends, groups)

    def _choose_elements(self, ends: Positions, groups: Positions) -> None:
        """Choose those that percentiles are taken from, evenly among the sampled ones."""
        width = int(min(self._counts.max(initial=0), _OF_LEAF))
        of_leaf = np.minimum(self._counts, width)
        places = np.arange(width) * (self._counts / np.maximum(of_leaf, 1))[:, None]
        self._is_there = np.arange(width) < of_leaf[:, None]  # others are padding
        begins = (ends - self._counts)[:, None]
        self._places = np.where(self._is_there, places.astype(np.int64) + begins, 0)
        # Of all leaves, each chosen element stands for as many.
        stand_for = np.cumsum(np.repeat(self._weights, self._counts))
        total = float(self._sizes.sum())
        count = int(min(total, _OF_ALL))
        marks = (np.arange(count) + 0.5) * (total / max(count, 1))
        last = max(len(stand_for) - 1, 0)
        self._of_all = np.minimum(np.searchsorted(stand_for, marks), last)
        #: The groups of leaves and of those elements; a single group is enough for all.
        self._groups = groups[:, None]
        self._groups_of_all = np.repeat(groups, self._counts)[self._of_all]
        if not groups.any():
            self._groups, self._groups_of_all = np.zeros((1, 1), int), np.zeros(1, int)

    def points(self, batch: Batch) -> list[Point]:
        """One point of each observation."""
        if not len(batch.steps):
            return []
        rows = np.full((len(batch.steps), len(QUANTITIES), len(self._sizes) + 1), np.nan)
        with np.errstate(all="ignore"):
            sums = self._sums(batch)
            total = {name: (self._weights * values).sum(axis=1) for name, values in sums.items()}
            for name, quantity in _QUANTITY.items():
                rows[:, _ROW[name], :-1] = quantity(sums)
                rows[:, _ROW[name], -1] = quantity(total)
            for part in self._parts(len(rows)):
                of_leaves, of_all = self._rates(batch.part(part))
                rows[part, _RATES, :-1] = of_leaves.transpose(0, 2, 1)
                rows[part, _RATES, -1] = of_all
            if not np.isnan(batch.limits).all():
                grad_rms = rows[:, _ROW["grad_rms"], :-1]
                factors = self._clip_factors(batch, grad_rms, sums["limited"])
                rows[:, _ROW["clip_factor"]] = factors
        each = zip(batch.steps.tolist(), rows, batch.scheduled, strict=True)
        return [Point(*point) for point in each]

    def _parts(self, count: int) -> Iterator[slice]:
        """Parts of observations whose arrays are small: large ones come anew from the system."""
        length = max(_AT_ONCE // max(self._places.size, 1), 1)
        for begin in range(0, count, length):
            yield slice(begin, begin + length)

    def _sums(self, batch: Batch) -> dict[str, Array]:
        """Sums over the sampled elements of each leaf; arrays (observations, leaves)."""
        sums = dict(zip(_SUMS, batch.sums.transpose(2, 0, 1), strict=True))
        given = batch.seen & batch.with_grad
        for name in ("squares", "limited", "finite", "moving", "lost"):
            sums[name] = np.where(given, sums[name], 0)
        sums["elements"] = np.where(batch.seen, self._counts, 0.0)
        sums["grads"] = np.where(given, self._counts, 0.0)
        return sums

    def _rates(self, batch: Batch) -> tuple[Array, Array]:
        """Percentiles of the effective learning rate, of each leaf and of all together.

        Arrays of shapes (observations, leaves, percentiles) and (observations, percentiles).
        """
        n, leaves, width = len(batch.steps), *self._places.shape
        if not width:
            return np.full((n, leaves, len(PERCENTILES)), np.nan), np.full(
                (n, len(PERCENTILES)), np.nan
            )
        v = np.where(batch.averages > 0, batch.averages, np.nan)
        # The rate falls where v rises: of the percentiles of v only those of the rate are computed.
        of_leaves = v[:, self._places]
        of_leaves[:, ~self._is_there] = np.nan
        of_leaves.sort(axis=-1)
        of_leaves = self._rate(batch, _nearest(of_leaves, falling=True), self._groups)
        of_all = self._rate(batch, v[:, self._of_all], self._groups_of_all)
        of_all.sort(axis=-1)
        return of_leaves, _nearest(of_all)

    def _rate(self, batch: Batch, v: Array, groups: NDArray[np.int64]) -> Array:
        lr, eps, inside = (batch.option(n)[:, groups] for n in ("lr", "eps", "eps_inside_sqrt"))
        return rates(lr, v, eps, inside > 0)

    def _clip_factors(self, batch: Batch, grad_rms: Array, limited: Array) -> Array:
        """Those of each leaf and of all, (observations, leaves + 1); NaN where nothing is clipped.

        ``limited`` are the sums of squares that `max_grad_value` has left of the gradients.
        """
        limit, of_each, of_value = batch.limits.T[:, :, None]
        all_of_it = np.isnan(of_value) | np.isnan(grad_rms)
        rms = np.where(all_of_it, grad_rms, np.sqrt(limited / self._counts))
        norms = rms * np.sqrt(self._sizes)
        is_each = ~np.isnan(of_each)
        of_leaves = np.where(is_each, np.minimum(1, of_each / norms), 1.0)
        # max_grad_norm comes after max_grad_norm_per_array.
        left = np.sqrt(np.nansum((norms * of_leaves) ** 2, axis=1, keepdims=True))
        norm = np.where(is_each, left, batch.grad_norms[:, None])
        of_all = np.where(norm > 0, np.minimum(1, limit / norm), np.where(norm == 0, 1.0, np.nan))
        of_all[np.isnan(limit)] = np.nan
        clipped = np.where(
            np.isnan(of_all), np.where(is_each, of_leaves, np.nan), of_all * of_leaves
        )
        return np.hstack([clipped, of_all])


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


def _nearest(ordered: Array, falling: bool = False) -> Array:
    """The elements at the nearest places to `PERCENTILES` on the last axis, which ends with NaN.

    ``falling``: to the percentiles of something that falls where these rise.
    """
    known = np.count_nonzero(~np.isnan(ordered), axis=-1)[..., None]
    last = np.maximum(known - 1, 0)
    places = np.rint(np.array(PERCENTILES) / 100 * last).astype(np.int64)
    return np.take_along_axis(ordered, last - places if falling else places, axis=-1)
