"""Ranks of one machine as if a network were between them, for the check of the model.

Each collective takes its real time, and in addition counts as complete only when its messages,
sent one by one, would have arrived. A rank sleeps until then, as it would while a network works.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

from fused_rmsprop.mpi.ranks import Ranks

IN_FLIGHT = 32  # messages of an all-to-all that MPICH lets travel at once
SHORT_GATHER, LONG_GATHER = 80 << 10, 512 << 10  # bytes at which MPICH changes its all-gather
SPIN = 100e-6  # seconds by which a sleep may last too long


class Link:
    """When messages arrive that leave a rank one after the other."""

    def __init__(self, latency: float, bandwidth: float, overhead: float) -> None:
        self._latency, self._bandwidth, self._overhead = latency, bandwidth, overhead
        self._free = 0.0

    def send(self, sizes: Iterable[float], at_once: int) -> float:
        """When the last message arrives, if no more than so many are under way at once."""
        left, arrived = iter(sizes), max(time.perf_counter(), self._free)
        occupied = arrived
        while batch := list(islice(left, at_once)):
            busy = sum(self._overhead + size / self._bandwidth for size in batch)
            occupied += busy
            arrived += busy + self._latency
        self._free = occupied
        return arrived


class SlowedRanks(Ranks):
    """Ranks that wait as long as a network would need.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The communicator.
    latency, bandwidth, overhead : float
        Seconds of each message, bytes per second, and seconds between messages.
    """

    def __init__(self, comm: Any, latency: float, bandwidth: float, overhead: float) -> None:
        super().__init__(comm, timeout=60.0, abort=False)
        self.due: dict[int, float] = {}
        self.comm: Any = _SlowedComm(self.comm, Link(latency, bandwidth, overhead), self.due)

    def wait(self, requests: list[Any], doing: str) -> None:
        """Wait for requests, and until their messages would have arrived."""
        due = max(self.due.pop(id(request), 0.0) for request in requests)
        super().wait(requests, doing)
        if (left := due - time.perf_counter()) > SPIN:
            time.sleep(left - SPIN)
        while time.perf_counter() < due:
            pass


class _SlowedComm:
    """A communicator that notes when each collective of a step is complete at the earliest."""

    def __init__(self, comm: Any, link: Link, due: dict[int, float]) -> None:
        self._comm, self._link, self._due = comm, link, due

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def Ialltoallv(self, given: Any, taken: Any) -> Any:  # noqa: N802
        """Each rank has a message for each other one."""
        request = self._comm.Ialltoallv(given, taken)
        out, counts = given
        sizes = [count * out.itemsize for count in counts]
        del sizes[self._comm.rank]
        self._due[id(request)] = self._link.send(sizes, IN_FLIGHT)
        return request

    def Iallgatherv(self, given: Any, taken: Any) -> Any:  # noqa: N802
        """All ranks get the messages of all: in a ring, or if they are short, by doubling."""
        request = self._comm.Iallgatherv(given, taken)
        everything, counts, ranks = taken[0], taken[1], self._comm.size
        power_of_two = ranks & (ranks - 1) == 0
        if everything.nbytes < (LONG_GATHER if power_of_two else SHORT_GATHER):
            held, sizes = 1, []
            while held < ranks:
                sizes.append(min(held, ranks - held) * max(counts) * everything.itemsize)
                held *= 2
        else:
            sizes = [max(counts) * everything.itemsize] * (ranks - 1)
        self._due[id(request)] = self._link.send(sizes, 1)
        return request
