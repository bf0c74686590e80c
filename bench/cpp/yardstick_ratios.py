"""How near a step comes to what bounds it: runs the C++ benchmark and prints the ratios.

    cmake --workflow --preset bench
    python bench/cpp/yardstick_ratios.py build/bench/bench/cpp/fused_rmsprop_bench

Beside memory, a step is compared with the same streams without square root and division, moved by
as many threads (1.00: the step costs no more than its memory traffic); in L2, with its square root
and division alone (1.00: it costs no more than the divider takes; less, where the quotient is made
without the divider). Rounds of all follow each other, so that a change of the machine's speed meets
all alike; the figures are ratios of medians.

--check measures little and fails where a loop is no longer vectorised or memory is passed over a
second time. It tries up to three times, because noise passes and a slow loop does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from fused_rmsprop import show_config

from google_benchmark import Rate, number, run, widest_set

MEMORY_SIZES = (1 << 20, 1 << 24, 1 << 26)
CACHE_SIZE = 1 << 15
ROUNDS = 7
LEAST_OF_STREAMS = 0.72  # a second pass over a plain step's memory leaves 0.6
# Times of the divider's. Scalar code takes 4 of a plain step's and 8 of one with all options; where
# the divider is quick, other work bounds the latter (SSE2 on Ice Lake: 3.3).
MOST_OF_DIVIDER = {"plain": 2.2, "all": 4.5}


class Ratio(NamedTuple):
    """A step beside its yardstick; times in ns per element, rates in GB/s."""

    case: str
    dtype: str
    instruction_set: str
    threads: int
    elements: int
    step_ns: float
    yardstick: str
    yardstick_ns: float
    step_rate: float

    @property
    def speed(self) -> float:
        """The step's speed as a part of the yardstick's."""
        return self.yardstick_ns / self.step_ns


def medians_of(executable: Path, pattern: str) -> tuple[dict[str, Rate], dict[str, Any]]:
    """Medians over rounds of the benchmarks whose names match, by name; and the context."""
    rates, context = run(executable, pattern, ROUNDS)
    medians = {
        name: Rate(median(r.items for r in each), median(r.bytes for r in each))
        for name, each in rates.items()
    }
    return medians, context


def ratios(medians: dict[str, Rate]) -> list[Ratio]:
    """Every step beside its streams, or beside the divider where that was measured."""
    found = []
    for name, step in medians.items():
        kind, *rest = name.split("/")
        if kind != "step":
            continue
        case, dtype, isa, threads, elements = rest
        for yardstick in (f"streams/{'/'.join(rest)}", f"divider/{dtype}/{isa}"):
            if yardstick in medians:
                found.append(
                    Ratio(
                        case,
                        dtype,
                        isa,
                        number(threads),
                        number(elements),
                        1e9 / step.items,
                        yardstick.split("/")[0],
                        1e9 / medians[yardstick].items,
                        step.bytes / 1e9,
                    )
                )
    return sorted(found, key=lambda r: (r.yardstick, r.elements, r.threads, r[:3]))


def patterns(check: bool) -> list[str]:
    """What is run: beside the streams (the widest set), and beside the divider (what fits L2)."""
    teams = f"threads:(1|{show_config('dicts')['threads']['available']})"
    cases = "plain|all" if check else "plain|momentum|centered|all"
    sizes = "|".join(map(str, MEMORY_SIZES[1:2] if check else MEMORY_SIZES))
    in_cache = f"[a-z0-9]+/threads:1/elements:{CACHE_SIZE}"
    return [
        f"(step|streams)/({cases}|around)/float32/{widest_set()}/{teams}/elements:({sizes})",
        f"step/({cases})/float32/{in_cache}|step/plain/float64/{in_cache}|divider/.*",
    ]


def print_table(results: list[Ratio]) -> None:
    """One line per step."""
    print(f"{'':42s}{'elements':>11s} threads   ns/element    GB/s   yardstick   speed of it")
    for r in results:
        print(
            f"{r.case:9s}{r.dtype:9s}{r.instruction_set:8s}beside {r.yardstick:9s}"
            f"{r.elements:11,d}{r.threads:8d}{r.step_ns:13.4f}{r.step_rate:8.1f}"
            f"{r.yardstick_ns:12.4f}{r.speed:14.2f}"
        )


def too_slow(r: Ratio) -> bool:
    """Whether a step is slower than noise explains."""
    return r.speed < (LEAST_OF_STREAMS if r.yardstick == "streams" else 1 / MOST_OF_DIVIDER[r.case])


def main() -> None:
    """Run, print, and write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("executable", type=Path, help="the built fused_rmsprop_bench")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--check", action="store_true", help="fail if a step is too slow")
    arguments = parser.parse_args()
    for _ in range(3 if arguments.check else 1):
        runs = [medians_of(arguments.executable, p) for p in patterns(arguments.check)]
        results = [ratio for medians, _ in runs for ratio in ratios(medians)]
        print_table(results)
        slow = [r for r in results if arguments.check and too_slow(r)]
        if not slow:
            break
    if arguments.json:
        report = {
            "context": runs[0][1],
            "ratios": [r._asdict() | {"speed": r.speed} for r in results],
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.check and slow:
        for r in slow:
            print(f"too slow: {r.case} {r.dtype} {r.instruction_set} beside the {r.yardstick}")
        sys.exit(1)


if __name__ == "__main__":
    main()
