"""Whole arrays from the parts that ranks have of them, and parts from whole arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from fused_rmsprop.groups.state import Array
from fused_rmsprop.mpi.ranks import Ranks


def in_memory_order(array: Array, like: Array) -> Array:
    """The elements of an array in the order in which those of `like` lie in memory.

    A view, if they lie so in this array as well.
    """
    axes = sorted(range(like.ndim), key=lambda axis: -like.strides[axis])
    return array.transpose(axes).reshape(-1)


def gather(
    ranks: Ranks,
    part: Array,
    cuts: NDArray[np.int64],
    whole: Array | None,
    root: int | None,
) -> Any:
    """Begin to gather an array of which each rank has a part, and return the request.

    Parameters
    ----------
    ranks : Ranks
        The processes; all call this together.
    part : array
        This rank's.
    cuts : array of int
        Where the part of each rank begins in the order of memory, and the end.
    whole : array or None
        The array that is filled; None on ranks that do not get it.
    root : int or None
        The rank that gets it; None: all get it.
    """
    into = None
    if whole is not None:
        counts, begins = np.diff(cuts).tolist(), cuts[:-1].tolist()
        into = [in_memory_order(whole, whole), (counts, begins)]
    ranks.keep(part, whole)
    if root is None:
        return ranks.comm.Iallgatherv(part, into)
    return ranks.comm.Igatherv(part, into, root=root)


def scatter(
    ranks: Ranks, flat: Array | None, cuts: NDArray[np.int64], part: Array, root: int
) -> None:
    """Fill this rank's part of an array that rank `root` has, in the order of memory."""
    given = None if flat is None else [flat, (np.diff(cuts).tolist(), cuts[:-1].tolist())]
    ranks.keep(flat, part)
    ranks.wait([ranks.comm.Iscatterv(given, part, root=root)], "while state was loaded")


def send(ranks: Ranks, array: Array, root: int) -> None:
    """Fill an array in C order with that of rank `root`."""
    data = [array.reshape(-1).view(np.uint8), MPI.BYTE]
    ranks.keep(array)
    ranks.wait([ranks.comm.Ibcast(data, root=root)], "while parameters were loaded")


def elsewhere(shape: tuple[int, ...], dtype: Any) -> Array:
    """What stands for an array that another rank has: its shape and dtype, and no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)
