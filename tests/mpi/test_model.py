"""The model of a step over MPI: its limits, cases computed by hand, and the fit of its speeds."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

from support import ROOT

sys.path.append(str(ROOT / "bench/python"))
from mpi_formula import (
    NO_NETWORK,
    Machine,
    Network,
    after_all_reduce_seconds,
    best_bucket,
    bound_seconds,
    bucket_sizes,
    default_bucket,
    step_seconds,
)

MIB = 1 << 20
#: A second for each element that is copied, half a second for each that is updated.
SLOW = Machine(step=1000.0, bucket=10.0, copy=4.0, update=40.0, transport=math.inf)
#: Ten seconds for a message to arrive, two for each of its elements.
NETWORK = Network(latency=10.0, bandwidth=2.0)
FAST = Machine().alone()
ETHERNET = Network(latency=50e-6, bandwidth=1.25e9, overhead=5e-6)


def test_one_rank_sends_nothing() -> None:
    slowest = Network(latency=1e9, bandwidth=1e-9, overhead=1e9)
    for elements in (100, 10_000_000):
        alone = step_seconds(1, elements, 8 * MIB, FAST, NO_NETWORK)
        assert step_seconds(1, elements, 8 * MIB, FAST, slowest) == alone
    # The step, a bucket, and of 16 elements the copy into the sum (2), the update (1/2), and the
    # copies into the message and the result (4).
    assert step_seconds(1, 16, MIB, SLOW, slowest) == 1000 + 10 + 16 * (2 + 0.5 + 4)


def test_two_ranks_with_one_bucket_take_as_long_as_by_hand() -> None:
    agreement, arrival = 10.0, 10.0 + 2 * 16  # each rank has 16 elements of its own
    work = 10 + 16 * (2 + 5 + 0.5 + 4 + 2)  # pack, add, update, gather, write
    assert step_seconds(2, 32, MIB, SLOW, NETWORK) == 1000 + agreement + work + 2 * arrival


def test_two_buckets_overlap_as_by_hand() -> None:
    """Each rank has 16 elements of each bucket; the link takes 128 s for them, and 10 s more."""
    network, machine = Network(latency=10.0, bandwidth=0.5), replace(SLOW, copy=40.0, update=400.0)
    now = 1000.0 + 10 + (5 + 3.2)  # step, agreement, pack the first
    first = now + 128 + 10
    now += 5 + 3.2  # pack the second, while the first travels: it comes after it on the link
    second = first + 128
    now = first + 8 + 0.8 + 5 + 6.4  # add, update, gather, while the second travels
    third = second + 128
    now = second + 8 + 0.8 + 5 + 6.4
    last = third + 128
    now = last + 3.2  # write; the first of two long before
    assert step_seconds(2, 64, 128, machine, network) == pytest.approx(now)
    in_waits = replace(network, progresses=False)
    work = 2 * (10 + 3.2 + 8 + 0.8 + 6.4 + 3.2)
    expected = 1000 + 10 + work + 4 * 138
    assert step_seconds(2, 64, 128, machine, in_waits) == pytest.approx(expected)


def test_collectives_have_the_rounds_of_mpich() -> None:
    network = Network(latency=1.0, bandwidth=1e30)
    at_once = [network.all_to_all(ranks, MIB).seconds for ranks in (2, 33, 34, 66)]
    assert at_once == pytest.approx([1, 1, 2, 3])
    in_ring = [network.all_gather(ranks, MIB).seconds for ranks in (2, 3, 64)]
    assert in_ring == pytest.approx([1, 2, 63])
    short = [network.all_gather(ranks, 32).seconds for ranks in (2, 3, 4, 5, 64)]
    assert short == pytest.approx([1, 2, 2, 3, 6])
    assert network.all_reduce(64, MIB).seconds == pytest.approx(12)


@pytest.mark.parametrize("ranks", [2, 3, 8, 1000])
@pytest.mark.parametrize("elements", [1000, 3_000_000])
def test_a_worse_network_is_never_faster(ranks: int, elements: int) -> None:
    bucket = default_bucket(ranks)

    def seconds(network: Network) -> float:
        return step_seconds(ranks, elements, bucket, FAST, network)

    by_latency = [seconds(replace(ETHERNET, latency=10.0**-n)) for n in range(8, 0, -1)]
    assert by_latency == sorted(by_latency)
    assert by_latency[0] < by_latency[-1]
    by_bandwidth = [seconds(replace(ETHERNET, bandwidth=10.0**n)) for n in range(12, 6, -1)]
    assert by_bandwidth == sorted(by_bandwidth)
    in_waits = seconds(replace(ETHERNET, progresses=False))
    assert seconds(ETHERNET) <= in_waits * (1 + 1e-12)  # they round differently
    assert seconds(ETHERNET) > bound_seconds(ranks, elements, ETHERNET)
    assert after_all_reduce_seconds(ranks, elements, FAST, ETHERNET) > bound_seconds(
        ranks, elements, ETHERNET
    )


def test_ranks_of_one_machine_share_it() -> None:
    machine = Machine(contention=0.5, switch=1e-3, cores=2)
    alone, two, four = (machine.shared(ranks) for ranks in (1, 2, 4))
    assert (alone.copy, alone.switch) == (machine.copy, 0)
    assert two.copy == machine.copy / 1.5
    assert (four.copy, four.switch) == (machine.copy / 3, 2e-3)


def test_the_best_bucket_is_as_good_as_any() -> None:
    def seconds(ranks: int, size: int) -> float:
        return step_seconds(ranks, 25_000_000, size, FAST, ETHERNET)

    size, found = best_bucket(64, 25_000_000, FAST, ETHERNET)
    least = min(seconds(64, 1 << power) for power in range(18, 28))
    assert found == seconds(64, size) <= 1.01 * least < seconds(64, size // 2)
    larger, _ = best_bucket(1024, 25_000_000, FAST, ETHERNET)
    assert 2 <= larger / size <= 8  # the square root of 16, to a power of two


def test_buckets_are_those_of_the_package() -> None:
    pytest.importorskip("mpi4py")
    from fused_rmsprop import _core
    from fused_rmsprop.mpi import RMSProp, optimizer
    from support import draw

    assert default_bucket(1) == optimizer._BUCKET_BYTES
    assert default_bucket(1000) == 1000 * optimizer._BUCKET_BYTES_PER_RANK
    opt = RMSProp(draw(100_000), bucket_bytes=40_001)
    assert isinstance(opt._stepper, _core.NumpyStepper)
    buckets = opt._parts_of(b"\1").buckets
    assert [bucket.counts for bucket in buckets] == [[n] for n in bucket_sizes(1, 100_000, 40_001)]


def test_a_slowed_message_takes_as_long_as_the_network_of_the_model() -> None:
    pytest.importorskip("mpi4py")
    from mpi_slowed import Link

    network = Network(latency=1e3, bandwidth=1e3, overhead=1e2)
    for ranks in (2, 5, 40):
        others = ranks - 1
        for sizes, at_once, travel in (
            ([500.0] * others, 32, network.all_to_all(ranks, 500.0)),
            ([2e5] * others, 1, network.all_gather(ranks, 2e5)),
        ):
            link = Link(network.latency, network.bandwidth, network.overhead)
            first, second = link.send(sizes, at_once), link.send(sizes, at_once)
            assert second - first == pytest.approx(travel.occupies, rel=1e-6)
            now = first - travel.seconds
            assert now == pytest.approx(second - travel.seconds - travel.occupies, abs=1.0)


def test_the_fit_finds_the_machine_that_made_the_times() -> None:
    pytest.importorskip("scipy")
    from mpi_fit import Row, fit, residuals

    machine = Machine(2e-4, 4e-5, 9e9, 1.3e10, 2e9, 0.4, 3e-3, 2)
    rows = []
    for ranks in (1, 2, 3, 4):
        shared = machine.shared(ranks)
        for elements in (1000, 1_000_000, 20_000_000):
            for bucket in (MIB, 8 * MIB):
                own, others = elements / ranks, ranks - 1
                copies = (2 * others + 2 + 3 * others + 2 * others) * own * 4 / shared.copy
                update = 20 * own / shared.update
                row = Row(ranks, elements, bucket, 0.0, update, copies)
                rows.append(replace(row, step=row.modelled(machine)))
    found = fit(rows, 2)
    for name, value in vars(machine).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3), name
    assert all(error["typical"] < 1.001 for error in residuals(rows, found).values())
