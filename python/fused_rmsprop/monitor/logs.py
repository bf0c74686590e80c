"""What a training told its monitor: checked at once, and kept until it is stored."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

from fused_rmsprop.monitor.history import QUANTITIES
from fused_rmsprop.options import SCHEDULABLE
from fused_rmsprop.values import as_number


class Logs:
    """Calls of `Monitor.log` that wait. Any thread may append and drain."""

    def __init__(self) -> None:
        self._waiting = deque[tuple[int, dict[str, float]]]()
        self._known = set[str]()  # names that were checked: it may be called in each step

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, step: int, values: Any, named: dict[str, Any]) -> dict[str, float]:
        """Check and keep values of a step, and return them as floats; see `Monitor.log`."""
        if values is not None:
            if not hasattr(values, "keys"):
                raise TypeError(f"values need names: log(loss=1.0), got {values!r}")
            named = {**values, **named}
        for name, value in named.items():
            if type(value) is not float or name not in self._known:
                named = {_checked(name): _number(name, value) for name, value in named.items()}
                self._known.update(named)
                break
        self._waiting.append((step, named))
        return named

    def drain(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Take those that wait, the first ones first."""
        for _ in range(len(self._waiting)):
            try:
                yield self._waiting.popleft()
            except IndexError:  # another thread took it
                return


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
    return name


def _number(name: str, value: Any) -> float:
    if hasattr(value, "detach"):  # torch warns of tensors in a graph
        value = value.detach()
    size = math.prod(getattr(value, "shape", ()))
    if size > 1:
        raise TypeError(f"{name} must be a number, got {size} of them: log {name}.mean(), say")
    return as_number(name, value.item() if getattr(value, "size", 0) == 1 else value)
