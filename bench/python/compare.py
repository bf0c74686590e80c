"""Compare RMSProp steps of this package with NumPy, Numba, torch and optax.

    python bench/python/compare.py --json compare.json --plots plots
    python bench/python/compare.py --threads 1 --cases sizes,lists
    python bench/python/compare.py --from-json compare.json --plots plots

Every result is first compared with the reference in tests/support/reference.py: with == if the peer
computes the same, otherwise within its tolerance. Then all peers are timed in turn in one process
with the same number of CPUs. Prints medians and ratios; the JSON file also has quartiles. A full
run takes about six minutes and 6 GB of memory (50 million elements). The first run takes some
minutes more, until torch has compiled and cached loops over 1000 tensors. Missing peers are listed
as skipped; ``pip install '.[bench]'`` installs all.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="default: all that are available")
    parser.add_argument(
        "--cases", default="sizes,lists,denormals,training", help="default: %(default)s"
    )
    parser.add_argument(
        "--peers",
        help="comma-separated prefixes of numpy, numpy-out, numba, numba-fastmath, torch, "
        "torch-foreach, torch-compile, optax; ours is always included",
    )
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds")
    parser.add_argument(
        "--at-least", type=float, help="fail if a peer's time is less than this times ours"
    )
    parser.add_argument("--json", type=Path, help="the file for the results")
    parser.add_argument("--plots", type=Path, help="a folder for one PNG per group of cases")
    parser.add_argument("--from-json", type=Path, help="print and plot saved results")
    return parser.parse_args()


def restrict_cpus(threads: int | None) -> int:
    """Restrict the process to as many CPUs as threads and return their number.

    JAX and BLAS use this number. It must be set before an import starts threads.
    """
    available = sorted(os.sched_getaffinity(0))
    if threads is None:
        return len(available)
    if not 1 <= threads <= len(available):
        sys.exit(f"--threads must be from 1 to {len(available)}, the CPUs of this process")
    os.sched_setaffinity(0, available[:threads])
    return threads


def main() -> None:
    """Measure the selected groups and print a table of each."""
    arguments = parse_arguments()
    threads = restrict_cpus(arguments.threads)
    import report  # imports NumPy, which starts the threads of BLAS

    if arguments.from_json:
        environment, results = report.load(arguments.from_json)
        print(report.headline(environment))
        for group in dict.fromkeys(result.group for result in results):
            report.print_group(group, [result for result in results if result.group == group])
    else:
        from run import run_groups

        environment = report.environment(threads)
        print(report.headline(environment), flush=True)
        prefixes = tuple(arguments.peers.split(",")) if arguments.peers else ("",)
        results = run_groups(arguments.cases.split(","), prefixes, threads, arguments.quick)
    if arguments.json:
        report.save(arguments.json, environment, results)
    if arguments.plots:
        from plots import save_plots

        for path in save_plots(arguments.plots, environment, results):
            print(path)
    too_near = [
        f"{timing.peer} at {result.name}: {timing.ratio:.2f}"
        for result in results
        for timing in result.timings
        if arguments.at_least and "fused" not in timing.peer and timing.ratio < arguments.at_least
    ]
    if too_near:
        sys.exit(f"less than {arguments.at_least} times our time: {', '.join(too_near)}")


if __name__ == "__main__":
    main()
