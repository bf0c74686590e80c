"""Turns samples of a step into the quantities of a history."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.groups.state import rates
from fused_rmsprop.monitor.history import PERCENTILES, QUANTITIES, Array, Leaf, Point
from fused_rmsprop.monitor.observation.sampling import Observation

#: The number of elements that the percentiles of all leaves together are taken from.
_POOL = 1024

_ROW = {name: i for i, name in enumerate(QUANTITIES)}
_RATES = slice(_ROW[f"effective_lr_p{PERCENTILES[0]}"], None)
#: The quantities before those, and the clip factor.
_SUMMED = slice(0, _ROW["clip_factor"])


class Statistics:
    """Computes the points of observations.

    Parameters
    ----------
    leaves : sequence of Leaf
        The parameters.
    slices : sequence of slice
        The places of each leaf's sample among those of all.
    """

    def __init__(self, leaves: Sequence[Leaf], slices: Sequence[slice]) -> None:
        self._leaves, self._slices = leaves, slices
        self._sizes = np.array([leaf.size for leaf in leaves])
        counts = np.array([part.stop - part.start for part in slices])
        self._weights = self._sizes / np.maximum(counts, 1)  # what a sampled element stands for
        shares = np.ceil(_POOL * self._sizes / max(self._sizes.sum(), 1))
        shares = np.minimum(shares, counts).astype(np.int64)
        self._pool = np.concatenate(
            [
                np.linspace(part.start, part.stop - 1, share).astype(np.int64)
                for part, share in zip(slices, shares, strict=True)
            ]
        )
        self._pool_groups = np.repeat([leaf.group for leaf in leaves], shares)

    def points(self, observations: Sequence[Observation]) -> list[Point]:
        """One point of each."""
        samples = _stacked(observations, len(self._leaves))
        rows = np.full((len(observations), len(QUANTITIES), len(self._leaves) + 1), np.nan)
        with np.errstate(all="ignore"):
            total = np.zeros(())
            for i, (leaf, part) in enumerate(zip(self._leaves, self._slices, strict=True)):
                sums = _sums(samples, part, i)
                total = total + self._weights[i] * sums
                rows[:, _SUMMED, i] = _quantities(sums)
                rows[:, _RATES, i] = _rates_of_leaf(samples, part, leaf.group)
            rows[:, _SUMMED, -1] = _quantities(total)
            rows[:, _RATES, -1] = self._pooled_rates(samples)
            for point, o in zip(rows, observations, strict=True):
                self._add_clip_factors(point[_ROW["clip_factor"]], point[_ROW["grad_rms"]], o)
                point[:, :-1][:, [*o.frozen]] = np.nan
        pairs = zip(rows, observations, strict=True)
        return [Point(o.step, point, o.values.options) for point, o in pairs]

    def _pooled_rates(self, samples: _Samples) -> Array:
        groups, v = self._pool_groups, samples.average[:, self._pool]
        of_each = rates(
            samples.lr[:, groups], v, samples.eps[:, groups], samples.eps_inside_sqrt[:, groups]
        )
        of_each[~(v > 0)] = np.nan
        return _nearest(np.sort(of_each, axis=1), np.zeros(len(v), np.int64))

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


@dataclass
class _Samples:
    """The samples of several observations; the first axis is theirs."""

    rows: Array  # (observations, 5, elements), as those of an observation
    has_next: NDArray[np.bool_]
    with_grad: NDArray[np.bool_]  # (observations, leaves)
    frozen: NDArray[np.bool_]
    lr: Array  # (observations, groups)
    eps: Array
    eps_inside_sqrt: NDArray[np.bool_]

    @property
    def average(self) -> Array:
        """The averages of squares; shape (observations, elements)."""
        return self.rows[:, 2]


def _stacked(observations: Sequence[Observation], leaves: int) -> _Samples:
    return _Samples(
        np.stack([o.rows for o in observations]),
        np.array([o.has_next for o in observations]),
        _flags([o.with_grad for o in observations], leaves),
        _flags([o.frozen for o in observations], leaves),
        np.stack([o.values.lr for o in observations]),
        np.stack([o.values.eps for o in observations]),
        np.stack([o.values.eps_inside_sqrt for o in observations]),
    )


def _flags(chosen: Sequence[Set[int]], leaves: int) -> NDArray[np.bool_]:
    """Which leaves are in each set; shape (sets, leaves)."""
    flags = np.zeros((len(chosen), leaves), bool)
    for row, indices in zip(flags, chosen, strict=True):
        row[list(indices)] = True
    return flags


def _sums(samples: _Samples, part: slice, leaf: int) -> Array:
    """Sums over the sampled elements of a leaf; shape (sums, observations)."""
    param, grad, _, update, following = samples.rows[:, :, part].transpose(1, 0, 2)
    there, given, has_next = (
        ~samples.frozen[:, leaf],
        samples.with_grad[:, leaf],
        samples.has_next,
    )
    counts = np.full(len(param), param.shape[1])
    squares, finite = _dot(grad, grad), counts
    if not np.isfinite(squares[given]).all():  # each pass over the elements counts
        is_finite = np.isfinite(grad)
        finite, grad = _count(is_finite), np.where(is_finite, grad, 0)
        squares = _dot(grad, grad)
    moving = _count(grad)
    lost = counts - _count(update)
    if lost.any():
        lost = _count((update == 0) & (grad != 0))
    product = update * following
    return np.stack(
        [
            there * counts,
            np.where(there, _dot(param, param), 0),
            _dot(update, update),
            given * counts,
            given * finite,
            np.where(given, squares, 0),
            given * (finite - moving),
            given * lost,
            given * moving,
            np.where(has_next, _dot(following, following), 0),
            np.where(has_next, product.sum(axis=1), 0),
            has_next * _count(product),
            _count(product < 0),
        ]
    )


def _quantities(sums: Array) -> Array:
    """The quantities before the clip factor; shape (observations, quantities)."""
    (
        elements, params, updates, grads, finite, squares, zeros, lost, moving, following, products,
        compared, reversals,
    ) = sums  # fmt: skip
    update_rms, param_rms = np.sqrt(updates / elements), np.sqrt(params / elements)
    values = {
        "grad_rms": np.sqrt(squares / np.where(grads > 0, finite, np.nan)),
        "update_rms": update_rms,
        "param_rms": param_rms,
        "update_ratio": update_rms / param_rms,
        "reversed": reversals / compared,
        "cosine": products / np.sqrt(updates * following),
        "zero_grad": zeros / grads,
        "nonfinite_grad": (grads - finite) / grads,
        "lost_update": lost / moving,
    }
    return np.stack([values[name] for name in [*QUANTITIES][_SUMMED]], axis=1)


def _dot(a: Array, b: Array) -> Array:
    return np.asarray(np.einsum("ij,ij->i", a, b))


def _count(elements: NDArray[Any]) -> NDArray[np.int64]:
    """How many elements of each row are not zero."""
    return np.asarray(np.count_nonzero(elements, axis=1))


def _rates_of_leaf(samples: _Samples, part: slice, group: int) -> Array:
    """Percentiles of the effective learning rate; shape (observations, percentiles)."""
    v = np.sort(samples.average[:, part], axis=1)[:, ::-1]  # the rate falls with v
    unknown = _count(np.isnan(v))
    chosen = _nearest(np.where(v > 0, v, np.nan), unknown)
    lr, eps = samples.lr[:, group, None], samples.eps[:, group, None]
    return rates(lr, chosen, eps, samples.eps_inside_sqrt[:, group, None])


def _nearest(ordered: Array, first: NDArray[np.int64]) -> Array:
    """The elements at `PERCENTILES` of each row: those from ``first`` on, up to the first NaN."""
    known = _count(~np.isnan(ordered))
    beyond = np.array(PERCENTILES) / 100 * np.maximum(known - 1, 0)[:, None]
    places = first[:, None] + np.rint(beyond).astype(np.int64)
    if ordered.shape[1] == 0:
        return np.full(places.shape, np.nan)
    last = ordered.shape[1] - 1
    found = np.take_along_axis(ordered, np.minimum(places, last), axis=1)
    return np.where(known[:, None] > 0, found, np.nan)
