"""Rules about the course of a training: its loss, and whether there is enough to judge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fused_rmsprop.monitor.history import Array, History, Series
from fused_rmsprop.monitor.report import Finding
from fused_rmsprop.monitor.rules.words import change, highest, is_scheduled, median, number, percent

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
#: Share of the first loss above which a training has learned nothing.
UNLEARNED = 0.95
#: Cosine of successive updates from which on they agree: the way is long for such steps.
AGREEING = 0.1


def loss_of(history: History) -> Series | None:
    """The loss of the training, if it was logged: "loss", or a name that says it is of training."""
    for name in ("loss", "train_loss", "train/loss", "training_loss", "loss/train"):
        if name in history.logged:
            return history.logged[name]
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
    noise = float(np.std(np.diff(half))) / np.sqrt(2)
    error = noise * np.sqrt(1 / len(before) + 1 / len(after))
    rise = float(after.mean() - before.mean())
    size = abs(float(before.mean()))
    if rise < -max(SIGNIFICANT * error, FALL * size):
        return "falls"
    if rise > max(SIGNIFICANT * error, RISE * size):
        return "rises"
    return "stalls" if rise - SIGNIFICANT * error > -STALL * size else None


def remaining_loss(history: History) -> float:
    """The loss of the last quarter relative to the first losses; NaN if unknown or negative."""
    losses = _losses(history)
    if losses is None or losses.min() < 0 or history.steps[0] > LATE_START:
        return float("nan")
    first, last = _ends(losses)
    return last / first if first else float("nan")


def _ends(losses: Array) -> tuple[float, float]:
    """The mean of the first losses, and that of the last quarter."""
    first, last = losses[: max(1, min(10, len(losses) // 10))], losses[-(len(losses) // 4) :]
    return float(first.mean()), float(last.mean())


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
    """A loss that rises in the second half."""
    losses = _losses(history)
    if losses is None or trend(history) != "rises" or remaining_loss(history) < CONVERGED:
        return
    quarter = -(len(losses) // 4)
    before, after = losses[2 * quarter : quarter].mean(), losses[quarter:].mean()
    lr = highest(history, "lr", range(len(history.leaves)))
    yield Finding(
        "rising_loss",
        "",
        f"loss rises from {number(before)} to {number(after)} over the second half of the "
        f"training: lower lr ({change(lr, lr / 10)}), and check the sign of the gradient",
    )


def stalled_loss(history: History) -> Iterator[Finding]:
    """A loss that has never fallen, or that stands still at a constant lr."""
    losses, remaining = _losses(history), remaining_loss(history)
    if losses is None or np.isnan(remaining):
        return
    first, last = _ends(losses)
    everything = range(len(history.leaves))
    lr = highest(history, "lr", everything)
    if remaining > UNLEARNED and trend(history) != "rises":
        agreeing = median(history.total("cosine")) > AGREEING
        if agreeing and not highest(history, "momentum", everything):
            advice = f"successive updates agree: try a larger lr ({change(lr, lr * 10)})"
        else:
            advice = f"try lr ten times smaller and larger ({number(lr)} now), check the gradients"
        text = f"loss has hardly fallen ({number(first)} to {number(last)}): {advice}"
        yield Finding("stalled_loss", "", text)
    elif remaining > CONVERGED and trend(history) == "stalls":
        if not is_scheduled(history.option("lr").max(axis=1)):
            yield Finding(
                "stalled_loss",
                "",
                f"loss stalls at {number(last)}, {percent(remaining)} of the first, at a "
                f"constant lr: lower it ({change(lr, lr / 10)}; ReduceOnPlateau does), or "
                "stop",
            )


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
