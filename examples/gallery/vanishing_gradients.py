"""
Vanishing and exploding gradients
=================================

On its way back through a deep network, the gradient is multiplied by the weights of each layer and
by the slopes of its activations. Small weights make it vanish before it reaches the first layers;
large ones make it explode. An update of gradient descent (SGD) is as large as the gradient, so no
learning rate suits all layers. RMSProp divides each element by its own root mean square: all layers
move by about ``lr`` per step, as long as their gradients are far above ``eps``.

The network has 16 hidden tanh layers of 32 units and classifies scikit-learn's digits. Its first
weights have the standard deviation ``gain / sqrt(inputs)``.
"""

from itertools import chain, pairwise

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from fused_rmsprop import RMSProp
from fused_rmsprop.demo.mlp import cross_entropy

images, labels = load_digits(return_X_y=True)
images = (images - images.mean()) / images.std()
LAYERS = list(pairwise([64, *[32] * 16, 10]))


def loss_and_grads(weights, biases, x, y):
    """Return the mean cross-entropy, and its gradients by weights and biases."""
    activations = [x]
    for w, b in zip(weights[:-1], biases):
        activations.append(np.tanh(activations[-1] @ w + b))
    loss, delta = cross_entropy(activations[-1] @ weights[-1] + biases[-1], y)
    grads = []
    for w, below in zip(weights[::-1], activations[::-1]):
        grads.insert(0, (below.T @ delta, delta.sum(axis=0)))
        delta = (delta @ w.T) * (1 - below**2)
    return loss, [list(kind) for kind in zip(*grads)]


def train(gain, optimizer, steps=300):
    """Return the RMS of the updates by layer, and the loss of the last steps."""
    rng = np.random.default_rng(0)
    weights = [gain / np.sqrt(n) * rng.standard_normal((n, m)) for n, m in LAYERS]
    params = weights, [0.5 * rng.standard_normal(m) for _, m in LAYERS]
    opt = RMSProp(params, lr=0.001, alpha=0.9)
    losses, squares = [], []
    for _ in range(steps):
        batch = rng.integers(len(images), size=128)
        loss, grads = loss_and_grads(*params, images[batch], labels[batch])
        before = [w.copy() for w in weights]
        if optimizer == "RMSProp":
            opt.step(grads)
        else:
            for p, grad in zip(chain(*params), chain(*grads)):
                p -= 0.1 * grad
        losses.append(loss)
        squares.append([np.mean((w - old) ** 2) for w, old in zip(weights, before)])
    return np.sqrt(np.mean(squares, axis=0)), np.mean(losses[-20:])


# %%
# The numbers are mean losses of the last 20 of 300 steps. SGD still guesses: its loss is that of
# ten equal probabilities, log(10) = 2.30. RMSProp's falls to about 1.2 where the weights are small,
# but only to about 2.0 where they are large.

fig, axes = plt.subplots(1, 2, figsize=(7, 3.2), sharey=True, layout="constrained")
updates, losses = {}, {}
for ax, (case, gain) in zip(axes, {"vanishing": 0.7, "exploding": 3}.items()):
    for name, style in {"SGD": "s--", "RMSProp": "o-"}.items():
        updates[case, name], losses[case, name] = train(gain, name)
        color = {"SGD": "#D55E00", "RMSProp": "#0072B2"}[name]
        label = f"{name}: loss {losses[case, name]:.2f}"
        ax.semilogy(range(1, 18), updates[case, name], style, ms=4, color=color, label=label)
    ax.set(title=f"{case}: gain {gain}", xlabel="layer (1 reads the image)")
    ax.legend(loc="lower right", fontsize="small")
axes[0].set_ylabel("RMS of the updates")
plt.show()
