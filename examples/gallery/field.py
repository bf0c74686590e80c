"""
The RMSProps of the field
=========================

RMSProp was never published as a paper, and implementations differ: in the place and size of
``eps``, in the start of the average and in ``alpha``. ``RMSProp.from_preset`` has eight of them
(see :doc:`presets </presets>`). Here they train one network, on scikit-learn's digits, with the
same learning rate.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from fused_rmsprop import PRESETS, RMSProp
from fused_rmsprop.demo import mlp

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
LR, STEPS = 0.001, 1000


def rms(arrays):
    """Return the root mean square of the elements of all arrays."""
    return np.sqrt(np.mean(np.concatenate([a.ravel() for a in arrays]) ** 2))


def train(preset):
    """Return the RMS of the updates of the weights, in units of lr, and the losses."""
    rng = np.random.default_rng(0)
    params = mlp.init_params((64, 32, 10), rng)
    opt = RMSProp.from_preset(preset, params, lr=LR)
    updates, losses = [], []
    for _ in range(STEPS):
        batch = rng.integers(len(images), size=64)
        loss, grads = mlp.loss_and_grads(params, images[batch], labels[batch])
        before = [layer["W"].copy() for layer in params]
        opt.step(grads)
        updates.append(rms([layer["W"] - old for layer, old in zip(params, before)]) / LR)
        losses.append(loss)
    return np.array(updates), np.array(losses)


runs = {preset: train(preset) for preset in PRESETS}

# %%
# *torch* and *keras* start the average at 0, so that the first updates are up to
# ``1 / sqrt(1 - alpha)`` times ``lr``: 10 times in *torch* (``alpha=0.99``), 3 times in *keras*
# (0.9). *optax* adds 1e-8 where *keras* adds 1e-7: their losses never differ by 0.05, so one line
# shows both.
#
# *tensorflow1*, *timm* and *stable_baselines3* start at 1, far above these squared gradients. Their
# updates are small until the start is forgotten. This takes a hundred steps with ``alpha=0.9`` in
# *tensorflow1* and *timm*, which differ in their default ``lr`` only, and a thousand with 0.99 in
# *stable_baselines3*.
#
# *dqn* and *a3c* add 0.01 and 0.1, far more than the mean squared gradient. The divisor is almost
# constant, and both are gradient descent with a rate of ``lr / sqrt(eps)``.

styles = {
    "torch": ("torch", "black", "-"),
    "keras": ("keras, optax", "#0072B2", "--"),
    "tensorflow1": ("tensorflow1, timm", "#E69F00", "o-"),
    "stable_baselines3": ("stable_baselines3", "#D55E00", "s:"),
    "dqn": ("dqn", "#009E73", "-."),
    "a3c": ("a3c", "#CC79A7", "^--"),
}
edges = np.unique(np.geomspace(1, STEPS, 30).astype(int))[:-1]  # the first steps of averages
counts = np.diff(edges, append=STEPS + 1)
fig, axes = plt.subplots(1, 2, figsize=(7, 4), layout="constrained")
for preset, (label, color, style) in styles.items():
    for ax, values in zip(axes, runs[preset]):
        means = np.add.reduceat(values, edges - 1) / counts
        ax.semilogx(edges, means, style, color=color, ms=4, label=label)
axes[0].set(xlabel="step", ylabel="RMS of the updates / lr", yscale="log")
axes[1].set(xlabel="step", ylabel="loss", ylim=0)
axes[1].legend(fontsize="small")
plt.show()
