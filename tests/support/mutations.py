"""Mutations of bytes and of JSON, for fuzzers; all choices come from a `random.Random`."""

from __future__ import annotations

import json
import math
import random
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

from fused_rmsprop import schedules

# Bytes: each changes them in place; ``other`` is a file to take some from.


def _range(rng: random.Random, data: bytes | bytearray) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, start + rng.choice((1, 2, 4, 8, 30, 100, 1000)))


def flip(rng: random.Random, data: bytearray, other: bytes) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray, other: bytes) -> None:
    where = _range(rng, data)
    data[where] = rng.randbytes(len(data[where]))


def number(rng: random.Random, data: bytearray, other: bytes) -> None:
    packed = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(data))))
    length = rng.choice((1, 2, 4, 8))
    start = rng.randrange(len(data) + 1)
    data[start : start + length] = packed[:length]


def cut(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[_range(rng, data)]


def truncate(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randrange(len(data) + 1) :]


def repeat(rng: random.Random, data: bytearray, other: bytes) -> None:
    where = _range(rng, data)
    data[where.start : where.start] = data[where]


def splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[_range(rng, data)] = other[_range(rng, other)]


#: All of them.
BYTES = (flip, overwrite, number, cut, truncate, repeat, splice)

# JSON.


def as_text(value: Any) -> str:
    """JSON as text, however deep; NaN equals NaN there, and 1 differs from 1.0."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * limit)
    try:
        return json.dumps(value)
    finally:
        sys.setrecursionlimit(limit)


def copied(value: Any) -> Any:
    """The same JSON in containers of its own, or, where that is too deep, nothing."""
    try:
        return json.loads(as_text(value))
    except RecursionError:
        return None


def mutate(rng: random.Random, tree: Any) -> None:
    """Change one value somewhere in a JSON object, in place."""
    places = list(places_in(tree))
    if not places:
        return
    where, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del where[key]
    elif kind == 1 and isinstance(where, dict):
        where[rng.choice(KEYS)] = where.pop(key)
    elif kind == 2 and isinstance(where, dict):
        where[rng.choice(KEYS)] = strange(rng)
    elif kind == 3 and isinstance(where, list):
        where.insert(key, where[key])
    elif kind == 4:
        other, other_key = rng.choice(places)
        where[key] = copied(other[other_key])
    else:
        where[key] = strange(rng)


KEYS = (
    *("", "a", "step", "lr", "params", "__class__", "__dict__", "function", "schedule", "name"),
    *("arguments", "schedules", "value", "max_grad_norm", "threads", "grad_sum", "variance"),
    *("../x", "a/step", "\ud800", "b.0"),
)


def strange(rng: random.Random) -> Any:
    """A value that does not belong there, or perhaps it does."""
    level = rng.choice((1, 5, 20, 70, 900))
    makers: list[Callable[[], Any]] = [
        lambda: rng.choice((None, True, False, {}, [], "", "x" * 5000, "\ud800", "\0")),
        lambda: rng.choice((math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-320, 0.5, 1.0, 1e308)),
        lambda: rng.choice((0, 1, -1, 2, 3, 2**31, 2**53, 2**53 + 1, 2**62, 2**63, 10**400)),
        lambda: rng.choice(KEYS),
        lambda: [rng.choice(KEYS), rng.random(), rng.choice((None, 3))],
        lambda: {"function": rng.choice(("<function f at 0x12>", 3, None))},
        lambda: {"schedule": rng.choice(SCHEDULES), "arguments": arguments(rng)},
        lambda: wrapped(level, lambda value: [value]),
        lambda: wrapped(level, lambda value: {"a": value}),
        lambda: wrapped(min(level, 200), joined),
    ]
    return rng.choice(makers)()


SCHEDULES = (*schedules.__all__, "__doc__", "base", "Other")


def arguments(rng: random.Random) -> Any:
    """Arguments of a schedule, some of them right."""
    values = (0.1, 1, 3, 0, -1, math.nan, math.inf, 1e308, "cos", True, None, [1, 2], [0.1, 0.2, 3])
    names = ("value", "init_value", "end_value", "transition_steps", "transition_begin", "power",
             "decay_rate", "values", "boundaries", "peak_value", "warmup_steps", "total_steps",
             "exponent")  # fmt: skip
    chosen = rng.choice(
        (("value",), ("values", "boundaries"), ("peak_value", "warmup_steps"), names[1:6],
         ("init_value", "end_value", "transition_steps", "exponent", "transition_begin"),
         ("init_value", "decay_rate", "transition_steps", "end_value", "transition_begin"))
    )  # fmt: skip
    return {name: rng.choice(values) for name in chosen}


def joined(value: Any) -> Any:
    return {"schedule": "Join", "arguments": {"schedules": [value], "boundaries": []}}


def wrapped(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = {"schedule": "Constant", "arguments": {"value": 0.1}}
    for _ in range(levels):
        value = wrap(value)
    return value


def places_in(tree: Any) -> Iterator[tuple[Any, Any]]:
    """All containers and keys in JSON."""
    rest = [tree]
    while rest:
        value = rest.pop()
        if isinstance(value, (dict, list)):
            keys = list(value) if isinstance(value, dict) else range(len(value))
            yield from ((value, key) for key in keys)
            rest += [value[key] for key in keys]
