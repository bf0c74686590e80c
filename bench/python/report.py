"""Tables and JSON of the benchmarks, with the environment of the measurements."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fused_rmsprop import show_config

from measure import CaseResult, Timing
from peers import ALPHA, BASELINE, EPS, LR

BYTES_PER_ELEMENT = 20  # float32: reads p, g, v; writes p, v
FOREIGN_LOAD = 0.1  # busy CPUs of other processes above which a table has a warning
PACKAGES = ("numpy", "numba", "llvmlite", "torch", "jax", "jaxlib", "optax", "scikit-learn")
TITLES = {
    "sizes": "One array, by its number of elements",
    "lists": "Lists of arrays: arrays x elements",
    "denormals": "Ordinary and all-denormal state",
    "training": "A whole training iteration: forward, backward and step",
}


def environment(threads: int | None) -> dict[str, Any]:
    """Return the processor, versions and options of a measurement.

    ``threads`` is the requested number, None for the default.
    """
    return {
        "cpu": _cpu_model(),
        "cpus_available": len(os.sched_getaffinity(0)),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "fused_rmsprop": show_config("dicts"),
        "dtype": "float32",
        "bytes_per_element": BYTES_PER_ELEMENT,
        "options": {"lr": LR, "alpha": ALPHA, "eps": EPS},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def threads_of(environment: dict[str, Any]) -> str:
    """Return the number of threads in words."""
    threads = environment["threads"]
    return "1 thread" if threads == 1 else f"{threads or 'default'} threads"


def headline(environment: dict[str, Any]) -> str:
    """Summarise the environment in two lines."""
    config = environment["fused_rmsprop"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return (
        f"{environment['cpu']}, {threads_of(environment)}, "
        f"{config['instruction_sets']['in_use']}; {environment['dtype']}\n"
        f"fused-rmsprop {config['version']} ({config['compiler']}), "
        f"Python {environment['python']}, {versions}"
    )


def with_unit(seconds: float) -> str:
    """Format a time with three significant digits and a suitable unit."""
    units = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
    unit = next((name for name, size in units.items() if seconds < 1000 * size), "s")
    value = seconds / units[unit]
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def with_sign(ratio: float) -> str:
    """Format a ratio as 0.97x, 3.1x or 42x."""
    return f"{ratio:.{2 if ratio < 2 else 1 if ratio < 20 else 0}f}x"


def peers_of(results: list[CaseResult]) -> list[str]:
    """Return the names of the timed peers in registry order."""
    return list(dict.fromkeys(timing.peer for result in results for timing in result.timings))


def print_group(group: str, results: list[CaseResult]) -> None:
    """Print the table of one group: a row per peer, a column per case or variant."""
    columns: dict[str, dict[str, Timing]] = {}
    for result in results:
        for timing in result.timings:
            name = f"{result.name} {timing.variant}".rstrip() if timing.variant else result.name
            columns.setdefault(name, {})[timing.peer] = timing
    peers = peers_of(results)
    widths = {name: max(10, len(name) + 2) for name in columns}
    print(f"\n{TITLES[group]}")
    print(f"  {'median of a step':20s}" + "".join(f"{n:>{w}s}" for n, w in widths.items()))
    for peer in peers:
        cells = (_cell(columns[name], peer, "median", with_unit) for name in columns)
        print(f"  {peer:20s}" + "".join(map(str.rjust, cells, widths.values())))
    print(f"  time / {BASELINE}'s")
    for peer in peers:
        cells = (_cell(columns[name], peer, "ratio", with_sign) for name in columns)
        print(f"  {peer:20s}" + "".join(map(str.rjust, cells, widths.values())))
    for result in results:
        _print_variants(result)
    load = max(result.foreign_load for result in results)
    if load > FOREIGN_LOAD:
        print(f"  UNRELIABLE: other processes kept {load:.1f} CPUs busy meanwhile")
    skipped = {(peer, why) for result in results for peer, why in result.skipped.items()}
    for peer, why in sorted(skipped):
        print(f"  skipped: {peer}: {why}")


def _cell(column: dict[str, Timing], peer: str, what: str, form: Any) -> str:
    return str(form(getattr(column[peer], what))) if peer in column else "-"


def _print_variants(result: CaseResult) -> None:
    first = result.timings[0].variant
    for variant in dict.fromkeys(timing.variant for timing in result.timings):
        if variant != first:
            print(f"  time / the same with {first} state")
            for timing in result.timings:
                if timing.variant == variant:
                    print(f"  {timing.peer:20s}{with_sign(timing.ratio_to_first):>10s}")


def save(path: Path, environment: dict[str, Any], results: list[CaseResult]) -> None:
    """Write everything as JSON, with times in seconds."""
    report = {"environment": environment, "cases": [asdict(result) for result in results]}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[dict[str, Any], list[CaseResult]]:
    """Read a file written by `save`."""
    report = json.loads(path.read_text(encoding="utf-8"))
    results = [
        CaseResult(**{**case, "timings": [Timing(**timing) for timing in case["timings"]]})
        for case in report["cases"]
    ]
    return report["environment"], results
