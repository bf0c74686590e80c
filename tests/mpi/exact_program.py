"""Trains over MPI and in one process beside it, and compares every bit: run by test_exact.py.

mpiexec -n 3 python exact_program.py SECTION
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))


from combinations_support import COMBINATIONS
from fused_rmsprop import PRESETS, schedules
from fused_rmsprop import RMSProp as OneProcess
from fused_rmsprop.mpi import RMSProp

COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.rank, COMM.size
Nest = dict[str, Any]
SHAPES: dict[str, tuple[int, ...]] = {
    "cut": (3 * 4096 + 5,),
    "0-d": (),
    "rows": (113, 97),
    "columns": (97, 113),  # in Fortran's order
    "none": (0, 3),
    "few": (7,),
}
LIMITS: list[dict[str, Any]] = [
    {"max_grad_norm": 1.5},
    {"max_grad_norm_per_array": 0.5},
    {"max_grad_norm": 2.0, "max_grad_norm_per_array": 1.0, "max_grad_value": 0.7},
    {"max_grad_norm": np.inf},
    {"on_nonfinite": "skip", "max_grad_norm": 3.0},
    {"on_nonfinite": "skip", "max_grad_value": 0.1},
    {"on_nonfinite": "skip"},
    {"on_nonfinite": "raise"},
    {"flush_denormals": False, "max_grad_norm": 1.0},
]


def draw(shapes: dict[str, tuple[int, ...]], dtype: Any, seed: int) -> Nest:
    """Arrays of these shapes; one of them has its columns in a row."""
    rng = np.random.default_rng(seed)
    drawn = {k: np.asarray(rng.standard_normal(shape), dtype) for k, shape in shapes.items()}
    return {k: np.asfortranarray(a) if k == "columns" else a for k, a in drawn.items()}


def gradients(dtype: Any, rank: int, step: int, shapes: Any = SHAPES) -> Nest:
    """The gradients of a rank: some leaves are None on some ranks, one on all at times."""
    grads = draw(shapes, dtype, 1000 + 10 * step + rank)
    for i, name in enumerate(grads):
        if (i + rank + step) % 5 == 0 or (i, step) == (5, 1):
            grads[name] = None
    return grads


def like(array: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return np.asarray(rng.standard_normal(array.shape), array.dtype)


def bits(nest: Nest) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in nest.items()}


class Pair:
    """An optimizer over MPI, and one in this process that steps what all ranks' gradients are."""

    def __init__(self, params: Callable[[], Any], **options: Any) -> None:
        self.params, self.expected = params(), params()
        own = {"bucket_bytes": options.pop("bucket_bytes", 1 << 13)}
        self.opt = RMSProp(self.params, **options, **own)
        self.one = OneProcess(self.expected, **{**options, "threads": 1})

    def step(self, of_rank: Callable[[int], Any], **scale: float) -> None:
        self.opt.step(of_rank(RANK), **scale)
        self.accumulate_in_one(of_rank)
        self.one.step(**scale)

    def accumulate_in_one(self, of_rank: Callable[[int], Any]) -> None:
        for rank in range(RANKS):
            self.one.accumulate(of_rank(rank))

    def check(self, what: object) -> None:
        """Parameters, state, counters and the norm are those of one process."""
        leaves = zip(_leaves(self.params), _leaves(self.expected), strict=True)
        assert all(a.tobytes() == b.tobytes() for a, b in leaves), what
        assert repr(self.opt.grad_norm) == repr(self.one.grad_norm), what
        ours, theirs = self.opt.state_dict(), self.one.state_dict()
        assert ours["counters"] == theirs["counters"], what
        assert ours["state"].keys() == theirs["state"].keys()
        for name, arrays in ours["state"].items():
            assert bits(arrays) == bits(theirs["state"][name]), (what, name)


def _leaves(nest: Any) -> list[np.ndarray[Any, Any]]:
    if isinstance(nest, dict):
        return [leaf for value in nest.values() for leaf in _leaves(value)]
    if isinstance(nest, list):
        return [leaf for value in nest for leaf in _leaves(value)]
    return [nest] if isinstance(nest, np.ndarray) else []


def combinations() -> None:
    """Every combination of options that the exactness tests generate, both dtypes."""
    for dtype in (np.float32, np.float64):
        start = draw(SHAPES, dtype, 1)
        grads = [[gradients(dtype, rank, step) for rank in range(RANKS)] for step in range(3)]
        for options in COMBINATIONS:
            copies = {"bucket_bytes": 1 << 15, **options}
            pair = Pair(lambda: {k: a.copy("K") for k, a in start.items()}, **copies)  # noqa: B023
            for of_step in grads:
                pair.step(of_step.__getitem__)
            pair.check((dtype, options))
    print(f"{2 * len(COMBINATIONS)} combinations", flush=True)


def limits() -> None:
    """Clipping and the check of finiteness, with gradients of all sizes and a loss scale."""
    options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}
    for dtype in (np.float32, np.float64):
        for limit in LIMITS:
            pair = Pair(lambda: draw(SHAPES, dtype, 1), **options, **limit)  # noqa: B023
            sizes = [1.0, 1e-30, 1e15, *([1e-200, 1e200] if dtype is np.float64 else [])]
            for step, size in enumerate(sizes):
                grads = [gradients(dtype, rank, step) for rank in range(RANKS)]
                for nest in grads:
                    for name in nest:
                        nest[name] = None if nest[name] is None else nest[name] * dtype(size)
                if limit.get("on_nonfinite") == "raise" and size == 1e200:
                    with pytest.raises(FloatingPointError):
                        pair.opt.step(grads[RANK])
                    continue
                pair.step(grads.__getitem__, grad_scale=0.7)
                pair.check((dtype, limit, size))
            if limit.get("on_nonfinite") == "raise":
                pair.check((dtype, limit, "refused"))
            elif limit.get("on_nonfinite") == "skip":
                grads[-1]["cut"] = np.full(SHAPES["cut"], np.nan, dtype)  # on the last rank alone
                pair.step(grads.__getitem__)
                pair.check((dtype, limit, "a NaN"))
                skipped = pair.opt.skipped_steps
                assert skipped >= 1
                overflowing = {k: np.zeros_like(g) for k, g in draw(SHAPES, dtype, 1).items()}
                overflowing["cut"][-1] = RANKS * (1e21 if dtype is np.float32 else 1e155)
                pair.step(lambda rank: overflowing)  # noqa: B023
                pair.check((dtype, limit, "a square that overflows"))
                assert len(limit) > 1 or pair.opt.skipped_steps == skipped + 1
    print(f"{2 * len(LIMITS)} limits", flush=True)


def mixed_dtypes() -> None:
    """Leaves of both dtypes in groups of their own options, one of them a schedule, one frozen."""

    def params() -> list[dict[str, Any]]:
        small = draw(SHAPES, np.float32, 1)
        large = draw(SHAPES, np.float64, 2)
        both = {"small": small["cut"], "large": large["rows"], "few": small["few"]}
        return [
            {"params": both, "lr": schedules.Linear(0.1, end_value=0.0, transition_steps=9)},
            {"params": [large["cut"], small["columns"]], "momentum": 0.9, "name": "second"},
        ]

    def grads(rank: int, step: int) -> list[Any]:
        nests = [{k: v for k, v in group.items() if k == "params"} for group in params()]
        rng = np.random.default_rng(100 * step + rank)
        return [
            {key: like(array, rng) for key, array in nests[0]["params"].items()},
            [like(array, rng) for array in nests[1]["params"]],
        ]

    for limit in ({}, {"max_grad_norm": 1.0}):
        pair = Pair(params, alpha=0.9, ema_decay=0.5, **limit)
        for step in range(6):
            if step == 2:
                for opt in (pair.opt, pair.one):
                    opt.freeze("second.1")
            if step == 4:
                for opt in (pair.opt, pair.one):
                    opt.unfreeze()
                    opt.scale_lr(0.5)
                    opt.param_groups[1]["centered"] = True
                extra = [np.linspace(0, 1, 9001) for _ in range(2)]
                pair.opt.add_param_group({"params": extra[0], "lr": 0.3})
                pair.one.add_param_group({"params": extra[1], "lr": 0.3})

            def of_rank(rank: int, step: int = step) -> list[Any]:
                more = [np.sin(np.arange(9001.0) + rank)] if step >= 4 else []
                return grads(rank, step) + more

            pair.step(of_rank)
            pair.check((limit, step))
        with pair.opt.use_ema(), pair.one.use_ema():
            leaves = zip(_leaves(pair.params), _leaves(pair.expected), strict=True)
            assert all(a.tobytes() == b.tobytes() for a, b in leaves)
        pair.check("after use_ema")
    print("groups, schedules, frozen leaves, averages", flush=True)


def another_call() -> None:
    """One rank calls something else inside `use_ema`: all raise, and have the trained values."""
    pair = Pair(lambda: draw(SHAPES, np.float32, 1), lr=0.1, ema_decay=0.5)
    grads = [gradients(np.float32, rank, 0) for rank in range(RANKS)]
    pair.step(grads.__getitem__)
    calls: list[Callable[[], object]] = [
        pair.opt.gather_state,
        lambda: pair.opt.save("/nonexistent/run.npz"),
        lambda: pair.opt.step(grads[RANK]),
    ]

    def block(call: Callable[[], object], victim: int) -> None:
        with pair.opt.use_ema():
            if victim == RANK:
                call()

    for call in calls:
        for victim in {0, RANKS - 1}:
            with pytest.raises(RuntimeError):  # RankError is one
                block(call, victim)
            pair.check("trained")
    pair.step(grads.__getitem__)
    pair.check("a step after that")
    print("another call", flush=True)


def accumulation() -> None:
    """Several accumulations, one of them dropped, and bound gradients."""
    pair = Pair(lambda: draw(SHAPES, np.float32, 1), lr=0.01, max_grad_norm=1.0)
    for step in range(3):
        for call in range(step + 1):
            grads = [gradients(np.float32, rank, 10 * step + call) for rank in range(RANKS)]
            pair.opt.accumulate(grads[RANK])
            pair.accumulate_in_one(grads.__getitem__)
            pair.check(("sums", step, call))
        if step == 1:
            pair.opt.discard_accumulated()
            pair.one.discard_accumulated()
            continue
        pair.opt.step(grad_scale=0.5)
        pair.one.step(grad_scale=0.5)
        pair.check(("step", step))
    bound = [draw(SHAPES, np.float32, 50 + rank) for rank in range(RANKS)]
    pair.opt.bind_grads(bound[RANK])
    pair.opt.step()
    pair.accumulate_in_one(bound.__getitem__)
    pair.one.step()
    pair.check("bound")
    print("accumulation", flush=True)


def sizes() -> None:
    """More ranks than elements, one element, nothing but empty arrays beside it, whole chunks."""
    for count in (1, 2, 3, 5, 4096, 2 * 4096, 2 * 4096 + 1, 9 * 4096):
        for dtype in (np.float32, np.float64):
            pair = Pair(
                lambda: {"a": np.ones(count, dtype), "b": np.zeros((0, 2), dtype)},  # noqa: B023
                lr=0.1,
                max_grad_norm=1.0,
                bucket_bytes=1 if count < 10 else 1 << 12,
            )
            for step in range(2):
                pair.step(lambda rank: draw({"a": (count,), "b": (0, 2)}, dtype, 7 * step + rank))  # noqa: B023
                pair.check((count, dtype))
    for alone in (np.float32(1.5), np.arange(3.0)):
        pair = Pair(lambda: np.array(alone))  # noqa: B023
        pair.step(lambda rank: np.array(alone * (rank + 1)))  # noqa: B023
        pair.check(alone)
    print("sizes", flush=True)


def presets() -> None:
    """The options of other implementations."""
    for name in PRESETS:
        start = draw(SHAPES, np.float32, 1)
        params = [{k: a.copy("K") for k, a in start.items()} for _ in range(2)]
        opt = RMSProp.from_preset(name, params[0], lr=0.01, bucket_bytes=1 << 13)
        one = OneProcess.from_preset(name, params[1], lr=0.01, threads=1)
        for step in range(2):
            grads = [gradients(np.float32, rank, step) for rank in range(RANKS)]
            opt.step(grads[RANK])
            for rank in range(RANKS):
                one.accumulate(grads[rank])
            one.step()
            assert bits(params[0]) == bits(params[1]), name
    print(f"{len(PRESETS)} presets", flush=True)


class Counting:
    """A communicator that counts the bytes that leave this rank."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def Ialltoallv(self, out: Any, into: Any) -> Any:  # noqa: N802
        buffer, counts = out
        self.sent += (sum(counts) - counts[RANK]) * buffer.itemsize
        return self._comm.Ialltoallv(out, into)

    def Iallgatherv(self, own: Any, into: Any) -> Any:  # noqa: N802
        self.sent += (RANKS - 1) * own.nbytes
        return self._comm.Iallgatherv(own, into)


def shares() -> None:
    """Each rank has its share of the state, and sends what the share tells."""
    shapes: dict[str, tuple[int, ...]] = {
        "large": (100 * 4096 + 77,),
        "small": (9,),
        "odd": (5, 4097),
    }
    params, expected = draw(shapes, np.float32, 1), draw(shapes, np.float32, 1)
    grads = draw(shapes, np.float32, 2 + RANK)
    opt = RMSProp(params, momentum=0.9)
    one = OneProcess(expected, momentum=0.9)
    opt.step(grads)
    one.accumulate(grads)  # which also has sums
    share = one.state_nbytes / RANKS
    assert abs(opt.state_nbytes - share) <= 3 * 4096 * 4
    assert sum(COMM.allgather(opt.state_nbytes)) == one.state_nbytes
    own = sum(arrays["square_avg"].size for arrays in opt.state.values())
    total = sum(array.size for array in params.values())
    comm = opt._ranks.comm = Counting(opt._ranks.comm)
    before = opt._traffic.bytes_sent
    opt.step(grads)
    computed = 4 * ((total - own) + (RANKS - 1) * own)
    agreement = (RANKS - 1) * 31
    assert opt._traffic.bytes_sent - before == computed
    assert comm.sent == computed + agreement
    print("shares", flush=True)


def fast() -> None:
    """The library's own order: the same values up to rounding, and the same on all ranks."""
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-13)):
        limits: list[dict[str, Any]] = [{}, {"max_grad_norm": 1.0}]
        for limit in limits:
            params, expected = draw(SHAPES, dtype, 1), draw(SHAPES, dtype, 1)
            opt = RMSProp(params, lr=0.01, reduction="fast", bucket_bytes=1 << 13, **limit)
            one = OneProcess(expected, lr=0.01, threads=1, **limit)
            for step in range(3):
                grads = [gradients(dtype, rank, step) for rank in range(RANKS)]
                opt.step(grads[RANK])
                for rank in range(RANKS):
                    one.accumulate(grads[rank])
                one.step()
            for name, array in params.items():
                np.testing.assert_allclose(array, expected[name], rtol=tolerance, atol=tolerance)
            assert len(set(COMM.allgather(tuple(bits(params).items())))) == 1
            assert opt.step_count == one.step_count == 3
            if RANKS <= 2:  # the sum of two has one order
                assert bits(params) == bits(expected)
    print("fast", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
