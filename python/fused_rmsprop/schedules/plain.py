"""Convert schedules to plain values and back, for files that must not run code when read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fused_rmsprop import schedules

_SCHEDULES: Mapping[str, type[schedules.Schedule]] = {
    name: getattr(schedules, name)
    for name in schedules.__all__
    if name not in ("ReduceOnPlateau", "Schedule")
}


def as_plain(value: Any) -> Any:
    """Convert a schedule to a dict of its class name and arguments; return other values unchanged.

    Any other function becomes ``{"function": repr}``, which cannot be converted back.
    """
    if type(value) in _SCHEDULES.values():
        arguments = {f.name: as_plain(getattr(value, f.name)) for f in fields(value)}
        return {"schedule": type(value).__name__, "arguments": arguments}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return {"function": repr(value)} if callable(value) else value


def lost_functions(plain: Any) -> list[str]:
    """Return the functions that `as_plain` could not convert, without their memory addresses."""
    if isinstance(plain, list):
        return [function for item in plain for function in lost_functions(item)]
    if not isinstance(plain, Mapping):
        return []
    if "function" in plain:
        return [re.sub(r" at 0x[0-9a-f]+", "", plain["function"])]
    return lost_functions(list(plain["arguments"].values()))


def from_plain(value: Any) -> Any:
    """Invert `as_plain`; raise a `ValueError` for schedules that this version does not have."""
    if isinstance(value, list):
        return tuple(from_plain(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    name = value.get("schedule")
    if not isinstance(name, str) or name not in _SCHEDULES:
        raise ValueError(f"there is no schedule {name!r}; there are {', '.join(_SCHEDULES)}")
    return _SCHEDULES[name](**{k: from_plain(v) for k, v in value["arguments"].items()})
