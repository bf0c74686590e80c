"""Trains, saves in the middle of an accumulation, or goes on from there: run by test_checkpoint.py.

mpiexec -n 3 python checkpoint_program.py save|go_on|one FILE
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from mpi4py import MPI

from fused_rmsprop import RMSProp as OneProcess
from fused_rmsprop import schedules
from fused_rmsprop.mpi import RMSProp

COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.rank, COMM.size
GRADIENTS = 12  # of a step; 1, 2, 3 and 4 ranks divide it
OPTIONS: dict[str, Any] = {
    "lr": schedules.Cosine(0.05, end_value=0.0, transition_steps=20),
    "momentum": 0.9,
    "centered": True,
    "ema_decay": 0.9,
    "max_grad_norm": 1.0,
}


def params(fill: float | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    drawn: dict[str, Any] = {
        "W": rng.standard_normal((200, 300)).astype(np.float32),
        "columns": np.asfortranarray(rng.standard_normal((120, 90))),
        "axes": rng.standard_normal((20, 30, 40)).transpose(2, 0, 1),
        "b": rng.standard_normal(5),
        "one": np.array(2.0),
        "none": np.zeros((3, 0), np.float32),
    }
    if fill is not None:
        for array in drawn.values():
            array[...] = fill
    return drawn


def grads(step: int, index: int) -> dict[str, Any]:
    rng = np.random.default_rng(1000 * step + index)
    return {
        key: np.asarray(rng.standard_normal(array.shape), array.dtype)
        for key, array in params().items()
    }


def accumulate(opt: OneProcess, step: int) -> None:
    """Gradients in the order that one process takes them in."""
    if isinstance(opt, RMSProp):
        for index in range(RANK, GRADIENTS, RANKS):
            opt.accumulate(grads(step, index))
    else:
        for index in range(GRADIENTS):
            opt.accumulate(grads(step, index))


def first_half(opt: OneProcess) -> None:
    for step in range(2):
        accumulate(opt, step)
        opt.step()
    opt.freeze("b")
    accumulate(opt, 2)


def second_half(opt: OneProcess) -> None:
    accumulate(opt, 3)
    opt.step()
    opt.unfreeze()
    accumulate(opt, 4)
    opt.step()


def check(opt: OneProcess, found: dict[str, Any]) -> None:
    """The parameters and all state are those of one process without a break."""
    expected = params()
    one = OneProcess(expected, **OPTIONS)
    first_half(one)
    second_half(one)
    for key, array in found.items():
        assert array.tobytes() == expected[key].tobytes(), key
    ours, theirs = opt.state_dict(), one.state_dict()
    assert ours["counters"] == theirs["counters"]
    for key, arrays in theirs["state"].items():
        for kind, array in arrays.items():
            assert ours["state"][key][kind].tobytes() == array.tobytes(), (key, kind)


def main(action: str, path: str) -> None:
    if action == "save":
        opt: OneProcess = RMSProp(params(), **OPTIONS)
        first_half(opt)
        opt.save(path)
    elif action == "save in one":
        opt = OneProcess(params(), **OPTIONS)
        first_half(opt)
        opt.save(path)
    elif action == "go on":
        found = params(fill=RANK)
        opt = RMSProp.load(path if RANK == 0 else "elsewhere", found)  # rank 0 alone reads it
        second_half(opt)
        check(opt, found)
    elif action == "go on in one":
        found = params(fill=7)
        opt = OneProcess.load(path, found)
        second_half(opt)
        check(opt, found)
    elif action == "partly":
        rename = {"W": "weight"}
        found = {"weight": params()["W"], "b": np.zeros(4), "new": np.ones(9000)}
        opt, report = RMSProp.load(path, found, strict=False, rename=rename)
        assert (report.missing, report.unfitting) == (["new"], ["b"])
        again = {"weight": params()["W"], "b": np.zeros(4), "new": np.ones(9000)}
        one, _ = OneProcess.load(path, again, strict=False, rename=rename)
        ours, theirs = opt.state_dict()["state"], one.state_dict()["state"]
        for key in found:
            assert found[key].tobytes() == again[key].tobytes()
            assert all(ours[key][k].tobytes() == a.tobytes() for k, a in theirs[key].items())
    else:
        raise ValueError(action)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
