"""Small trainings in NumPy, healthy and ill, that a monitor observes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from fused_rmsprop import RMSProp
from fused_rmsprop.monitor import History, Monitor
from support import Array, needs

#: The parameters, and a function that returns the loss of the next batch and its gradients.
Task: TypeAlias = tuple[Any, Callable[[], tuple[float, Any]]]
#: Changes gradients or parameters in the step of a number, which begins at 0.
Accident: TypeAlias = Callable[[int, Any, Any], None]

ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda z: np.maximum(z, 0), lambda a: np.asarray(a > 0, a.dtype)),
    "tanh": (np.tanh, lambda a: 1 - a * a),
    "sigmoid": (lambda z: np.tanh(z / 2) / 2 + z.dtype.type(0.5), lambda a: a * (1 - a)),
}


def train(
    task: Task,
    steps: int,
    accident: Accident | None = None,
    every: int = 10,
    schedule: Callable[[int], float] | None = None,
    **options: Any,
) -> History:
    """Train, and return what a monitor has recorded; lr falls linearly to zero by default."""
    params, next_batch = task
    rate = options.pop("lr")
    lr = schedule or (lambda step: rate * (1 - step / steps))
    opt = RMSProp(params, lr=lr, **options)
    with Monitor(opt, every=every) as monitor:
        for step in range(steps):
            loss, grads = next_batch()
            if accident is not None:
                accident(step, params, grads)
            opt.step(grads)
            monitor.log(loss=loss)
    return monitor.history


def constant(lr: float) -> Callable[[int], float]:
    """A schedule that is none."""
    return lambda step: lr


def digits(dtype: Any) -> tuple[Array, Array]:
    """Images as rows from -1 to 1, and labels."""
    datasets = needs("sklearn.datasets", reason="the digits are scikit-learn's")
    images, labels = datasets.load_digits(return_X_y=True)
    return np.asarray(images / 8 - 1, dtype), labels


def network(
    sizes: Sequence[int] = (64, 64, 64, 10),
    activation: str = "relu",
    gain: float | None = None,
    dtype: Any = np.float32,
    batch: int = 64,
    seed: int = 0,
    data: tuple[Array, Array] | None = None,
) -> Task:
    """A classifier of digits: layers of weights ``W`` with the variance gain / inputs."""
    x, labels = data or digits(dtype)
    rng = np.random.default_rng(seed)
    gain = (2.0 if activation == "relu" else 1.0) if gain is None else gain
    params = [
        {
            "W": np.asarray(rng.standard_normal((n, m)) * np.sqrt(gain / n), dtype),
            "b": np.zeros(m, dtype),
        }
        for n, m in pairwise(sizes)
    ]
    function, slope = ACTIVATIONS[activation]

    def next_batch() -> tuple[float, Any]:
        rows = rng.choice(len(x), batch, replace=False)
        values = [x[rows]]
        for layer in params:
            z = values[-1] @ layer["W"] + layer["b"]
            values.append(function(z) if layer is not params[-1] else z)
        loss, delta = cross_entropy(values[-1], labels[rows])
        grads = []
        for layer, below in zip(params[::-1], values[-2::-1], strict=True):
            grads.append({"W": below.T @ delta, "b": delta.sum(axis=0)})
            delta = (delta @ layer["W"].T) * slope(below)
        return loss, grads[::-1]

    return params, next_batch


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """The mean loss of a batch, and its gradient."""
    rows = np.arange(len(labels))
    logits = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    delta = np.exp(log_probabilities)
    delta[rows, labels] -= 1
    loss = float(-log_probabilities[rows, labels].mean())
    return loss, delta / logits.dtype.type(len(labels))


def regression(noise: float = 0.5, seed: int = 0) -> Task:
    """A noisy linear regression in batches of 32."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((500, 20)), rng.standard_normal(20)
    y = x @ w + noise * rng.standard_normal(500)
    params = {"w": np.zeros(20), "b": np.zeros(1)}

    def next_batch() -> tuple[float, Any]:
        rows = rng.choice(500, 32, replace=False)
        error = x[rows] @ params["w"] + params["b"] - y[rows]
        return float(np.mean(error**2)), {"w": x[rows].T @ error / 16, "b": 2 * error.mean()[None]}

    return params, next_batch


def word_counts(seed: int = 0) -> tuple[Array, Array]:
    """Texts of 40 words out of 500, most of which are rare, and their topics."""
    rng = np.random.default_rng(seed)
    topics = rng.gamma(0.3, size=(5, 500)) / np.arange(1, 501)
    topics /= topics.sum(axis=1, keepdims=True)
    labels = rng.integers(5, size=300)
    counts = [rng.multinomial(40, topics[label]) for label in labels]
    return np.asarray(counts, np.float32), labels


def quadratic() -> Task:
    """A valley without noise, a hundred times as steep in one direction as in another."""
    steepness, params = np.geomspace(0.1, 10, 20), {"w": np.ones(20)}

    def next_batch() -> tuple[float, Any]:
        grad = steepness * params["w"]
        return float(grad @ params["w"]) / 2, {"w": grad}

    return params, next_batch
