"""Runs the built C++ benchmark and reads its report; knows the form of the names alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from fused_rmsprop import show_config


class Rate(NamedTuple):
    """The speed of a benchmark in one round, per second."""

    items: float
    bytes: float


def run(
    executable: Path, pattern: str, rounds: int
) -> tuple[dict[str, list[Rate]], dict[str, Any]]:
    """Rates of the benchmarks whose names match, by name, one of each round; and the context.

    A round is a process of its own: Google Benchmark 1.7 can interleave repetitions itself, but now
    and then stops at a check of its own that their iterations are equal.
    """
    command = [
        str(executable),
        f"--benchmark_filter=^({pattern})/real_time$|^({pattern})$",
        "--benchmark_format=json",
        "--benchmark_min_time=0.05",
    ]
    rates: dict[str, list[Rate]] = {}
    for _ in range(rounds):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        report = json.loads(done.stdout)
        for benchmark in report["benchmarks"]:
            name = benchmark["name"].removesuffix("/real_time")
            if benchmark.get("error_occurred"):
                raise SystemExit(f"{name}: {benchmark['error_message']}")
            rate = Rate(benchmark["items_per_second"], benchmark["bytes_per_second"])
            rates.setdefault(name, []).append(rate)
    if not rates:
        raise SystemExit(f"{executable} has no benchmark {pattern}")
    context = {k: v for k, v in report["context"].items() if k not in ("executable", "host_name")}
    return rates, context


def widest_set() -> str:
    """The widest instruction set that the processor supports."""
    return str(show_config("dicts")["instruction_sets"]["supported"][-1])


def number(part: str) -> int:
    """The number in a part of a name, such as threads:2."""
    return int(part.partition(":")[2])
