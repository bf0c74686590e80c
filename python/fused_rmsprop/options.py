"""The options of an update: their names, and what a user may give for them.

Their bounds are checked below, in the C++ library, which knows the arrays' dtypes.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, SupportsFloat, TypeAlias

import numpy as np

from fused_rmsprop import _core

#: What a user may give for a number: a float, an int, a NumPy scalar, a 0-d array.
Number: TypeAlias = SupportsFloat
#: Or for one that may change: a function of the number of completed steps, which returns it.
Schedulable: TypeAlias = SupportsFloat | Callable[[int], SupportsFloat]

SCHEDULABLE = ("lr", "weight_decay", "momentum")
NUMBERS = ("lr", "alpha", "eps", "weight_decay", "momentum", "ema_decay", "initial_square_avg")
FLAGS = (
    *("centered", "nesterov", "maximize", "eps_inside_sqrt", "lr_in_momentum"),
    *("decoupled_weight_decay", "bias_correction"),
)
OPTIONS = (*NUMBERS, *FLAGS)
#: What the state started from decides what it means: these stay as they are.
FIXED = ("initial_square_avg", "bias_correction")

ON_NONFINITE = ("propagate", "skip", "raise")

# float() takes them, but nobody means a number by them.
_NOT_NUMBERS = (bool, np.bool_, str, bytes, bytearray)

_MOST_THREADS = 1024  # OpenMP ends the process when it cannot start the threads of a team


def as_number(name: str, value: Any) -> float:
    """``value`` as a float, or a `TypeError` that names the option."""
    if not isinstance(value, _NOT_NUMBERS) and not np.iscomplexobj(value):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
        except OverflowError as error:
            raise ValueError(f"{name} is too large for a float") from error
    function = ", or a function of the step," if name in SCHEDULABLE else ""
    raise TypeError(f"{name} must be a number{function or ','} got {reprlib.repr(value)}")


def as_flag(name: str, value: Any) -> bool:
    """``value`` as a bool, or a `TypeError` that names the option."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def as_threads(value: Any) -> int:
    """A number of threads as the core takes it, where 0 stands for None, the default."""
    if value is None:
        return 0
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        if 1 <= value <= _MOST_THREADS:
            return int(value)
    raise ValueError(
        f"threads must be an int from 1 to {_MOST_THREADS}, or None for the default, got {value!r}"
    )


def as_limit(name: str, value: Any) -> float | None:
    """A number > 0, infinity included, or None, or an error that names the option."""
    if value is None:
        return None
    number = as_number(name, value)
    if not number > 0:
        raise ValueError(f"{name} must be > 0, or None for no limit, got {number}")
    return number


def as_scale(value: Any) -> float:
    """What gradients are multiplied with, or an error."""
    number = as_number("grad_scale", value)
    if not 0 < number < float("inf"):
        raise ValueError(
            f"grad_scale must be finite and > 0, got {number}; it is 1 / loss_scale, where a loss "
            "was multiplied with that"
        )
    return number


def as_on_nonfinite(value: Any) -> str:
    """One of the three words, or a `ValueError`."""
    if isinstance(value, str) and value in ON_NONFINITE:
        return value
    raise ValueError(
        f"on_nonfinite must be one of {', '.join(map(repr, ON_NONFINITE))}, got {value!r}"
    )


#: What belongs to an optimizer and can change a result: how each is read.
SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "flush_denormals": partial(as_flag, "flush_denormals"),
    "max_grad_norm": partial(as_limit, "max_grad_norm"),
    "max_grad_value": partial(as_limit, "max_grad_value"),
    "on_nonfinite": as_on_nonfinite,
}


def check_start(options: Mapping[str, Any], dtype: str, largest: float) -> None:
    """Refuse a start of `square_avg` that arrays of this dtype, or the other options, cannot have.

    The core's `validate` does not know of it, because the caller makes the arrays.
    """
    start = options["initial_square_avg"]
    if not 0 <= start <= largest:
        raise ValueError(f"initial_square_avg must be >= 0 and finite in {dtype}, got {start}")
    if options["bias_correction"] and start != 0:
        raise ValueError(
            "bias_correction divides out the zeros that square_avg starts from: it has no "
            f"meaning with initial_square_avg={start}"
        )


#: What other libraries call them, for those who come from there.
_ALIASES = {
    **{"learning_rate": "lr", "rho": "alpha", "decay": "alpha", "epsilon": "eps"},
    **{"clipnorm": "max_grad_norm", "global_clipnorm": "max_grad_norm"},
    **{
        "clipvalue": "max_grad_value",
        "ema_momentum": "ema_decay",
        "eps_in_sqrt": "eps_inside_sqrt",
    },
    **{"initial_scale": "initial_square_avg", "decoupled_decay": "decoupled_weight_decay"},
}


def unknown_option(name: str, where: str, known: Iterable[str] = OPTIONS) -> str:
    """What an error says of a name that is no option there."""
    known = list(known)
    if name in (*SETTINGS, "threads", "grads") and name not in known:
        return f"{where} has no option {name!r}: it belongs to the optimizer, RMSProp(..., {name}=)"
    near = [_ALIASES[name]] if name in _ALIASES else difflib.get_close_matches(name, known, 1)
    hint = f"; is {near[0]} meant?" if near else ";"
    return f"{where} has no option {name!r}{hint} The options are {', '.join(known)}"


def parse_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert every option to a float or a bool; refuse names that are not options'.

    Functions of the step remain what they are.
    """
    parsed: dict[str, Any] = {}
    for name, value in options.items():
        if name in SCHEDULABLE and isinstance(value, type):
            raise TypeError(
                f"{name} is the class {value.__name__}: pass an instance of it, or another function"
            )
        if name in SCHEDULABLE and callable(value):
            parsed[name] = value
        elif name in NUMBERS:
            parsed[name] = as_number(name, value)
        elif name in FLAGS:
            parsed[name] = as_flag(name, value)
        else:
            raise ValueError(unknown_option(name, where))
    return parsed


def scheduled(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the options that are functions of the step."""
    return tuple(name for name in SCHEDULABLE if callable(options[name]))


def options_at(options: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The options after ``step`` completed steps: numbers in the place of functions."""
    values = dict(options)
    for name in scheduled(options):
        values[name] = as_number(f"{name}({step})", options[name](step))
    if "momentum" in scheduled(options) and values["momentum"] == 0:
        values["nesterov"] = False  # there is nothing to look ahead along at this step
    return values


def core_options(options: Mapping[str, Any]) -> _core.Options:
    """The same options, all of them numbers and flags, as the core takes them."""
    return _core.Options(
        **{name: options[name] for name in OPTIONS if name != "initial_square_avg"}
    )
