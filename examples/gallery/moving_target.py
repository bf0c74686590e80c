"""
Non-stationary objective
========================

Weights that are learned online must follow a target that moves. AdaGrad divides by the root of the
sum of all squared gradients. The sum only grows, so its updates get shorter for ever. That suits a
fixed minimum, but not a moving one. RMSProp forgets: its running mean looks back about
``1 / (1 - alpha)`` steps, and its updates keep their length.

A linear model of two inputs sees one noisy example per step. Its target turns in a circle.
Both optimizers are from |optimizers.py|.
"""

import matplotlib.pyplot as plt
import numpy as np

from optimizers import AdaGrad, RMSProp

STEPS, TURN = 20_000, 4000
rng = np.random.default_rng(0)
angle = 2 * np.pi * np.arange(STEPS) / TURN
target = np.stack([np.cos(angle), np.sin(angle)], axis=1)
inputs = rng.standard_normal((STEPS, 2))
outputs = np.sum(inputs * target, axis=1) + 0.1 * rng.standard_normal(STEPS)


def follow(opt):
    """Return the weights by step."""
    w, path = np.zeros(2), []
    for x, y in zip(inputs, outputs):
        path.append(w)
        w = opt.step(w, (x @ w - y) * x)
    return np.array(path)


# %%
# In the first turn both are about equally close to the target. In the fifth, AdaGrad's updates are
# a tenth as long as RMSProp's, and its weights lag far behind, on a smaller circle. A higher ``lr``
# would only postpone this. RMSProp is as close as ever.

fig, (above, below) = plt.subplots(2, figsize=(7, 4.4), sharex=True, layout="constrained")
above.plot(target[:, 0], color="0.6", lw=4, label="target")
errors, step_lengths = {}, {}
for opt, color, style in (
    (AdaGrad(0.1), "#D55E00", "--"),
    (RMSProp(0.01, alpha=0.9), "#0072B2", "-"),
):
    name = type(opt).__name__
    path = follow(opt)
    above.plot(path[:, 0], style, color=color, lw=1.2, label=f"{name}, lr={opt.lr}")
    distances = np.linalg.norm(path - target, axis=1).reshape(-1, TURN)
    errors[name] = np.sqrt(np.mean(distances**2, axis=1))  # by turn
    lengths = np.linalg.norm(np.diff(path, axis=0, append=path[-1:]), axis=1).reshape(-1, 200)
    step_lengths[name] = lengths.mean(axis=1)
    below.semilogy(np.arange(100, STEPS, 200), step_lengths[name], style, color=color)
above.set(ylabel="first weight", ylim=(-1.2, 2.2))
above.legend(ncol=3)
below.set(xlabel="step", ylabel="length of the updates\n(mean of 200)")
plt.show()
