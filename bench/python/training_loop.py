"""Measure how the optimizer's threads affect the whole training loop.

Several optimizers train a NumPy MLP (784 inputs, two hidden layers, 10 classes, batch 64, float32)
in one process, in short alternating blocks: A B C A B C ... There is one process each for NumPy
alone, scikit-learn imported first, torch imported first, and OMP_WAIT_POLICY=passive. Prints
medians in microseconds, the median ratio to one thread within a round, and the share of steps made
by a team; writes the same as JSON.

    python bench/python/training_loop.py --json training_loop.json

The idle threads of both BLAS and OpenMP spin. Together they can make the whole loop several times
slower. The default number of threads must never be slower than one.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROUNDS = 15
BLOCK_SECONDS = 0.5
SCENARIOS = {
    "NumPy alone": ([], {}),
    "scikit-learn imported first": (["sklearn.linear_model"], {}),
    "torch imported first": (["torch"], {}),
    "OMP_WAIT_POLICY=passive": ([], {"OMP_WAIT_POLICY": "passive"}),
}


def measure(
    imports: list[str], hidden: int, names: tuple[str, ...] = (), repeats: int = ROUNDS
) -> dict[str, Any]:
    """Train with every optimizer, or those named, in turn; return medians in microseconds."""
    for name in imports:
        importlib.import_module(name)
    import numpy as np

    from fused_rmsprop import RMSProp, show_config
    from fused_rmsprop.demo import NumpyExpression
    from fused_rmsprop.demo.mlp import init_params, loss_and_grads

    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 784)).astype(np.float32)
    labels = rng.integers(0, 10, 64)
    available = show_config("dicts")["threads"]["available"]

    contestants: dict[str, tuple[Any, Any]] = {}

    def enter(name: str, make: Any) -> None:
        if names and name not in names:
            return
        params = init_params((784, hidden, hidden, 10), np.random.default_rng(1))
        contestants[name] = (params, make(params))

    enter("NumPy expression", NumpyExpression)
    enter("fused, 1 thread", lambda params: RMSProp(params, lr=1e-4, threads=1))
    enter("fused, OpenMP as it comes", lambda params: RMSProp(params, lr=1e-4, threads=available))
    enter("fused, default", lambda params: RMSProp(params, lr=1e-4))

    rounds: dict[str, list[Any]] = {name: [] for name in contestants}
    for round_ in range(repeats + 2):
        for name, (params, optimizer) in contestants.items():
            time.sleep(0.05)  # until the previous optimizer's threads stop spinning
            block = []
            until = time.perf_counter() + BLOCK_SECONDS
            while (began := time.perf_counter()) < until:
                _, grads = loss_and_grads(params, x, labels)
                before_step = time.perf_counter()
                optimizer.step(grads)
                ended = time.perf_counter()
                team = getattr(optimizer, "threads_used", 1) > 1
                block.append((ended - began, ended - before_step, team))
            if round_ >= 2:  # the first two warm up, and the default chooses its threads
                rounds[name].append(np.array(block))
    results = {}
    for name, blocks in rounds.items():
        whole, step, team = np.concatenate(blocks).T
        ratios = [
            np.median(block[:, 0]) / np.median(one[:, 0])
            for block, one in zip(blocks, rounds["fused, 1 thread"], strict=True)
        ]
        results[name] = {
            "forward_backward_us": float(np.median(whole - step) * 1e6),
            "step_us": float(np.median(step) * 1e6),
            "iteration_us": float(np.median(whole) * 1e6),
            "ratio_to_one_thread": float(np.median(ratios)),
            "share_of_steps_by_a_team": float(np.mean(team)),
            "iterations": len(whole),
        }
    parameters = sum(a.size for layer in contestants["fused, default"][0] for a in layer.values())
    return {"parameters": parameters, "threads": available, "results": results}


def in_new_process(imports: list[str], environment: dict[str, str], hidden: int) -> dict[str, Any]:
    """Run `measure` in a new process with a known order of imports."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    argv = [sys.executable, __file__, "--hidden", str(hidden), "--measure", ",".join(imports)]
    done = subprocess.run(
        argv, env=clean | environment, check=True, capture_output=True, encoding="utf-8"
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    """Run every scenario and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, action="append", help="default: 512 and 1500")
    parser.add_argument("--json", type=Path, help="the file for the results")
    parser.add_argument(
        "--limit", type=float, help="fail if the default takes longer than this times one thread"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        imports = [name for name in arguments.measure.split(",") if name]
        print(json.dumps(measure(imports, arguments.hidden[0])))
        return

    report: list[dict[str, Any]] = []
    for hidden in arguments.hidden or [512, 1500]:
        for scenario, (imports, environment) in SCENARIOS.items():
            if any(importlib.util.find_spec(name.split(".")[0]) is None for name in imports):
                print(f"{scenario}: skipped, not installed\n")
                continue
            result = in_new_process(imports, environment, hidden)
            report.append({"hidden": hidden, "scenario": scenario, **result})
            print(f"{scenario}, hidden {hidden}, {result['parameters']:,} parameters")
            print(f"  {'us (medians)':28s}  fwd+bwd     step  iteration  vs 1 thread  by a team")
            for name, r in result["results"].items():
                print(
                    f"  {name:28s} {r['forward_backward_us']:8.0f} {r['step_us']:8.0f} "
                    f"{r['iteration_us']:10.0f} {r['ratio_to_one_thread']:12.3f} "
                    f"{r['share_of_steps_by_a_team']:10.0%}"
                )
            print(flush=True)
    worst = max(r["results"]["fused, default"]["ratio_to_one_thread"] for r in report)
    print(f"worst ratio of the default to one thread: {worst:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.limit is not None and worst > arguments.limit:
        sys.exit(f"that is more than {arguments.limit}")


if __name__ == "__main__":
    main()
