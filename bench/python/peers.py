"""The registry of peers: implementations of an RMSProp step, each as an expert would write it.

A peer takes parameters, gradients and a number of threads and is independent of the measurement.
Packages are imported on demand, after the process has been restricted to its CPUs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import RMSProp

LR, ALPHA, EPS = 1e-3, 0.9, 1e-8
BASELINE = "fused"  # ratios are relative to this peer

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = list[Array]
Step: TypeAlias = Callable[[], object]


class Contestant(NamedTuple):
    """A running peer: ``step()`` makes one step, ``params()`` returns the parameters."""

    step: Step
    params: Callable[[], Arrays]


@dataclass(frozen=True)
class Peer:
    """An implementation, from which contestants are made.

    Parameters
    ----------
    key : str
        The name on the command line.
    name : str
        The name in tables and plots.
    make : callable
        Makes a contestant from float32 parameters, which it may update in place, gradients, which
        it reads at every step, and a number of threads.
    rtol : float
        The tolerance for the comparison with the reference; 0 means ``==``.
    groups : tuple of str
        The groups of cases that it takes part in.
    packages : tuple of str
        The required packages.
    flushes : bool
        Whether subnormal numbers count as zero.
    compiles_long : bool
        Whether compiling for many tensors takes minutes; quick runs skip it then.
    """

    key: str
    name: str
    make: Callable[[Arrays, Arrays, int], Contestant]
    rtol: float
    groups: tuple[str, ...] = ("sizes", "lists", "training")
    packages: tuple[str, ...] = ()
    flushes: bool = False
    compiles_long: bool = False

    def missing(self) -> str:
        """Name the packages that are not installed; empty if there are none."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else ""


def numpy_textbook(params: Arrays, grads: Arrays, threads: int) -> Contestant:
    """Make the two textbook NumPy expressions."""
    leaves = [(p, g, np.zeros_like(p)) for p, g in zip(params, grads, strict=True)]

    def step() -> None:
        for p, g, v in leaves:
            v[...] = ALPHA * v + (1 - ALPHA) * (g * g)
            p[...] = p - LR * g / (np.sqrt(v) + EPS)

    return Contestant(step, lambda: params)


def numpy_out(params: Arrays, grads: Arrays, threads: int) -> Contestant:
    """Make the same with ``out=`` and one temporary; ``lr`` is therefore multiplied last."""
    temporary = np.empty(max(p.size for p in params), np.float32)
    leaves = [
        (p, g, np.zeros_like(p), temporary[: p.size].reshape(p.shape))
        for p, g in zip(params, grads, strict=True)
    ]

    def step() -> None:
        for p, g, v, t in leaves:
            np.multiply(g, g, out=t)
            np.multiply(t, 1 - ALPHA, out=t)
            np.multiply(v, ALPHA, out=v)
            np.add(v, t, out=v)
            np.sqrt(v, out=t)
            np.add(t, EPS, out=t)
            np.divide(g, t, out=t)
            np.multiply(t, LR, out=t)
            np.subtract(p, t, out=p)

    return Contestant(step, lambda: params)


class NumbaKernels(NamedTuple):
    """Compiled functions of (p, g, v), for one array and for typed lists of arrays."""

    one: Any
    in_a_row: Any
    one_after_another: Any
    shared_out: Any


def _forbid_nested_teams() -> None:
    """Undo a setting that Numba makes when it starts its OpenMP threads.

    It allows nested teams in the whole process if its libgomp is shared. MKL then starts a team in
    every thread of torch's step, which becomes fifty times slower.
    """
    with suppress(OSError):  # Numba has another threading layer
        ctypes.CDLL("libgomp.so.1").omp_set_max_active_levels(1)


@lru_cache
def numba_kernels(parallel: bool, fastmath: bool) -> NumbaKernels:
    """Compile a fused loop over an array, and several loops over a list of arrays.

    The options are compile-time constants, like globals in a script: a call with four more
    arguments takes a third longer.
    """
    import numba

    # With Python floats Numba would compute in float64. NumPy also rounds each scalar once.
    lr, alpha, rest, eps = (np.float32(x) for x in (LR, ALPHA, 1 - ALPHA, EPS))
    serial = numba.njit(fastmath=fastmath, error_model="numpy")
    threaded = numba.njit(fastmath=fastmath, error_model="numpy", parallel=True)

    def loop(p: Any, g: Any, v: Any) -> None:
        for i in numba.prange(p.size):
            v[i] = alpha * v[i] + rest * (g[i] * g[i])
            p[i] -= lr * g[i] / (np.sqrt(v[i]) + eps)

    by_one = serial(loop)
    one = threaded(loop) if parallel else by_one

    def in_a_row(ps: Any, gs: Any, vs: Any) -> None:
        for k in range(len(ps)):
            by_one(ps[k], gs[k], vs[k])

    def one_after_another(ps: Any, gs: Any, vs: Any) -> None:
        for k in range(len(ps)):
            one(ps[k], gs[k], vs[k])

    def shared_out(ps: Any, gs: Any, vs: Any) -> None:
        for i in numba.prange(len(ps)):
            k = np.int64(i)
            by_one(ps[k], gs[k], vs[k])

    if parallel:
        nothing = np.empty(0, np.float32)
        one(nothing, nothing, nothing)
        _forbid_nested_teams()
    return NumbaKernels(
        one,
        serial(in_a_row),
        serial(one_after_another),
        threaded(shared_out) if parallel else serial(in_a_row),
    )


def numba_list_ways(kernels: NumbaKernels, ps: Arrays, gs: Arrays, vs: Arrays) -> list[Step]:
    """Return the ways to process a list: a Python loop, and compiled loops over typed lists."""
    from numba.typed import List

    leaves = list(zip(ps, gs, vs, strict=True))

    def python_loop() -> None:
        for p, g, v in leaves:
            kernels.one(p, g, v)

    lists = List(ps), List(gs), List(vs)
    return [python_loop, *(partial(kernel, *lists) for kernel in kernels[1:])]


def numba_loop(params: Arrays, grads: Arrays, threads: int, *, fastmath: bool) -> Contestant:
    """Make one fused loop; for a list, choose the fastest way for these arrays."""
    import numba

    numba.set_num_threads(threads)
    kernels = numba_kernels(threads > 1, fastmath)
    ps, gs = ([a.reshape(-1) for a in arrays] for arrays in (params, grads))
    vs = [np.zeros_like(p) for p in ps]
    if len(ps) == 1:
        p, g, v = ps[0], gs[0], vs[0]
        return Contestant(lambda: kernels.one(p, g, v), lambda: params)
    trials = []
    for way in numba_list_ways(kernels, [p.copy() for p in ps], gs, [v.copy() for v in vs]):
        way()  # compiles
        times = []
        for _ in range(5):
            began = time.perf_counter()
            way()
            times.append(time.perf_counter() - began)
        trials.append(min(times))
    fastest = trials.index(min(trials))
    return Contestant(numba_list_ways(kernels, ps, gs, vs)[fastest], lambda: params)


def torch_rmsprop(
    params: Arrays,
    grads: Arrays,
    threads: int,
    *,
    foreach: bool | None = None,
    compiled: bool = False,
) -> Contestant:
    """Make torch.optim.RMSprop on tensors that share the arrays' memory."""
    import torch

    torch.set_num_threads(threads)
    tensors = [torch.from_numpy(p).requires_grad_() for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    optimizer = torch.optim.RMSprop(tensors, lr=LR, alpha=ALPHA, eps=EPS, foreach=foreach)
    if not compiled:
        return Contestant(optimizer.step, lambda: params)
    # Without a reset, each case counts as recompiling the same function, and torch gives up.
    torch._dynamo.reset()
    torch._logging.set_logs(dynamo=logging.ERROR)
    return Contestant(torch.compile(optimizer.step, dynamic=False), lambda: params)


def optax_jit(
    params: Arrays, grads: Arrays, threads: int, *, numpy_grads: bool = False
) -> Contestant:
    """Make optax.rmsprop under jax.jit, with donated parameters and state.

    Gradients are jax arrays made once, or NumPy arrays passed anew at every step. JAX uses as many
    threads as the process has CPUs.
    """
    import jax
    import optax

    optimizer = optax.rmsprop(LR, decay=ALPHA, eps=EPS, eps_in_sqrt=False)

    def update(p: Any, state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(g, state, p)
        return optax.apply_updates(p, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    ps = [jax.numpy.array(p) for p in params]
    gs = grads if numpy_grads else [jax.numpy.array(g) for g in grads]
    state = optimizer.init(ps)

    def step() -> None:
        nonlocal ps, state
        ps, state = compiled(ps, state, gs)
        jax.block_until_ready(ps)

    return Contestant(step, lambda: [np.asarray(p) for p in ps])


def fused(
    params: Arrays,
    grads: Arrays,
    threads: int | None,
    *,
    pass_grads: bool = False,
    flush_denormals: bool = True,
) -> Contestant:
    """Make ours, with bound gradients or passing gradients at every step."""
    tree, grad_tree = (params[0], grads[0]) if len(params) == 1 else (params, grads)
    optimizer = RMSProp(
        tree, LR, ALPHA, EPS, threads=threads, flush_denormals=flush_denormals, grads=grad_tree
    )
    step = partial(optimizer.step, grad_tree) if pass_grads else optimizer.step
    return Contestant(step, lambda: params)


def fused_default_threads(params: Arrays, grads: Arrays, threads: int) -> Contestant:
    """Make ours with the default number of threads, chosen by timing."""
    return fused(params, grads, None)


NEAR = 1e-6
WITH_DENORMALS = ("sizes", "lists", "denormals", "training")
PEERS = (
    Peer("numpy", "NumPy, textbook", numpy_textbook, 0, WITH_DENORMALS),
    Peer("numpy-out", "NumPy, out=", numpy_out, NEAR),
    Peer("numba", "Numba", partial(numba_loop, fastmath=False), 0, packages=("numba",)),
    Peer(
        "numba-fastmath",
        "Numba, fastmath",
        partial(numba_loop, fastmath=True),
        NEAR,
        packages=("numba",),
    ),
    Peer("torch", "torch", torch_rmsprop, NEAR, WITH_DENORMALS, packages=("torch",)),
    Peer(
        "torch-foreach",
        "torch, foreach",
        partial(torch_rmsprop, foreach=True),
        NEAR,
        packages=("torch",),
    ),
    Peer(
        "torch-compile",
        "torch.compile",
        partial(torch_rmsprop, compiled=True),
        NEAR,
        packages=("torch",),
        compiles_long=True,
    ),
    Peer("optax", "optax, jit", optax_jit, NEAR, ("sizes", "lists"), packages=("jax", "optax")),
    Peer(
        "optax-numpy",
        "optax, jit",
        partial(optax_jit, numpy_grads=True),
        NEAR,
        ("training",),
        packages=("jax", "optax"),
    ),
    Peer("fused", BASELINE, fused, 0, ("sizes", "lists", "denormals"), flushes=True),
    Peer("fused-default", BASELINE, fused_default_threads, 0, ("training",), flushes=True),
    Peer(
        "fused-step-grads",
        "fused, step(grads)",
        partial(fused, pass_grads=True),
        0,
        ("lists",),
        flushes=True,
    ),
    Peer(
        "fused-subnormals",
        "fused, no flushing",
        partial(fused, flush_denormals=False),
        0,
        ("denormals",),
    ),
)
