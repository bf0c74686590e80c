"""Trains and saves without end, on each rank; `kills.py` launches it, and stops it at random.

python kills_program.py FOLDER FAULT VICTIM STEP
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIMEOUT = 2.0
SAVED_EVERY = 3
Arrays = dict[str, NDArray[Any]]


def parameters() -> Arrays:
    """Parameters of which each of four ranks has a part, at their first values."""
    rng = np.random.default_rng(1)
    return {
        "W": rng.standard_normal((120, 200)).astype(np.float32),
        "b": rng.standard_normal(3000),
    }


def gradients(step: int, rank: int) -> Arrays:
    """The gradients of a rank at a step."""
    factor = np.cos(1.0 + step + 0.1 * rank)
    return {name: (factor * p).astype(p.dtype) for name, p in _FIRST.items()}


_FIRST = parameters()

#: The options of the training and of its reference in one process.
OPTIONS: dict[str, Any] = {"lr": 1e-3, "momentum": 0.5, "max_grad_norm": 5.0}


def train(folder: Path, fault: str, victim: int, last: int) -> None:
    """Step and save, until this rank's own fault or that of another ends it."""
    from mpi4py import MPI  # starts MPI, which the launcher must not

    from fused_rmsprop.mpi import RMSProp

    params = parameters()
    rank = MPI.COMM_WORLD.Get_rank()
    log = os.open(folder / f"log.{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)  # mpiexec may end before it has passed on the last words
    (folder / f"pid.{rank}").write_text(str(os.getpid()), encoding="utf-8")
    MPI.COMM_WORLD.Barrier()  # so that the time of imports does not count
    opt = RMSProp(params, timeout=TIMEOUT, threads=1, **OPTIONS)
    for step in range(1_000_000):
        if step == last and rank == victim and fault in ("exit", "raise"):
            (folder / "failed").touch()
            if fault == "exit":
                sys.exit(3)
            raise ZeroDivisionError("the program's own error")
        opt.step(gradients(step, rank))
        if step % SAVED_EVERY == 0:
            opt.save(folder / "checkpoint.npz")


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
