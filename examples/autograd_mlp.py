"""Train a network in place with gradients from HIPS autograd."""

from itertools import pairwise

import autograd.numpy as np
from autograd import value_and_grad
from sklearn.datasets import load_digits

from fused_rmsprop import RMSProp


def forward(params, x):
    """Return the logits: tanh layers, then a linear one."""
    for layer in params[:-1]:
        x = np.tanh(x @ layer["W"] + layer["b"])
    return x @ params[-1]["W"] + params[-1]["b"]


def cross_entropy(params, x, one_hot):
    """Return the mean over a batch, computed with autograd's NumPy."""
    logits = forward(params, x)
    top = np.max(logits, axis=1, keepdims=True)
    log_sum = top + np.log(np.sum(np.exp(logits - top), axis=1, keepdims=True))
    return np.mean(np.sum(one_hot * (log_sum - logits), axis=1))


def main(epochs=15, seed=0):
    """Train on four fifths of scikit-learn's digits and return the accuracy on the rest."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    x, y = images[order] / 16, labels[order]
    one_hot = np.eye(10)[y]

    sizes = (64, 64, 32, 10)
    params = [
        {"W": rng.standard_normal((n, m)) / np.sqrt(n), "b": np.zeros(m)}
        for n, m in pairwise(sizes)
    ]
    opt = RMSProp(params, alpha=0.9)
    loss_and_grads = value_and_grad(cross_entropy)  # gradients have the structure of params
    for epoch in range(epochs):
        opt.lr = 2e-3 * (1 - epoch / epochs)
        for batch in np.split(rng.permutation(1440), 45):
            loss, grads = loss_and_grads(params, x[batch], one_hot[batch])
            opt.step(grads)
    score = float((forward(params, x[1440:]).argmax(axis=1) == y[1440:]).mean())
    print(f"after {epochs} epochs: loss {loss:.4f}, accuracy on unseen digits {score:.1%}")
    return score


if __name__ == "__main__":
    main()
