"""Measure overheads: steps of small arrays, the first step of many arrays, and the import.

    python bench/python/overheads.py --json overheads.json

Prints medians beside the project's targets. Results are first compared with the reference. The
number of threads is the default.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from fused_rmsprop import RMSProp

from cases import Problem, normal_problem
from measure import Expected, enter, repeats_for, timed_block
from peers import ALPHA, EPS, LR, Arrays, Contestant, Peer, fused
from report import environment, headline, with_unit

ROUNDS = 21
ONE, SMALL, FIRST = [(1000,)], [(10,)] * 1000, [(1000,)] * 1000
TARGETS = {
    "opt.step(), one array of 1000, bound gradients": 0.8e-6,
    "opt.step(grads), a dict of one array of 1000": 1.2e-6,
    "opt.step(grads), a list of 1000 x 10": 60e-6,
    "first step of 1000 x 1000": 5e-3,
    "first step of 1000 x 1000, with RMSProp(...)": 5e-3,
    "import fused_rmsprop, over import numpy": 25e-3,
}


def dict_of_one(params: Arrays, grads: Arrays, threads: int | None) -> Contestant:
    """Make ours with a dict of one array; gradients are passed at every step."""
    optimizer = RMSProp({"W": params[0]}, LR, ALPHA, EPS, threads=threads)
    return Contestant(partial(optimizer.step, {"W": grads[0]}), lambda: params)


def by_default(params: Arrays, grads: Arrays, threads: int, *, pass_grads: bool) -> Contestant:
    """Make ours with the default number of threads."""
    return fused(params, grads, None, pass_grads=pass_grads)


def calls(rounds: int) -> list[list[float]]:
    """Check the three kinds of calls, then return their seconds per step by round."""
    kinds = (
        (ONE, partial(by_default, pass_grads=False)),
        (ONE, lambda params, grads, threads: dict_of_one(params, grads, None)),
        (SMALL, partial(by_default, pass_grads=True)),
    )
    steps = []
    for shapes, make in kinds:
        problem = normal_problem(shapes)
        peer = Peer("fused", "fused", make, rtol=0)
        steps.append(enter(peer, problem, Expected(problem), threads=1).step)
    repeats = [repeats_for(step, 0.01) for step in steps]
    by_round = [
        [timed_block(step, n) for step, n in zip(steps, repeats, strict=True)]
        for _ in range(rounds)
    ]
    return [list(seconds) for seconds in zip(*by_round, strict=True)]


def first_step(problem: Problem) -> tuple[float, float]:
    """Return the seconds of a new optimizer's first step, without and with its construction."""
    params = [p.copy() for p in problem.params]
    began = time.perf_counter()
    optimizer = RMSProp(params, LR, ALPHA, EPS)
    constructed = time.perf_counter()
    optimizer.step(problem.grads)
    ended = time.perf_counter()
    for p, e in zip(params, Expected(problem).after(1, flush=False), strict=True):
        if not np.array_equal(p, e):
            sys.exit("the first step differs from the reference")
    return ended - constructed, ended - began


def import_seconds(module: str) -> float:
    """Return the seconds of an import in a new process, without the interpreter's start."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8"
    )
    return float(done.stdout)


def imports(rounds: int) -> list[float]:
    """Return the seconds of the import beyond those of NumPy, by round."""
    modules = ("numpy", "fused_rmsprop")
    for module in modules:  # to write byte code and fill the page cache
        import_seconds(module)
    pairs = [[import_seconds(module) for module in modules] for _ in range(rounds)]
    return [ours - numpy for numpy, ours in pairs]


def main() -> None:
    """Measure everything and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", type=Path, help="the file for the results")
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else ROUNDS
    machine = environment(threads=None)
    print(headline(machine), flush=True)

    problem = normal_problem(FIRST)
    first = zip(*(first_step(problem) for _ in range(rounds)), strict=True)
    samples = [*calls(rounds), *(list(seconds) for seconds in first), imports(rounds)]
    figures = {}
    print(f"\n{'':50s}{'median':>10s}{'quartiles':>22s}{'target':>10s}")
    for (what, target), seconds in zip(TARGETS.items(), samples, strict=True):
        low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
        figures[what] = {"median": median, "low": low, "high": high, "target": target}
        spread = f"{with_unit(low)} to {with_unit(high)}"
        print(f"{what:50s}{with_unit(median):>10s}{spread:>22s}{with_unit(target):>10s}")
    if arguments.json:
        report = {"environment": machine, "rounds": rounds, "seconds": figures}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
