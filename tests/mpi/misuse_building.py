"""Checks for `misuse_program.py`: optimizers that one rank makes, groups or loads otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from misuse_program import (
    RANK,
    RANKS,
    TIMEOUT,
    Arrays,
    Call,
    Case,
    World,
    caught,
    parameters,
    wrong_error,
)

import fused_rmsprop
from attack_support import image_of
from fused_rmsprop.mpi import RankError, RMSProp

Check = Callable[[], list[str]]
#: What rank 0 and the last one are given: arguments of the class, and how it refuses them.
Given = tuple[Any, dict[str, Any]]
VICTIM = RANKS - 1


def refused(
    make: Callable[[bool], object],
    error: type[BaseException],
    words: tuple[str, ...],
    params: object,
) -> list[str]:
    """What goes wrong where all ranks must refuse; an optimizer made afterwards must be good."""
    case = Case("", lambda world, bad: None, error, words, everywhere=error is RankError)
    before = image_of(params=params)
    found = wrong_error(case, VICTIM, caught(lambda: make(RANK == VICTIM)))
    if image_of(params=params) != before:
        found.append("the parameters have changed")
    world = World()
    world.step()
    return found + world.wrong()


def instead(name: str, array: Any) -> Arrays:
    """Parameters with another array."""
    return {**parameters(), name: array}


def one_less() -> Arrays:
    """Parameters without the last."""
    params = parameters()
    params.popitem()
    return params


def together() -> Arrays:
    """Two parameters that share memory."""
    memory = np.ones(10)
    return {"a": memory[:6], "b": memory[4:]}


def made(params: Callable[[], Any] = parameters, **options: Any) -> Given:
    """The arguments of the bad rank."""
    return params(), options


def bad_makings() -> dict[str, tuple[Given, type[BaseException], tuple[str, ...]]]:
    """What the bad rank gives, while the others give `parameters()` and no options."""
    transposed = np.asfortranarray(parameters()["W"])
    shifted = parameters()["W"]
    shifted[3, 4] += 1
    inside = {"net": parameters()}
    groups = [{"params": parameters()}, {"params": np.ones(3)}]
    values = ("the values of 'W'", "the same seed", "comm.Bcast(array)")
    return {
        "name": (made(lambda: {"X" if k == "W" else k: p for k, p in parameters().items()}),
                 RankError, ("the parameters", "'X'")),
        "structure": (made(lambda: inside), RankError, ("the parameters", "'net.W'")),
        "number": (made(one_less), RankError, ("the parameters",)),
        "shape": (made(lambda: instead("b", np.zeros(7))), RankError,
                  ("parameter 'b'", "(7000,)", "(7,)")),
        "dtype": (made(lambda: instead("s", np.zeros((), np.float32))), RankError,
                  ("parameter 's'", "float32", "float64")),
        "memory order": (made(lambda: instead("W", transposed)), RankError,
                         ("parameter 'W'", "axes in memory [1, 0]")),
        "values": (made(lambda: instead("W", shifted)), RankError, values),
        "number of groups": (made(lambda: groups), RankError, ("number of parameter groups",)),
        "no arrays": (made(dict), RankError, ("the parameters",)),
        "no container": (made(lambda: "W"), TypeError, ("params",)),
        "shared memory": (made(together), ValueError, ("share memory",)),
        "read-only": (made(lambda: instead("s", np.broadcast_to(np.ones(()), ()))),
                      ValueError, ("params['s']", "read-only")),
        "lr": (made(lr=0.5), RankError, ("lr of group 0", "0.5")),
        "a schedule": (made(lr=lambda step: 0.25), RankError, ("lr of group 0", "0.25")),
        "momentum": (made(momentum=lambda step: 0.5), RankError, ("momentum of group 0",)),
        "a failing schedule": (made(lr=lambda step: 1 // step), ZeroDivisionError, ("division",)),
        "centered": (made(centered=True), RankError, ("centered of group 0", "True")),
        "max_grad_norm": (made(max_grad_norm=1.0), RankError, ("max_grad_norm: None", "1.0")),
        "on_nonfinite": (made(on_nonfinite="skip"), RankError, ("on_nonfinite", "'skip'")),
        "reduction": (made(reduction="fast"), RankError, ("reduction",)),
        "bucket_bytes": (made(bucket_bytes=1000), RankError, ("bucket_bytes", "1000")),
        "a bad lr": (made(lr=-1.0), ValueError, ("lr must be",)),
        "an unknown option": (made(learning_rate=1.0), TypeError, ("learning_rate", "lr")),
        "a bad reduction": (made(reduction="sum"), ValueError, ("'ordered' or 'fast'",)),
        "a bad bucket": (made(bucket_bytes=0), ValueError, ("bucket_bytes must be an int",)),
        "a bad timeout": (made(timeout=-1.0), ValueError, ("timeout must be > 0",)),
        "a bad abort": (made(abort=1), TypeError, ("abort must be True or False",)),
        "a bad number of threads": (made(threads=0), ValueError, ("threads must be",)),
        "bad gradients": (made(grads={"W": 1}), ValueError, ("grads",)),
    }  # fmt: skip


def making_checks() -> Iterator[tuple[str, Check]]:
    """Optimizers that one rank makes otherwise."""
    for name, (given, error, words) in bad_makings().items():

        def check(given: Given = given, error: Any = error, words: Any = words) -> list[str]:
            good: Given = parameters(), {}
            params, options = given if RANK == VICTIM else good

            def make(bad: bool) -> object:
                return RMSProp(params, **{"timeout": TIMEOUT, **options})

            return refused(make, error, words, params)

        yield f"construction: {name}", check


def odd_names() -> list[str]:
    """Names that are those of options, or hold characters that nobody expects, can be compared."""
    params = {"max_grad_norm": np.ones(3), "a\0b": np.ones(3), "\1": np.ones(2)}
    if RANK == VICTIM:
        params["a\0b"] = np.ones(4)
    return refused(
        lambda bad: RMSProp(params, timeout=TIMEOUT), RankError, ("parameter 'a\\x00b'",), params
    ) + refused(
        lambda bad: RMSProp({"frozen": np.ones(4 if bad else 3)}, timeout=TIMEOUT),
        RankError,
        ("parameter 'frozen'", "(4,)"),
        params,
    )


def adding(bad_group: Callable[[World], Any]) -> Call:
    """Another group on the bad rank."""
    return lambda world, bad: world.opt.add_param_group(
        bad_group(world) if bad else {"params": np.ones(3)}
    )


def group_cases() -> Iterator[Case]:
    """Parameter groups that one rank adds otherwise."""
    bad_groups: dict[str, tuple[Callable[[World], Any], Any, tuple[str, ...]]] = {
        "shape": (lambda w: {"params": np.ones(4)}, RankError, ("parameter '1'", "(4,)")),
        "name": (lambda w: {"params": np.ones(3), "name": "x"}, RankError, ("['x']",)),
        "values": (lambda w: {"params": np.zeros(3)}, RankError, ("the values of '1'",)),
        "lr": (lambda w: {"params": np.ones(3), "lr": 0.5}, RankError, ("lr of group 1: ", "0.5")),
        "order": (lambda w: {"params": {"a": np.ones(3)}}, RankError, ("'1.a'",)),
        "shared memory": (lambda w: {"params": w.params["b"]}, ValueError, ("share memory",)),
        "no group": (lambda w: np.ones(3), TypeError, ("'params'",)),
        "unknown option": (
            lambda w: {"params": np.ones(3), "rate": 1.0},
            ValueError,
            ("'rate'",),
        ),
    }
    for name, (bad_group, error, words) in bad_groups.items():
        yield Case(
            f"add_param_group: {name}",
            adding(bad_group),
            error,
            words,
            everywhere=error is RankError,
        )


def loading_checks() -> Iterator[tuple[str, Check]]:
    """Files that cannot be loaded, or that one rank loads otherwise."""

    def loaded(
        change: Callable[[Path], object], options: dict[str, Any], params: Callable[[], Any]
    ) -> Callable[[bool], object]:
        def load(bad: bool) -> object:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "a.npz"
                fused_rmsprop.RMSProp(parameters()).save(path)
                change(path)
                if bad:
                    return RMSProp.load(path, params(), **{"timeout": TIMEOUT, **options})
                return RMSProp.load(path, parameters(), timeout=TIMEOUT)

        return load

    def truncate(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:1000])

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def everywhere(change: Callable[[Path], object], words: tuple[str, ...]) -> Check:
        def check() -> list[str]:
            error = caught(lambda: loaded(change, {}, parameters)(False))
            kind = (ValueError, OSError) if RANK == 0 else RankError
            text = str(error)
            good = isinstance(error, kind) and (RANK == 0 or "rank 0 raised an error" in text)
            return [] if good and all(word in text for word in words) else [repr(error)]

        return check

    yield "load: no file", everywhere(Path.unlink, ("No such file", "a.npz"))
    yield "load: truncated", everywhere(truncate, ("a.npz", "damaged"))
    yield "load: damaged", everywhere(damage, ("a.npz", "damaged"))
    nothing: Callable[[Path], object] = lambda path: None  # noqa: E731
    others: dict[str, tuple[dict[str, Any], Callable[[], Any], Any, tuple[str, ...]]] = {
        "other parameters": ({}, one_less, RankError, ("the parameters",)),
        "another shape": ({}, lambda: instead("b", np.ones(3)), RankError, ("parameter 'b'",)),
        "another lr": ({"lr": 0.5}, parameters, RankError, ("lr of group 0",)),
        "a bad lr": ({"lr": -0.5}, parameters, ValueError, ("lr",)),
        "an unknown option": ({"rate": 0.5}, parameters, TypeError, ("'rate'",)),
        "bad strict": ({"strict": 3}, parameters, TypeError, ("strict",)),
        "bad gradients": ({"grads": 3}, parameters, ValueError, ("grads",)),
        "a bad timeout": ({"timeout": 0}, parameters, ValueError, ("timeout",)),
        "no parameters": ({}, lambda: 3, TypeError, ("params",)),
    }
    for name, (options, params, error, words) in others.items():

        def check(
            options: Any = options, params: Any = params, error: Any = error, words: Any = words
        ) -> list[str]:
            return refused(loaded(nothing, options, params), error, words, parameters())

        yield f"load: {name}", check


CHECKS: dict[str, Check] = {
    **dict(making_checks()),
    **dict(loading_checks()),
    "construction: odd names": odd_names,
}
