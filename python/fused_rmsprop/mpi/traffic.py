"""The messages of a step, bucket by bucket: while one bucket is stepped, others travel."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.mpi.parts import Bucket, Parts
from fused_rmsprop.mpi.ranks import Ranks

_GRADIENTS = "while the gradients of a step were exchanged"
_PARAMETERS = "while the parameters were gathered"


class _Buffers:
    """Memory for the messages of one bucket, kept from step to step."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._memory.nbytes < size * dtype.itemsize:
            self._memory = np.empty(size * dtype.itemsize, np.uint8)
        return self._memory[: size * dtype.itemsize].view(dtype)


class _Message:
    """A request with the parts of its buffer that come from, or go to, each process."""

    def __init__(self, request: Any, bucket: Bucket, received: list[NDArray[Any]]) -> None:
        self.request = request
        self.bucket = bucket
        self.received = received


class Traffic:
    """Exchanges gradients and gathers parameters.

    Parameters
    ----------
    ranks : Ranks
        The processes.
    ordered : bool
        Whether gradients are added up in the order of the processes, or by MPI's own reduction.
    """

    def __init__(self, ranks: Ranks, ordered: bool) -> None:
        self._ranks = ranks
        self.ordered = ordered
        # Of each kind two: those of one bucket are in use while the next one's fill.
        self._buffers = {kind: (_Buffers(), _Buffers()) for kind in ("out", "in", "own", "all")}
        #: Bytes that this process has sent to others, as the algorithms need them.
        self.bytes_sent = 0
        #: If it is a list: what happened to which bucket, and when it began and ended.
        self.trace: list[tuple[str, int, float, float]] | None = None

    def run(self, step: _core.ShardedStep, parts: Parts, exchange: bool, update: bool) -> None:
        """Exchange the gradients of all buckets into the sums, update the parameters, or both."""
        self._ranks.keep(self._buffers)
        buckets = parts.buckets
        messages = [self._exchange(step, 0, buckets)] if exchange else []
        gathering: list[_Message] = []
        for i, bucket in enumerate(buckets):
            if exchange:
                messages.append(self._exchange(step, i + 1, buckets))
                self._add(step, i, messages.pop(0))
            if update:
                own = bucket.streams[self._ranks.rank]
                own_range = bucket.begins[self._ranks.rank], bucket.ends[self._ranks.rank]
                began = time.perf_counter()
                step.update(own, *own_range)
                self._note("update", i, began)
                if len(gathering) == 2:
                    self._write(i - 2, gathering.pop(0))
                gathering.append(self._gather(i, bucket))
        for i, message in enumerate(gathering, len(buckets) - len(gathering)):
            self._write(i, message)

    def gather(self, parts: Parts) -> None:
        """Let every process have parameters as their own processes have them, after an `agree`."""
        self._ranks.keep(self._buffers)
        for i, bucket in enumerate(parts.buckets):
            self._write(i, self._gather(i, bucket))
        self._ranks.complete()

    def _exchange(self, step: _core.ShardedStep, i: int, buckets: list[Bucket]) -> Any:
        """Send the gradients of a bucket to the processes that step them."""
        if i == len(buckets):
            return None
        bucket, ranks = buckets[i], self._ranks
        began = time.perf_counter()
        counts = bucket.counts
        own = counts[ranks.rank]
        sent = [0 if self.ordered and r == ranks.rank else n for r, n in enumerate(counts)]
        out = self._buffers["out"][i % 2].take(sum(sent), bucket.dtype)
        for rank, part in enumerate(_split(out, sent)):
            if part.size:
                stream = bucket.streams[rank]
                step.read_grads(stream, bucket.begins[rank], bucket.ends[rank], part)
        self.bytes_sent += (sum(counts) - own) * bucket.dtype.itemsize
        if self.ordered:
            sizes = [0 if r == ranks.rank else own for r in range(ranks.size)]
            into = self._buffers["in"][i % 2].take(sum(sizes), bucket.dtype)
            request = ranks.comm.Ialltoallv([out, sent], [into, sizes])
            received = _split(into, sizes)
        else:
            into = self._buffers["in"][i % 2].take(own, bucket.dtype)
            request = ranks.comm.Ireduce_scatter(out, into, counts, op=MPI.SUM)
            received = [into]
        self._note("send gradients", i, began)
        return _Message(request, bucket, received)

    def _add(self, step: _core.ShardedStep, i: int, message: _Message) -> None:
        bucket, rank = message.bucket, self._ranks.rank
        began = time.perf_counter()
        self._ranks.wait([message.request], _GRADIENTS)
        self._note("wait for gradients", i, began)
        began = time.perf_counter()
        terms: list[NDArray[Any] | None] = [*message.received]
        if self.ordered:
            terms[rank] = None  # its own gradients are where the user has them
        step.add(bucket.streams[rank], bucket.begins[rank], bucket.ends[rank], terms)
        self._note("add", i, began)

    def _gather(self, i: int, bucket: Bucket) -> _Message:
        ranks = self._ranks
        began = time.perf_counter()
        counts = bucket.counts
        own = self._buffers["own"][i % 2].take(counts[ranks.rank], bucket.dtype)
        everything = self._buffers["all"][i % 2].take(sum(counts), bucket.dtype)
        stream = bucket.streams[ranks.rank]
        stream.read_params(bucket.begins[ranks.rank], bucket.ends[ranks.rank], own)
        self.bytes_sent += (ranks.size - 1) * own.nbytes
        request = ranks.comm.Iallgatherv(own, [everything, counts])
        self._note("send parameters", i, began)
        return _Message(request, bucket, _split(everything, counts))

    def _write(self, i: int, message: _Message) -> None:
        began = time.perf_counter()
        self._ranks.wait([message.request], _PARAMETERS)
        self._note("wait for parameters", i, began)
        began = time.perf_counter()
        bucket = message.bucket
        for rank, values in enumerate(message.received):
            if rank != self._ranks.rank and values.size:
                bucket.streams[rank].write_params(bucket.begins[rank], bucket.ends[rank], values)
        self._note("write", i, began)

    def _note(self, what: str, bucket: int, began: float) -> None:
        if self.trace is not None:
            self.trace.append((what, bucket, began, time.perf_counter()))


def _split(buffer: NDArray[Any], counts: list[int]) -> list[NDArray[Any]]:
    """The runs of a buffer of these lengths."""
    ends = np.cumsum(counts).tolist()
    return [buffer[end - count : end] for count, end in zip(counts, ends, strict=True)]
