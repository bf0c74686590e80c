"""Rules about gradients that are too large: from the beginning, later, or for their dtype."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fused_rmsprop.monitor.history import History
from fused_rmsprop.monitor.report import Finding
from fused_rmsprop.monitor.rules import course
from fused_rmsprop.monitor.rules.gradients import usual_gradients
from fused_rmsprop.monitor.rules.words import (
    early,
    finding,
    late,
    medians,
    number,
    option,
    rounded,
    weights,
)

#: Growth of the gradient over the largest of the first quarter. In healthy trainings it stays
#: below 2.
EXPLODED = 100.0
#: A weight's gradient relative to that of the last weight, from the beginning, and its own size.
#: Healthy networks stay below 50, and those of tanh that hardly learn reach 1000.
EXPLODED_OVER_DEPTH, LARGE_GRADIENT = 300.0, 10.0
#: A gradient of all that is too large whatever the depth: inputs, targets or weights have no scale.
ENORMOUS = 1e4


def overflowing_squares(history: History) -> Iterator[Finding]:
    """Gradients whose square is infinite in their dtype: the average stays so for ever."""
    rates = medians(history.effective_lr()[late(history), 0, :-1])
    found = [
        i
        for i in range(len(history.leaves))
        if rates[i] == 0 and (option(history, "lr", i)[late(history)] > 0).all()
    ]
    if found:
        size = float(np.nanmax(history["grad_rms"][:, found], initial=0.0))
        text = (
            f"squares of the gradient (up to {number(size)}) overflow in "
            f"{history.leaves[found[0]].dtype}, so that elements do not move any more: initialise "
            "by the fan-in, normalise the inputs, or clip (max_grad_norm=1)"
        )
        yield finding("overflowing_squares", history, found, text)


def exploding_from_the_start(history: History) -> Iterator[Finding]:
    """Gradients that grow on their way back through the layers, or are enormous at once."""
    converged = course.has_converged(history)
    usual, first = usual_gradients(history)
    *others, last = weights(history)
    bound = np.maximum(LARGE_GRADIENT, EXPLODED_OVER_DEPTH * np.stack([usual[last], first[last]]))
    found = [i for i in others if usual[i] > bound[0] and first[i] > bound[1] and usual[last] > 0]
    advice = "initialise by the fan-in (Glorot, He; orthogonal weights of gain 1), normalise, clip"
    total = history.total("grad_rms")
    if not converged:  # or a loss of 1e9 has fallen to 1e7
        total = total[early(history)]
    if found and not converged:
        worst = max(found, key=lambda i: float(usual[i]))
        text = (
            f"gradients are {number(usual[worst] / usual[last])} times those of "
            f"{history.names[last]} from the beginning: they explode on their way back; {advice}"
        )
        yield finding("exploding_from_the_start", history, found, text)
    elif np.nanmin(total, initial=np.inf) > ENORMOUS and np.isfinite(total).any():
        size = number(float(np.nanmedian(total)))
        text = f"gradients are about {size} from the beginning: scale inputs and targets, {advice}"
        yield Finding("exploding_from_the_start", "", text)


def exploding_gradients(history: History) -> Iterator[Finding]:
    """A gradient much larger than all of the first quarter of the training."""
    size = history.total("grad_rms")
    before = np.nanmax(size[early(history)], initial=0.0)
    after = np.nan_to_num(size[early(history).stop :])
    if not before or not len(after) or after.max() < EXPLODED * before:
        return
    step = history.steps[early(history).stop + int(np.argmax(after >= EXPLODED * before))]
    elements = sum(leaf.size for leaf in history.leaves)
    limit = rounded(float(before * np.sqrt(elements)))
    clip = "" if history.constants.get("max_grad_norm") else f" (max_grad_norm={number(limit)})"
    yield Finding(
        "exploding_gradients",
        "",
        f"gradient grows {number(after.max() / before)}-fold, from step {step} on: clip it{clip}, "
        "normalise the inputs, or lower lr",
    )
