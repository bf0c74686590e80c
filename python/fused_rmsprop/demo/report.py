"""What the demo prints and draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fused_rmsprop.demo import History


def print_summary(fused: History, plain: History) -> None:
    """Print what a user wants to know of the two runs; times are medians."""
    layers = zip(fused.params, plain.params, strict=True)
    identical = all(a[k].tobytes() == b[k].tobytes() for a, b in layers for k in a)
    elements = sum(array.size for layer in fused.params for array in layer.values())
    print(f"test accuracy      {fused.test_accuracy[-1]:.2%}")
    print(f"parameters         {elements:,}")
    print("medians                 fused      NumPy")
    for what, ours, theirs in (
        ("iteration", fused.iteration_times, plain.iteration_times),
        ("optimizer step", fused.step_times, plain.step_times),
    ):
        a, b = np.median(ours), np.median(theirs)
        print(f"{what:18s} {a * 1e6:7.0f} us {b * 1e6:7.0f} us   {b / a:.1f} times as fast")
    print(f"parameters at end  {'bit-identical' if identical else 'DIFFERENT'}")


def save_picture(history: History, percentiles: Sequence[int], out: str) -> None:
    """Draw the curves of a run and its effective learning rates into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = np.arange(1, len(history.train_loss) + 1)

    loss.plot(epochs, history.train_loss, label="training")
    loss.plot(epochs, history.test_loss, label="test")
    loss.set(title="Cross-entropy", xlabel="epoch", yscale="log")
    loss.legend()

    accuracy.plot(epochs, 100 * np.array(history.train_accuracy), label="training")
    accuracy.plot(epochs, 100 * np.array(history.test_accuracy), label="test")
    accuracy.set(title="Accuracy (%)", xlabel="epoch", ylim=(90, 100.3))
    accuracy.legend()

    by_percentile = np.array(history.effective_lr).T
    middle = len(percentiles) // 2
    for i in range(middle):
        rate.fill_between(
            epochs,
            by_percentile[i],
            by_percentile[-1 - i],
            color="C2",
            alpha=0.15 + 0.2 * i,
            linewidth=0,
            label=f"{percentiles[i]} to {percentiles[-1 - i]} %",
        )
    rate.plot(epochs, by_percentile[middle], color="C2", label="median", linewidth=1.5)
    rate.set(
        title=r"Effective learning rate  lr / ($\sqrt{v}$ + eps)", xlabel="epoch", yscale="log"
    )
    rate.legend()
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=100)
