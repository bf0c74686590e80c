"""Millions of steps: memory stays flat, bits stay right, and a step takes the time that it took.

    python tests/attack/soak.py --steps 10000000 --real 100000 --front-end both

``--steps`` steps three small arrays, ``--real`` 161 arrays with the sizes of ResNet-50's, of which
the large ones are divided by a hundred. Now and then, the NumPy reference makes a few steps from a
copy of the state, and the bits are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import reference
from attack_support import memory_now, print_table
from fused_rmsprop import RMSProp

OPTIONS: dict[str, Any] = {"lr": 1e-4, "alpha": 0.9, "eps": 1e-8, "momentum": 0.9, "centered": True}
SMALL = ((16, 8), (8,), ())
#: After the warm-up, the resident memory may grow by this much, whatever the number of steps.
GROWTH = 2 << 20
CHECKS, CHECKED_STEPS, GRADS = 20, 5, 7


class End(NamedTuple):
    """An optimizer: its parameters and state as arrays, and a step with these gradients."""

    params: list[Any]
    state: Callable[[int], Any]
    step: Callable[[list[Any]], None]


def resnet_shapes() -> list[tuple[int, ...]]:
    """The sizes of ResNet-50's parameters; the large ones are divided by a hundred."""
    shapes = [(9408,), (64,), (64,)]
    wide = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            sizes = [wide * width, width * width * 9, width * width * 4]
            shapes += [shape for n in sizes for shape in ((n,), (width,), (width,))]
            if block == 0:
                shapes += [(wide * width * 4,), (width * 4,), (width * 4,)]
            wide = width * 4
    shapes += [(2048 * 1000,), (1000,)]
    return [(n // 100 if n > 4096 else n,) for (n,) in shapes]


def numpy_end(params: list[Any]) -> End:
    opt = RMSProp(params, **OPTIONS)
    states = list(opt.state.values())
    return End(params, lambda i: dict(states[i]), opt.step)


def torch_end(params: list[Any]) -> End:
    import torch

    from fused_rmsprop.torch import RMSprop

    torch.set_num_threads(1)
    tensors = [torch.from_numpy(p).requires_grad_() for p in params]
    opt = RMSprop(tensors, **OPTIONS)

    def state(i: int) -> dict[str, Any]:
        return {key: value.numpy().copy() for key, value in opt.state[tensors[i]].items()}

    def step(grads: list[Any]) -> None:
        for p, grad in zip(tensors, grads, strict=True):
            p.grad = grad
        opt.step()

    return End(params, state, step)


def check_bits(end: End, grads: list[list[Any]]) -> None:
    """A few steps beside the reference, which begins with a copy of what there is."""
    params = [p.copy() for p in end.params]
    states = []
    for i in range(len(params)):
        state = {key: np.array(value) for key, value in end.state(i).items()}
        state["square_avg"] = state.pop("variance")
        states.append({**state, "step": int(state["step"])})
    for step in range(CHECKED_STEPS):
        end.step(grads[step])
        with reference.flushed_denormals():
            for i, grad in enumerate(grads[step]):
                params[i], states[i] = reference.rmsprop(
                    params[i], np.asarray(grad), states[i], **OPTIONS
                )
    for i, param in enumerate(params):
        assert reference.same_bits(end.params[i], param), "a parameter has other bits"
        for key, value in end.state(i).items():
            expected = states[i]["square_avg" if key == "variance" else key]
            assert np.array_equal(value, np.asarray(expected)), f"{key} has other bits"


def soak(front_end: str, shapes: Sequence[tuple[int, ...]], steps: int) -> list[object]:
    """Make the steps; the row of the report. An `AssertionError` tells what was wrong."""
    rng = np.random.default_rng(0)
    params = [np.asarray(rng.standard_normal(shape), np.float32) for shape in shapes]
    draw = [[np.asarray(rng.standard_normal(s), np.float32) for s in shapes] for _ in range(GRADS)]
    end = (numpy_end if front_end == "numpy" else torch_end)(params)
    grads: list[list[Any]] = draw
    if front_end == "torch":
        import torch

        grads = [[torch.from_numpy(g) for g in step] for step in draw]
    part = max(1, steps // CHECKS)
    times = []
    for i in range(CHECKS + 1):  # the first part warms up
        start = time.perf_counter()
        for step in range(part):
            end.step(grads[step % GRADS])
        times.append((time.perf_counter() - start) / part * 1e6)
        check_bits(end, grads)
        if i == 0:
            before = memory_now()
    growth = memory_now() - before
    assert growth <= GROWTH, f"the memory has grown by {growth:,} bytes"
    assert int(end.state(0)["step"]) == (CHECKS + 1) * (part + CHECKED_STEPS)
    tenth = max(1, CHECKS // 10)
    first, last = (statistics.median(t) for t in (times[1 : 1 + tenth], times[-tenth:]))
    done = f"{(CHECKS + 1) * part:,}"
    return [front_end, len(shapes), done, f"{growth:,}", f"{first:.2f}", f"{last:.2f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--real", type=int, default=100_000)
    parser.add_argument("--front-end", choices=["numpy", "torch", "both"], default="both")
    given = parser.parse_args(arguments)
    rows = [
        soak(end, shapes, steps)
        for end in (["numpy", "torch"] if given.front_end == "both" else [given.front_end])
        for shapes, steps in ((SMALL, given.steps), (resnet_shapes(), given.real))
        if steps
    ]
    head = ["front end", "arrays", "steps", "bytes grown", "first us/step", "last us/step"]
    print_table(head, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
