"""Faults of one rank: all must raise, nothing may change, and a good step must then work.

mpiexec -n 3 python tests/mpi/misuse_program.py [WORD IN THE NAMES OF CASES]

Prints a line for each case.
"""

from __future__ import annotations

import faulthandler
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import fused_rmsprop
from fused_rmsprop.checkpoint.state_dict import COUNTERS
from fused_rmsprop.mpi import RMSProp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from attack_support import differences, image_of

COMM = MPI.COMM_WORLD
RANK: int = COMM.Get_rank()
RANKS: int = COMM.Get_size()
#: A rank that waits so long is one that nobody told of the fault.
TIMEOUT = 20.0
Arrays = dict[str, NDArray[Any]]


@cache
def _parameters() -> Arrays:
    """Parameters of which each of three ranks has a part, in both memory orders."""
    rng = np.random.default_rng(1)
    return {
        "W": rng.standard_normal((60, 100)).astype(np.float32),
        "V": np.asfortranarray(rng.standard_normal((50, 200)).astype(np.float32)),
        "b": rng.standard_normal(7000),
        "none": np.zeros((0, 3)),
        "s": rng.standard_normal(()),
    }


def parameters() -> Arrays:
    """New copies of the first values."""
    return {name: array.copy(order="K") for name, array in _parameters().items()}


def gradients(step: int, rank: int) -> Arrays:
    """New copies of the gradients of a rank at a step."""
    return {name: array.copy(order="K") for name, array in _gradients(step, rank).items()}


@cache
def _gradients(step: int, rank: int) -> Arrays:
    rng = np.random.default_rng([step, rank])
    return {
        name: np.asarray(rng.standard_normal(p.shape)).astype(p.dtype)
        for name, p in _parameters().items()
    }


class World:
    """An optimizer over all ranks, and the one process whose bits it promises."""

    def __init__(self, **options: Any) -> None:
        self.params = parameters()
        self.opt = RMSProp(self.params, timeout=TIMEOUT, **{"lr": 0.01, **options})
        for name in ("reduction", "bucket_bytes", "abort"):
            options.pop(name, None)
        self.alone_params = parameters()
        self.alone = fused_rmsprop.RMSProp(self.alone_params, **{"lr": 0.01, **options})
        self.steps = 0
        #: What a case keeps from its preparation.
        self.kept: Any = None

    def grads(self) -> Arrays:
        """The gradients of this rank at the next step."""
        return gradients(self.steps, RANK)

    def step(self, change: Callable[[Arrays, int], object] = lambda grads, rank: None) -> None:
        """A good step; `change` may change the gradients of a rank."""
        every = [gradients(self.steps, rank) for rank in range(RANKS)]
        for rank, grads in enumerate(every):
            change(grads, rank)
        self.opt.step(every[RANK])
        for grads in every:
            self.alone.accumulate(grads)
        self.alone.step()
        self.steps += 1

    def image(self) -> dict[str, object]:
        """All that a refused call must leave as it is."""
        opt = self.opt
        return image_of(
            params=self.params,
            state=opt.state,
            sums=[group.grad_sums() for group in opt._groups],
            counters={name: getattr(opt._stepper, name) for name in COUNTERS},
            options=[dict(group) for group in opt.param_groups],
            frozen=opt.frozen,
            warned=opt._stepper.warned_of_spreading,
        )

    def wrong(self) -> list[str]:
        """What differs from one process."""
        ours = image_of(params=self.params, state=self.opt.gather_state())
        theirs = image_of(params=self.alone_params, state=self.alone.state)
        return differences(ours, theirs)


#: What a case does, and whether this rank is the bad one.
Call = Callable[[World, bool], object]


@dataclass
class Case:
    """A fault, on the rank for which `bad` is true."""

    name: str
    #: The call, which all ranks make together.
    call: Call
    #: The classes of the error on the bad rank; None: on all.
    error: type[BaseException] | tuple[type[BaseException], ...]
    #: What the message says on all ranks; {victim} is the bad rank.
    words: tuple[str, ...]
    #: Whether all ranks raise this error, and not only the bad one.
    everywhere: bool = False
    #: Options of the optimizer.
    options: dict[str, Any] | None = None
    #: Changes before the call, and their end.
    prepare: Call = lambda world, bad: None
    mend: Call = lambda world, bad: None
    #: Whether rank 0 alone can make this fault.
    at_root: bool = False


def caught(call: Callable[[], object]) -> BaseException | None:
    """The error of a call."""
    try:
        call()
    except Exception as error:
        return error
    return None


def problems(case: Case, victim: int) -> list[str]:
    """What goes otherwise than promised on this rank."""
    bad = victim == RANK
    world = World(**case.options or {})
    world.step()
    case.prepare(world, bad)
    before = world.image()
    error = caught(lambda: case.call(world, bad))
    found = wrong_error(case, victim, error)
    if changed := differences(before, world.image()):
        found.append(f"changed: {changed[:5]}")
    case.mend(world, bad)
    if any(COMM.allgather(found)):  # the optimizer may be of no use any more
        return found
    if error := caught(world.step):
        return [*found, f"the good step raised {error!r}"]
    if wrong := world.wrong():
        found.append(f"other bits than one process: {wrong[:5]}")
    return found


def wrong_error(case: Case, victim: int, error: BaseException | None) -> list[str]:
    """In what the error differs from the promise."""
    if error is None:
        return ["raised nothing"]
    expected = case.error if case.everywhere or victim == RANK else fused_rmsprop.mpi.RankError
    text = str(error)
    found = [] if isinstance(error, expected) else [f"raised {error!r}"]
    words = [word.format(victim=victim) for word in case.words]
    if not case.everywhere and victim != RANK:
        words.append(f"rank {victim} raised an error")
    return found + [f"{word!r} is not in {text!r}" for word in words if word not in text]


def run(name: str, check: Callable[[], list[str]]) -> bool:
    """Check on all ranks, and print a line."""
    try:
        found = check()
    except Exception as error:
        found = [f"the check raised {error!r}"]
    every = [
        f"rank {rank}: {text}" for rank, row in enumerate(COMM.allgather(found)) for text in row
    ]
    if RANK == 0:
        print("FAIL" if every else "ok", name, *every, flush=True)
    return not every


def main(word: str) -> None:
    """Check all cases."""
    import misuse_good
    from misuse_building import CHECKS, group_cases
    from misuse_calls import differing_cases, file_cases, schedule_cases
    from misuse_gradients import gradient_cases, nonfinite_cases, parameter_cases

    faulthandler.dump_traceback_later(100, exit=True)
    warnings.simplefilter("error")
    cases = [
        *gradient_cases(),
        *parameter_cases(),
        *nonfinite_cases(),
        *differing_cases(),
        *schedule_cases(),
        *file_cases(),
        *group_cases(),
    ]
    good = [
        run(f"{case.name}, on rank {victim}", partial(problems, case, victim))
        for case in cases
        if word in case.name
        for victim in ((0,) if case.at_root else (0, RANKS - 1))
    ]
    good += [
        run(name, check) for name, check in (CHECKS | misuse_good.CHECKS).items() if word in name
    ]
    if RANK == 0:
        print(f"{sum(good)} of {len(good)} cases are good", flush=True)


if __name__ == "__main__":
    sys.modules["misuse_program"] = sys.modules["__main__"]
    main(sys.argv[1] if len(sys.argv) > 1 else "")
