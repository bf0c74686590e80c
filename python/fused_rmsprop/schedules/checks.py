"""What may be given for an argument of a schedule; knows neither schedules nor optimizers.

Each function returns the value in its plain form (a float, an int, a tuple), or raises an error
that names the argument, shows the value and says what would do.
"""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import pairwise
from typing import Any

from fused_rmsprop.options import as_number

#: Counters of steps are int64 arrays.
MOST_STEPS = 2**63 - 1


def as_count(name: str, value: Any, least: int = 0) -> int:
    """``value``, of any type that has ``__index__``, as an int from ``least`` on."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        whole = isinstance(value, float) and value.is_integer()
        instead = f"; write {int(value)}" if whole else ""
        raise TypeError(f"{name} must be an int, got {reprlib.repr(value)}{instead}") from None
    if not least <= count <= MOST_STEPS:
        raise ValueError(f"{name} must be >= {least} and < 2**63, got {reprlib.repr(value)}")
    return count


def as_value(name: str, value: Any) -> float:
    """A value of a schedule: a learning rate, a momentum or a weight decay."""
    number = as_number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be >= 0 and finite, got {value!r}")
    return number


def as_positive(name: str, value: Any) -> float:
    """A factor, divisor or power."""
    number = as_number(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be > 0 and finite, got {value!r}")
    return number


def as_share(name: str, value: Any) -> float:
    """A part of a whole, neither nothing nor all."""
    number = as_number(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name} must be > 0 and < 1, got {value!r}")
    return number


def as_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of several words."""
    if isinstance(value, str) and value in choices:
        return value
    allowed = " or ".join(map(repr, choices))
    raise ValueError(f"{name} must be {allowed}, got {reprlib.repr(value)}")


def as_items(name: str, value: Any) -> tuple[Any, ...]:
    """The items of a list, tuple or array; a dict or a set is none, having no order to go by."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, Set)):
        raise TypeError(f"{name} must be a list or tuple, got {reprlib.repr(value)}")
    return tuple(value)


def as_functions(name: str, value: Any) -> tuple[Callable[[int], Any], ...]:
    """Several schedules."""
    items = as_items(name, value)
    for i, item in enumerate(items):
        if not callable(item):
            raise TypeError(
                f"{name}[{i}] must be a function of the step, got {reprlib.repr(item)}; "
                "Constant makes one of a number"
            )
    return items


def as_values(name: str, value: Any) -> tuple[float, ...]:
    """Several values of a schedule."""
    items = as_items(name, value)
    return tuple(as_value(f"{name}[{i}]", item) for i, item in enumerate(items))


def as_boundaries(name: str, value: Any) -> tuple[int, ...]:
    """Steps at which something new begins, in increasing order, none of them the first."""
    items = as_items(name, value)
    steps = tuple(as_count(f"{name}[{i}]", item, 1) for i, item in enumerate(items))
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"{name} must increase from one to the next, got {value!r}")
    return steps
