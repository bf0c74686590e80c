"""How fast one step is beside the NumPy expression, by size; one thread, float32.

    python bench/python/step_speed.py --json bench/results/step_speed.json
    python bench/python/step_speed.py --cpp build/bench/bench/cpp/fused_rmsprop_bench

Peers, run in turn in one process: the textbook line of NumPy, and the same with ``out=`` and one
temporary. Results are compared first: with == to the textbook, and to within a few roundings to
the other, which must divide before it multiplies by lr.

With --cpp, the built C++ benchmark (cmake --workflow --preset bench): also how near a plain step of
32 Ki elements, which lie in L2, comes to the divider's limit, the square root and the division
alone, per instruction set. Its repetitions are interleaved, so that a change of the machine's speed
meets all cases alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fused_rmsprop import RMSProp, show_config

LR, ALPHA, EPS = 1e-3, 0.9, 1e-8
SIZES = (1_000, 32_768, 100_000, 1_000_000, 10_000_000)
ROUNDS = 15

Step = Callable[[], None]


def textbook(p: Any, g: Any, v: Any) -> Step:
    """Two NumPy expressions, as one writes them down."""

    def step() -> None:
        v[:] = ALPHA * v + (1 - ALPHA) * g**2
        p[:] = p - LR * g / (np.sqrt(v) + EPS)

    return step


def with_out(p: Any, g: Any, v: Any) -> Step:
    """The same with ``out=`` and one temporary, for which ``lr`` is multiplied last."""
    t = np.empty_like(p)

    def step() -> None:
        np.multiply(g, g, out=t)
        np.multiply(t, 1 - ALPHA, out=t)
        np.multiply(v, ALPHA, out=v)
        np.add(v, t, out=v)
        np.sqrt(v, out=t)
        np.add(t, EPS, out=t)
        np.divide(g, t, out=t)
        np.multiply(t, LR, out=t)
        np.subtract(p, t, out=p)

    return step


def fused(p: Any, g: Any, v: Any) -> Step:
    """Ours, on one thread, with bound gradients."""
    return RMSProp(p, LR, ALPHA, EPS, threads=1, grads=g).step


CONTESTANTS = {"NumPy, textbook": textbook, "NumPy, out=": with_out, "fused": fused}


def measure(size: int) -> dict[str, dict[str, float]]:
    """Median and spread (quartiles) of one step, in microseconds."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal(size).astype(np.float32)
    g = rng.standard_normal(size).astype(np.float32)
    params = {name: start.copy() for name in CONTESTANTS}
    steps = {name: make(params[name], g, np.zeros_like(g)) for name, make in CONTESTANTS.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    ours, theirs, near = (params[k] for k in ("fused", "NumPy, textbook", "NumPy, out="))
    if not np.array_equal(ours, theirs) or not np.allclose(ours, near, rtol=1e-6, atol=1e-6):
        raise SystemExit(f"the results differ at size {size}")

    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(ROUNDS + 1):
        for name, step in steps.items():
            repeats = max(3, 2_000_000 // size)
            began = time.perf_counter()
            for _ in range(repeats):
                step()
            if round_ > 0:  # the first warms up
                times[name].append((time.perf_counter() - began) / repeats * 1e6)
    return {
        name: dict(
            zip(("low", "median", "high"), np.percentile(t, (25, 50, 75)).tolist(), strict=True)
        )
        for name, t in times.items()
    }


def measure_divider(executable: Path) -> dict[str, dict[str, float]]:
    """Medians in ns per element by instruction set: a step, the divider alone, the ratio."""
    command = [
        str(executable),
        "--benchmark_filter=^(plain/float32/[a-z0-9]+/32768|divider/float32/[a-z0-9]+)$",
        "--benchmark_format=json",
        "--benchmark_repetitions=25",
        "--benchmark_enable_random_interleaving=true",
        "--benchmark_report_aggregates_only=true",
        "--benchmark_min_time=0.05",
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, dict[str, float]] = {}
    for benchmark in json.loads(done.stdout)["benchmarks"]:
        if benchmark.get("error_occurred"):
            raise SystemExit(f"{benchmark['run_name']}: {benchmark['error_message']}")
        if benchmark["aggregate_name"] == "median":
            case, _, instruction_set = benchmark["run_name"].split("/")[:3]
            figures.setdefault(instruction_set, {})[case] = 1e9 / benchmark["items_per_second"]
    for figure in figures.values():
        figure["ratio"] = figure["plain"] / figure["divider"]
    return figures


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--cpp", type=Path, help="the built fused_rmsprop_bench")
    arguments = parser.parse_args()
    config = show_config("dicts")
    print(
        f"float32, one thread, {config['instruction_sets']['in_use']}; "
        f"NumPy {np.__version__}, Python {platform.python_version()}; medians in us"
    )
    print(
        f"{'elements':>10s}" + "".join(f"{name:>18s}" for name in CONTESTANTS) + "   out= / fused"
    )
    report = []
    for size in SIZES:
        result = measure(size)
        report.append({"elements": size, "us": result})
        medians = [result[name]["median"] for name in CONTESTANTS]
        print(
            f"{size:10,d}"
            + "".join(f"{m:18.2f}" for m in medians)
            + f"{medians[1] / medians[2]:15.2f}",
            flush=True,
        )
    divider = measure_divider(arguments.cpp) if arguments.cpp else {}
    if divider:
        print("\nin L2 (32,768 elements), ns per element")
        print("                 step   divider alone   ratio")
    for isa, figure in sorted(divider.items()):
        print(f"{isa:12s}{figure['plain']:9.4f}{figure['divider']:16.4f}{figure['ratio']:8.2f}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"config": config, "results": report, "divider": divider}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
