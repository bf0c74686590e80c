"""Convert schedules to plain values and back, for files that must not run code when read."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fused_rmsprop import schedules

#: All classes that a file can name.
_SCHEDULES: Mapping[str, type[schedules.Schedule]] = {
    name: getattr(schedules, name)
    for name in schedules.__all__
    if name not in ("ReduceOnPlateau", "Schedule", "plot")
}
#: Schedules inside schedules, or lists inside lists.
_MOST_LEVELS = 32


def as_plain(value: Any, levels: int = _MOST_LEVELS) -> Any:
    """Convert a schedule to a dict of its class name and arguments; return other values unchanged.

    Any other function becomes ``{"function": repr}``, which cannot be converted back.
    """
    _check_levels(levels)
    if type(value) in _SCHEDULES.values():
        arguments = {f.name: as_plain(getattr(value, f.name), levels - 1) for f in fields(value)}
        return {"schedule": type(value).__name__, "arguments": arguments}
    if isinstance(value, (list, tuple)):
        return [as_plain(item, levels - 1) for item in value]
    return {"function": repr(value)} if callable(value) else value


def lost_functions(plain: Any) -> list[str]:
    """Return the functions that `as_plain` could not convert, without their memory addresses.

    ``plain`` may be any value that JSON can hold.
    """
    found: list[str] = []
    rest = [plain]
    while rest:  # recursion could end in the midst of a malicious file
        value = rest.pop()
        if isinstance(value, list):
            rest += reversed(value)
        elif isinstance(value, Mapping):
            if value.keys() == {"function"} and isinstance(value["function"], str):
                found.append(re.sub(r" at 0x[0-9a-f]+", "", value["function"]))
            else:
                rest += reversed([*value.values()])
    return found


def from_plain(value: Any, levels: int = _MOST_LEVELS) -> Any:
    """Invert `as_plain`.

    ``value`` may be any value that JSON can hold. A `ValueError` tells why it is not from
    `as_plain`, or that this version does not have the schedule. Functions cannot be in it.
    """
    _check_levels(levels)
    if isinstance(value, list):
        return tuple(from_plain(item, levels - 1) for item in value)
    if not isinstance(value, Mapping):
        return value
    name, arguments = value.get("schedule"), value.get("arguments")
    if not isinstance(name, str) or name not in _SCHEDULES:
        known = ", ".join(_SCHEDULES)
        raise ValueError(f"there is no schedule {reprlib.repr(name)}; there are {known}")
    names = {field.name for field in fields(_SCHEDULES[name])}
    if value.keys() != {"schedule", "arguments"} or not isinstance(arguments, Mapping):
        raise ValueError(f"{name} is saved as something else than its arguments")
    if arguments.keys() != names:
        differing = ", ".join(map(reprlib.repr, sorted(arguments.keys() ^ names)))
        raise ValueError(f"{name} is saved with other arguments than it has: {differing}")
    given = {key: from_plain(argument, levels - 1) for key, argument in arguments.items()}
    try:
        return _SCHEDULES[name](**given)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _check_levels(levels: int) -> None:
    if levels < 0:
        raise ValueError(f"a saved option has at most {_MOST_LEVELS} levels of schedules and lists")
