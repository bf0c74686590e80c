"""Rules about updates: too long, too short, swallowed, back and forth."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fused_rmsprop.monitor.history import Array, History
from fused_rmsprop.monitor.report import Finding
from fused_rmsprop.monitor.rules import course
from fused_rmsprop.monitor.rules.words import (
    change,
    constant,
    finding,
    highest,
    is_scheduled,
    largest,
    late,
    median,
    medians,
    number,
    option,
    percent,
    ratio,
    rounded,
    share,
    weights,
)

#: An update relative to the weights, as the median of all weights. A. Karpathy's recipe asks for
#: about 1e-3; RMSProp trains digits well from 5e-4 to 1e-1, and badly from 3e-1.
LARGE_UPDATE, SMALL_UPDATE = 0.2, 1e-4
#: How far one weight's relative update has to be from the median, to be named alone. Weights of
#: healthy networks stay within 10.
OUTLIER = 30.0
#: The relative updates that advice aims at: the ends of the usual range, and its lower end.
LARGEST_HEALTHY, USUAL = 1e-2, 1e-3
_USUALLY = "(0.1 to 1 % is usual)"
#: The largest factor of lr that is proposed; after it, one looks again.
LARGEST_RAISE = 100.0
#: First size of a weight relative to 1 / sqrt(fan-in), below which it says nothing of its scale:
#: it was initialised to zero, or nearly so.
INITIALISED = 0.1
#: Steps after which a weight that began near zero has a scale.
SETTLED = 100
#: Share of elements that rounding keeps as they were.
LOST = 0.5
#: A first update relative to the later ones; ``alpha=0.99`` makes it ten times as long.
FIRST_STEPS = 5.0
#: A first update relative to the weights from which on it may do harm. The loss tells; without
#: one, it has to be larger. Trainings with 0.1 to 0.25 are healthy as a rule.
HARMFUL_FIRST_STEP, LARGE_FIRST_STEP = 0.1, 0.5
#: Share of points at which eps is larger than the root of most elements.
EPS_POINTS = 0.5
#: An eps that only gradients that have vanished fall below.
SMALL_EPS = 1e-6
#: Cosine of successive updates, of all and of one leaf. Pure noise of batches has 0 (and reverses
#: half of the updates); near a minimum, with a constant lr, healthy trainings reach -0.5.
OSCILLATING, LEAF_OSCILLATING = -0.5, -0.6
#: The same of all where the loss does not fall.
STALLED_OSCILLATING = -0.3
#: Share of updates that reverse, which healthy trainings stay below.
REVERSED = 0.65
#: Elements of a leaf from which on its cosine is more than a sign.
COSINE_ELEMENTS = 10
#: Growth of the median effective learning rate at a constant lr.
EFFECTIVE_LR_GROWN = 100.0


def relative_updates(history: History, leaf: int) -> Array:
    """Updates relative to a leaf: to its first size, or the present one if it began near zero.

    Too large updates make the weights grow, and so hide themselves if they are compared with the
    present weights. An update counts as lr at most: `long_first_steps` is about those that are
    longer. Where lr is below half of its largest value, NaN.
    """
    first = history["param_rms"][0, leaf]
    lr = option(history, "lr", leaf)
    longest = lr / (1 - option(history, "momentum", leaf))
    if first * np.sqrt(fan_in(history.leaves[leaf].shape)) > INITIALISED:
        values = ratio(np.fmin(history["update_rms"][:, leaf], longest), first)
    else:
        values = np.where(history.steps > SETTLED, history["update_ratio"][:, leaf], np.nan)
    return np.where(lr >= 0.5 * lr.max(), values, np.nan)


def fan_in(shape: tuple[int, ...]) -> float:
    """The number of inputs of a unit, or of outputs if they are more: layouts differ."""
    return math.prod(shape) / max(1, min(shape, default=1))


def large_updates(history: History) -> Iterator[Finding]:
    """Updates that are large beside the weights."""
    sizes = {
        i: float(np.nanmax(relative_updates(history, i), initial=0.0)) for i in weights(history)
    }
    middle = median(np.array([*sizes.values()]))
    everywhere = middle > LARGE_UPDATE
    found = [i for i in sizes if sizes[i] > (LARGE_UPDATE if everywhere else OUTLIER * middle)]
    found = [i for i in found if sizes[i] > LARGE_UPDATE]
    if found:
        size = float(np.median([sizes[i] for i in found]))
        lr = highest(history, "lr", found)
        text = (
            f"each step moves the weights by {percent(size)} of their size {_USUALLY}: "
            f"lower lr ({change(lr, lr * LARGEST_HEALTHY / size)})"
        )
        yield finding("large_updates", history, [] if everywhere else found, text)


def small_updates(history: History) -> Iterator[Finding]:
    """Updates that are tiny beside the weights, or lost to rounding."""
    if course.has_converged(history):
        return
    sizes = {i: median(relative_updates(history, i)) for i in weights(history)}
    middle = median(np.array([*sizes.values()]))
    lost = medians(history["lost_update"][: late(history).start])
    swallowed = [i for i in sizes if lost[i] > LOST]
    everywhere = 0 < middle < SMALL_UPDATE or 2 * len(swallowed) > len(sizes)
    tiny = [i for i in sizes if 0 < sizes[i] < SMALL_UPDATE]
    found = swallowed or [i for i in tiny if everywhere or sizes[i] < middle / OUTLIER]
    if not found:
        return
    size = float(np.median([sizes[i] for i in found]))
    lr = highest(history, "lr", found)
    seen = (
        f"{percent(max(lost[i] for i in swallowed))} of the updates are lost to rounding in "
        f"{history.leaves[found[0]].dtype}"
        if swallowed
        else f"each step moves the weights by {percent(size)} of their size {_USUALLY}"
    )
    better = lr * min(LARGEST_RAISE, USUAL / size if size > 0 else np.inf)
    text = f"{seen}: raise lr ({change(lr, better)})"
    yield finding("small_updates", history, [] if everywhere else found, text)


def long_first_steps(history: History) -> Iterator[Finding]:
    """First steps that are long because the average starts from zero."""
    leaves = weights(history)
    leaf = largest(history, leaves)
    alpha, lr = option(history, "alpha", leaf)[0], option(history, "lr", leaf)
    window = 1 / (1 - alpha)
    update = ratio(history.total("update_rms"), lr)
    later = median(update[history.steps > min(2 * window, history.steps[-1] / 2)])
    factor = ratio(update[0], later)
    cold = history.steps[0] < window / 5
    harm = course.jumps_at_first(history)
    first, last = history["param_rms"][[0, -1], leaf]
    # Without a loss, weights that begin at zero tell no harm.
    size, least = (
        (first, LARGE_FIRST_STEP) if harm is None else (max(first, last), HARMFUL_FIRST_STEP)
    )
    jump = float(ratio(history["update_rms"][0, leaf], size))
    if harm is False or not cold or not factor >= FIRST_STEPS or not least <= jump < np.inf:
        return
    if np.sqrt(window) < FIRST_STEPS or constant(history, "bias_correction", leaf, False):
        return
    factor = min(factor, np.sqrt(window))  # the rest is due to gradients that shrink
    yield Finding(
        "long_first_steps",
        "",
        f"first steps are {number(factor)} times too long: they move the weights by "
        f"{percent(jump)} of their size {_USUALLY}{', and the loss jumps' * bool(harm)}; warm up "
        f"over {round(window)} steps, or set bias_correction=True",
    )


def eps_dominates(history: History) -> Iterator[Finding]:
    """An eps that is larger than sqrt(v) for most elements."""
    middle = history.effective_lr()[:, 2, :-1]
    found = []
    converged = course.has_converged(history)
    for i in weights(history):
        eps = float(constant(history, "eps", i, 1e-8))
        inside = constant(history, "eps_inside_sqrt", i, False)
        bound = option(history, "lr", i) / (np.sqrt(2 * eps) if inside else 2 * eps)
        if converged and eps <= SMALL_EPS:
            continue  # its gradients vanish because it has learned
        if share(middle[:, i] > bound) >= EPS_POINTS:
            found.append(i)
    if found:
        eps = float(constant(history, "eps", found[0], 1e-8))
        lr = highest(history, "lr", found)
        size = median(history["grad_rms"][:, found])
        better = rounded(min(1e-8, 1e-3 * size))
        seen = (
            f"eps={number(eps)} is larger than sqrt(v) of most elements (gradients are about "
            f"{number(size)}): "
        )
        lower = f"lower eps ({change(eps, better)})"
        text = (
            f"{seen}the step is that of SGD with lr {number(lr / eps)}; {lower}"
            if eps > SMALL_EPS
            else f"{seen}they vanish; enlarge the initial weights, scale the loss up, or {lower}"
        )
        everywhere = len(found) == len(weights(history))
        yield finding("eps_dominates", history, [] if everywhere else found, text)


def oscillation(history: History) -> Iterator[Finding]:
    """Updates that undo the ones before."""
    half = late(history)
    cosine, reverse = medians(history["cosine"][half]), medians(history["reversed"][half])
    of_all, reversed_ = (
        median(history.total("cosine")[half]),
        median(history.total("reversed")[half]),
    )
    trend = course.trend(history)
    stalled = trend in ("stalls", "rises") and not course.has_converged(history)
    whole = of_all < (STALLED_OSCILLATING if stalled else OSCILLATING)
    whole &= stalled or reversed_ > REVERSED
    found = [
        i
        for i in weights(history)
        if cosine[i] < LEAF_OSCILLATING
        and reverse[i] > REVERSED
        and history.leaves[i].size >= COSINE_ELEMENTS
    ]
    if whole:
        found = list(range(len(history.leaves)))
    elif not found:
        return
    else:
        of_all, reversed_ = float(cosine[found].min()), median(reverse[found])
    loss = "" if trend is None else f"loss {trend}, but " if trend == "falls" else f"loss {trend}: "
    text = (
        f"{loss}{percent(reversed_)} of {'all ' * whole}updates reverse, with a cosine of "
        f"{of_all:.1f}: {_ways_to_calm(history, found, trend == 'falls')}"
    )
    yield finding("oscillation", history, [] if whole else found, text)


def _ways_to_calm(history: History, leaves: list[int], learns: bool) -> str:
    """What helps against oscillation; a training that learns keeps its lr at first."""
    lr, alpha = highest(history, "lr", leaves), highest(history, "alpha", leaves)
    lower = f"({change(lr, lr / 3)})"
    momentum = [] if highest(history, "momentum", leaves) else ["add momentum"]
    average = [f"lengthen the average (alpha {number(alpha)} -> 0.99)"] if alpha < 0.95 else []
    if not learns:
        return _either([f"lower lr {lower}", *average, *momentum])
    scheduled = is_scheduled(option(history, "lr", leaves[0]))
    schedule = [f"lower lr {lower}"] if scheduled else ["schedule lr", f"lower it {lower}"]
    return _either([*momentum, *schedule, *average])


def growing_effective_lr(history: History) -> Iterator[Finding]:
    """An effective learning rate that grows although lr does not."""
    lr = history.option("lr")
    if any(is_scheduled(lr[:, group]) for group in range(lr.shape[1])):
        return
    middle = history.effective_lr()[:, 2, -1]
    first = middle[: max(2, len(middle) // 4)]
    growth = ratio(median(middle[-3:]), np.nanmin(first, initial=np.inf))
    if EFFECTIVE_LR_GROWN <= growth < np.inf:
        at = float(lr[-1].max())
        yield Finding(
            "growing_effective_lr",
            "",
            f"effective learning rate grows {number(growth)}-fold, because gradients shrink: "
            f"schedule lr, from {number(at)} to {number(rounded(at / 100))} or 0",
        )


def _either(ways: list[str]) -> str:
    return ", ".join(ways[:-1]) + " or " + ways[-1] if len(ways) > 1 else ways[0]
