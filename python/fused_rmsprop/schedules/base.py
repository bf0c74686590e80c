"""The base class of schedules, the checks of their arguments, and shared arithmetic.

Each check returns a plain float, int, str or tuple, or raises an error that names the argument,
the value and the requirement.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.values import as_count, as_factor, as_flag, as_number


def as_value(name: str, value: Any) -> float:
    """Check a value of a schedule: a learning rate, a momentum or a weight decay."""
    number = as_number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be >= 0 and finite, got {value!r}")
    return number


def as_positive(name: str, value: Any, below: float = math.inf) -> float:
    """Check a factor, divisor or power, or a fraction ``below`` 1."""
    number = as_number(name, value)
    if not 0 < number < below:
        upper = "finite" if below == math.inf else f"< {below:g}"
        raise ValueError(f"{name} must be > 0 and {upper}, got {value!r}")
    return number


def as_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Check for one of several words."""
    if isinstance(value, str) and value in choices:
        return value
    allowed = " or ".join(map(repr, choices))
    raise ValueError(f"{name} must be {allowed}, got {reprlib.repr(value)}")


def as_function(name: str, value: Any) -> Callable[[int], Any]:
    """Check a schedule that may be any function of the step."""
    if not callable(value) or isinstance(value, type):
        hint = "pass an instance" if isinstance(value, type) else "use Constant for a number"
        got = f"{reprlib.repr(value)}; {hint}"
        raise TypeError(f"{name} must be a function of the step, got {got}")
    return value  # type: ignore[no-any-return]


def as_tuple(name: str, value: Any, check: Callable[[str, Any], Any] = as_value) -> tuple[Any, ...]:
    """Check the items of a list, tuple or array. A dict or set has no order and is refused."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, Set)):
        raise TypeError(f"{name} must be a list or tuple, got {reprlib.repr(value)}")
    return tuple(check(f"{name}[{i}]", item) for i, item in enumerate(value))


def as_boundaries(name: str, value: Any) -> tuple[int, ...]:
    """Check steps ``>= 1`` in increasing order."""
    steps = as_tuple(name, value, partial(as_count, least=1))
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"{name} must be strictly increasing, got {value!r}")
    return steps


#: By argument, which has the same meaning in every schedule.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("value", "init_value", "peak_value", "end_value"), as_value),
    **dict.fromkeys(("transition_begin", "warmup_steps"), as_count),
    **dict.fromkeys(("transition_steps", "total_steps"), partial(as_count, least=1)),
    **dict.fromkeys(("decay_rate", "power", "exponent"), as_positive),
    **dict.fromkeys(("div_factor", "final_div_factor"), as_positive),
    "pct_start": partial(as_positive, below=1),
    "values": as_tuple,
    "boundaries": as_boundaries,
    "schedules": partial(as_tuple, check=as_function),
    "schedule": as_function,
    "factor": as_factor,
    "anneal_strategy": partial(as_choice, choices=("cos", "linear")),
    "three_phase": as_flag,
}


#: Names in torch, Keras, optax and Hugging Face, and the arguments that may be meant.
_FOREIGN = {
    **dict.fromkeys(("T_max", "total_iters", "step_size"), ("transition_steps", "total_steps")),
    **dict.fromkeys(("decay_steps", "num_training_steps"), ("transition_steps", "total_steps")),
    **dict.fromkeys(("gamma", "decay"), ("decay_rate",)),
    **dict.fromkeys(("eta_min", "end_learning_rate", "min_lr", "end_factor"), ("end_value",)),
    **dict.fromkeys(("num_warmup_steps", "warmup"), ("warmup_steps",)),
    **dict.fromkeys(("max_lr", "warmup_target", "peak_lr"), ("peak_value",)),
    **dict.fromkeys(
        ("lr", "base_lr", "initial_learning_rate", "learning_rate", "eta_max"),
        ("init_value", "peak_value", "value"),
    ),
    "milestones": ("boundaries",),
    "boundaries_and_scales": ("boundaries",),
    "begin": ("transition_begin",),
    "verbose": (),
}


def unknown_argument(name: str, where: str, known: Iterable[str]) -> str:
    """The error for a name that is not an argument of a schedule, with the one that is meant."""
    known = list(known)
    near = [meant for meant in _FOREIGN.get(name, ()) if meant in known]
    near = near or difflib.get_close_matches(name, known, 1)
    hint = f"; is {near[0]} meant?" if near else ";"
    return f"{where} has no argument {name!r}{hint} The arguments are {', '.join(known)}"


@dataclass(frozen=True)
class Schedule(ABC):
    """The base class: immutable, validated on construction, called with a step.

    Optimizers also accept any other function from an int to a number.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in CHECKS and not (value is None and field.default is None):
                value = CHECKS[field.name](f"{type(self).__name__}: {field.name}", value)
                object.__setattr__(self, field.name, value)
        if problem := self._problem():
            raise ValueError(f"{type(self).__name__}: {problem}")

    @overload  # an array is also a SupportsIndex, for the sake of those without axes
    def __call__(  # type: ignore[overload-overlap]
        self, step: NDArray[np.integer[Any]]
    ) -> NDArray[np.float64]: ...
    @overload
    def __call__(self, step: SupportsIndex) -> float: ...
    def __call__(self, step: Any) -> Any:
        """Return the value after ``step`` completed steps, an integer ``>= 0``.

        For an array of integers, return an array of the same shape, in float64.
        """
        if isinstance(step, np.ndarray) and step.ndim > 0:
            if step.dtype.kind not in "iu":
                raise TypeError(
                    f"step must hold integers, got an array of {step.dtype}; write "
                    "step.astype(np.int64)"
                )
            values = [self._at(as_count("step", one)) for one in step.ravel().tolist()]
            return np.array(values, np.float64).reshape(step.shape)
        return self._at(as_count("step", step))

    def __mul__(self, factor: Any) -> Schedule:
        """Return ``Scaled(self, factor=factor)``: ``param_group["lr"] *= 0.5`` keeps a schedule."""
        from fused_rmsprop.schedules.phases import Scaled  # which is made of this class

        return Scaled(self, factor=factor)

    __rmul__ = __mul__

    @abstractmethod
    def _at(self, step: int) -> float: ...

    def _problem(self) -> str:
        """Describe a conflict between arguments; empty if there is none."""
        return ""


def elapsed(step: int, begin: int, steps: int) -> int:
    """Count the steps since ``begin``, from 0 to ``steps``."""
    return min(max(step - begin, 0), steps)


def mix(init_value: float, end_value: float, share: float) -> float:
    """Interpolate from ``end_value`` (share 0) to ``init_value`` (share 1)."""
    # Unlike end + (init - end) * share, two products are exact at both ends.
    return init_value * share + end_value * (1 - share)


def line(init_value: float, end_value: float, passed: int, steps: int) -> float:
    """Interpolate linearly after ``passed`` of ``steps`` steps."""
    # In mix, 1 - share would lose digits early in a rise from 0.
    return init_value * ((steps - passed) / steps) + end_value * (passed / steps)


def half_cosine(share: float) -> float:
    """Fall from 1 to 0 along half a period as ``share`` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def miscounted(name: str, items: Sequence[Any], boundaries: Sequence[int]) -> str:
    """Describe a wrong number of ``items``; empty if it is right."""
    if len(items) == len(boundaries) + 1:
        return ""
    return f"{len(boundaries)} boundaries need {len(boundaries) + 1} {name}, got {len(items)}"
