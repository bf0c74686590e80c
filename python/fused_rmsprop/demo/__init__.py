"""Trains on real handwritten digits, with the fused kernel and with the NumPy expression.

Same model, same batches: the two must end with the same bits, and differ in time alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from fused_rmsprop import RMSProp
from fused_rmsprop.demo.mlp import Array, Params, evaluate, init_params, loss_and_grads
from fused_rmsprop.demo.report import print_summary, save_picture

HIDDEN = (512, 512)
BATCH = 64
LR, ALPHA, EPS = 5e-4, 0.9, 1e-8
PERCENTILES = (5, 25, 50, 75, 95)


@dataclass
class Digits:
    """Images as rows of 64 pixels about zero, float32, and their labels; a fifth is held out."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


@dataclass
class History:
    """What happened in one training run; one item per epoch, times in seconds per iteration."""

    params: Params
    train_loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    effective_lr: list[Array] = field(default_factory=list)  # at PERCENTILES
    iteration_times: list[float] = field(default_factory=list)
    step_times: list[float] = field(default_factory=list)


class Optimizer(Protocol):
    """What the training loop needs of an optimizer."""

    lr: float

    def step(self, grads: Params) -> None: ...
    def square_avgs(self) -> list[Array]: ...


class Fused(RMSProp):
    """The kernel of this package."""

    def __init__(self, params: Params, threads: int | None) -> None:
        super().__init__(params, lr=LR, alpha=ALPHA, eps=EPS, threads=threads)

    def square_avgs(self) -> list[Array]:
        return [state["square_avg"] for state in self.state.values()]


class NumpyExpression:
    """The textbook lines."""

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

    def square_avgs(self) -> list[Array]:
        return [v for layer in self._square_avg for v in layer.values()]


def load(seed: int) -> Digits:
    """scikit-learn's 1797 digits of 8 x 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    x = (images / 8 - 1).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        x, labels, test_size=0.2, stratify=labels, random_state=seed
    )
    return Digits(train_x, train_y, test_x, test_y)


def train(
    digits: Digits, params: Params, optimizer: Optimizer, epochs: int, seed: int, label: str
) -> History:
    """Train in place for some epochs of shuffled batches, with a progress bar."""
    rng = np.random.default_rng(seed)
    history = History(params)
    batches = len(digits.train_x) // BATCH
    with tqdm(total=epochs * batches, desc=label, unit="it") as bar:
        for epoch in range(epochs):
            optimizer.lr = LR * (1 - epoch / epochs)  # RMSProp does not settle by itself
            order = rng.permutation(len(digits.train_x))
            for i in range(batches):
                began = time.perf_counter()
                batch = order[i * BATCH : (i + 1) * BATCH]
                _, grads = loss_and_grads(params, digits.train_x[batch], digits.train_y[batch])
                before_step = time.perf_counter()
                optimizer.step(grads)
                ended = time.perf_counter()
                history.step_times.append(ended - before_step)
                history.iteration_times.append(ended - began)
                bar.update()
            _record_epoch(history, digits, optimizer)
            bar.set_postfix(
                loss=f"{history.train_loss[-1]:.4f}",
                test_accuracy=f"{history.test_accuracy[-1]:.1%}",
            )
    return history


def _record_epoch(history: History, digits: Digits, optimizer: Optimizer) -> None:
    loss, accuracy = evaluate(history.params, digits.train_x, digits.train_y)
    history.train_loss.append(loss)
    history.train_accuracy.append(accuracy)
    loss, accuracy = evaluate(history.params, digits.test_x, digits.test_y)
    history.test_loss.append(loss)
    history.test_accuracy.append(accuracy)
    v = np.concatenate([square_avg.ravel() for square_avg in optimizer.square_avgs()])
    # A weight that has never had a gradient (the pixels of the corners) has no rate to speak of.
    v = v[v > 0]
    history.effective_lr.append(np.percentile(optimizer.lr / (np.sqrt(v) + EPS), PERCENTILES))


def run(epochs: int, seed: int, threads: int | None, out: str) -> None:
    """Train with both, print the comparison and save the picture."""
    digits = load(seed)
    sizes = (digits.train_x.shape[1], *HIDDEN, 10)
    runs = []
    for label in ("fused", "NumPy"):
        params = init_params(sizes, np.random.default_rng(seed))
        optimizer: Optimizer = (
            Fused(params, threads) if label == "fused" else NumpyExpression(params)
        )
        runs.append(train(digits, params, optimizer, epochs, seed, label))
    fused, plain = runs
    print_summary(fused, plain)
    save_picture(fused, PERCENTILES, out)
    print(f"picture            {out}")
