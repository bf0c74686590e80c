"""Rules about the course of a training: its loss, and whether there is enough to judge."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fused_rmsprop.monitor.history import Array, History, Series
from fused_rmsprop.monitor.report import Finding
from fused_rmsprop.monitor.rules.words import (
    change,
    highest,
    is_scheduled,
    late,
    median,
    number,
    percent,
    ratio,
)

#: Points and logged losses from which on a training is judged.
FEWEST_POINTS, FEWEST_LOSSES = 5, 20
#: Standard errors that a change of the loss has to exceed.
SIGNIFICANT = 3.0
#: Changes of the loss over the second half of the training that count.
FALL, RISE = 0.01, 0.1
#: A fall that noise may hide in a loss that is said to stall.
STALL = 0.1
#: First observed step from which on the first loss is unknown: the training was resumed.
LATE_START = 100
#: Share of the first loss below which a loss may stand still or rise: the training has converged.
CONVERGED = 0.1
#: Share of the first gradient below which a training without a loss has converged.
CONVERGED_GRADIENT = 1e-3
#: Share of the first loss above which a training has learned nothing, and above which it learns
#: slowly.
UNLEARNED, SLOW = 0.95, 0.8
#: Steps after which a training is called slow; before, it has but begun.
SLOW_STEPS = 200
#: Cosine of successive updates from which on they agree: the way is long for such steps.
AGREEING = 0.1
#: Loss after the first step relative to the first loss, from which on that step does harm. Linear
#: models of digits reach 1.6 and train well.
FIRST_JUMP = 2.0


def loss_of(history: History) -> Series | None:
    """The loss of the training, if it was logged: "loss", or a name that says it is of training.

    Capital letters do not matter.
    """
    logged = {name.lower(): series for name, series in history.logged.items()}
    for name in ("loss", "train_loss", "train/loss", "training_loss", "loss/train"):
        if name in logged:
            return logged[name]
    return None


def _losses(history: History) -> Array | None:
    series = loss_of(history)
    if series is None or any(np.ravel(history.constants.get("maximize", False))):
        return None
    values = series.values[np.isfinite(series.values)]
    return values if len(values) >= FEWEST_LOSSES else None


def trend(history: History) -> str | None:
    """Whether the loss "falls", "stalls" or "rises" in the second half; None if noise hides it."""
    losses = _losses(history)
    if losses is None:
        return None
    half = losses[len(losses) // 2 :]
    before, after = half[: len(half) // 2], half[len(half) // 2 :]
    # The noise of the values, whatever their trend, from differences of neighbours.
    noise = _noise(half)
    error = noise * np.sqrt(1 / len(before) + 1 / len(after))
    rise = float(after.mean() - before.mean())
    size = abs(float(before.mean()))
    if rise < -max(SIGNIFICANT * error, FALL * size):
        return "falls"
    if rise > max(SIGNIFICANT * error, RISE * size):
        return "rises"
    return "stalls" if rise - SIGNIFICANT * error > -STALL * size else None


def remaining_loss(history: History) -> float:
    """The loss of the last quarter relative to the first; NaN if unknown or negative.

    The first is the mean of some early losses if that is larger: a single batch may have a small
    one.
    """
    losses = _losses(history)
    if losses is None or losses.min() < 0 or history.steps[0] > LATE_START:
        return float("nan")
    early = losses[: max(1, min(10, len(losses) // 10))]
    first = max(float(losses[0]), float(early.mean()))
    return _last(losses) / first if first else float("nan")


def has_converged(history: History) -> bool:
    """Whether little of the loss is left, or of the gradient if no loss was logged."""
    size, remaining = history.total("grad_rms"), remaining_loss(history)
    fall = ratio(median(size[late(history)]), np.nanmax(size[:3], initial=0.0))
    return remaining < CONVERGED or (bool(fall < CONVERGED_GRADIENT) and np.isnan(remaining))


def jumps_at_first(history: History) -> bool | None:
    """Whether the loss is much larger after the first two steps than before; None if unknown."""
    losses = _losses(history)
    if losses is None or history.steps[0] > 1:
        return None
    first, after = float(losses[0]), float(losses[1:3].mean())
    error = _noise(losses[len(losses) // 2 :]) / math.sqrt(2)
    return after - first > max(SIGNIFICANT * error, (FIRST_JUMP - 1) * abs(first))


def _last(losses: Array) -> float:
    """The mean of the last quarter."""
    return float(losses[-(len(losses) // 4) :].mean())


def _noise(losses: Array) -> float:
    """The standard deviation of the losses without their trend, from neighbours' differences."""
    return float(np.std(np.diff(losses)) / np.sqrt(2))


def _has_risen(losses: Array) -> bool:
    """Whether the last losses are above the first one, beyond noise."""
    first, noise = float(losses[0]), _noise(losses[len(losses) // 2 :])
    return _last(losses) - first > max(SIGNIFICANT * noise, RISE * abs(first))


def nonfinite_loss(history: History) -> Iterator[Finding]:
    """A logged loss that is NaN or infinite."""
    series = loss_of(history)
    if series is None or np.isfinite(series.values).all():
        return
    first = int(np.argmin(np.isfinite(series.values)))
    yield Finding(
        "nonfinite_loss",
        "",
        f"loss is {series.values[first]:g} in step {series.steps[first]}: look for log(0), "
        "0 / 0 and overflow, or lower lr",
    )


def rising_loss(history: History) -> Iterator[Finding]:
    """A loss that rises in the second half, or ends above the first."""
    losses = _losses(history)
    if losses is None or remaining_loss(history) < CONVERGED:
        return
    quarter = -(len(losses) // 4)
    before, after = float(losses[2 * quarter : quarter].mean()), _last(losses)
    if history.steps[0] <= LATE_START and _has_risen(losses):
        seen = f"from {number(losses[0])}, the first, to {number(after)}: check the sign of the"
        advice = "gradient, and lower lr"
    elif trend(history) == "rises":
        seen = f"from {number(before)} to {number(after)} over the second half of the training:"
        advice = "check the sign of the gradient, and lower lr"
    else:
        return
    lr = highest(history, "lr", range(len(history.leaves)))
    yield Finding("rising_loss", "", f"loss rises {seen} {advice} ({change(lr, lr / 10)})")


def stalled_loss(history: History) -> Iterator[Finding]:
    """A loss that has hardly fallen, or that stands still at a constant lr."""
    losses, remaining = _losses(history), remaining_loss(history)
    if losses is None or np.isnan(remaining) or _has_risen(losses):
        return
    everything = range(len(history.leaves))
    lr = highest(history, "lr", everything)
    agreeing = median(history.total("cosine")[late(history)]) > AGREEING
    agreeing &= not highest(history, "momentum", everything)
    scheduled = is_scheduled(history.option("lr").max(axis=1))
    ends = f"({number(losses[0])} to {number(_last(losses))})"
    text = ""
    slow = remaining > SLOW and history.steps[-1] > SLOW_STEPS and not scheduled
    if agreeing and (remaining > UNLEARNED or slow):
        text = (
            f"loss has hardly fallen {ends}, and successive updates agree: try a larger lr "
            f"({change(lr, lr * 10)})"
        )
    elif remaining > UNLEARNED and trend(history) != "rises":
        text = (
            f"loss has hardly fallen {ends}: try lr ten times smaller and larger ({number(lr)} "
            "now), check the gradients"
        )
    elif remaining > CONVERGED and trend(history) == "stalls" and not scheduled:
        text = (
            f"loss stalls at {number(_last(losses))}, {percent(remaining)} of the first, at a "
            f"constant lr: lower it ({change(lr, lr / 10)}; ReduceOnPlateau does), or stop"
        )
    if text:
        yield Finding("stalled_loss", "", text)


def too_few_points(history: History) -> Iterator[Finding]:
    """Nothing observed yet, or too little to judge."""
    points = len(history.steps)
    every = history.constants.get("every", 1)
    if points == 0:
        text = "nothing was observed yet: the optimizer has made no complete pair of steps"
        yield Finding("too_few_points", "", text)
    elif points < FEWEST_POINTS:
        yield Finding(
            "too_few_points",
            "",
            f"{points} point{'s' * (points > 1)} up to step {history.steps[-1]} are too few to "
            f"judge, with every={every}; there will be {FEWEST_POINTS} after "
            f"{every * (FEWEST_POINTS - 1) + 2} steps",
        )
