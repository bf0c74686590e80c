"""Rules about gradients: not finite, zero, vanishing, exploding, clipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fused_rmsprop.monitor.history import History
from fused_rmsprop.monitor.report import Finding
from fused_rmsprop.monitor.rules import course
from fused_rmsprop.monitor.rules.words import (
    constant,
    early,
    late,
    median,
    medians,
    number,
    percent,
    ratio,
    rounded,
    share,
    weights,
    where,
)

#: Share of steps that ``on_nonfinite="skip"`` may pass over. A loss scale that is raised now and
#: then overflows in one step of a hundred or fewer.
SKIPPED = 0.05
#: Growth of the gradient over the largest of the first quarter. In healthy trainings it stays
#: below 2.
EXPLODED = 100.0
#: Fall of a leaf's gradient, from its first size. Trainings that converge reach it too:
VANISHED = 1e-4
#: so it also has to fall by this much more than the other leaves' do. Healthy ones stay above 0.1.
VANISHED_BESIDE_OTHERS = 1e-3
#: Share of the first loss above which a training has not converged: its gradients should not
#: vanish.
UNCONVERGED = 0.5
#: A weight's gradient relative to the largest weight's. Twenty layers of tanh keep 0.4 with
#: Glorot's initialisation and 1e-4 with torch's, and train; a third of Glorot's leaves 1e-8.
VANISHED_OVER_DEPTH = 1e-5
#: Growth of the share of zeros in a gradient, and the share that it reaches. In healthy networks
#: of ReLU it changes by less than 0.1; sparse inputs have zeros from the beginning.
ZEROS_GROWN, ZEROS = 0.3, 0.5
#: Share of steps that are clipped, and the factor. Clipping by a half in every step is common.
CLIPPED, CLIP_FACTOR = 0.9, 0.1


def nonfinite_gradients(history: History) -> Iterator[Finding]:
    """NaN or infinity in a gradient or a parameter; with ``on_nonfinite="skip"``, in many steps."""
    bad = nonfinite_points(history)
    points = np.flatnonzero(bad.any(axis=1))
    if not len(points):
        return
    first = int(points[0])
    name = where(history, np.flatnonzero(bad[first]).tolist())
    step = history.steps[first]
    every = history.constants.get("every", 1)
    seen = f"first seen in step {step}" + (f" (one of {every} is looked at)" if every > 2 else "")
    if history.constants.get("on_nonfinite", "propagate") != "skip":
        yield Finding(
            "nonfinite_gradients",
            name,
            f"NaN or infinity, {seen}: on_nonfinite='raise' stops there, 'skip' passes over such "
            "a step; look for log(0), 0 / 0 and overflow, or lower lr",
        )
    elif share(bad.any(axis=1)) > SKIPPED:
        yield Finding(
            "nonfinite_gradients",
            name,
            f"{percent(share(bad.any(axis=1)))} of the steps are skipped for NaN or infinity, "
            f"{seen}: lower the loss scale or lr, or look for log(0) and 0 / 0",
        )


def nonfinite_points(history: History) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Where a gradient or a parameter is not finite; shape (points, leaves)."""
    nonfinite, param = history["nonfinite_grad"], history["param_rms"]
    frozen = np.isnan(nonfinite)  # or without a gradient
    found: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = (
        (nonfinite > 0) | np.isinf(param) | (np.isnan(param) & ~frozen)
    )
    return found


def dead_leaves(history: History) -> Iterator[Finding]:
    """A leaf without a gradient, or with a gradient of zero, in all points."""
    size = history["grad_rms"]
    frozen = np.isnan(history["update_rms"]).all(axis=0)
    none = np.flatnonzero(np.isnan(size).all(axis=0) & ~frozen).tolist()
    zero = np.flatnonzero((size == 0).any(axis=0) & ~(size > 0).any(axis=0)).tolist()
    points = f"{len(history.steps)} points"
    if none:
        text = f"no gradient in any of {points}: is it part of the graph?"
        yield Finding("dead_leaves", where(history, none), text)
    if zero:
        text = f"gradient is zero in all {points}: is it part of the graph? are its units dead?"
        yield Finding("dead_leaves", where(history, zero), text)


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


def vanishing_gradients(history: History) -> Iterator[Finding]:
    """A leaf's gradient falls while the others' do not; or all fall, and the loss does not."""
    size = history["grad_rms"]
    fall = ratio(medians(size[late(history)]), np.nanmax(size[:3], axis=0, initial=0.0))
    total = history.total("grad_rms")
    of_all = ratio(median(total[late(history)]), np.nanmax(total[:3], initial=0.0))
    if of_all < VANISHED and course.remaining_loss(history) > UNCONVERGED:
        yield Finding(
            "vanishing_gradients",
            "",
            f"all gradients fall to {number(of_all)} of their first size, but the loss stays high: "
            "units are saturated or dead; lower lr, scale the inputs, check the initial weights",
        )
        return
    beside = np.nanmax(fall, initial=0.0)
    least = min(VANISHED, VANISHED_BESIDE_OTHERS * float(beside))
    found = np.flatnonzero((fall > 0) & (fall < least))
    if len(found):
        yield Finding(
            "vanishing_gradients",
            where(history, found.tolist()),
            f"gradients {number(fall[found].min())} of their first size: they vanish; look for "
            "saturated units and large weights, lower lr, or normalise the layer's input",
        )


def vanishing_over_depth(history: History) -> Iterator[Finding]:
    """The gradient of a weight is tiny beside the largest, from the beginning.

    Zeros do not count: the gradient of an embedding has many.
    """
    size = np.nan_to_num(ratio(history["grad_rms"], np.sqrt(1 - history["zero_grad"])))
    usual, first = medians(size), size[0]
    relative, at_first = ratio(usual, usual.max()), ratio(first, first.max())
    least = VANISHED_OVER_DEPTH
    found = [i for i in weights(history) if 0 < relative[i] < least and at_first[i] < least]
    if found:
        yield Finding(
            "vanishing_over_depth",
            where(history, found),
            f"gradients {number(relative[found].min())} of those of "
            f"{history.names[int(usual.argmax())]} from the beginning: they vanish on their way; "
            "initialise by the fan-in (Glorot, He), add skip connections or normalisation",
        )


def dying_units(history: History) -> Iterator[Finding]:
    """The share of zeros in the gradient of a weight grows, perhaps to all."""
    zeros = history["zero_grad"]
    reached = medians(zeros[-early(history).stop :])
    grown = reached - zeros[0]
    found = [i for i in weights(history) if reached[i] >= ZEROS and grown[i] >= ZEROS_GROWN]
    remaining = course.remaining_loss(history)
    if reached.min() == 1 and not remaining > UNCONVERGED:
        return  # no error is left that could have a gradient
    if found:
        worst = max(found, key=lambda i: float(reached[i]))
        yield Finding(
            "dying_units",
            where(history, found),
            f"zeros in the gradient grow from {percent(zeros[0, worst])} to "
            f"{percent(reached[worst])}: units die; lower lr or warm up, or use leaky units",
        )


def always_clipped(history: History) -> Iterator[Finding]:
    """Clipping that acts in nearly all steps and leaves little of the gradient."""
    factor = history["clip_factor"]
    factor = np.where(factor > 0, factor, np.nan)  # 0 is of an infinite norm
    found = [i for i in range(len(history.leaves)) if share(factor[:, i] < CLIP_FACTOR) >= CLIPPED]
    if not found:
        return
    of_all = history.constants.get("max_grad_norm") is not None
    name = "max_grad_norm" if of_all else "max_grad_norm_per_array"
    kept = min(median(factor[:, i]) for i in found)
    limit = constant(history, name, found[0], np.nan)
    yield Finding(
        "always_clipped",
        where(history, found),
        f"{name}={number(limit)} clips {percent(_clipped(history, found))} of the steps, to "
        f"{number(kept)} of the norm: RMSProp rescales what is left, so that clipping only hides "
        f"which gradients are large; raise it to {number(rounded(2 * limit / kept))}",
    )


def _clipped(history: History, leaves: Sequence[int]) -> float:
    """The share of points at which some leaves are clipped."""
    return share(history["clip_factor"][:, leaves].max(axis=1) < 1)
