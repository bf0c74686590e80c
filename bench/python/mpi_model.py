"""Predict the time of a step over MPI on a network, from steps timed on this machine.

    python bench/python/mpi_steps.py --output mpi_steps.json
    python bench/python/mpi_model.py --steps mpi_steps.json --output mpi_model.json --plot model.png
    python bench/python/mpi_model.py --check

docs/mpi-model.md has the model. Its parameters for a machine are fitted to the timed steps; those
of networks are options: ``--network "10 GbE,50,1.25,5"`` has a latency of 50 us, 1.25 GB/s for each
rank, and 5 us between messages. Each rank has a machine, and steps with one thread. The tables,
in Markdown, show how far the fit is off, predictions, and the costs of other sizes of buckets.
``--check`` predicts steps whose messages are slowed on this machine, and fails if one is off.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mpi_check import check
from mpi_fit import fit, residuals, rows_of
from mpi_formula import (
    ITEM,
    Machine,
    Network,
    after_all_reduce_seconds,
    best_bucket,
    bound_seconds,
    default_bucket,
    step_seconds,
)
from mpi_plots import draw_predictions
from report import with_unit

KIB, MIB = 1 << 10, 1 << 20
RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
ELEMENTS = (25_000_000, 7_000_000_000)
NETWORKS = ("10 GbE,50,1.25,5", "200 Gb/s InfiniBand,2,25,0.5")
#: Rules for the default: the least bytes of a bucket, and the least bytes of it for each rank.
RULES = ((8 * MIB, 64 * KIB), (8 * MIB, 256 * KIB), (8 * MIB, MIB), (32 * MIB, MIB))


def network_of(text: str) -> tuple[str, Network]:
    """A name, and the network that an option describes in us, GB/s and us."""
    name, latency, bandwidth, overhead = text.split(",")
    return name, Network(float(latency) * 1e-6, float(bandwidth) * 1e9, float(overhead) * 1e-6)


def predict(
    name: str, network: Network, elements: int, ranks: int, machine: Machine
) -> dict[str, Any]:
    """The seconds of a step in several ways; what a rule costs is relative to the best bucket."""

    def seconds(bucket: float, on: Network = network) -> float:
        return step_seconds(ranks, elements, bucket, machine, on)

    default = default_bucket(ranks)
    best, of_best = best_bucket(ranks, elements, machine, network)
    at_once = seconds(default, replace(network, latency=0.0, overhead=0.0))
    return {
        "network": name,
        "elements": elements,
        "ranks": ranks,
        "default_bucket": default,
        "default": seconds(default),
        "best_bucket": best,
        "best": of_best,
        "without_overlap": seconds(default, replace(network, progresses=False)),
        "after_all_reduce": after_all_reduce_seconds(ranks, elements, machine, network),
        "bound": bound_seconds(ranks, elements, network),
        "latency_share": 1 - at_once / seconds(default),
        "state_bytes": elements * ITEM / ranks,
        "rules": [seconds(max(least, each * ranks)) / of_best for least, each in RULES],
    }


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print("|", " | ".join(row), "|")
    print()


def print_fit(machine: Machine, errors: dict[str, dict[str, float]]) -> None:
    """Print the parameters of the machine, and how far its whole steps are off."""
    print_table(
        ("step", "bucket", "copy", "update", "transport", "contention", "turn"),
        [
            [
                *(with_unit(seconds) for seconds in (machine.step, machine.bucket)),
                *(f"{r / 1e9:.1f} GB/s" for r in (machine.copy, machine.update, machine.transport)),
                f"{machine.contention:.2f}",
                with_unit(machine.switch),
            ]
        ],
    )
    print_table(
        ("ranks", "timed ways", "typical factor", "worst factor"),
        [
            [ranks, f"{e['rows']:.0f}", f"{e['typical']:.2f}", f"{e['worst']:.2f}"]
            for ranks, e in errors.items()
        ],
    )


def print_predictions(predicted: Sequence[dict[str, Any]]) -> None:
    """Print a table for each network and size, and one of the costs of rules."""
    for network in dict.fromkeys(p["network"] for p in predicted):
        for elements in dict.fromkeys(p["elements"] for p in predicted):
            chosen = [p for p in predicted if (p["network"], p["elements"]) == (network, elements)]
            print(f"**{network}, {elements / 1e6:,.0f} million parameters**\n")
            head = ("ranks", "state of a rank", "step", "share of latency", "in waits only")
            print_table(
                (*head, "best bucket", "step with it", "after all-reduce", "bytes alone"),
                [
                    [
                        str(p["ranks"]),
                        f"{p['state_bytes'] / 1e6:,.{1 if p['state_bytes'] < 1e8 else 0}f} MB",
                        with_unit(p["default"]),
                        f"{p['latency_share']:.0%}",
                        with_unit(p["without_overlap"]),
                        f"{p['best_bucket'] / MIB:g} MiB",
                        *(with_unit(p[key]) for key in ("best", "after_all_reduce", "bound")),
                    ]
                    for p in chosen
                ],
            )
    print(
        "**What a rule for the size of buckets costs**, relative to the best size, which is within"
    )
    print("1 % of the fastest\n")
    rules = [f"{least // MIB} MiB, {each // KIB} KiB a rank" for least, each in RULES]
    print_table(
        ("network", "million parameters", "ranks", *rules),
        [
            [
                p["network"],
                f"{p['elements'] / 1e6:,.0f}",
                str(p["ranks"]),
                *(f"{cost:.2f}" for cost in p["rules"]),
            ]
            for p in predicted
            if p["ranks"] in {8, 64, 1024}
        ],
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=Path, help="a file of mpi_steps.py")
    parser.add_argument("--network", action="append", help="name,us,GB/s,us; can be repeated")
    parser.add_argument("--elements", type=int, nargs="+", default=ELEMENTS)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--copy", type=float, help="GB/s of a rank's copies; default: fitted")
    parser.add_argument("--update", type=float, help="GB/s of a rank's updates; default: fitted")
    parser.add_argument("--output", type=Path, help="the JSON file for everything")
    parser.add_argument("--plot", type=Path, help="the PNG file for a picture")
    parser.add_argument("--check", action="store_true", help="slow messages on this machine")
    args = parser.parse_args()
    if not args.check and not args.steps:
        parser.error("--steps or --check is needed")
    return args


def main() -> None:
    """Check, or fit and predict."""
    args = arguments()
    report: dict[str, Any] = {}
    if args.steps:
        timed = json.loads(args.steps.read_text(encoding="utf-8"))
        rows = rows_of(timed["results"])
        fitted = fit(rows, timed["environment"]["cpus_available"])
        errors = residuals(rows, fitted)
        print_fit(fitted, errors)
        own = fitted.alone()
        copy, update = (args.copy or 0) * 1e9 or own.copy, (args.update or 0) * 1e9 or own.update
        machine = replace(own, copy=copy, update=update)
        predicted = [
            predict(*network_of(text), elements, ranks, machine)
            for text in args.network or NETWORKS
            for elements in args.elements
            for ranks in args.ranks
        ]
        print_predictions(predicted)
        report = {"machine": asdict(fitted), "residuals": errors, "predicted": predicted}
        if args.plot:
            draw_predictions(args.plot, predicted)
    passed = True
    if args.check:
        passed, report["check"] = check()
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if not passed:
        sys.exit("the model is off by more than its margin")


if __name__ == "__main__":
    main()
