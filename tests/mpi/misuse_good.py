"""Checks for `misuse_program.py`: what may differ among ranks, and what all do together."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from misuse_program import (
    COMM,
    RANK,
    RANKS,
    Arrays,
    World,
    caught,
    gradients,
    parameters,
)

import fused_rmsprop
from attack_support import differences, image_of

VICTIM = RANKS - 1


def good_differences() -> list[str]:
    """Threads, the memory order of gradients, and None may differ among the ranks."""
    world = World(momentum=0.5, threads=1 if RANK == VICTIM else None)

    def other_order(grads: Arrays, rank: int) -> None:
        if rank == VICTIM:
            grads["W"] = np.asfortranarray(grads["W"])

    def none(grads: Any, rank: int) -> None:
        grads["V"] = None
        if rank == VICTIM:
            grads["b"] = grads["s"] = None

    def nothing(grads: Any, rank: int) -> None:
        grads.update(dict.fromkeys(grads))

    for change in (other_order, none, nothing):
        world.step(change)
    return world.wrong()


def accumulated() -> list[str]:
    """The mean of several gradients of each rank, of which some are None."""
    world = World(momentum=0.5, max_grad_norm=1e6)
    for _ in range(2):
        for rank in range(RANKS):
            grads: dict[str, Any] = {**gradients(world.steps, rank), "b": None}
            if rank == RANK:
                mine = grads
            world.alone.accumulate(grads)
        world.opt.accumulate(mine)
        world.steps += 1
    world.opt.step()
    world.alone.step()
    return world.wrong()


def skipped() -> list[str]:
    """A NaN in one rank lets all leave the step out."""
    found = []
    for value in (np.nan, np.inf):
        world = World(on_nonfinite="skip", momentum=0.5)
        world.step()

        def change(grads: Arrays, rank: int, value: float = value) -> None:
            if rank == VICTIM:
                grads["V"][3, 4] = value

        before = image_of(params=world.params, state=world.opt.state)
        world.step(change)
        found += differences(before, image_of(params=world.params, state=world.opt.state))
        if (world.opt.skipped_steps, world.opt.step_count) != (1, 1):
            found.append(f"{world.opt.skipped_steps} skipped, {world.opt.step_count} made")
        world.step()
        found += world.wrong()
    return found


def propagated() -> list[str]:
    """A NaN in one rank spreads as it does in one process, with a warning where it is clipped."""
    found = []
    for options in ({}, {"max_grad_norm": 1.0}):
        world = World(**options)

        def change(grads: Arrays, rank: int) -> None:
            if rank == VICTIM:
                grads["V"][3, 4] = np.nan

        with warnings.catch_warnings(record=True) as caught_warnings:
            warnings.simplefilter("always")
            world.step(change)
            world.step(change)
        if len(caught_warnings) != 2 * len(options):  # of both optimizers, once each
            found.append(f"{len(caught_warnings)} warnings")
        found += world.wrong()
        if not np.isnan(world.params["V"]).any():
            found.append("no NaN came through")
    return found


def error_inside_averages() -> list[str]:
    """The trained values come back after an error."""
    world = World(ema_decay=0.9)
    for _ in range(3):
        world.step()
    before = world.image()

    def fail() -> None:
        with world.opt.use_ema():
            for name, array in world.params.items():
                if not np.array_equal(array, world.alone.state[name]["param_avg"]):
                    found.append(f"{name} is not its average")
                array[...] = 7
            raise ZeroDivisionError

    found: list[str] = []
    if not isinstance(error := caught(fail), ZeroDivisionError):
        found.append(f"raised {error!r}")
    found += differences(before, world.image())
    world.step()
    return found + world.wrong()


def calls_inside_averages() -> list[str]:
    """Averages are shown on all ranks, which refuse to change anything meanwhile."""
    world = World(ema_decay=0.9)
    world.step()
    state, before = world.opt.state_dict(), world.image()
    calls: list[Callable[[], object]] = [
        lambda: world.opt.step(world.grads()),
        lambda: world.opt.accumulate(world.grads()),
        lambda: world.opt.save(io.BytesIO()),
        lambda: world.opt.add_param_group({"params": np.ones(3)}),
        lambda: world.opt.load_state_dict(state),
        world.opt.gather_state,
    ]
    with world.opt.use_ema():
        errors = [caught(call) for call in calls]
    found = [
        f"inside use_ema: {error!r}"
        for error in errors
        if not isinstance(error, RuntimeError) or "use_ema" not in str(error)
    ]
    return found + differences(before, world.image())


def bound_on_one() -> list[str]:
    """Binding concerns one rank alone: the others do not wait."""
    world = World()
    bound = world.grads()
    error = caught(lambda: world.opt.bind_grads({} if RANK == VICTIM else bound))
    found = [] if isinstance(error, ValueError) == (RANK == VICTIM) else [f"raised {error!r}"]
    world.opt.bind_grads(bound)
    world.opt.step()
    for rank in range(RANKS):
        world.alone.accumulate(COMM.bcast(bound, rank))
    world.alone.step()
    return found + world.wrong()


def saved() -> list[str]:
    """A file that ranks save goes on in one process, after a save that failed."""
    world = World(momentum=0.5)
    world.step()
    caught(lambda: world.opt.save("/no such folder/a.npz"))
    file = io.BytesIO()
    world.opt.save(file)
    if RANK == 0:
        file.seek(0)
        params = parameters()
        alone = fused_rmsprop.RMSProp.load(file, params)
        ours = image_of(params=params, state=alone.state)
        return differences(ours, image_of(params=world.alone_params, state=world.alone.state))
    return [] if file.tell() == 0 else ["another rank wrote"]


CHECKS: dict[str, Callable[[], list[str]]] = {
    "good: threads, orders and None": good_differences,
    "good: sums": accumulated,
    "good: skip": skipped,
    "good: propagate": propagated,
    "good: use_ema": error_inside_averages,
    "good: calls inside use_ema": calls_inside_averages,
    "good: bind_grads on one rank": bound_on_one,
    "good: save": saved,
}
