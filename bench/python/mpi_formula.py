"""The time of a step over MPI from the sizes of its messages; docs/mpi-model.md derives it.

`step_seconds` follows the loop of fused_rmsprop/mpi/traffic.py, with times in place of the work.
It knows neither mpi4py nor the package. The collectives are those of MPICH by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

ITEM = 4  # bytes of a float32
BYTES_PER_UPDATE = 5 * ITEM  # reads p, g, v; writes p, v
LEAST_BUCKET, LEAST_BUCKET_PER_RANK = 8 << 20, 64 << 10  # the defaults of mpi/optimizer.py
IN_FLIGHT = 32  # messages of an all-to-all that MPICH lets travel at once
MOST_BUCKETS = 1 << 14  # that `best_bucket` tries
SHORT_GATHER, LONG_GATHER = 80 << 10, 512 << 10  # bytes at which MPICH changes its all-gather


@dataclass(frozen=True)
class Machine:
    """What a rank does itself.

    Parameters
    ----------
    step, bucket : float
        Seconds of a step, and of each of its buckets, whatever their size.
    copy, update : float
        Bytes per second, read and written: of copies and sums, and of the update.
    transport : float
        Bytes per second that ranks of one machine send each other. MPI copies them in its waits.
    contention : float
        How much slower all of these are for each further rank on the machine: 0 if each has memory
        of its own, 1 if one rank alone uses all that the memory can give.
    switch : float
        Seconds that a wait takes longer for each rank that has no core.
    cores : int
        Of the machine. If it has more ranks, they take turns.
    """

    step: float = 100e-6
    bucket: float = 30e-6
    copy: float = 10e9
    update: float = 12e9
    transport: float = 5e9
    contention: float = 0.0
    switch: float = 0.0
    cores: int = 1

    def shared(self, ranks: int) -> Machine:
        """The same for one of several ranks that run on it."""
        busy = min(ranks, self.cores)
        turns = ranks / busy
        slower = turns * (1 + self.contention * (busy - 1))
        return replace(
            self,
            step=self.step * turns,
            bucket=self.bucket * turns,
            copy=self.copy / slower,
            update=self.update / slower,
            transport=self.transport / slower if ranks > 1 else math.inf,
            switch=self.switch * (ranks - busy),
        )

    def alone(self) -> Machine:
        """The same for a rank that has the machine for itself."""
        return self.shared(1)


class Copies(NamedTuple):
    """The elements that a rank reads and writes for each element of its own range, but to update.

    ``gather`` copies them into its own message, and from there to those of the others.
    """

    pack: int
    add: int
    gather: int
    write: int

    @classmethod
    def of(cls, ranks: int) -> Copies:
        """Among so many ranks. The first term of a sum is copied, the others are added."""
        others = ranks - 1
        return cls(pack=2 * others, add=2 + 3 * others, gather=4, write=2 * others)


class Travel(NamedTuple):
    """The seconds of a collective: in which its messages are on the way, and on a rank's link."""

    latency: float
    occupies: float

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.latency + self.occupies


@dataclass(frozen=True)
class Network:
    """What lies between machines.

    Parameters
    ----------
    latency : float
        Seconds from the call that sends a short message to its arrival.
    bandwidth : float
        Bytes per second of each rank, in both directions at once.
    overhead : float
        Seconds by which one message delays the next one of the same rank.
    progresses : bool
        Whether messages travel while ranks compute; otherwise they do in waits only.
    """

    latency: float
    bandwidth: float
    overhead: float = 0.0
    progresses: bool = True

    def all_to_all(self, ranks: int, message: float) -> Travel:
        """Each rank sends each other one a message of so many bytes.

        All messages leave at once, at most `IN_FLIGHT` at a time.
        """
        others = ranks - 1
        rounds = math.ceil(others / IN_FLIGHT)
        return Travel(rounds * self.latency, others * (self.overhead + message / self.bandwidth))

    def all_gather(self, ranks: int, message: float) -> Travel:
        """Each rank gets a message of so many bytes from each other one.

        By recursive doubling or Bruck's algorithm if all messages together are short, else in a
        ring, where each message waits for the one before.
        """
        total, others = ranks * message, ranks - 1
        power_of_two = ranks & others == 0
        short = total < (LONG_GATHER if power_of_two else SHORT_GATHER)
        rounds = math.ceil(math.log2(ranks)) if short else others
        return Travel(
            rounds * self.latency, rounds * self.overhead + others * message / self.bandwidth
        )

    def all_reduce(self, ranks: int, size: float) -> Travel:
        """All ranks get the sum: Rabenseifner's algorithm, recursive halving, then doubling."""
        rounds = 2 * math.ceil(math.log2(ranks))
        moved = 2 * size * (ranks - 1) / ranks
        return Travel(rounds * self.latency, rounds * self.overhead + moved / self.bandwidth)


#: Between ranks of one machine: what it takes is in `Machine.transport`.
NO_NETWORK = Network(0.0, math.inf)


def default_bucket(ranks: int) -> int:
    """The bytes of a bucket unless the user says more."""
    return max(LEAST_BUCKET, LEAST_BUCKET_PER_RANK * ranks)


def bucket_sizes(ranks: int, elements: int, bucket_bytes: float) -> list[float]:
    """The elements that each rank has in each bucket, as mpi/parts.py cuts them."""
    own = elements / ranks
    most = max(1, int(bucket_bytes) // (ranks * ITEM * 16)) * 16
    whole = max(0, math.ceil(own / most) - 1)
    return [float(most)] * whole + [own - whole * most]


class _Wire:
    """The link of a rank, which carries the bytes of one collective after those of the other.

    The latencies of two collectives that are under way at once overlap.
    """

    def __init__(self, machine: Machine, network: Network) -> None:
        self._machine, self._network = machine, network
        self._free = 0.0

    def post(self, now: float, sent: float, travel: Travel) -> Callable[[float], float]:
        """Start a collective; returns when a wait that begins at some time ends."""
        copied = sent / self._machine.transport + self._machine.switch
        if not self._network.progresses:
            return lambda begun: begun + copied + travel.seconds
        self._free = max(now, self._free) + travel.occupies
        due = self._free + travel.latency
        return lambda begun: max(begun + copied, due)


def step_seconds(
    ranks: int, elements: int, bucket_bytes: float, machine: Machine, network: Network
) -> float:
    """The seconds of a step of float32 parameters, reduction ordered.

    Parameters
    ----------
    ranks : int
        All of them. They have the same sizes and speeds, so one stands for all.
    elements : int
        Of all parameters.
    bucket_bytes : float
        The most bytes of gradients that travel together, of all ranks.
    machine : Machine
        The speeds of one rank: `Machine.shared` or `Machine.alone`.
    network : Network
        What lies between the ranks; `NO_NETWORK` on one machine.
    """
    others, copies = ranks - 1, Copies.of(ranks)
    wire = _Wire(machine, network)
    sizes = bucket_sizes(ranks, elements, bucket_bytes)
    copied = ITEM / machine.copy  # seconds for a byte of each element

    def send_gradients(now: float, own: float) -> tuple[float, Callable[[float], float]]:
        now += machine.bucket / 2 + copies.pack * own * copied
        sent = others * own * ITEM
        return now, wire.post(now, sent, network.all_to_all(ranks, own * ITEM))

    def send_parameters(now: float, own: float) -> tuple[float, Callable[[float], float]]:
        now += machine.bucket / 2 + copies.gather * own * copied
        sent = others * own * ITEM
        return now, wire.post(now, sent, network.all_gather(ranks, own * ITEM))

    def write(now: float, own: float) -> float:
        return now + copies.write * own * copied

    now = (
        machine.step
        + machine.switch
        + math.ceil(math.log2(ranks)) * (network.latency + network.overhead)
    )
    now, arrives = send_gradients(now, sizes[0])
    gathering: list[tuple[Callable[[float], float], float]] = []
    for i, own in enumerate(sizes):
        arrived = arrives
        if i + 1 < len(sizes):
            now, arrives = send_gradients(now, sizes[i + 1])
        now = arrived(now) + copies.add * own * copied
        now += own * BYTES_PER_UPDATE / machine.update
        if len(gathering) == 2:
            gathered, size = gathering.pop(0)
            now = write(gathered(now), size)
        now, gathered = send_parameters(now, own)
        gathering.append((gathered, own))
    for gathered, size in gathering:
        now = write(gathered(now), size)
    return now


def after_all_reduce_seconds(
    ranks: int, elements: int, machine: Machine, network: Network
) -> float:
    """The seconds in which all ranks add up all gradients, and then each steps all parameters."""
    size = elements * ITEM
    added = 3 * size * (ranks - 1) / ranks / machine.copy
    update = elements * BYTES_PER_UPDATE / machine.update
    return machine.step + network.all_reduce(ranks, size).seconds + added + update


def bound_seconds(ranks: int, elements: int, network: Network) -> float:
    """The seconds that the bytes alone take, which no bucket size and no overlap can avoid."""
    return 2 * elements * ITEM * (ranks - 1) / ranks / network.bandwidth


def best_bucket(ranks: int, elements: int, machine: Machine, network: Network) -> tuple[int, float]:
    """The smallest power of two of bytes with a step within 1 % of the fastest, and its seconds."""
    most = max(12, math.ceil(math.log2(elements * ITEM)))
    found = {
        1 << power: step_seconds(ranks, elements, 1 << power, machine, network)
        for power in range(12, most + 1)
        if elements * ITEM >> power <= MOST_BUCKETS
    }
    size = min(size for size, seconds in found.items() if seconds <= 1.01 * min(found.values()))
    return size, found[size]
