"""Checks what a training tells its monitor."""

from __future__ import annotations

import math
import sys
from typing import Any

from fused_rmsprop.monitor.history import QUANTITIES
from fused_rmsprop.options import SCHEDULABLE
from fused_rmsprop.values import as_number


def as_numbers(values: Any, named: dict[str, Any]) -> dict[str, float]:
    """Check the arguments of `Monitor.log`, and return them as floats by name."""
    if values is not None:
        if not hasattr(values, "keys"):
            raise TypeError(f"values need names: log(loss=1.0), got {values!r}")
        named = {**values, **named}
    return {_checked(name): _number(name, value) for name, value in named.items()}


def _checked(name: Any) -> str:
    """A name that is not one of the monitor's own."""
    if not isinstance(name, str):
        raise TypeError(f"names of logged values are str, got {name!r}")
    if not name:
        raise ValueError("a logged value needs a name that is not empty")
    if name == "step":
        raise ValueError("leave step out: the monitor knows how many steps the optimizer has made")
    first = name.partition("/")[0]
    if first in SCHEDULABLE or first in QUANTITIES:
        raise ValueError(
            f"{name!r} cannot be logged: the monitor records {first} itself; take another name"
        )
    return sys.intern(str(name))  # as those of keywords are: the sampler compares addresses


def _number(name: str, value: Any) -> float:
    if hasattr(value, "detach"):  # torch warns of tensors in a graph
        value = value.detach()
    size = math.prod(getattr(value, "shape", ()))
    if size > 1:
        raise TypeError(f"{name} must be a number, got {size} of them: log {name}.mean(), say")
    return as_number(name, value.item() if getattr(value, "size", 0) == 1 else value)
