"""Learning rates as functions of the step: ``RMSProp(params, lr=schedule)``.

A schedule maps the number of completed steps, 0 at the first update, to a float. It keeps no state:
to resume at step 1000, call it with 1000. Schedules are immutable and can be compared, hashed,
printed and pickled. Past its end a schedule keeps its last value.

All schedules share one vocabulary. Only the first argument is positional, because torch, optax and
Keras disagree on the order.

=====================  =========================================================================
``init_value``         the value at step 0
``peak_value``         the value at the end of the warm-up
``end_value``          the value at the end
``transition_begin``   the step at which the value starts to change
``transition_steps``   the number of steps from ``init_value`` to ``end_value``
``warmup_steps``       the number of steps up to ``peak_value``
``total_steps``        the number of all steps, including the warm-up
``decay_rate``         the factor applied in every ``transition_steps``
``boundaries``         the steps at which the next value or schedule begins
``factor``             the factor of all values
=====================  =========================================================================

Schedules also work for alpha, momentum and weight decay. Called with an array of steps, they return
an array of values, and `plot` draws them. `ReduceOnPlateau` depends on a metric instead of the
step, keeps state, and is the only one that uses an optimizer.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from fused_rmsprop.base import helps_with_options
from fused_rmsprop.introspection import show_public
from fused_rmsprop.schedules.base import Schedule, unknown_argument
from fused_rmsprop.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    Piecewise,
    Polynomial,
    StepDecay,
)
from fused_rmsprop.schedules.phases import InverseSqrt, Join, OneCycle, Scaled, WarmupCosine
from fused_rmsprop.schedules.plateau import ReduceOnPlateau
from fused_rmsprop.schedules.plotting import plot

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSqrt",
    "Join",
    "Linear",
    "OneCycle",
    "Piecewise",
    "Polynomial",
    "ReduceOnPlateau",
    "Scaled",
    "Schedule",
    "StepDecay",
    "WarmupCosine",
    "plot",
]

for _schedule in (
    *(Constant, Cosine, Exponential, InverseSqrt, Join, Linear, OneCycle, Piecewise, Polynomial),
    *(ReduceOnPlateau, Scaled, StepDecay, WarmupCosine),
):
    _init = helps_with_options(_schedule.__init__, _schedule.__name__, unknown_argument)
    setattr(_schedule, "__init__", _init)  # noqa: B010 - mypy refuses the assignment
del _schedule, _init

show_public(__name__)

if not TYPE_CHECKING:  # it would allow any name

    def __getattr__(name: str) -> Any:
        """Only called for names that are not there, such as those of schedules elsewhere."""
        named = re.compile(rf"``{re.escape(name)}\b")
        documented = [one for one in __all__ if named.search(globals()[one].__doc__ or "")]
        near = documented or difflib.get_close_matches(name, __all__, 1)
        hint = f"is {' or '.join(near)} meant? There" if near else "there"
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; {hint} are {', '.join(__all__)}, and "
            "any other function of the step will do"
        )
