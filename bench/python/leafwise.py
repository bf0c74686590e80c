"""Time training iterations whose layers are updated in the backward pass, or all after it.

    python bench/python/leafwise.py --json leafwise.json

A NumPy MLP has layers whose weights, gradient and state together fit the last-level cache, while
those of all layers do not. `RMSProp.leafwise` updates each array as soon as its gradient is
complete; `RMSProp.step` updates all of them after the backward pass. Gradients are new arrays in
every iteration, or are written into arrays made once: one per parameter for `step`, one for all
layers of the same shape for `leafwise`. The parameters after three iterations are compared with the
NumPy expression's (``==``), then all are timed in turn. Prints the median of a whole iteration, the
median ratio to the first within a round, and the memory of the gradients and of all else that an
iteration allocates, at its peak.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fused_rmsprop import RMSProp
from fused_rmsprop.demo import ALPHA, EPS, LR, NumpyExpression
from fused_rmsprop.demo.mlp import Params, cross_entropy, forward, init_params

from report import environment, headline, with_unit

Array = np.ndarray[Any, Any]
#: Takes the index of a layer, the transposed activations below it, and the gradient above.
OnLayer = Callable[[int, Array, Array], object]
CHECKED_ITERATIONS, CLASSES = 3, 10
STEP = "step, new arrays"


class Loop:
    """An MLP with a batch, an optimizer, and the ways to train the one with the other."""

    def __init__(self, start: Params, x: Array, labels: Array, threads: int | None) -> None:
        self.params = [{name: p.copy() for name, p in layer.items()} for layer in start]
        self.opt = RMSProp(self.params, lr=LR, alpha=ALPHA, eps=EPS, threads=threads)
        self.buffers: dict[Any, Array] = {}  # made once
        self._x, self._labels = x, labels

    def backward(self, on_layer: OnLayer) -> None:
        """Run the forward and the backward pass."""
        activations = forward(self.params, self._x)
        _, delta = cross_entropy(activations[-1], self._labels)
        for i in reversed(range(len(self.params))):
            above = delta
            if i > 0:  # before W changes
                delta = (delta @ self.params[i]["W"].T) * (activations[i] > 0)
            on_layer(i, activations[i].T, above)

    def gradients(self) -> Params:
        """Return the gradients of all layers as new arrays."""
        grads: Params = [{} for _ in self.params]

        def keep(i: int, below: Array, delta: Array) -> None:
            grads[i] = {"W": below @ delta, "b": delta.sum(axis=0)}

        self.backward(keep)
        return grads

    def step(self) -> None:
        """Update all layers after the backward pass."""
        self.opt.step(self.gradients())

    def step_bound(self) -> None:
        """Do the same with bound gradients."""
        if not self.buffers:
            grads = [{name: np.zeros_like(p) for name, p in layer.items()} for layer in self.params]
            self.buffers = {(i, k): g for i, layer in enumerate(grads) for k, g in layer.items()}
            self.opt.bind_grads(grads)

        def write(i: int, below: Array, delta: Array) -> None:
            np.matmul(below, delta, out=self.buffers[i, "W"])
            np.sum(delta, axis=0, out=self.buffers[i, "b"])

        self.backward(write)
        self.opt.step()

    def leafwise(self) -> None:
        """Update each layer in the backward pass."""
        with self.opt.leafwise() as update:

            def on_layer(i: int, below: Array, delta: Array) -> None:
                update(f"{i}.W", below @ delta)
                update(f"{i}.b", delta.sum(axis=0))

            self.backward(on_layer)

    def leafwise_reused(self) -> None:
        """Do the same with one gradient array for all layers of the same shape."""
        if not self.buffers:
            self.buffers = {p.shape: np.zeros_like(p) for p in _arrays(self.params)}
        with self.opt.leafwise() as update:

            def on_layer(i: int, below: Array, delta: Array) -> None:
                for name, p in self.params[i].items():
                    grad = self.buffers[p.shape]
                    np.matmul(below, delta, out=grad) if name == "W" else delta.sum(0, out=grad)
                    update(f"{i}.{name}", grad)

            self.backward(on_layer)


WAYS: dict[str, Callable[[Loop], None]] = {
    STEP: Loop.step,
    "step, bound arrays": Loop.step_bound,
    "leafwise, new arrays": Loop.leafwise,
    "leafwise, reused array": Loop.leafwise_reused,
}


def _arrays(params: Params) -> list[Array]:
    return [p for layer in params for p in layer.values()]


def check(loops: dict[str, Loop], expression: Loop) -> None:
    """Train for some iterations; exit unless all parameters are those of the NumPy expression."""
    optimizer = NumpyExpression(expression.params)
    for _ in range(CHECKED_ITERATIONS):
        optimizer.step(expression.gradients())
        for name, loop in loops.items():
            WAYS[name](loop)
    for name, loop in loops.items():
        for p, expected in zip(_arrays(loop.params), _arrays(expression.params), strict=True):
            if not np.array_equal(p, expected):
                sys.exit(f"{name} differs from the NumPy expression")


def peak_memory(name: str, loop: Loop) -> int:
    """Return the bytes of the arrays made once, and the most that an iteration adds to them."""
    tracemalloc.start()
    WAYS[name](loop)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak + sum(buffer.nbytes for buffer in loop.buffers.values())


def block(name: str, loop: Loop) -> float:
    """Return the median seconds of an iteration."""
    time.sleep(0.05)  # until the previous contestant's threads stop spinning
    times = []
    for _ in range(7):
        began = time.perf_counter()
        WAYS[name](loop)
        times.append(time.perf_counter() - began)
    return float(np.median(times[2:]))  # the first wake the threads up


def measure(loops: dict[str, Loop], seconds: float) -> dict[str, Any]:
    """Time all ways in turn; return medians, ratios and memory by way."""
    memory = {name: peak_memory(name, loop) for name, loop in loops.items()}
    for name, loop in loops.items():  # each tuner finds its plan
        for _ in range(5):
            block(name, loop)
    times: dict[str, list[float]] = {name: [] for name in loops}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[STEP]) < 5:
        for name, loop in loops.items():
            times[name].append(block(name, loop))
    return {
        name: {
            "seconds": float(np.median(of)),
            "ratio_to_step": float(np.median(np.array(of) / np.array(times[STEP]))),
            "peak_bytes": memory[name],
            "rounds": len(of),
        }
        for name, of in times.items()
    }


def last_level_cache() -> int:
    """Return the bytes of the largest cache."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return 1024 * max(
        int(size.read_text(encoding="utf-8").strip().removesuffix("K")) for size in sizes
    )


def main() -> None:
    """Check all ways, time them, and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1024, help="of all layers but the last")
    parser.add_argument("--layers", type=int, default=16, help="of that width")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, help="of the optimizer; default: measured")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json", type=Path, help="the file for the results")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    start = init_params((*[arguments.width] * (arguments.layers + 1), CLASSES), rng)
    x = rng.standard_normal((arguments.batch, arguments.width), dtype=np.float32)
    labels = rng.integers(0, CLASSES, arguments.batch)
    report: dict[str, Any] = {
        "environment": environment(arguments.threads),
        "width": arguments.width,
        "layers": arguments.layers,
        "batch": arguments.batch,
        "last_level_cache_bytes": last_level_cache(),
        "layer_bytes": 3 * start[0]["W"].nbytes,
        "gradient_bytes": sum(p.nbytes for p in _arrays(start)),
    }
    print(headline(report["environment"]))
    print(
        f"{arguments.layers} layers of {arguments.width} x {arguments.width}, batch "
        f"{arguments.batch}: weights, gradient and state take {report['layer_bytes'] / 1e6:.1f} MB "
        f"a layer; last-level cache {report['last_level_cache_bytes'] / 1e6:.1f} MB"
    )
    loops = {name: Loop(start, x, labels, arguments.threads) for name in WAYS}
    check(loops, Loop(start, x, labels, arguments.threads))
    report["results"] = measure(loops, arguments.seconds)
    print(f"{'':24s}{'iteration':>11s}{'ratio':>8s}{'peak memory':>14s}")
    for name, r in report["results"].items():
        peak = f"{r['peak_bytes'] / 1e6:.1f} MB"
        print(f"{name:24s}{with_unit(r['seconds']):>11s}{r['ratio_to_step']:8.3f}{peak:>14s}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
