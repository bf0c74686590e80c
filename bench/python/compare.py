"""RMSProp steps of this package beside those of NumPy, Numba, torch and optax.

    python bench/python/compare.py --json compare.json --plots plots
    python bench/python/compare.py --threads 1 --cases sizes,lists
    python bench/python/compare.py --from-json compare.json --plots plots

Every result is compared with the reference first (tests/support/reference.py): with == where a peer
computes the same, else within its tolerance. Then all are timed in turn in one process, with the
same number of CPUs. Prints medians and ratios; JSON has the quartiles, too. A full run takes about
six minutes, and 6 GB of memory for 50 million elements; the first on a machine takes some minutes
more, in which torch compiles loops over 1000 tensors that it then keeps in its cache. Peers that
are not installed are named as skipped: ``pip install '.[bench]'`` installs all.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="default: all that are available")
    parser.add_argument(
        "--cases", default="sizes,lists,denormals,training", help="default: %(default)s"
    )
    parser.add_argument(
        "--peers",
        help="comma-separated beginnings of numpy, numpy-out, numba, numba-fastmath, torch, "
        "torch-foreach, torch-compile, optax; ours is always there",
    )
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds")
    parser.add_argument(
        "--at-least", type=float, help="fail if a peer takes less than this times our time"
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plots", type=Path, help="a folder for one PNG per group of cases")
    parser.add_argument("--from-json", type=Path, help="print and draw these, measure nothing")
    return parser.parse_args()


def restrict_cpus(threads: int | None) -> int:
    """Restrict the process to as many CPUs as it may have threads; returns their number.

    That is what JAX and BLAS go by, and nothing has been imported yet that has started threads.
    """
    available = sorted(os.sched_getaffinity(0))
    if threads is None:
        return len(available)
    if not 1 <= threads <= len(available):
        sys.exit(f"--threads must be from 1 to {len(available)}, the CPUs of this process")
    os.sched_setaffinity(0, available[:threads])
    return threads


def main() -> None:
    """Measure what is asked for, group by group, and print a table of each."""
    arguments = parse_arguments()
    threads = restrict_cpus(arguments.threads)
    import report  # imports NumPy, which starts BLAS's threads

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
