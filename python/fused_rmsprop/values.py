"""Read the values that users give: each function returns a plain value or raises an error.

Every error names the argument, shows the value and tells how to fix it.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable
from typing import Any, SupportsFloat, TypeAlias

import numpy as np

#: A number: a float, an int, a NumPy scalar or a 0-d array.
Number: TypeAlias = SupportsFloat
#: A number that may change: also a function of the number of completed steps.
Schedulable: TypeAlias = SupportsFloat | Callable[[int], SupportsFloat]

ON_NONFINITE = ("propagate", "skip", "raise")

# float() takes most of them, but nobody means a number by them; NumPy 1.23 warns of nested lists.
_NOT_NUMBERS = (bool, np.bool_, str, bytes, bytearray, list, tuple)

#: The most steps that a saved state may have counted. No training reaches it, the counters of the
#: C++ library stay far from overflow, and every count up to it is exact as a double.
LARGEST_STEP_COUNT = 2**53

#: Counters of steps are int64 arrays.
MOST_STEPS = 2**63 - 1

_MOST_THREADS = 1024  # OpenMP ends the process when it cannot start the threads of a team


def as_number(name: str, value: Any, instead: str = "") -> float:
    """``value`` as a float; ``instead`` tells what else is allowed there."""
    if not isinstance(value, _NOT_NUMBERS) and not np.iscomplexobj(value):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            pass
        except OverflowError as error:
            raise ValueError(f"{name} is too large for a float") from error
    raise TypeError(f"{name} must be a number{instead}, got {reprlib.repr(value)}")


def as_schedulable(name: str, value: Any) -> Any:
    """``value`` as a float, or the function of the step that it is."""
    if isinstance(value, type):
        if not any("__call__" in base.__dict__ for base in value.__mro__):  # ReduceOnPlateau
            raise TypeError(
                f"{name} is the class {value.__name__}, whose instances are no functions of the "
                f"step; make the optimizer first, with a number, and then {value.__name__}(opt)"
            )
        raise TypeError(
            f"{name} is the class {value.__name__}: pass an instance of it, or another function"
        )
    if callable(value):
        return value
    return as_number(name, value, ", or a function of the step")


def as_flag(name: str, value: Any) -> bool:
    """``value`` as a bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def as_threads(name: str, value: Any) -> int | None:
    """A number of threads, or None."""
    if value is None:
        return None
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        if 1 <= value <= _MOST_THREADS:
            return int(value)
    raise ValueError(
        f"{name} must be an int from 1 to {_MOST_THREADS}, or None for the default, got {value!r}"
    )


def as_limit(name: str, value: Any) -> float | None:
    """A number > 0, infinity included, or None."""
    if value is None:
        return None
    number = as_number(name, value)
    if not number > 0:
        raise ValueError(f"{name} must be > 0, or None for no limit, got {number}")
    return number


def as_factor(name: str, value: Any) -> float:
    """A factor of learning rates."""
    number = as_number(name, value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} must be > 0 and finite, got {number}")
    return number


def as_scale(name: str, value: Any) -> float:
    """A factor of gradients."""
    number = as_number(name, value)
    if not 0 < number < float("inf"):
        raise ValueError(
            f"{name} must be finite and > 0, got {number}; for a loss that was multiplied by "
            "loss_scale, pass 1 / loss_scale"
        )
    return number


def as_on_nonfinite(name: str, value: Any) -> str:
    """One of the three words."""
    if isinstance(value, str) and value in ON_NONFINITE:
        return value
    raise ValueError(f"{name} must be one of {', '.join(map(repr, ON_NONFINITE))}, got {value!r}")


def as_count(name: str, value: Any, least: int = 0) -> int:
    """Convert an integer of any type (by ``__index__``) to an int ``>= least``."""
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
