"""Whole arrays from the parts that ranks have of them, and parts from whole arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.groups.state import Array
from fused_rmsprop.mpi.ranks import Ranks


def in_memory_order(array: Array, like: Array) -> Array:
    """The elements of an array in the order in which those of `like` lie in memory.

    A view, if they lie so in this array as well.
    """
    axes = sorted(range(like.ndim), key=lambda axis: -like.strides[axis])
    return array.transpose(axes).reshape(-1)


def gather(
    ranks: Ranks, part: Array, cuts: NDArray[np.int64], param: Array, root: int | None
) -> tuple[Any, Array | None]:
    """Begin to gather the array of a parameter's shape of which each rank has a part.

    Parameters
    ----------
    ranks : Ranks
        The processes; all call this together.
    part : array
        This rank's.
    cuts : array of int
        Where the part of each rank begins in the parameter's memory, and the end.
    param : array
        The parameter.
    root : int or None
        The rank that gets the array; None: all get it.

    Returns
    -------
    request
        The array is complete when this is.
    array or None
        None on other ranks.
    """
    whole = flat = None
    if root in (None, ranks.rank):
        whole = _core.zeros_in_order_of(param)
        flat = in_memory_order(whole, param)
    counts, begins = np.diff(cuts).tolist(), cuts[:-1].tolist()
    into = None if flat is None else [flat, (counts, begins)]
    if root is None:
        return ranks.comm.Iallgatherv(part, into), whole
    return ranks.comm.Igatherv(part, into, root=root), whole


def scattered(
    ranks: Ranks, whole: Array, cuts: NDArray[np.int64], param: Array, root: int
) -> Array:
    """The part of this rank of an array that rank `root` has."""
    part = np.empty(int(cuts[ranks.rank + 1] - cuts[ranks.rank]), param.dtype)
    given = None
    if ranks.rank == root:
        flat = np.ascontiguousarray(in_memory_order(whole, param))
        given = [flat, (np.diff(cuts).tolist(), cuts[:-1].tolist())]
    ranks.wait([ranks.comm.Iscatterv(given, part, root=root)], "while state was loaded")
    return part


def sent(ranks: Ranks, whole: Array, root: int) -> Array:
    """An array that rank `root` has; those of the other ranks tell its shape and dtype."""
    array = np.array(whole, order="C") if ranks.rank == root else np.empty(whole.shape, whole.dtype)
    data = [array.reshape(-1).view(np.uint8), MPI.BYTE]
    ranks.wait([ranks.comm.Ibcast(data, root=root)], "while parameters were loaded")
    return array


def elsewhere(shape: tuple[int, ...], dtype: Any) -> Array:
    """What stands for an array that another rank has: its shape and dtype, and no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)
