"""Rules about gradients: not finite, zero, vanishing, clipped. `explosions` has the large ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fused_rmsprop.monitor.history import History
from fused_rmsprop.monitor.report import Finding
from fused_rmsprop.monitor.rules import course
from fused_rmsprop.monitor.rules.words import (
    constant,
    early,
    finding,
    late,
    matrices,
    median,
    medians,
    number,
    option,
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
#: Points from which on a leaf larger than its sample is dead if all that was sampled is zero. A
#: batch touches few rows of an embedding, and perhaps none of those in the sample.
SAMPLED_POINTS = 30
#: Fall of a leaf's gradient, from its first size. Trainings that converge reach it too:
VANISHED = 1e-4
#: so it also has to fall by this much more than the other leaves' do, and to this share of the
#: largest of them. Healthy ones stay above 0.1.
VANISHED_BESIDE_OTHERS = 1e-3
#: Share of the first loss above which a training has not converged: its gradients should not
#: vanish.
UNCONVERGED = 0.5
#: A gradient that is small in itself. One that has exploded and falls back stays above it.
SMALL_GRADIENT = 1e-3
#: A weight's gradient relative to the largest one of the leaves behind it. Twenty layers of tanh
#: keep 0.4 with Glorot's initialisation and 1e-4 with torch's, and train; a third of Glorot's
#: leaves 1e-8.
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
    found = np.flatnonzero(bad[first]).tolist()
    every = history.constants.get("every", 1)
    seen = f"first seen in step {history.steps[first]}"
    seen += f" (one of {every} is looked at)" if every > 2 else ""
    place, closer = "", ""
    if not where(history, found):
        place = f" in all {len(found)} parameters"
        closer = "every=1 would show where it began; " if every > 1 else ""
    if history.constants.get("on_nonfinite", "propagate") != "skip":
        text = (
            f"NaN or infinity{place}, {seen}: {closer}on_nonfinite='raise' stops there, 'skip' "
            "passes over such a step; look for log(0), 0 / 0 and overflow, or lower lr"
        )
        yield finding("nonfinite_gradients", history, found, text)
    elif share(bad.any(axis=1)) > SKIPPED:
        text = (
            f"{percent(share(bad.any(axis=1)))} of the steps are skipped for NaN or infinity"
            f"{place}, {seen}: {closer}lower the loss scale or lr, or look for log(0) and 0 / 0"
        )
        yield finding("nonfinite_gradients", history, found, text)


def nonfinite_points(history: History) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Where a gradient or a parameter is not finite; shape (points, leaves)."""
    nonfinite, param = history["nonfinite_grad"], history["param_rms"]
    frozen = np.isnan(nonfinite)  # or without a gradient
    found: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = (
        (nonfinite > 0) | np.isinf(param) | (np.isnan(param) & ~frozen)
    )
    return found


def zero_weights(history: History) -> Iterator[Finding]:
    """Two weights or more that start at zero, and so stop the gradient of one of them.

    A single zero weight, such as the last one of each residual block, has a gradient and leaves
    zero at once.
    """
    param, grad = history["param_rms"][0], history["grad_rms"][0]
    zero = [i for i in matrices(history) if param[i] == 0]
    if len(zero) < 2 or not (grad[zero] == 0).any() or course.has_converged(history):
        return
    text = "weights start at zero: layers behind each other cannot learn; initialise them at random"
    names = tuple(history.names[i] for i in zero)
    yield Finding("zero_weights", where(history, zero), text, names)


def dead_leaves(history: History) -> Iterator[Finding]:
    """A leaf without a gradient, or with a gradient of zero, in all points."""
    size = history["grad_rms"]
    frozen = np.isnan(history["update_rms"]).all(axis=0)
    none = np.flatnonzero(np.isnan(size).all(axis=0) & ~frozen).tolist()
    zero = np.flatnonzero((size == 0).any(axis=0) & ~(size > 0).any(axis=0)).tolist()
    points = f"{len(history.steps)} points"
    if none:
        text = f"no gradient in any of {points}: is it part of the graph?"
        yield finding("dead_leaves", history, none, text)
    part = [i for i in zero if _is_sampled(history, i)]
    if len(part) == len(zero) and len(history.steps) < SAMPLED_POINTS:
        return  # if one of them is dead for certain, so are layers beside it
    found = [i for i in zero if i not in part or not _has_had_gradient(history, i)]
    if found:
        kind = "gradient" if set(found).isdisjoint(part) else "sampled gradient"
        text = f"{kind} is zero in all {points}: is it part of the graph? are its units dead?"
        yield finding("dead_leaves", history, found, text)


def _is_sampled(history: History, leaf: int) -> bool:
    """Whether only a part of a weight's elements is observed."""
    shape, size = history.leaves[leaf].shape, history.leaves[leaf].size
    return len(shape) > 1 and size > history.constants.get("sample", size)


def _has_had_gradient(history: History, leaf: int) -> bool:
    """Whether a sampled element has had one in any step, observed or not: its average tells."""
    rates = history.effective_lr()[:, 2, leaf]
    by_itself = not option(history, "weight_decay", leaf).any()
    by_itself &= not constant(history, "initial_square_avg", leaf, 0.0)
    return by_itself and not np.isnan(rates).all()


def vanishing_gradients(history: History) -> Iterator[Finding]:
    """A leaf's gradient falls while the others' do not; or all fall, and the loss does not."""
    size, total = history["grad_rms"], history.total("grad_rms")
    usual, of_all = medians(size[late(history)]), median(total[late(history)])
    fall = ratio(usual, np.nanmax(size[:3], axis=0, initial=0.0))
    fall_of_all = ratio(of_all, np.nanmax(total[:3], initial=0.0))
    unlearned = course.remaining_loss(history) > UNCONVERGED
    if fall_of_all < VANISHED and of_all < SMALL_GRADIENT and unlearned:
        yield Finding(
            "vanishing_gradients",
            "",
            f"all gradients fall to {number(fall_of_all)} of their first size, but the loss stays "
            "high: units are saturated or dead; lower lr, scale the inputs, check the initial "
            "weights",
        )
        return
    beside = np.nanmax(fall, initial=0.0)
    least = min(VANISHED, VANISHED_BESIDE_OTHERS * float(beside))
    small = usual < VANISHED_BESIDE_OTHERS * np.nanmax(usual, initial=0.0)
    found = np.flatnonzero((fall > 0) & (fall < least) & small).tolist()
    if found:
        text = (
            f"gradients {number(fall[found].min())} of their first size: they vanish; look for "
            "saturated units and large weights, lower lr, or normalise the layer's input"
        )
        yield finding("vanishing_gradients", history, found, text)


def vanishing_over_depth(history: History) -> Iterator[Finding]:
    """The gradient of a weight is tiny beside that of a leaf behind it, from the beginning."""
    usual, first = usual_gradients(history)
    tiny = {}
    for i in weights(history):
        behind = slice(i + 1, None)
        relative = ratio(usual[i], usual[behind].max(initial=0.0))
        at_first = ratio(first[i], first[behind].max(initial=0.0))
        small = 0 < usual[i] < SMALL_GRADIENT
        if small and relative < VANISHED_OVER_DEPTH and at_first < VANISHED_OVER_DEPTH:
            tiny[i] = float(relative)
    if tiny:
        worst = min(tiny, key=lambda i: tiny[i])
        text = (
            f"gradients {number(tiny[worst])} of those of "
            f"{history.names[worst + 1 + int(usual[worst + 1 :].argmax())]} from the beginning: "
            "they vanish on their way; initialise by the fan-in (Glorot, He), add skip connections "
            "or normalisation"
        )
        yield finding("vanishing_over_depth", history, [*tiny], text)


def usual_gradients(history: History) -> tuple[np.ndarray, np.ndarray]:
    """Each leaf's gradient in the median and at the first point, two arrays (leaves,).

    Zeros do not count: the gradient of an embedding has many.
    """
    size = np.nan_to_num(ratio(history["grad_rms"], np.sqrt(1 - history["zero_grad"])))
    return medians(size), size[0]


def dying_units(history: History) -> Iterator[Finding]:
    """The share of zeros in the gradient of a weight grows, perhaps to all."""
    zeros = history["zero_grad"]
    reached = medians(zeros[-early(history).stop :])
    grown = reached - zeros[0]
    found = [i for i in matrices(history) if reached[i] >= ZEROS and grown[i] >= ZEROS_GROWN]
    remaining = course.remaining_loss(history)
    if not found or (reached.min() == 1 and not remaining > UNCONVERGED):
        return  # no error is left that could have a gradient
    if course.has_converged(history):
        return
    worst = max(found, key=lambda i: float(reached[i]))
    text = (
        f"zeros in the gradient grow from {percent(zeros[0, worst])} to "
        f"{percent(reached[worst])}: units die; lower lr or warm up, or use leaky units"
    )
    yield finding("dying_units", history, found, text)


def always_clipped(history: History) -> Iterator[Finding]:
    """Clipping that acts in nearly all steps and leaves little of the gradient."""
    factor = history["clip_factor"]
    factor = np.where(factor > 0, factor, np.nan)  # 0 is of an infinite norm
    found = [i for i in range(len(history.leaves)) if share(factor[:, i] < CLIP_FACTOR) >= CLIPPED]
    if not found:
        return
    kept = min(median(factor[:, i]) for i in found)
    name, limit = _limit(history, found[0])
    value = f"={number(limit)}" if limit else ""
    more = f" to {number(rounded(2 * limit / kept))}" if limit else f" {number(2 / kept)}-fold"
    text = (
        f"{name}{value} clips {percent(_clipped(history, found))} of the steps, to "
        f"{number(kept)} of the norm: RMSProp rescales what is left, so that clipping only hides "
        f"which gradients are large; raise it{more}"
    )
    yield finding("always_clipped", history, found, text)


def _limit(history: History, leaf: int) -> tuple[str, float | None]:
    """The name of the limit, and its value unless it was set after the monitor was made."""
    for name in ("max_grad_norm", "max_grad_norm_per_array"):
        if (limit := constant(history, name, leaf)) is not None:
            return name, float(limit)
    return "clipping by the norm", None


def _clipped(history: History, leaves: Sequence[int]) -> float:
    """The share of points at which some leaves are clipped."""
    return share(history["clip_factor"][:, leaves].max(axis=1) < 1)
