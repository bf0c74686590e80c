"""How near a plain float32 step in L2 comes to the divider's limit, per instruction set.

    python bench/cpp/divider_ratio.py build/bench/bench/cpp/fused_rmsprop_bench

Runs the built benchmark with its repetitions interleaved, so that a change of the machine's speed
meets all cases alike, and compares medians. The three arrays of 32 Ki elements take 384 KiB: more
than L1, less than half of a 1 MiB L2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from typing import Any

ELEMENTS = 32768


def run(executable: str, repetitions: int) -> dict[str, Any]:
    """The benchmark's JSON report for the cases that are compared."""
    command = [
        executable,
        f"--benchmark_filter=^(plain/float32/[a-z0-9]+/{ELEMENTS}|divider/float32/[a-z0-9]+)$",
        "--benchmark_format=json",
        f"--benchmark_repetitions={repetitions}",
        "--benchmark_enable_random_interleaving=true",
        "--benchmark_report_aggregates_only=true",
        "--benchmark_min_time=0.05",
    ]
    report: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    return report


def nanoseconds_per_element(report: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Medians by (case, instruction set)."""
    medians = {}
    for benchmark in report["benchmarks"]:
        if benchmark.get("error_occurred"):
            raise SystemExit(f"{benchmark['run_name']}: {benchmark['error_message']}")
        if benchmark["aggregate_name"] == "median":
            case, _, instruction_set = benchmark["run_name"].split("/")[:3]
            medians[case, instruction_set] = 1e9 / benchmark["items_per_second"]
    return medians


def main() -> None:
    """Run the benchmark and print the ratios."""
    parser = argparse.ArgumentParser(description="Plain float32 step in L2 over divider limit.")
    parser.add_argument("executable", help="the built fused_rmsprop_bench")
    parser.add_argument("--repetitions", type=int, default=25)
    arguments = parser.parse_args()

    report = run(arguments.executable, arguments.repetitions)
    medians = nanoseconds_per_element(report)
    context = report["context"]
    print(
        f"fused_rmsprop {context['fused_rmsprop']}, {context['compiler']}, float32, "
        f"{ELEMENTS} elements, 1 thread, median of {arguments.repetitions}"
    )
    print(f"{'set':8} {'step ns/element':>16} {'divider ns/element':>19} {'ratio':>6}")
    for case, instruction_set in medians:
        if case == "plain":
            ours, limit = medians["plain", instruction_set], medians["divider", instruction_set]
            print(f"{instruction_set:8} {ours:16.4f} {limit:19.4f} {ours / limit:6.2f}")


if __name__ == "__main__":
    main()
