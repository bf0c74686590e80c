"""Learning rates as functions of the step: ``RMSProp(params, lr=schedule)``.

A schedule is called with the number of completed steps, 0 at the first update, and returns a
float. It keeps no state: resuming at step 1000 is calling it with 1000. Schedules are immutable
and can be compared, hashed, printed and pickled. Past its end a schedule holds its last value.

One vocabulary for all; only the first argument may be given without its name, because torch,
optax and Keras disagree on the order:

=====================  =========================================================================
``init_value``         the value at step 0
``peak_value``         the value at the end of the rise
``end_value``          the value at the end
``transition_begin``   the step up to which ``init_value`` is kept
``transition_steps``   how many steps the change from ``init_value`` to ``end_value`` takes
``warmup_steps``       how many steps the rise to ``peak_value`` takes
``total_steps``        how many steps all of it takes, the rise included
``decay_rate``         what the value is multiplied with in ``transition_steps``
``boundaries``         the steps at which the next value, or schedule, begins
=====================  =========================================================================

`ReduceOnPlateau` is not a function of the step but of a metric, and keeps state.

Schedules serve as well for momentum and weight decay. Only `ReduceOnPlateau` knows that there are
optimizers.
"""

from __future__ import annotations

from fused_rmsprop.schedules.base import Schedule
from fused_rmsprop.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    Piecewise,
    Polynomial,
    StepDecay,
)
from fused_rmsprop.schedules.phases import InverseSqrt, Join, OneCycle, WarmupCosine
from fused_rmsprop.schedules.plateau import ReduceOnPlateau

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
    "Schedule",
    "StepDecay",
    "WarmupCosine",
]
