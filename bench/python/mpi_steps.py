"""Time steps over MPI on this machine, and their parts, beside a step of one process.

    python bench/python/mpi_steps.py --output mpi_steps.json --trace mpi_trace.png
    python bench/python/mpi_steps.py --show mpi_steps.json

Runs mpiexec itself, for each number of ranks. Each rank has all parameters, and gradients of its
own. The results of all ways to step are compared with those of one process first, bit for bit;
then the ways are timed in turn, in rounds. The tables have medians over rounds of the time of the
slowest rank, and of the mean over ranks of each part. (With more ranks than cores, ranks take
turns, so the parts contain each other's time.) ``--show`` prints the tables of a file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mpi_plots import draw_trace
from mpi_ranks import PARTS, Job, Way, launch
from report import environment, with_unit

MIB = 1 << 20
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)
QUICK_SIZES = (1_000, 100_000, 4_000_000)
BUCKETS = (MIB // 4, MIB, 4 * MIB, 32 * MIB)  # beside the default
#: The times of one process: without the sum of the gradients, and with it.
ONE_PROCESS = ("step", "step_and_accumulate")
LARGEST = 50_000_000
#: The least share of the bytes per second of one process's update that two ranks must have.
LEAST_SHARE = 0.5


def ways(elements: int, ranks: int, cores: int) -> list[Way]:
    """The ways to step that are of interest at one size."""
    found = [Way(), Way("fast")]
    if ranks == 1:
        found.append(Way(threads=cores))
    if elements >= 1_000_000:
        found += [Way(bucket_bytes=size) for size in BUCKETS if size < 4 * elements]
    return found


def measure(args: argparse.Namespace, cores: int) -> list[dict[str, Any]]:
    """The results of all jobs."""
    found = []
    for ranks in args.ranks:
        jobs = [
            Job(size, ways(size, ranks, cores), args.seconds, one_process=True)
            for size in args.sizes
        ]
        found += launch(ranks, jobs)
        if not args.quick:  # in new processes, which have no freed memory to use again
            found += launch(ranks, [Job(LARGEST, what="memory")])
        print(f"{ranks} ranks are done", file=sys.stderr)
    return found


def name_of(way: dict[str, Any]) -> str:
    """A way in words."""
    size, threads = way["bucket_bytes"], way["threads"]
    bucket = f", {size / MIB:g} MiB" if size else ""
    return f"{way['reduction']}{bucket}" + (f", {threads} threads" if threads > 1 else "")


def row_of(found: dict[str, Any], way: dict[str, Any]) -> list[str]:
    """The cells of a way."""
    one = found["one_process"]
    return [
        str(found["ranks"]),
        name_of(way),
        *(with_unit(way[key]) for key in ("step", *PARTS.values(), "rest")),
        f"{way['update_rate'] / 1e9:.1f}",
        *(f"{way[key] / 1e6:.3g}" for key in ("bytes_sent", "bytes_computed")),
        *(f"{way['step'] / one[key]:.2f}" for key in ONE_PROCESS),
    ]


def print_steps(results: list[dict[str, Any]]) -> None:
    """Two tables for each number of elements: of ranks, and of one process."""
    timed = [found for found in results if "ways" in found]
    parts = ("pack, send", "wait", "add", "update", "gather", "wait", "write", "rest")
    sent = ("update, GB/s", "MB sent", "computed")
    head = ("ranks", "way", "step", *parts, *sent, "/ one", "/ with sums")
    for elements in sorted({found["elements"] for found in timed}):
        of_size = [found for found in timed if found["elements"] == elements]
        print(f"\n**{elements:,} elements**\n")
        print("|", " | ".join(head), "|")
        print("|" + "---|" * len(head))
        for found in of_size:
            for way in found["ways"]:
                print("|", " | ".join(row_of(found, way)), "|")
        print("\n| one process | step | with sums | update, GB/s |\n|---|---|---|---|")
        for found in of_size:
            one = found["one_process"]
            label = f"{one['threads']} threads, {found['ranks']} gradients"
            cells = [label, *(with_unit(one[key]) for key in ONE_PROCESS)]
            print("|", " | ".join([*cells, f"{one['update_rate'] / 1e9:.1f}"]), "|")


def print_memory(results: list[dict[str, Any]]) -> None:
    """A table of the memory of a rank."""
    memory = [found for found in results if "state_bytes" in found]
    if not memory:
        return
    print(f"\n**Memory of a rank, {memory[0]['elements']:,} elements**\n")
    print("| ranks | state, MB | sums and buffers, MB |")
    print("|---|---|---|")
    for found in memory:
        extra = found["grown_bytes"] - found["state_bytes"]
        print(f"| {found['ranks']} | {found['state_bytes'] / 1e6:.1f} | {extra / 1e6:.1f} |")


def update_share(results: list[dict[str, Any]]) -> float:
    """The bytes per second of two ranks' updates over those of one process, at the largest size."""
    of_two = [found for found in results if found["ranks"] == 2 and "ways" in found]
    largest = max(of_two, key=lambda found: int(found["elements"]))
    return float(largest["ways"][0]["update_rate"] / largest["one_process"]["update_rate"])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="elements")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each size and ranks")
    parser.add_argument("--quick", action="store_true", help="small, with a check; for CI")
    parser.add_argument("--output", type=Path, help="the JSON file for the results")
    parser.add_argument("--show", type=Path, help="measure nothing: print the tables of a file")
    parser.add_argument("--trace", type=Path, help="the PNG file for a picture of one step")
    args = parser.parse_args()
    if args.quick:
        args.ranks, args.sizes, args.seconds = [1, 2], QUICK_SIZES, 1.0
    return args


def main() -> None:
    """Measure or read, print, write, draw."""
    args = arguments()
    if args.show:
        report = json.loads(args.show.read_text(encoding="utf-8"))
    else:
        about = environment(None)
        report = {"environment": about, "results": measure(args, about["cpus_available"])}
    if args.trace:
        job = Job(10_000_000, [Way(bucket_bytes=8 * MIB)], what="trace")
        (traced,) = launch(2, [job])
        draw_trace(args.trace, traced)
    print_steps(report["results"])
    print_memory(report["results"])
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.quick:
        share = update_share(report["results"])
        print(f"\nupdates of two ranks have {share:.2f} of the rate of one process's")
        if share < LEAST_SHARE:
            sys.exit(f"less than {LEAST_SHARE}: the update of a rank has become slow")


if __name__ == "__main__":
    main()
