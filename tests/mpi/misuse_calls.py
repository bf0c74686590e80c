"""Faults for `misuse_program.py`: calls, settings, schedules and files that differ on one rank."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from misuse_gradients import put_back, replaced, shown
from misuse_program import Call, Case, World

from fused_rmsprop.mpi import RankError

DIFFER = ("the ranks differ in", "must make the same calls with the same options")


def later(name: str, value: Any, before: Any, words: str, **options: Any) -> Case:
    """A setting that one rank has changed."""
    return Case(
        f"step: {name} set later",
        lambda w, bad: w.opt.step(w.grads()),
        RankError,
        (*DIFFER, words, str(value), str(before)),
        everywhere=True,
        options=options,
        prepare=lambda w, bad: setattr(w.opt, name, value) if bad else None,
        mend=lambda w, bad: setattr(w.opt, name, before),
    )


def calling(good: Callable[[World], object], other: Callable[[World], object]) -> Call:
    """Another call where it is bad."""
    return lambda world, bad: other(world) if bad else good(world)


def differing_cases() -> Iterator[Case]:
    """Settings and calls that differ among the ranks."""
    yield later("lr", 0.5, 0.01, "lr of group 0")
    yield later("max_grad_norm", 2.0, None, "max_grad_norm")
    yield later("max_grad_norm_per_array", 2.0, None, "max_grad_norm_per_array")
    yield later("max_grad_value", 2.0, 1.0, "max_grad_value", max_grad_value=1.0)
    yield later("on_nonfinite", "skip", "raise", "on_nonfinite", on_nonfinite="raise")
    yield later("flush_denormals", False, True, "flush_denormals")
    calls: dict[str, tuple[Callable[[World], object], Callable[[World], object], str]] = {
        "grad_scale": (
            lambda w: w.opt.step(w.grads(), 0.5),
            lambda w: w.opt.step(w.grads(), 0.25),
            "grad_scale",
        ),
        "step and accumulate": (
            lambda w: w.opt.step(w.grads()),
            lambda w: w.opt.accumulate(w.grads()),
            "the call: '",
        ),
        "step and save": (
            lambda w: w.opt.step(w.grads()),
            lambda w: w.opt.save(io.BytesIO()),
            "where the optimizer was saved",
        ),
        "step and use_ema": (
            lambda w: w.opt.step(w.grads()),
            shown,
            "where averages were shown",
        ),
        "accumulate and state_dict": (
            lambda w: w.opt.accumulate(w.grads()),
            lambda w: w.opt.state_dict(),
            "where a state_dict was made",
        ),
        "step and add_param_group": (
            lambda w: w.opt.step(w.grads()),
            lambda w: w.opt.add_param_group({"params": np.zeros(3)}),
            "a parameter group added",
        ),
        "another root": (
            lambda w: w.opt.gather_state(),
            lambda w: w.opt.gather_state(0),
            "root",
        ),
    }
    for name, (good, other, words) in calls.items():
        yield Case(
            name,
            calling(good, other),
            RankError,
            ("the ranks differ in", words),
            everywhere=True,
            options={"ema_decay": 0.5},
        )
    yield Case(
        "step: frozen on one rank",
        lambda w, bad: w.opt.step(w.grads()),
        RankError,
        (*DIFFER, "frozen", "'W'"),
        everywhere=True,
        prepare=lambda w, bad: w.opt.freeze("W") if bad else None,
        mend=lambda w, bad: w.opt.unfreeze(),
    )
    yield Case(
        "step: sums dropped on one rank",
        lambda w, bad: w.opt.step(w.grads() if bad else None),
        RankError,
        (*DIFFER, "accumulated"),
        everywhere=True,
        prepare=dropped,
        mend=lambda w, bad: w.opt.discard_accumulated(),
    )
    yield Case(
        "step: gradients beside sums",
        lambda w, bad: w.opt.step(w.grads() if bad else None),
        ValueError,
        ("discard_accumulated() drops those",),
        prepare=lambda w, bad: w.opt.accumulate(w.grads()),
        mend=lambda w, bad: w.opt.discard_accumulated(),
    )
    yield Case(
        "step: grad_scale out of bounds",
        lambda w, bad: w.opt.step(w.grads(), -1.0 if bad else 1.0),
        ValueError,
        ("grad_scale must be finite and > 0", "1 / loss_scale"),
    )


def dropped(world: World, bad: bool) -> None:
    """Sums of which one rank has forgotten its part."""
    world.opt.accumulate(world.grads())
    if bad:
        world.opt.discard_accumulated()


class Schedule:
    """A learning rate that is wrong when it is told to be."""

    def __init__(self, wrong: Any) -> None:
        self.wrong = wrong
        self.broken = False

    def __call__(self, step: int) -> float:
        if not self.broken:
            return 0.01
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return float(self.wrong)


def schedule_cases() -> Iterator[Case]:
    """Functions of the step that fail on one rank."""
    wrongs: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
        "raises": (ZeroDivisionError("my own"), ZeroDivisionError, ("my own",)),
        "is out of bounds": (-1.0, ValueError, ("lr", "param_groups[0]")),
    }

    def prepare(world: World, bad: bool, wrong: Any) -> None:
        world.kept = Schedule(wrong)
        world.opt.param_groups[0]["lr"] = world.kept
        world.step()  # the value of this step is kept
        world.kept.broken = bad

    def again(world: World, bad: bool) -> None:
        """Call it twice: the second error may be the same object."""
        try:
            world.opt.step(world.grads())
        except Exception:
            world.opt.step(world.grads())

    for name, (wrong, error, words) in wrongs.items():
        for how, call in {"": lambda w, bad: w.opt.step(w.grads()), ", twice": again}.items():
            yield Case(
                f"step: a schedule {name}{how}",
                call,
                error,
                words,
                prepare=partial(prepare, wrong=wrong),
                mend=lambda w, bad: setattr(w.kept, "broken", False),
            )
    yield Case(
        "step: a schedule has another value",
        lambda w, bad: w.opt.step(w.grads()),
        RankError,
        (*DIFFER, "lr of group 0", "0.125"),
        everywhere=True,
        prepare=partial(prepare, wrong=0.125),
        mend=lambda w, bad: end_of(w),
    )


def end_of(world: World) -> None:
    """The schedule's good value again, which a number sets anew."""
    world.kept.broken = False
    world.opt.param_groups[0]["lr"] = 0.01


class FullDisk(io.BytesIO):
    """A file that takes no bytes."""

    def write(self, data: Any) -> int:
        if len(data):
            raise OSError(28, "No space left on device")
        return 0


def saving(path: Any) -> Call:
    """Save into a file that cannot be written, where it is bad."""
    return lambda world, bad: world.opt.save(path if bad else io.BytesIO())


def changing(change: Callable[[dict[str, Any]], object]) -> Call:
    """Keep a state of this optimizer, changed where it is bad."""

    def prepare(world: World, bad: bool) -> None:
        world.kept = world.opt.state_dict()
        if bad:
            change(world.kept)

    return prepare


def renamed_leaf(state: dict[str, Any]) -> None:
    """Another name of a parameter."""
    state["state"]["w"] = state["state"].pop("W")
    state["param_groups"][0]["params"][0] = "w"


WRONG_STATES: dict[str, tuple[Callable[[dict[str, Any]], object], Any, tuple[str, ...], bool]] = {
    "other names": (renamed_leaf, ValueError, ("'W'", "rename="), False),
    "no counters": (lambda s: s.pop("counters"), ValueError, ("counters",), False),
    "another shape": (
        lambda s: s["state"]["W"].update(square_avg=np.zeros(3, np.float32)),
        ValueError,
        ("state['W']['square_avg']", "(3,)"),
        False,
    ),
    "a bad option": (
        lambda s: s["param_groups"][0].update(alpha=2.0),
        ValueError,
        ("alpha",),
        False,
    ),
    "another lr": (
        lambda s: s["param_groups"][0].update(lr=0.5),
        RankError,
        ("lr of group 0",),
        True,
    ),
    "another setting": (
        lambda s: s["settings"].update(max_grad_norm=0.5),
        RankError,
        ("max_grad_norm",),
        True,
    ),
    "another count": (
        lambda s: s["counters"].update(step_count=7),
        RankError,
        ("step_count",),
        True,
    ),
    "another count of a parameter": (
        lambda s: s["state"]["b"].update(step=np.array(7)),
        RankError,
        ("the state of 'b'",),
        True,
    ),
    "frozen": (
        lambda s: s["param_groups"][0].update(frozen=["b"]),
        RankError,
        ("frozen",),
        True,
    ),
}


def file_cases() -> Iterator[Case]:
    """Saves and loads that fail on one rank."""
    paths: dict[str, tuple[Any, type[Exception], str]] = {
        "no folder": (Path("/no such folder/a.npz"), OSError, "folder"),
        "bad extension": (Path("checkpoint.zip"), ValueError, ".npz"),
        "full disk": (FullDisk(), OSError, "No space left"),
    }
    for name, (path, error, word) in paths.items():
        yield Case(f"save: {name}", saving(path), error, (word,), at_root=True)
    yield Case(
        "save: another array in the parameters",
        lambda w, bad: w.opt.save(io.BytesIO()),
        ValueError,
        ("params['W']",),
        prepare=replaced,
        mend=put_back,
    )
    for name, (change, kind, words, everywhere) in WRONG_STATES.items():
        yield Case(
            f"load_state_dict: {name}",
            lambda w, bad: w.opt.load_state_dict(w.kept),
            kind,
            words,
            everywhere=everywhere,
            prepare=changing(change),
        )
