"""Cuts leaves into the ranges that processes step, of equal size and whole chunks each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core

#: The unit of the norm, so that every norm has the same bits for any number of processes. It is a
#: whole number of cache lines.
CHUNK = _core.chunk_size


def cut(sizes: Sequence[int], items: Sequence[int], loads: Sequence[int]) -> NDArray[np.int64]:
    """Cut leaves, laid end to end, into one range for each process.

    Parameters
    ----------
    sizes, items : sequence of int
        The elements of each leaf, and the bytes of one.
    loads : sequence of int
        The bytes that each process has already: ranges are chosen so that in the end all have as
        much as each other, but for a chunk.

    Returns
    -------
    array of shape (leaves, processes + 1)
        Where the range of each process begins in each leaf; the last column is the leaf's size.
    """
    chunks = [-(-size // CHUNK) for size in sizes]
    begins = [np.arange(n) * (CHUNK * item) for n, item in zip(chunks, items, strict=True)]
    ends = np.cumsum([0, *(size * item for size, item in zip(sizes, items, strict=True))])
    starts = np.concatenate([*(b + end for b, end in zip(begins, ends, strict=False)), ends[-1:]])
    free = np.maximum(0, (int(ends[-1]) + sum(loads)) // len(loads) - np.array(loads))
    total = max(int(free.sum()), 1)
    wanted = [int(ends[-1]) * int(f) // total for f in np.cumsum(free)]
    wanted[-1] = int(ends[-1])
    after = np.searchsorted(starts, wanted)
    before = np.maximum(after - 1, 0)
    nearer = np.where(starts[after] - wanted <= wanted - starts[before], after, before)
    places = np.concatenate([[0], nearer])  # among all chunks
    first = np.cumsum([0, *chunks])[:-1, None]
    inside = np.clip(places[None, :] - first, 0, np.array(chunks, np.int64)[:, None])
    return np.asarray(np.minimum(inside * CHUNK, np.array(sizes, np.int64)[:, None]))


@dataclass
class Bucket:
    """The elements of each process's stream that travel together."""

    dtype: np.dtype[Any]
    streams: Sequence[_core.Stream]  # of each process
    begins: list[int]
    ends: list[int]

    @property
    def counts(self) -> list[int]:
        """The elements of each process."""
        return [end - begin for begin, end in zip(self.begins, self.ends, strict=True)]


class Parts:
    """The parts of the leaves that have a gradient in a step, as streams, buckets and chunks.

    Parameters
    ----------
    stepper : NumpyStepper
        Whose leaves they are.
    cuts : array of shape (leaves, processes + 1)
        From `cut`.
    dtypes : sequence of dtype
        Of each leaf.
    active : bytes
        For each leaf, whether it takes part.
    bucket_bytes : int
        The most bytes of all processes together that travel together.
    """

    def __init__(
        self,
        stepper: _core.NumpyStepper,
        cuts: NDArray[np.int64],
        dtypes: Sequence[np.dtype[Any]],
        active: bytes,
        bucket_bytes: int,
    ) -> None:
        self.buckets: list[Bucket] = []
        ranks = cuts.shape[1] - 1
        chosen = np.flatnonzero(np.frombuffer(active, np.uint8)).tolist()
        counts = np.diff(cuts, axis=1)[chosen].T  # of each process and leaf
        for dtype in dict.fromkeys(dtypes[i] for i in chosen):
            streams = [
                _core.Stream(
                    stepper,
                    [
                        (leaf, int(cuts[leaf, rank]), int(count))
                        for leaf, count in zip(chosen, counts[rank], strict=True)
                        if count and dtypes[leaf] == dtype
                    ],
                )
                for rank in range(ranks)
            ]
            step = max(1, bucket_bytes // (ranks * dtype.itemsize * 16)) * 16
            for begin in range(0, max(stream.size for stream in streams), step):
                begins = [min(begin, stream.size) for stream in streams]
                ends = [min(begin + step, stream.size) for stream in streams]
                self.buckets.append(Bucket(dtype, streams, begins, ends))
        of_leaves = -(-counts // CHUNK)
        #: The chunks that each process has, and the place of each chunk among those of all.
        self.chunks_of_ranks = [int(n) for n in of_leaves.sum(axis=1)]
        self.order = _in_order_of_leaves(of_leaves)
        #: The chunks of each leaf in all processes together.
        self.chunks_of_leaves = [0] * len(dtypes)
        for leaf, n in zip(chosen, of_leaves.sum(axis=0), strict=True):
            self.chunks_of_leaves[leaf] = int(n)


def _in_order_of_leaves(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the chunks of each leaf lie if those of each process follow each other.

    `counts` are the chunks of each process and leaf.
    """
    starts = (np.cumsum(counts) - counts.reshape(-1)).reshape(counts.shape)
    lengths, first = counts.T.reshape(-1), starts.T.reshape(-1)
    total = int(lengths.sum())
    inside = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(np.repeat(first, lengths) + inside)
