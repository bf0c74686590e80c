"""Schedules as dicts of plain values, for files that must not run code when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fused_rmsprop.schedules import decays, phases
from fused_rmsprop.schedules.base import Schedule

_SCHEDULES: Mapping[str, type[Schedule]] = {
    kind.__name__: kind
    for kind in (
        *(decays.Constant, decays.Cosine, decays.Exponential, decays.Linear, decays.Piecewise),
        *(decays.Polynomial, decays.StepDecay),
        *(phases.InverseSqrt, phases.Join, phases.OneCycle, phases.WarmupCosine),
    )
}


def as_plain(value: Any) -> Any:
    """A schedule as a dict with its class's name and its arguments; other values as they are.

    A function that is not one of the schedules becomes ``{"function": its repr}``, which
    `from_plain` refuses.
    """
    if type(value) in _SCHEDULES.values():
        arguments = {f.name: as_plain(getattr(value, f.name)) for f in fields(value)}
        return {"schedule": type(value).__name__, "arguments": arguments}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return {"function": repr(value)} if callable(value) else value


def is_lost(plain: Any) -> bool:
    """Whether `as_plain` could keep no more of a function, or of a part of it, than that."""
    if isinstance(plain, list):
        return any(is_lost(item) for item in plain)
    if not isinstance(plain, Mapping):
        return False
    return "function" in plain or any(is_lost(value) for value in plain["arguments"].values())


def from_plain(value: Any) -> Any:
    """What `as_plain` was given.

    Raises
    ------
    ValueError
        If that was a function, or is no schedule of this version.
    """
    if isinstance(value, list):
        return tuple(from_plain(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    if "function" in value:
        raise ValueError(f"a file cannot hold the function {value['function']}")
    name = value.get("schedule")
    if not isinstance(name, str) or name not in _SCHEDULES:
        raise ValueError(f"there is no schedule {name!r}; there are {', '.join(_SCHEDULES)}")
    return _SCHEDULES[name](**{k: from_plain(v) for k, v in value["arguments"].items()})
