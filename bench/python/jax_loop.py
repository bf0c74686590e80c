"""Time a JAX loop whose parameters are updated by `RMSProp.step` or by optax.rmsprop under jit.

    python bench/python/jax_loop.py --json jax_loop.json

JAX computes the gradients of an MLP on the CPU in all ways. Then `RMSProp` updates NumPy arrays in
place; or optax updates JAX arrays, in a jitted function of its own or in one with the gradients,
whose buffers are donated. The parameters after three iterations are compared first (relative
tolerance 1e-4: compilers round differently), then all are timed in turn, each until its result is
complete. Prints the median of a whole iteration and the median ratio to the first within a round.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fused_rmsprop import RMSProp

from report import environment

CHECKED_ITERATIONS = 3
OURS = "RMSProp.step"
OPTIONS = {"lr": 1e-3, "alpha": 0.9, "eps": 1e-8}
Params = list[dict[str, Any]]


def loss(params: Params, x: Any, y: Any) -> Any:
    """Return the mean squared error of an MLP."""
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["W"] + layer["b"])
    return jnp.mean((x @ params[-1]["W"] + params[-1]["b"] - y) ** 2)


def ours(start: Params, x: Any, y: Any, threads: int | None) -> Callable[[], Params]:
    """Return an iteration that updates NumPy arrays in place."""
    params = [{name: p.copy() for name, p in layer.items()} for layer in start]
    opt = RMSProp.from_preset("optax", params, **OPTIONS, threads=threads)
    gradients = jax.jit(jax.grad(loss))

    def iterate() -> Params:
        opt.step(jax.block_until_ready(gradients(params, x, y)))
        return params

    return iterate


def by_optax(start: Params, x: Any, y: Any, fused: bool) -> Callable[[], Params]:
    """Return an iteration by optax, jitted as one function or as two."""
    transform = optax.rmsprop(OPTIONS["lr"], decay=OPTIONS["alpha"], eps=OPTIONS["eps"])
    params: Any = jax.tree_util.tree_map(jnp.array, start)
    state = transform.init(params)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    gradients = jax.jit(jax.grad(loss))
    update_alone = jax.jit(update, donate_argnums=(0, 1))
    together = jax.jit(lambda p, s: update(p, s, jax.grad(loss)(p, x, y)), donate_argnums=(0, 1))

    def iterate() -> Params:
        nonlocal params, state
        if fused:
            params, state = together(params, state)
        else:
            params, state = update_alone(params, state, gradients(params, x, y))
        return jax.block_until_ready(params)  # type: ignore[no-any-return]

    return iterate


def check(ways: dict[str, Callable[[], Params]]) -> None:
    """Train for some iterations; exit unless all parameters agree."""
    results = {}
    for name, iterate in ways.items():
        for _ in range(CHECKED_ITERATIONS):
            params = iterate()
        results[name] = [np.array(leaf) for leaf in jax.tree_util.tree_leaves(params)]
    for name, leaves in results.items():
        for leaf, expected in zip(leaves, results[OURS], strict=True):
            if not np.allclose(leaf, expected, rtol=1e-4, atol=1e-5):
                sys.exit(f"{name} differs from {OURS}")


def block(iterate: Callable[[], Params], repeats: int = 9) -> float:
    """Return the median seconds of an iteration."""
    time.sleep(0.05)  # until the previous contestant's threads stop spinning
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        iterate()
        times.append(time.perf_counter() - began)
    return float(np.median(times[2:]))  # the first wake the threads up


def measure(ways: dict[str, Callable[[], Params]], seconds: float) -> dict[str, Any]:
    """Time all ways in turn; return medians and ratios."""
    for _ in range(5):  # the tuner finds its plan
        block(ways[OURS])
    times: dict[str, list[float]] = {name: [] for name in ways}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[OURS]) < 5:
        for name, iterate in ways.items():
            times[name].append(block(iterate))
    return {
        name: {
            "seconds": float(np.median(of)),
            "ratio_to_ours": float(np.median(np.array(of) / np.array(times[OURS]))),
            "rounds": len(of),
        }
        for name, of in times.items()
    }


def main() -> None:
    """Check all ways, time them, and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[784, 512, 512, 10])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, help="of RMSProp; default: measured")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path, help="the file for the results")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    sizes = arguments.sizes
    start: Params = [
        {"W": rng.standard_normal((n, m), np.float32) / n**0.5, "b": np.zeros(m, np.float32)}
        for n, m in pairwise(sizes)
    ]
    x = rng.standard_normal((arguments.batch, sizes[0]), np.float32)
    y = rng.standard_normal((arguments.batch, sizes[-1]), np.float32)
    ways = {
        OURS: ours(start, x, y, arguments.threads),
        "optax, jitted alone": by_optax(start, x, y, fused=False),
        "optax, jitted with the gradients": by_optax(start, x, y, fused=True),
    }
    check(ways)
    results = measure(ways, arguments.seconds)
    for name, of in results.items():
        print(f"{name:34} {of['seconds'] * 1e6:9.1f} us {of['ratio_to_ours']:6.2f}")
    if arguments.json:
        about = {"sizes": sizes, "batch": arguments.batch}
        found = {"environment": environment(arguments.threads), **about, "results": results}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
