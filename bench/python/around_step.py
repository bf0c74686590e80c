"""Time a step with gradient scaling, clipping and averaging, beside the same work in torch.

    python bench/python/around_step.py --json around_step.json

Gradients are scaled, checked for finiteness and clipped by their global norm; then come weight
decay, momentum and a running average of the parameters. Here all of it is one `RMSProp.step`. In
torch it is a multiplication of all gradients, `clip_grad_norm_` (whose norm shows non-finite
gradients), `RMSprop.step` and two foreach operations for the average, in their fastest forms. The
results are compared after three steps, then both are timed in turn. GB/s counts each array once per
read and write, and the gradients once more for the norm.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fused_rmsprop import RMSProp

from cases import resnet50_shapes
from report import environment, headline, with_unit

OPTIONS: dict[str, Any] = {"lr": 1e-3, "alpha": 0.9, "weight_decay": 1e-4, "momentum": 0.9}
MAX_NORM, SCALE, DECAY = 1.0, 0.5, 0.999
CASES: dict[str, list[tuple[int, ...]]] = {
    "1 M": [(1_000_000,)],
    "10 M": [(10_000_000,)],
    "10 x 1 M": [(1_000_000,)] * 10,
    "ResNet-50's 161": resnet50_shapes(),
    "1000 x 1000": [(1000,)] * 1000,
}

Array = np.ndarray[Any, Any]
Step = Callable[[], object]


def fused(params: list[Array], grads: list[Array], threads: int) -> Step:
    """Do everything in one call."""
    opt = RMSProp(
        params,
        **OPTIONS,
        ema_decay=DECAY,
        max_grad_norm=MAX_NORM,
        on_nonfinite="skip",
        threads=threads,
        grads=grads,
    )
    return lambda: opt.step(grad_scale=SCALE)


def in_torch(params: list[Array], grads: list[Array], threads: int, foreach: bool) -> Step:
    """Do the same with torch's functions.

    They change the gradients, so every step first copies these and returns the seconds of the copy,
    which do not count.
    """
    torch.set_num_threads(threads)
    tensors = [torch.from_numpy(p).requires_grad_() for p in params]
    originals = [torch.from_numpy(g) for g in grads]
    averages = [t.detach().clone() for t in tensors]
    for tensor, original in zip(tensors, originals, strict=True):
        tensor.grad = torch.empty_like(original)
    optimizer = torch.optim.RMSprop(tensors, **OPTIONS, foreach=foreach)

    def step() -> float:
        began = time.perf_counter()
        for tensor, original in zip(tensors, originals, strict=True):
            tensor.grad.copy_(original)
        uncounted = time.perf_counter() - began
        with torch.no_grad():
            torch._foreach_mul_([t.grad for t in tensors], SCALE)
            norm = torch.nn.utils.clip_grad_norm_(tensors, MAX_NORM, foreach=foreach)
            if torch.isfinite(norm):
                optimizer.step()
                torch._foreach_mul_(averages, DECAY)
                torch._foreach_add_(averages, tensors, alpha=1 - DECAY)
        return uncounted

    return step


def measure(shapes: list[tuple[int, ...]], threads: int, seconds: float) -> dict[str, Any]:
    """Time all contestants in turn and return median seconds and ratios."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    grads = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    makers: dict[str, Callable[[list[Array]], Step]] = {
        "fused": lambda params: fused(params, grads, threads),
        "torch": lambda params: in_torch(params, grads, threads, foreach=False),
        "torch, foreach": lambda params: in_torch(params, grads, threads, foreach=True),
    }
    copies = {name: [p.copy() for p in start] for name in makers}
    steps = {name: make(copies[name]) for name, make in makers.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    for name, params in copies.items():
        for p, q, p0 in zip(copies["fused"], params, start, strict=True):
            # torch sums squares in float32. Where gradient and weight decay cancel, the direction
            # depends on the last bits.
            away = float(np.linalg.norm(p - q) / np.linalg.norm(p - p0))
            if not away < 1e-2:
                sys.exit(f"{name} differs from ours by {away:.3g} of the change in three steps")
    times: dict[str, list[float]] = {name: [] for name in steps}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["fused"]) < 9:
        for name, step in steps.items():
            time.sleep(0.02)  # until the previous contestant's threads stop spinning
            warm = time.perf_counter() + 0.03  # until its own threads are awake and spread
            while time.perf_counter() < warm:
                step()
            block = []
            for _ in range(5):
                began = time.perf_counter()
                uncounted = step() or 0.0
                block.append(time.perf_counter() - began - float(uncounted))  # type: ignore[arg-type]
            times[name].append(float(np.median(block)))
    medians = {name: float(np.median(t)) for name, t in times.items()}
    ratios = {
        name: float(np.median(np.array(t) / np.array(times["fused"]))) for name, t in times.items()
    }
    elements = sum(p.size for p in start)
    return {
        "elements": elements,
        "seconds": medians,
        "ratio": ratios,
        "gigabytes_per_second": 40 * elements / medians["fused"] / 1e9,
        "rounds": len(times["fused"]),
    }


def main() -> None:
    """Measure every case and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="per case")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="the file for the results")
    arguments = parser.parse_args()
    report = {"environment": environment(arguments.threads), "results": {}}
    print(headline(report["environment"]))
    print(
        f"{'':18s}{'fused':>10s}{'GB/s':>8s}{'torch':>12s}{'ratio':>8s}{'foreach':>12s}{'ratio':>8s}"
    )
    for name, shapes in tqdm(CASES.items(), file=sys.stderr, disable=None):
        result = report["results"][name] = measure(shapes, arguments.threads, arguments.seconds)
        seconds, ratio = result["seconds"], result["ratio"]
        print(
            f"{name:18s}{with_unit(seconds['fused']):>10s}{result['gigabytes_per_second']:8.1f}"
            f"{with_unit(seconds['torch']):>12s}{ratio['torch']:8.1f}"
            f"{with_unit(seconds['torch, foreach']):>12s}{ratio['torch, foreach']:8.1f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
