"""Rules that say in words what is wrong with a training, and what to do.

Each is a function of a `History`, with named thresholds beside it. `docs/monitoring-rules.md`
lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fused_rmsprop.monitor.history import History
from fused_rmsprop.monitor.report import Report
from fused_rmsprop.monitor.rules.course import (
    FEWEST_POINTS,
    nonfinite_loss,
    rising_loss,
    stalled_loss,
    too_few_points,
)
from fused_rmsprop.monitor.rules.explosions import (
    exploding_from_the_start,
    exploding_gradients,
    overflowing_squares,
)
from fused_rmsprop.monitor.rules.gradients import (
    always_clipped,
    dead_leaves,
    dying_units,
    nonfinite_gradients,
    nonfinite_points,
    vanishing_gradients,
    vanishing_over_depth,
    zero_weights,
)
from fused_rmsprop.monitor.rules.updates import (
    eps_dominates,
    growing_effective_lr,
    large_updates,
    long_first_steps,
    oscillation,
    small_updates,
)
from fused_rmsprop.monitor.rules.words import Rule

#: What needs no second point.
AT_ONCE: tuple[Rule, ...] = (nonfinite_gradients, nonfinite_loss, too_few_points)

#: What needs the course of a training, in the order of urgency.
RULES: tuple[Rule, ...] = (
    overflowing_squares,
    zero_weights,
    dead_leaves,
    large_updates,
    long_first_steps,
    exploding_from_the_start,
    exploding_gradients,
    vanishing_gradients,
    vanishing_over_depth,
    dying_units,
    always_clipped,
    eps_dominates,
    small_updates,
    oscillation,
    growing_effective_lr,
    rising_loss,
    stalled_loss,
)

#: One cause, one finding: a rule that found something silences those that see its effects.
SILENCES: Mapping[Rule, tuple[Rule, ...]] = {
    nonfinite_gradients: (nonfinite_loss,),
    overflowing_squares: (
        dead_leaves,
        large_updates,
        long_first_steps,
        exploding_from_the_start,
        exploding_gradients,
        vanishing_gradients,
        vanishing_over_depth,
        eps_dominates,
        small_updates,
        oscillation,
        growing_effective_lr,
        rising_loss,
        stalled_loss,
    ),
    zero_weights: (
        dead_leaves,
        long_first_steps,
        vanishing_gradients,
        vanishing_over_depth,
        small_updates,
        oscillation,
        stalled_loss,
    ),
    dead_leaves: (small_updates, stalled_loss),
    large_updates: (
        exploding_gradients,
        vanishing_gradients,
        dying_units,
        small_updates,
        long_first_steps,
        oscillation,
        growing_effective_lr,
        rising_loss,
        stalled_loss,
    ),
    exploding_from_the_start: (
        vanishing_gradients,
        small_updates,
        oscillation,
        rising_loss,
        stalled_loss,
    ),
    exploding_gradients: (rising_loss, stalled_loss),
    vanishing_gradients: (
        small_updates,
        oscillation,
        growing_effective_lr,
        rising_loss,
        stalled_loss,
    ),
    vanishing_over_depth: (eps_dominates, small_updates, stalled_loss),
    dying_units: (growing_effective_lr, stalled_loss),
    always_clipped: (eps_dominates, small_updates, stalled_loss),
    eps_dominates: (small_updates, oscillation, rising_loss, stalled_loss),
    small_updates: (stalled_loss,),
    long_first_steps: (dying_units, small_updates),
    oscillation: (rising_loss, stalled_loss),
    growing_effective_lr: (stalled_loss,),
}

#: The largest number of findings in a report.
MOST = 8


def report(history: History) -> Report:
    """What is wrong with a training, the most urgent first.

    Parameters
    ----------
    history : History
        What a monitor has recorded.

    Returns
    -------
    Report
        Findings; none for a healthy training.
    """
    finite = _finite_part(history)
    with np.errstate(all="ignore"):
        found = {rule: list(rule(history)) for rule in AT_ONCE}
        if len(finite.steps) >= FEWEST_POINTS:
            found |= {rule: list(rule(finite)) for rule in RULES}
    silent = {other for rule, others in SILENCES.items() if found.get(rule) for other in others}
    heard = [rule for rule in (*AT_ONCE, *RULES) if rule in found and rule not in silent]
    return Report([finding for rule in heard for finding in found[rule]][:MOST])


def _finite_part(history: History) -> History:
    """The history without points that are not finite."""
    good = ~nonfinite_points(history).any(axis=1)
    if good.all():
        return history
    return replace(
        history,
        steps=history.steps[good],
        rows=history.rows[good],
        option_values=history.option_values[good],
    )
