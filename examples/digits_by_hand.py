"""Classify handwritten digits in pure NumPy, with handwritten gradients."""

import numpy as np
from sklearn.datasets import load_digits

from fused_rmsprop import RMSProp


def loss_and_grads(params, x, y):
    """Return the mean cross-entropy of a network with one ReLU layer, and its gradients."""
    hidden = np.maximum(x @ params["W1"] + params["b1"], 0)
    logits = hidden @ params["W2"] + params["b2"]
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()

    p[np.arange(len(y)), y] -= 1  # p becomes the gradient of the summed loss by the logits
    p /= len(y)
    below = (p @ params["W2"].T) * (hidden > 0)
    return loss, {"W1": x.T @ below, "b1": below.sum(0), "W2": hidden.T @ p, "b2": p.sum(0)}


def accuracy(params, x, y):
    """Return the share of correctly classified images."""
    hidden = np.maximum(x @ params["W1"] + params["b1"], 0)
    return float(((hidden @ params["W2"] + params["b2"]).argmax(axis=1) == y).mean())


def main(epochs=20, seed=0):
    """Train on four fifths of scikit-learn's digits and return the accuracy on the rest."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    x, y = (images[order] / 16).astype(np.float32), labels[order]
    x, y, test_x, test_y = x[:1440], y[:1440], x[1440:], y[1440:]

    params = {
        "W1": (0.1 * rng.standard_normal((64, 64))).astype(np.float32),
        "b1": np.zeros(64, np.float32),
        "W2": (0.1 * rng.standard_normal((64, 10))).astype(np.float32),
        "b2": np.zeros(10, np.float32),
    }
    opt = RMSProp(params, alpha=0.9)
    for epoch in range(epochs):
        opt.lr = 3e-3 * (1 - epoch / epochs)
        for batch in np.split(rng.permutation(len(x)), 45):
            loss, grads = loss_and_grads(params, x[batch], y[batch])
            opt.step(grads)
    score = accuracy(params, test_x, test_y)
    print(f"after {epochs} epochs: loss {loss:.4f}, accuracy on unseen digits {score:.1%}")
    return score


if __name__ == "__main__":
    main()
