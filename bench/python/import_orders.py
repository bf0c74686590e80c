"""Measure whether other OpenMP runtimes in the process slow the training loop down.

Imports torch, scikit-learn and fused_rmsprop in all six orders, each in processes of its own, and
trains a NumPy MLP of 670,000 parameters with the default number of threads and with one, in short
alternating blocks. Several interpreters take turns: one has the wheel, which bundles libgomp, the
other a build from source, which uses the system's. Prints the median ratio of a whole iteration
with default threads to one thread, and the OpenMP runtimes of the process; writes the same as JSON.

    python bench/python/import_orders.py --python wheel/bin/python --python source/bin/python

Results are compared with the NumPy expression, bit for bit, before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path
from statistics import median
from typing import Any

from training_loop import measure

MODULES = ("torch", "sklearn", "fused_rmsprop")
HIDDEN = 512
ONE, DEFAULT = "fused, 1 thread", "fused, default"


def check() -> None:
    """Compare three steps with the NumPy expression."""
    import numpy as np

    from fused_rmsprop import RMSProp
    from fused_rmsprop.demo import ALPHA, EPS, LR, NumpyExpression
    from fused_rmsprop.demo.mlp import Params, init_params, loss_and_grads

    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((64, 784)).astype(np.float32), rng.integers(0, 10, 64)

    def trained(threads: int | None) -> Params:
        params = init_params((784, HIDDEN, HIDDEN, 10), np.random.default_rng(1))
        opt: Any = NumpyExpression(params)
        if threads != 0:
            opt = RMSProp(params, lr=LR, alpha=ALPHA, eps=EPS, threads=threads)
        for _ in range(3):
            opt.step(loss_and_grads(params, x, labels)[1])
        return params

    expected = trained(0)
    for threads in (1, 2, None):
        for layer, wanted in zip(trained(threads), expected, strict=True):
            for name in wanted:
                if not np.array_equal(layer[name], wanted[name]):
                    raise SystemExit(f"{threads} threads: {name} differs from NumPy's")


def runtimes() -> list[str]:
    """Return the OpenMP runtimes in this process, each with the folder that it lies in."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return sorted(set(re.findall(r"[^/\s]+/lib(?:gomp|omp|iomp5)[-.]\S*", maps)))


def child(order: list[str], rounds: int) -> dict[str, Any]:
    """Measure in this process; the first statement that imports anything follows the order."""
    for name in order:
        __import__(name)
    check()
    results = measure([], HIDDEN, (ONE, DEFAULT), rounds)["results"]
    from report import environment

    return {
        "ratio": results[DEFAULT]["ratio_to_one_thread"],
        "iteration_us": {name: results[name]["iteration_us"] for name in (ONE, DEFAULT)},
        "share_of_steps_by_a_team": results[DEFAULT]["share_of_steps_by_a_team"],
        "runtimes": runtimes(),
        "environment": environment(None),
    }


def main() -> None:
    """Run all orders by turns and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", help="an interpreter; default: this one")
    parser.add_argument("--processes", type=int, default=5, help="by order and interpreter")
    parser.add_argument("--rounds", type=int, default=9, help="in each process")
    parser.add_argument("--check", type=float, metavar="RATIO", help="fail if a median is larger")
    parser.add_argument("--json", type=Path, help="the file for the results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child.split(","), arguments.rounds)))
        return

    keys = list(product(permutations(MODULES), arguments.python or [sys.executable]))
    runs: dict[Any, list[dict[str, Any]]] = {key: [] for key in keys}
    for _ in range(arguments.processes):
        for order, python in keys:
            command = [python, __file__, "--rounds", str(arguments.rounds)]
            output = subprocess.check_output(
                [*command, "--child", ",".join(order)], encoding="utf-8"
            )
            runs[order, python].append(json.loads(output))
    report = []
    for (order, python), found in runs.items():
        ratios = [run["ratio"] for run in found]
        name = Path(python).parents[1].name  # of the environment
        report.append({"order": order, "python": name, "ratio": median(ratios), "runs": found})
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{', '.join(order):32} {python}: {median(ratios):.3f} ({spread})")
    for python in dict.fromkeys(python for _, python in keys):
        loaded = {path for key in keys if key[1] == python for path in runs[key][0]["runtimes"]}
        print(python, *sorted(loaded), sep="\n  ")
    worst = max(entry["ratio"] for entry in report)
    print(f"worst ratio of the default to one thread: {worst:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.check is not None and worst > arguments.check:
        sys.exit(f"that is more than {arguments.check}")


if __name__ == "__main__":
    main()
