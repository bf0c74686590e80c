"""
Gradients through time
======================

A recurrent network is as deep as its sequence is long: the gradient vanishes on its way back
through time. The adding problem needs it (S. Hochreiter, J. Schmidhuber, Neural Computation 9,
1997): of 40 random numbers, one in each half is marked; the network is asked for their sum.
"""

import matplotlib.pyplot as plt
import numpy as np

from fused_rmsprop import RMSProp

STEPS, TIMES, UNITS, BATCH = 1200, 40, 32, 64


def make_batch(rng):
    """Return numbers and marks (time, sequence, 2), and the sums of the marked (sequence, 1)."""
    numbers, marks = rng.random((TIMES, BATCH)), np.zeros((TIMES, BATCH))
    for first in 0, TIMES // 2:
        marks[first + rng.integers(TIMES // 2, size=BATCH), np.arange(BATCH)] = 1
    return np.stack([numbers, marks], axis=2), (numbers * marks).sum(axis=0)[:, np.newaxis]


def loss_and_grads(p, x, y):
    """Return the mean squared error, its gradients, and the summands of W's, one per time step."""
    states = [np.zeros((BATCH, UNITS))]
    for x_t in x:
        states.append(np.tanh(x_t @ p["U"] + states[-1] @ p["W"]))
    error = states[-1] @ p["V"] - y
    grads, summands = {"U": 0, "V": states[-1].T @ error * (2 / BATCH)}, []
    delta = error @ p["V"].T * (2 / BATCH)
    for x_t, before, after in zip(x[::-1], states[-2::-1], states[::-1]):
        delta = delta * (1 - after**2)
        grads["U"] += x_t.T @ delta
        summands.insert(0, before.T @ delta)
        delta = delta @ p["W"].T
    return np.mean(error**2), grads | {"W": sum(summands)}, summands


def train(optimizer):
    """Return the losses by step, and the RMS of the summands by step and time."""
    rng = np.random.default_rng(1)
    p = {"U": rng.normal(0, 1, (2, UNITS)), "V": rng.normal(0, 0.2, (UNITS, 1))}
    p["W"] = rng.normal(0, 0.8 / np.sqrt(UNITS), (UNITS, UNITS))
    opt, history = RMSProp(p, lr=0.002, alpha=0.9), []
    for _ in range(STEPS):
        loss, grads, summands = loss_and_grads(p, *make_batch(rng))
        if optimizer == "RMSProp":
            opt.step(grads)
        else:
            for name in p:
                p[name] -= 0.1 * grads[name]
        history.append((loss, np.sqrt(np.mean(np.square(summands), axis=(1, 2)))))
    return map(np.array, zip(*history))


# %%
# The gradient by the recurrent weights W is a sum over the time steps, whose terms are on the left.
# SGD hardly beats a constant answer, and three times its rate diverges. RMSProp's updates do not
# shrink with the gradient: the network learns the task, and to carry the gradient back in time.

fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
final_losses, spans = {}, {}
for name, color, style in ("SGD", "#D55E00", "--"), ("RMSProp", "#0072B2", "-"):
    losses, sizes = train(name)
    by_time = np.median(sizes[-100:], axis=0)[1:]  # the first state is zero, and so its summand
    final_losses[name], spans[name] = losses[-100:].mean(), by_time[-1] / by_time[0]
    left.semilogy(range(2, TIMES + 1), by_time, style, color=color, label=f"trained by {name}")
    right.plot(np.convolve(losses, np.ones(20) / 20, "valid"), style, color=color)
left.semilogy(range(2, TIMES + 1), sizes[0, 1:], ":", color="black", label="at the start")
left.set(xlabel="time step", ylabel="term of W's gradient (RMS)")
right.axhline(1 / 6, color="black", lw=1, label="always answering 1")
right.legend()
right.set(xlabel="training step", ylabel="loss (mean of 20 steps)", ylim=0)
left.legend()
plt.show()
