"""The registry of peers: ways to make one RMSProp step, each as its users would write it well.

A peer is made from parameters, gradients and a number of threads, and knows nothing of what is
measured. Packages are imported when they are needed, after the process's CPUs have been chosen.
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
BASELINE = "fused"  # the name that ratios are taken to

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = list[Array]
Step: TypeAlias = Callable[[], object]


class Contestant(NamedTuple):
    """A peer at work: ``step()`` makes one step, ``params()`` gives where it has led."""

    step: Step
    params: Callable[[], Arrays]


@dataclass(frozen=True)
class Peer:
    """How to make a contestant of float32 parameters, gradients and a number of threads.

    Parameters
    ----------
    key : str
        What the command line calls it.
    name : str
        What tables and plots call it.
    make : callable
        From parameters, which it may update in place, gradients, which it reads at every step,
        and a number of threads.
    rtol : float
        How far from the reference it may be; 0 for the same values, with ``==``.
    groups : tuple of str
        The groups of cases that it takes part in.
    packages : tuple of str
        What must be installed.
    flushes : bool
        Whether subnormal numbers count as zero.
    compiles_long : bool
        Whether many tensors take it minutes to compile; quick runs leave it out there.
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
        """The packages that are not installed, or an empty string."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else ""


def numpy_textbook(params: Arrays, grads: Arrays, threads: int) -> Contestant:
    """Two NumPy expressions, as one writes them down."""
    leaves = [(p, g, np.zeros_like(p)) for p, g in zip(params, grads, strict=True)]

    def step() -> None:
        for p, g, v in leaves:
            v[...] = ALPHA * v + (1 - ALPHA) * (g * g)
            p[...] = p - LR * g / (np.sqrt(v) + EPS)

    return Contestant(step, lambda: params)


def numpy_out(params: Arrays, grads: Arrays, threads: int) -> Contestant:
    """The same with ``out=`` and one temporary, for which ``lr`` is multiplied last."""
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
    """Compiled functions of (p, g, v): of one array, and of typed lists of arrays."""

    one: Any
    in_a_row: Any
    one_after_another: Any
    shared_out: Any


def _forbid_nested_teams() -> None:
    """Take back what Numba sets when it starts its OpenMP threads.

    It allows teams within teams, for the whole process if others share its libgomp. In torch's
    step MKL then starts teams of its own in every thread, and torch becomes fifty times slower.
    """
    with suppress(OSError):  # Numba has another threading layer
        ctypes.CDLL("libgomp.so.1").omp_set_max_active_levels(1)


@lru_cache
def numba_kernels(parallel: bool, fastmath: bool) -> NumbaKernels:
    """One fused loop over an array, and the ways to go over a list with it.

    The options are constants of the compilation, as a script's globals would be: Numba's call
    takes a third longer with four more arguments.
    """
    import numba

    # float32 scalars, or Numba computes in float64; rounded once, as NumPy does.
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
    """Ways to go over a list: a Python loop, and typed lists within compiled code."""
    from numba.typed import List

    leaves = list(zip(ps, gs, vs, strict=True))

    def python_loop() -> None:
        for p, g, v in leaves:
            kernels.one(p, g, v)

    lists = List(ps), List(gs), List(vs)
    return [python_loop, *(partial(kernel, *lists) for kernel in kernels[1:])]


def numba_loop(params: Arrays, grads: Arrays, threads: int, *, fastmath: bool) -> Contestant:
    """One fused loop; over a list, the way that is fastest for these very arrays."""
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
    """torch.optim.RMSprop on tensors that share the arrays' memory."""
    import torch

    torch.set_num_threads(threads)
    tensors = [torch.from_numpy(p).requires_grad_() for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    optimizer = torch.optim.RMSprop(tensors, lr=LR, alpha=ALPHA, eps=EPS, foreach=foreach)
    if not compiled:
        return Contestant(optimizer.step, lambda: params)
    # Without a reset, what is compiled for case after case counts as recompiling one function,
    # and torch gives up on it.
    torch._dynamo.reset()
    torch._logging.set_logs(dynamo=logging.ERROR)
    return Contestant(torch.compile(optimizer.step, dynamic=False), lambda: params)


def optax_jit(
    params: Arrays, grads: Arrays, threads: int, *, numpy_grads: bool = False
) -> Contestant:
    """optax.rmsprop under jax.jit, parameters and state donated.

    Gradients are jax's own, made once; or NumPy's, handed over anew at every step. JAX takes as
    many threads as the process has CPUs.
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
    """Ours, with bound gradients; or handing the gradients to every step."""
    tree, grad_tree = (params[0], grads[0]) if len(params) == 1 else (params, grads)
    optimizer = RMSProp(
        tree, LR, ALPHA, EPS, threads=threads, flush_denormals=flush_denormals, grads=grad_tree
    )
    step = partial(optimizer.step, grad_tree) if pass_grads else optimizer.step
    return Contestant(step, lambda: params)


def fused_default_threads(params: Arrays, grads: Arrays, threads: int) -> Contestant:
    """Ours, which finds out by itself how many of the threads help in the loop around it."""
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
