"""Faults for `misuse_program.py`: gradients and parameters that are wrong on one rank."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from misuse_program import Arrays, Call, Case, World

Change = Callable[[Arrays], object]


def changed(world: World, bad: bool, change: Change) -> Arrays:
    """The gradients of this rank, changed on the bad rank."""
    grads = world.grads()
    if bad:
        change(grads)
    return grads


def stepping(change: Change) -> Call:
    """A step whose gradients are changed on the bad rank."""
    return lambda world, bad: world.opt.step(changed(world, bad, change))


def accumulating(change: Change) -> Call:
    """The same, of sums."""
    return lambda world, bad: world.opt.accumulate(changed(world, bad, change))


def binding(change: Change) -> Call:
    """Gradients that are changed after they are bound."""

    def bind(world: World, bad: bool) -> None:
        bound = world.grads()
        world.opt.bind_grads(bound)
        if bad:
            change(bound)

    return bind


def set_to(name: str, value: Any) -> Change:
    """Put a value in the place of a gradient."""
    return lambda grads: grads.update({name: value})


def put(name: str, place: tuple[int, ...], value: float) -> Change:
    """Write a value into a gradient."""

    def change(grads: Arrays) -> None:
        grads[name][place] = value

    return change


WRONG_GRADIENTS: dict[str, tuple[Change, Any, tuple[str, ...]]] = {
    "shape": (set_to("W", np.zeros((60, 99), np.float32)), ValueError, ("grads['W']", "(60, 99)")),
    "dtype": (set_to("b", np.zeros(7000, np.float32)), TypeError, ("grads['b']", "float32")),
    "another key": (set_to("c", np.zeros(3)), ValueError, ("'c'",)),
    "no key": (lambda grads: grads.pop("V"), ValueError, ("grads['V'] is missing", "None")),
    "no array": (set_to("V", "zeros"), TypeError, ("grads['V']",)),
}


def gradient_cases() -> Iterator[Case]:
    """Gradients that do not fit, given to a step, to a sum, and bound."""
    for name, (change, error, words) in WRONG_GRADIENTS.items():
        yield Case(
            f"step: {name} of a gradient",
            stepping(change),
            error,
            words,
        )
        yield Case(
            f"accumulate: {name} of a gradient",
            accumulating(change),
            error,
            words,
        )
        yield Case(
            f"bound: {name} of a gradient",
            lambda w, bad: w.opt.step(),
            error,
            words,
            prepare=binding(change),
            mend=lambda w, bad: w.opt.bind_grads(None),
        )
    yield Case(
        "step: a gradient is a parameter",
        lambda w, bad: w.opt.step(changed(w, bad, set_to("W", w.params["W"]))),
        ValueError,
        ("grads['W']", "memory"),
    )


def writable(world: World, bad: bool, flag: bool) -> None:
    """Let a parameter of the bad rank be written to, or not."""
    if bad:
        world.params["b"].flags.writeable = flag


def replaced(world: World, bad: bool) -> None:
    """Another array in the place of a parameter."""
    if bad:
        world.kept, world.params["W"] = world.params["W"], world.params["W"].copy()


def put_back(world: World, bad: bool) -> None:
    """The old array again."""
    if bad:
        world.params["W"] = world.kept


def shown(world: World) -> None:
    """Look at the averages."""
    with world.opt.use_ema():
        pass


def parameter_cases() -> Iterator[Case]:
    """Parameters of one rank that can no longer be updated."""
    lock: dict[str, Any] = {
        "prepare": partial(writable, flag=False),
        "mend": partial(writable, flag=True),
    }
    words = ("params['b']", "read-only")
    yield Case("step: read-only", lambda w, bad: w.opt.step(w.grads()), ValueError, words, **lock)
    yield Case(
        "use_ema: read-only",
        lambda w, bad: shown(w),
        ValueError,
        words,
        options={"ema_decay": 0.9},
        **lock,
    )
    yield Case(
        "step: another array in the parameters",
        lambda w, bad: w.opt.step(w.grads()),
        ValueError,
        ("params['W']",),
        prepare=replaced,
        mend=put_back,
    )


@contextmanager
def warnings_are_errors(bad: bool) -> Iterator[None]:
    """On the bad rank only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error" if bad else "ignore")
        yield


def nonfinite_cases() -> Iterator[Case]:
    """NaN and infinity in the gradients of one rank."""

    def warned(world: World, bad: bool) -> None:
        with warnings_are_errors(bad):
            world.opt.step(changed(world, bad, put("W", (3, 4), np.nan)))

    yield Case(
        "step: a warning is an error",
        warned,
        RuntimeWarning,
        ("grads['W']", "max_grad_norm", "on_nonfinite='skip'"),
        options={"max_grad_norm": 1.0},
    )
    for value in (np.nan, np.inf, -np.inf):
        for name, place in {"W": (3, 4), "V": (49, 190), "b": (6999,), "s": ()}.items():
            at = str(place)
            yield Case(
                f"step: {value} in {name}",
                stepping(put(name, place, value)),
                FloatingPointError,
                (f"grads['{name}'] of rank {{victim}}", at, str(value), "nothing has changed"),
                everywhere=True,
                options={"on_nonfinite": "raise"},
            )
            yield Case(
                f"step: {value} in the sum of {name}",
                lambda w, bad: w.opt.step(),
                FloatingPointError,
                (f"the sum of the gradients of params['{name}']", at, "discard_accumulated()"),
                everywhere=True,
                options={"on_nonfinite": "raise"},
                prepare=accumulating(put(name, place, value)),
                mend=lambda w, bad: w.opt.discard_accumulated(),
            )
    yield Case(
        "step: the sum overflows",
        lambda w, bad: w.opt.step(changed(w, True, put("V", (9, 150), np.float32(3e38).item()))),
        FloatingPointError,
        ("the sum of the gradients of params['V']", "(9, 150): inf", "nothing has changed"),
        everywhere=True,
        options={"on_nonfinite": "raise"},
    )
    yield Case(
        "step: the square overflows",
        lambda w, bad: w.opt.step(changed(w, bad, put("V", (9, 150), 1e25))),
        FloatingPointError,
        ("params['V']", "(9, 150)", "overflows float32", "grad_scale"),
        everywhere=True,
        options={"on_nonfinite": "raise"},
    )
