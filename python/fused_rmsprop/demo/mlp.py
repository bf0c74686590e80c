"""A multilayer perceptron in NumPy with a handwritten backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Params: TypeAlias = list[dict[str, Array]]


def init_params(sizes: Sequence[int], rng: np.random.Generator) -> Params:
    """Make He-initialised float32 weights ``W`` (inputs, outputs) and zero biases per layer."""
    return [
        {
            "W": (rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)).astype(np.float32),
            "b": np.zeros(n_out, np.float32),
        }
        for n_in, n_out in pairwise(sizes)
    ]


def forward(params: Params, x: Array) -> list[Array]:
    """Return the input, the ReLU activations of the hidden layers, and the logits."""
    activations = [x]
    for i, layer in enumerate(params):
        z = activations[-1] @ layer["W"] + layer["b"]
        activations.append(z if i == len(params) - 1 else np.maximum(z, 0))
    return activations


def loss_and_grads(params: Params, x: Array, labels: Array) -> tuple[float, Params]:
    """Return the mean cross-entropy of a batch and its gradients, structured like ``params``."""
    activations = forward(params, x)
    loss, delta = cross_entropy(activations[-1], labels)
    grads: Params = []
    for i in reversed(range(len(params))):
        below = activations[i]
        grads.append({"W": below.T @ delta, "b": delta.sum(axis=0)})
        if i > 0:
            delta = (delta @ params[i]["W"].T) * (below > 0)
    return loss, grads[::-1]


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Return the mean cross-entropy and its gradient with respect to the logits."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    delta = np.exp(log_probabilities)
    delta[rows, labels] -= 1
    return float(-log_probabilities[rows, labels].mean()), delta / np.float32(len(labels))


def evaluate(params: Params, x: Array, labels: Array) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy (0 to 1) on a data set."""
    logits = forward(params, x)[-1]
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    return cross_entropy(logits, labels)[0], accuracy
