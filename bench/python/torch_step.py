"""Compare the drop-in fused_rmsprop.torch.RMSprop with torch.optim.RMSprop in training.

    python bench/python/torch_step.py --json torch_step.json

Every iteration is a forward and backward pass with new gradient tensors, as after zero_grad(), and
a step, which starts while torch's worker threads are still spinning. The optimizers train separate
models in turn, A B A B; results are compared after the first steps. Prints medians of the step and
of the whole iteration, and medians of their ratios.
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

from cases import resnet50_shapes
from report import environment, headline, with_unit

OPTIMIZERS = {"torch": torch.optim.RMSprop, "fused": RMSprop}
Loss = Callable[[], Any]


def tensors(shapes: list[tuple[int, ...]]) -> tuple[list[Any], Loss]:
    """Return parameters and a loss that depends on all of them."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    return params, lambda: torch.stack([p.square().sum() for p in params]).sum()


def model(layers: list[Any], x: Any) -> tuple[list[Any], Loss]:
    """Return the parameters of a network and its loss on one batch."""
    network = torch.nn.Sequential(*layers)
    labels = torch.arange(len(x)) % 10
    return list(network.parameters()), lambda: torch.nn.functional.cross_entropy(network(x), labels)


def mlp() -> tuple[list[Any], Loss]:
    """Make an MLP with 1.9 million parameters, and a batch of 64."""
    torch.manual_seed(0)
    nn = torch.nn
    layers = [
        nn.Linear(784, 1024),
        nn.ReLU(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, 10),
    ]
    return model(layers, torch.randn(64, 784))


def convnet() -> tuple[list[Any], Loss]:
    """Make a small convolutional network, and a batch of 64 images of 28 x 28 pixels."""
    torch.manual_seed(0)
    nn = torch.nn
    layers = [
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    ]
    return model(layers, torch.randn(64, 1, 28, 28))


CASES: dict[str, Callable[[], tuple[list[Any], Loss]]] = {
    "one tensor of 10 M": lambda: tensors([(10_000_000,)]),
    "ResNet-50's 161": lambda: tensors(resnet50_shapes()),
    "1000 x 1000": lambda: tensors([(1000,)] * 1000),
    "1000 x 10": lambda: tensors([(10,)] * 1000),
    "MLP": mlp,
    "convnet": convnet,
}


def iterate(params: list[Any], loss: Loss, optimizer: Any) -> tuple[float, float]:
    """Return the seconds of the step and of the whole iteration."""
    began = time.perf_counter()
    optimizer.zero_grad()
    loss().backward()
    before = time.perf_counter()
    optimizer.step()
    ended = time.perf_counter()
    return ended - before, ended - began


def measure(make: Callable[[], tuple[list[Any], Loss]], seconds: float) -> dict[str, Any]:
    """Train with both optimizers in alternating blocks."""
    contestants = {}
    for name, optimizer in OPTIMIZERS.items():
        params, loss = make()
        contestants[name] = (params, loss, optimizer(params, lr=1e-4))
    for contestant in contestants.values():
        for _ in range(2):
            iterate(*contestant)
    for p, q in zip(*(c[0] for c in contestants.values()), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    block = 5
    rounds: dict[str, list[Any]] = {name: [] for name in contestants}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(rounds["fused"]) < 12:
        for name, contestant in contestants.items():
            rounds[name].append([iterate(*contestant) for _ in range(block)])
    warm = 4  # rounds in which the number of threads is chosen
    times = {name: np.array(blocks[warm:]) for name, blocks in rounds.items()}
    medians = {name: np.median(t, axis=1) for name, t in times.items()}  # of each round
    ratio_step, ratio_iteration = np.median(medians["torch"] / medians["fused"], axis=0).tolist()
    return {
        "step": {name: float(np.median(t[..., 0])) for name, t in times.items()},
        "iteration": {name: float(np.median(t[..., 1])) for name, t in times.items()},
        "step_ratio": ratio_step,
        "iteration_ratio": ratio_iteration,
        "rounds": len(times["fused"]),
    }


def main() -> None:
    """Measure every case and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15, help="per case")
    parser.add_argument("--json", type=Path, help="the file for the results")
    arguments = parser.parse_args()
    print(headline(environment(None)))
    print(f"{'':20s}{'step: torch':>12s}{'fused':>10s}{'ratio':>8s}", end="")
    print(f"{'iteration: torch':>19s}{'fused':>10s}{'ratio':>8s}")
    results = {}
    for name, make in tqdm(CASES.items(), file=sys.stderr, disable=None):
        result = results[name] = measure(make, arguments.seconds)
        cells = [
            with_unit(result[what][who]) for what in ("step", "iteration") for who in OPTIMIZERS
        ]
        print(
            f"{name:20s}{cells[0]:>12s}{cells[1]:>10s}{result['step_ratio']:8.1f}"
            f"{cells[2]:>19s}{cells[3]:>10s}{result['iteration_ratio']:8.2f}",
            flush=True,
        )
    if arguments.json:
        report = {"environment": environment(None), "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
