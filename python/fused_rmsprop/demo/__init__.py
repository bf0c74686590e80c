"""Train on handwritten digits with the fused kernel and with the NumPy expression.

Model and batches are the same, so the results must be bit-identical; only the times differ.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from fused_rmsprop import RMSProp
from fused_rmsprop.demo.mlp import Array, Params, evaluate, init_params, loss_and_grads
from fused_rmsprop.monitor import Monitor

#: For training and for the test: images as float32 rows of 64 pixels from -1 to 1, and labels.
Digits: TypeAlias = tuple[tuple[Array, Array], tuple[Array, Array]]

HIDDEN = (512, 512)
BATCH = 64
LR, ALPHA, EPS = 5e-4, 0.9, 1e-8


@dataclass
class History:
    """One training run."""

    params: Params
    train: list[tuple[float, float]] = field(default_factory=list)  # loss and accuracy per epoch
    test: list[tuple[float, float]] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)  # per iteration, in `step`


class NumpyExpression:
    """The textbook expression."""

    def __init__(self, params: Params) -> None:
        self.lr = LR
        self._params = params
        self._square_avg = [{k: np.zeros_like(p) for k, p in layer.items()} for layer in params]

    def step(self, grads: Params) -> None:
        for params, grad, square_avg in zip(self._params, grads, self._square_avg, strict=True):
            for k in params:
                g = grad[k]
                square_avg[k][...] = ALPHA * square_avg[k] + (1 - ALPHA) * (g * g)
                params[k] -= self.lr * g / (np.sqrt(square_avg[k]) + EPS)


def load(seed: int) -> Digits:
    """Load scikit-learn's 1797 digits of 8 x 8 pixels; a fifth is the test set."""
    images, labels = load_digits(return_X_y=True)
    x = (images / 8 - 1).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        x, labels, test_size=0.2, stratify=labels, random_state=seed
    )
    return (train_x, train_y), (test_x, test_y)


def fit(
    params: Params,
    optimizer: RMSProp | NumpyExpression,
    digits: Digits,
    epochs: int,
    seed: int,
    monitor: Monitor | None = None,
) -> History:
    """Train in place on shuffled batches, with a progress bar."""
    (images, labels), test = digits
    rng = np.random.default_rng(seed)
    history = History(params)
    batches = len(images) // BATCH
    label = "fused" if isinstance(optimizer, RMSProp) else "NumPy"
    with tqdm(total=epochs * batches, desc=label, unit="it") as bar:
        for epoch in range(epochs):
            optimizer.lr = LR * (1 - epoch / epochs)  # with a constant rate it would not settle
            order = rng.permutation(len(images))
            for i in range(batches):
                began = time.perf_counter()
                batch = order[i * BATCH : (i + 1) * BATCH]
                _, grads = loss_and_grads(params, images[batch], labels[batch])
                before_step = time.perf_counter()
                optimizer.step(grads)
                ended = time.perf_counter()
                history.seconds.append((ended - began, ended - before_step))
                bar.update()
            history.train.append(evaluate(params, images, labels))
            history.test.append(evaluate(params, *test))
            loss, accuracy = history.train[-1][0], history.test[-1][1]
            if monitor is not None:
                test_loss = history.test[-1][0]
                monitor.log(loss=loss, test_loss=test_loss, test_accuracy=accuracy)
            bar.set_postfix(loss=f"{loss:.4f}", test_accuracy=f"{accuracy:.1%}")
    return history


def print_summary(fused: History, plain: History) -> None:
    """Print accuracy, median times and whether the results of the two runs are identical."""
    layers = zip(fused.params, plain.params, strict=True)
    identical = all(a[k].tobytes() == b[k].tobytes() for a, b in layers for k in a)
    elements = sum(array.size for layer in fused.params for array in layer.values())
    print(f"test accuracy      {fused.test[-1][1]:.2%}")
    print(f"parameters         {elements:,}")
    print("medians                 fused      NumPy")
    medians = (np.median(history.seconds, axis=0) for history in (fused, plain))
    for what, a, b in zip(("iteration", "optimizer step"), *medians, strict=True):
        print(f"{what:18s} {a * 1e6:7.0f} us {b * 1e6:7.0f} us   {b / a:.1f} times as fast")
    print(f"parameters at end  {'bit-identical' if identical else 'DIFFERENT'}")


def run(epochs: int, seed: int, threads: int | None, out: str) -> None:
    """Train with both optimizers, print a comparison and a report, and save the picture."""
    digits = load(seed)
    ours, theirs = (init_params((64, *HIDDEN, 10), np.random.default_rng(seed)) for _ in range(2))
    opt = RMSProp(ours, lr=LR, alpha=ALPHA, eps=EPS, threads=threads)
    with Monitor(opt) as monitor:
        fused = fit(ours, opt, digits, epochs, seed, monitor)
    plain = fit(theirs, NumpyExpression(theirs), digits, epochs, seed)
    print_summary(fused, plain)
    monitor.plot().savefig(out, dpi=100)
    print(f"picture            {out}")
    print(f"report             {monitor.report()}")
