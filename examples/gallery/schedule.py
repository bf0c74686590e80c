r"""
Why the learning rate must be scheduled
=======================================

RMSProp divides the gradient by its own size, so a step does not shrink when the gradient does. With
a constant learning rate the parameters keep jumping around a minimum: a large rate stays far from
it, a small one is slow. A rate that starts large and falls is fast first and precise at the end.

A network with one hidden layer learns scikit-learn's digits, with five seeds for each schedule.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from fused_rmsprop import RMSProp
from fused_rmsprop.demo.mlp import evaluate, init_params, loss_and_grads
from fused_rmsprop.schedules import Constant, Cosine, InverseSqrt, StepDecay

images, labels = load_digits(return_X_y=True)
images = (images / 8 - 1).astype(np.float32)
batch, epochs, weight_decay = 64, 20, 1e-3
per_epoch = len(labels) // batch
total = epochs * per_epoch

schedules = {  # and line styles
    "constant, 0.02": (Constant(0.02), ":", "#D55E00"),
    "constant, 0.002": (Constant(0.002), "-.", "#CC79A7"),
    "step": (StepDecay(0.02, decay_rate=0.1, transition_steps=total // 3 + 1), "-", "#E69F00"),
    "1 / sqrt(t)": (InverseSqrt(0.02, warmup_steps=per_epoch), "--", "black"),
    "cosine": (Cosine(0.02, transition_steps=total), "-", "#0072B2"),
}


def train(schedule, seed):
    """Return the objective after each epoch: mean cross-entropy and the penalty of the weights."""
    rng = np.random.default_rng(seed)
    params = init_params((64, 32, 10), rng)
    opt = RMSProp(params, lr=schedule, alpha=0.9, weight_decay=weight_decay)
    objective = []
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for rows in order[: per_epoch * batch].reshape(per_epoch, batch):
            _, grads = loss_and_grads(params, images[rows], labels[rows])
            opt.step(grads)
        squares = sum(float((a**2).sum()) for layer in params for a in layer.values())
        loss, _ = evaluate(params, images, labels)
        objective.append(loss + weight_decay / 2 * squares)
    return objective


runs = {
    name: np.array([train(schedule, seed) for seed in range(5)])
    for name, (schedule, _, _) in schedules.items()
}
curves = {name: run.mean(axis=0) for name, run in runs.items()}
final = {name: float(curve[-5:].mean()) for name, curve in curves.items()}

# %%
# The lines are means of the five seeds; the numbers are the means of the lines over the last five
# epochs, which are shaded. All falling rates end below both constant ones. The square root has one
# epoch of warm-up.

fig, (top, bottom) = plt.subplots(
    2, sharex=True, figsize=(7, 6), gridspec_kw={"height_ratios": [1, 2]}, layout="constrained"
)
for name, (schedule, style, color) in schedules.items():
    line = {"linestyle": style, "color": color, "linewidth": 2}
    steps = np.arange(total)
    top.plot(steps / per_epoch, schedule(steps), **line)
    label = f"{name}: {final[name]:.3f}"
    bottom.plot(np.arange(1, epochs + 1), curves[name], label=label, **line)
bottom.axvspan(epochs - 4, epochs, color="0.9", zorder=0)
top.set(ylabel="learning rate", yscale="log", ylim=(1e-4, 0.05))
bottom.set(xlabel="epoch", ylabel="training objective", yscale="log", xticks=range(0, 21, 5))
bottom.set_yticks([0.1, 0.2, 0.5, 1], labels=["0.1", "0.2", "0.5", "1"])
bottom.legend(title="mean of the last five epochs")
plt.show()
