"""How a step scales with the number of threads: runs the C++ benchmark and prints the figures.

    cmake --workflow --preset bench
    python bench/cpp/thread_scaling.py build/bench/bench/cpp/fused_rmsprop_bench

Each step is followed by its streams: the same arrays, moved by as many threads without square root
and division. All numbers of threads follow each other at one size, on the same memory, and rounds
of everything follow each other, so that a change of the machine's speed meets all alike. Ratios are
taken within a round; the figures are their medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fused_rmsprop import show_config

from google_benchmark import Rate, number, run, widest_set

sys.path.append(str(Path(__file__).parents[1] / "python"))
from report import environment, headline

BYTES_PER_ELEMENT = {"plain": 20, "all": 36}
SIZES = (1 << 15, 1 << 18, 1 << 20, 1 << 24, 1 << 26)
ROUNDS = 7


class Row(NamedTuple):
    """A step by some threads beside its streams; rates in GB/s, speed-ups over one thread."""

    case: str
    elements: int
    threads: int
    step_rate: float
    streams_rate: float
    step_of_streams: float
    step_speedup: float
    streams_speedup: float


def ratio(these: list[Rate], those: list[Rate]) -> float:
    """The median over rounds of the ratio of two rates in the same round."""
    return median(a.bytes / b.bytes for a, b in zip(these, those, strict=True))


def rows(rates: dict[str, list[Rate]]) -> list[Row]:
    """One row for each step, by case, size and threads."""
    found = []
    for name, step in rates.items():
        kind, case, dtype, isa, threads, elements = name.split("/")
        if kind != "step":
            continue
        streams = rates[f"streams/{case}/{dtype}/{isa}/{threads}/{elements}"]
        one = f"{case}/{dtype}/{isa}/threads:1/{elements}"
        found.append(
            Row(
                case,
                number(elements),
                number(threads),
                median(r.bytes for r in step) / 1e9,
                median(r.bytes for r in streams) / 1e9,
                ratio(step, streams),
                ratio(step, rates[f"step/{one}"]),
                ratio(streams, rates[f"streams/{one}"]),
            )
        )
    return sorted(found, key=lambda r: (tuple(BYTES_PER_ELEMENT).index(r.case), r[1:]))


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("executable", type=Path, help="the built fused_rmsprop_bench")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    arguments = parser.parse_args()
    about = environment(show_config("dicts")["threads"]["available"])
    about["bytes_per_element"] = BYTES_PER_ELEMENT
    print(headline(about), flush=True)
    cases, sizes = "|".join(BYTES_PER_ELEMENT), "|".join(map(str, SIZES))
    pattern = f"(step|streams)/({cases})/float32/{widest_set()}/threads:.*/elements:({sizes})"
    rates, context = run(arguments.executable, pattern, arguments.rounds)
    results = rows(rates)
    print(f"{'GB/s':>37}{'':16}speed-up over one thread")
    print("        elements  threads    step  streams  step/streams    step  streams")
    for r in results:
        print(
            f"{r.case:6}{r.elements:10,}{r.threads:9}{r.step_rate:8.1f}{r.streams_rate:9.1f}"
            f"{r.step_of_streams:14.2f}{r.step_speedup:8.2f}{r.streams_speedup:9.2f}"
        )
    if arguments.json:
        scaling = [r._asdict() for r in results]
        report = {"environment": about, "context": context, "scaling": scaling}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
