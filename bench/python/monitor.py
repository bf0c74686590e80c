"""Time training iterations with a `Monitor` and without it.

    python bench/python/monitor.py --json monitor.json

Four trainings on digits: the demo's MLP, LeNet-5 and a tiny convolutional network in torch, and the
smallest useful model, logistic regression in batches of 32. Each is trained twice from the same
start, once with a monitor at its default ``every=10``; the parameters after some iterations must be
equal in every bit. Then whole iterations of the one with the monitor are timed, in blocks by turns:
not observed, observed, and observed with the loss logged in each iteration. (Two trainings would
differ by more than a monitor costs, through where their arrays lie.) Prints the median of an
iteration without the monitor, and the medians of what it adds within a round.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fused_rmsprop import RMSProp
from fused_rmsprop.demo import ALPHA, BATCH, HIDDEN, LR, load
from fused_rmsprop.demo.mlp import init_params, loss_and_grads
from fused_rmsprop.monitor import Monitor

from report import environment, headline, with_unit

CHECKED_ITERATIONS = 50
ITERATIONS = 2560  # as many as wait for their statistics, which come at once
#: What a monitor may add to an iteration.
BOUNDS = {
    "MLP": 0.01,
    "LeNet-5, torch": 0.01,
    "tiny convolutional, torch": 0.02,
    "logistic regression": 0.05,
}


@dataclass
class Training:
    """A training of which one call makes an iteration."""

    iterate: Callable[[], float]  # returns the loss
    optimizer: Any
    parameters: Callable[[], list[bytes]]
    iterations: int = ITERATIONS  # of a block

    def block(self, observed: bool, monitor: Monitor | None) -> float:
        """Return the seconds of an iteration; a monitor is told the loss in each."""
        stepper = self.optimizer._stepper
        samplers = [] if observed else stepper.samplers
        for sampler in samplers:
            stepper.remove_sampler(sampler)
        began = time.perf_counter()
        for _ in range(self.iterations):
            loss = self.iterate()
            if monitor is not None:
                monitor.log(loss=loss)
        seconds = (time.perf_counter() - began) / self.iterations
        for sampler in samplers:
            stepper.add_sampler(sampler)
        return seconds


def in_numpy(sizes: tuple[int, ...], batch: int) -> Training:
    """Train a multilayer perceptron on digits."""
    (images, labels), _ = load(0)
    params = init_params(sizes, np.random.default_rng(0))
    opt = RMSProp(params, lr=LR, alpha=ALPHA, threads=1)  # both the same, with no trials
    rng = np.random.default_rng(1)

    def iterate() -> float:
        rows = rng.integers(0, len(images), batch)
        loss, grads = loss_and_grads(params, images[rows], labels[rows])
        opt.step(grads)
        return loss

    return Training(iterate, opt, lambda: [p.tobytes() for layer in params for p in layer.values()])


def lenet() -> Any:
    """LeNet-5, with ReLU, which takes images of 28 x 28."""
    from torch import nn

    return nn.Sequential(
        nn.Upsample(size=28),
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def tiny() -> Any:
    """Two convolutions of 8 x 8, and a dense layer."""
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )


def in_torch(make: Callable[[], Any], iterations: int) -> Training:
    """Train a network on digits."""
    import torch

    from fused_rmsprop.torch import RMSprop

    torch.manual_seed(0)
    (images, labels), _ = load(0)
    x, y = torch.from_numpy(images).reshape(-1, 1, 8, 8), torch.from_numpy(labels)
    net = make()
    optimizer = RMSprop(net.named_parameters(), lr=LR, alpha=ALPHA)
    rng = torch.Generator().manual_seed(1)

    def iterate() -> float:
        rows = torch.randint(0, len(x), (BATCH,), generator=rng)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        return float(loss.item())

    def parameters() -> list[bytes]:
        return [p.detach().numpy().tobytes() for p in net.parameters()]

    return Training(iterate, optimizer, parameters, iterations)


TRAININGS: dict[str, Callable[[], Training]] = {
    "MLP": lambda: in_numpy((64, *HIDDEN, 10), BATCH),
    "LeNet-5, torch": lambda: in_torch(lenet, 200),
    "tiny convolutional, torch": lambda: in_torch(tiny, ITERATIONS),
    "logistic regression": lambda: in_numpy((64, 10), 32),
}


def measure(make: Callable[[], Training], seconds: float) -> dict[str, float]:
    """Check that the bits are equal, then time both in turn."""
    plain, watched = make(), make()
    monitor = Monitor(watched.optimizer)
    for training in (plain, watched):
        for _ in range(CHECKED_ITERATIONS):
            training.iterate()
    if plain.parameters() != watched.parameters():
        sys.exit("a monitor has changed the parameters")
    blocks = [(False, None), (True, None), (True, monitor)]
    times: list[list[float]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 5:
        order = [0, 1, 2] if len(times) % 2 else [2, 1, 0]  # none always follows the same one
        found = {i: watched.block(*blocks[i]) for i in order}
        times.append([found[i] for i in range(3)])
    off, on, told = np.array(times).T
    return {
        "seconds": float(np.median(off)),
        "added_seconds": float(np.median(on - off)),
        "share": float(np.median(on / off) - 1),
        "share_with_log": float(np.median(told / off) - 1),
        "rounds": len(times),
    }


def main() -> None:
    """Check, time, and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="for each training")
    parser.add_argument("--json", type=Path, help="the file for the results")
    parser.add_argument("--check", type=float, help="fail if a share is above so many bounds")
    arguments = parser.parse_args()
    about = environment(None)
    print(headline(about))
    print(f"{'training':26s} {'iteration':>12s} {'a monitor adds':>16s} {'and log()':>10s}")
    results, missed = {}, []
    for name, make in TRAININGS.items():
        results[name] = found = measure(make, arguments.seconds)
        share, added = found["share"], with_unit(max(found["added_seconds"], 0))
        iteration, told = with_unit(found["seconds"]), found["share_with_log"]
        print(f"{name:26s} {iteration:>12s} {added:>9s} {share:>6.1%} {told:>10.1%}")
        if arguments.check and share > arguments.check * BOUNDS[name]:
            missed.append(name)
    if arguments.json:
        text = json.dumps({"environment": about, "results": results}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if missed:
        sys.exit(f"a monitor adds too much to: {', '.join(missed)}")


if __name__ == "__main__":
    main()
