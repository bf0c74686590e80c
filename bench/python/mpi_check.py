"""Checks the model of a step over MPI: steps whose messages are slowed take as long as it says.

Times are lower quartiles over rounds: other work on the machine only adds to them.
"""

from __future__ import annotations

import os
from typing import Any

from mpi_fit import fit, rows_of
from mpi_formula import Machine, Network, step_seconds
from mpi_ranks import Job, Way, launch

MARGIN = 0.3
TIME = "step_low"
MIB = 1 << 20
#: Latency, bandwidth and overhead: the first is mostly latency, the second mostly bandwidth.
NETWORKS = ((5e-3, 1e9, 0.0), (1e-3, 1e8, 0.0), (2e-3, 2e8, 1e-3))
SMALL, LARGE = 1_000_000, 10_000_000
BALANCED = (1e-3, 1e9, 0.0)  # takes about as long as the ranks' own work, on two ranks


def ways(buckets: tuple[int, ...], networks: tuple[Any, ...]) -> list[Way]:
    """Each bucket size without a network and with each."""
    return [
        Way(bucket_bytes=size, network=network) for size in buckets for network in (None, *networks)
    ]


def measure(seconds: float) -> list[dict[str, Any]]:
    """Time steps of 2, 3 and 4 ranks, those with and without a network in turn."""
    small = Job(SMALL, ways((MIB, 4 * MIB), NETWORKS), seconds)
    large = Job(LARGE, ways((4 * MIB,), (BALANCED,)), seconds)
    tiny = Job(10_000, ways((MIB,), ()), seconds / 4)  # tells what a step costs without its bytes
    found = launch(2, [tiny, small, large])
    for ranks in (3, 4):
        found += launch(ranks, [small])
    return found


def compare(results: list[dict[str, Any]], machine: Machine) -> list[dict[str, Any]]:
    """Each slowed step beside the model, and beside the model without overlap."""
    compared = []
    for found in results:
        ranks, elements = found["ranks"], found["elements"]
        for way in found["ways"]:
            if way["network"] is None:
                continue
            shared, size = machine.shared(ranks), way["bucket_bytes"]
            latency, bandwidth, overhead = way["network"]
            modelled, in_waits = (
                step_seconds(
                    ranks, elements, size, shared, Network(latency, bandwidth, overhead, moves)
                )
                for moves in (True, False)
            )
            compared.append(
                {
                    "ranks": ranks,
                    "elements": elements,
                    "bucket_bytes": size,
                    "network": way["network"],
                    "measured": way[TIME],
                    "modelled": modelled,
                    "without_overlap": in_waits,
                    "error": way[TIME] / modelled - 1,
                }
            )
    return compared


def check(seconds: float = 3.0) -> tuple[bool, dict[str, Any]]:
    """Measure, fit and compare; returns whether all errors are within the margin, and the rest."""
    results = measure(seconds)
    machine = fit(rows_of(results, TIME), len(os.sched_getaffinity(0)))
    compared = compare(results, machine)
    print("| ranks | elements | bucket | network | measured | model | no overlap | error |")
    print("|---|---|---|---|---|---|---|---|")
    for one in compared:
        latency, bandwidth, overhead = one["network"]
        network = f"{1e3 * latency:g} ms, {1e-6 * bandwidth:g} MB/s, {1e3 * overhead:g} ms"
        times = (f"{1e3 * one[key]:.1f} ms" for key in ("measured", "modelled", "without_overlap"))
        size = f"{one['bucket_bytes'] / MIB:g} MiB"
        cells = [one["ranks"], f"{one['elements']:,}", size, network, *times]
        print("|", " | ".join(map(str, [*cells, f"{one['error']:+.0%}"])), "|")
    passed = all(abs(one["error"]) <= MARGIN for one in compared)
    errors = [one["error"] for one in compared]
    off = sum(abs(one["measured"] / one["without_overlap"] - 1) > MARGIN for one in compared)
    print(
        f"\nerrors from {min(errors):+.0%} to {max(errors):+.0%}, within {MARGIN:.0%}: "
        f"{'yes' if passed else 'NO'}; without overlap, {off} of {len(errors)} would not be"
    )
    return passed, {"machine": vars(machine), "compared": compared, "margin": MARGIN}
