"""Compare whole iterations with in_backward=True and without, and with torch.optim.RMSprop.

    python bench/python/torch_in_backward.py --json torch_in_backward.json

The network has layers whose parameters, gradients and state fit the last-level cache one at a time,
but not all together. An iteration is zero_grad(), a forward and a backward pass, and step(). The
optimizers train separate copies in turn, A B C A B C; results are compared after the first
iterations, exactly between the two of ours. Prints medians, the medians of the ratios of each
round, and the largest sum of the sizes of all gradients of parameters that are alive at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fused_rmsprop.torch import RMSprop

from report import environment, headline, with_unit
from torch_step import Loss, model

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "torch": torch.optim.RMSprop,
    "fused": RMSprop,
    "in_backward": lambda params, **options: RMSprop(params, **options, in_backward=True),
}


class LiveGradients:
    """Measures the bytes of gradients whenever a backward pass has completed one."""

    def __init__(self, params: list[Any]) -> None:
        self.most = 0
        self._params = params
        # These hooks must come before the optimizer's, which frees the gradient.
        self._handles = [p.register_post_accumulate_grad_hook(self._look) for p in params]

    def _look(self, _: Any) -> None:
        now = sum(p.grad.nbytes for p in self._params if p.grad is not None)
        self.most = max(self.most, now)

    def end(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def iterate(loss: Loss, optimizer: Any) -> float:
    """Return the seconds of an iteration."""
    began = time.perf_counter()
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    return time.perf_counter() - began


def measure(make: Callable[[], tuple[list[Any], Loss]], seconds: float) -> dict[str, Any]:
    """Train with all optimizers in alternating blocks."""
    contestants, gradient_bytes, trained = {}, {}, {}
    for name, optimizer in OPTIMIZERS.items():
        params, loss = make()
        live = LiveGradients(params)
        contestants[name] = loss, optimizer(params, lr=1e-4)
        for _ in range(3):
            iterate(*contestants[name])
        live.end()
        gradient_bytes[name], trained[name] = live.most, params
    for p, q, r in zip(*trained.values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
        if not torch.equal(q, r):
            raise AssertionError("in_backward=True gives other bits")
    rounds: dict[str, list[Any]] = {name: [] for name in contestants}
    block, warm = 3, 6  # in the first rounds the number of threads is chosen
    until = time.perf_counter() + seconds
    with tqdm(total=round(seconds), file=sys.stderr, disable=None) as bar:
        while time.perf_counter() < until or len(rounds["fused"]) < warm + 4:
            for name, contestant in contestants.items():
                rounds[name].append([iterate(*contestant) for _ in range(block)])
            bar.update(max(0, round(seconds - (until - time.perf_counter())) - bar.n))
    times = {name: np.array(blocks[warm:]) for name, blocks in rounds.items()}
    medians = {name: np.median(t, axis=1) for name, t in times.items()}  # of each round
    return {
        "iteration": {name: float(np.median(t)) for name, t in times.items()},
        "over_in_backward": {
            name: float(np.median(m / medians["in_backward"])) for name, m in medians.items()
        },
        "gradient_bytes": gradient_bytes,
        "rounds": len(times["fused"]),
    }


def main() -> None:
    """Measure one network and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path, help="the file for the results")
    arguments = parser.parse_args()
    layers, width, batch = arguments.layers, arguments.width, arguments.batch

    def make() -> tuple[list[Any], Loss]:
        torch.manual_seed(0)
        nn = torch.nn
        modules = [m for _ in range(layers) for m in (nn.Linear(width, width), nn.ReLU())]
        return model(modules, torch.randn(batch, width))

    print(headline(environment(None)))
    print(f"{layers} x Linear({width}, {width}), a batch of {batch}")
    result = measure(make, arguments.seconds)
    print(f"{'':14s}{'iteration':>10s}{'/ in_backward':>15s}{'gradients, MB':>15s}")
    for name in OPTIMIZERS:
        print(
            f"{name:14s}{with_unit(result['iteration'][name]):>10s}"
            f"{result['over_in_backward'][name]:15.2f}{result['gradient_bytes'][name] / 1e6:15.1f}"
        )
    if arguments.json:
        case = {"layers": layers, "width": width, "batch": batch}
        report = {"environment": environment(None), "case": case, "results": result}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
