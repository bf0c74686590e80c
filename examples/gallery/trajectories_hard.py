"""
One learning rate for three landscapes
======================================

At the starts of the paths, the gradients of Rosenbrock's and Beale's functions are more than fifty
times as large as above the saddle. SGD's step grows with the gradient: a rate that is small enough
for a steep wall is too small for a saddle. RMSProp's step does not depend on the scale.
"""

import matplotlib.pyplot as plt
import numpy as np

from optimizers import SGD, Adam, Momentum, RMSProp


def beale(x, y):
    """Return Beale's function."""
    return sum((c - x + x * y**k) ** 2 for k, c in enumerate((1.5, 2.25, 2.625), start=1))


valley = (lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-1.5, 2.0), (1, 1))
saddle = (lambda x, y: x**2 / 2 + (y**2 - 1) ** 2 / 4, (1.5, 1e-6), (0, 1))
landscapes = {  # function, start and minimum; limits of the picture
    "Rosenbrock": (*valley, [-1.8, 1.5, -0.6, 2.4]),
    "Beale": (beale, (1.0, 1.5), (3, 0.5), [0.2, 3.6, -1.2, 1.7]),
    "Saddle": (*saddle, [-0.6, 1.8, -0.4, 1.5]),
}
racers = {
    "SGD": (SGD, "^", ":", "#D55E00"),
    "Momentum": (Momentum, "s", "-.", "#009E73"),
    "Adam": (Adam, "D", "--", "#E69F00"),
    "RMSProp, momentum": (lambda lr: RMSProp(lr, momentum=0.9), "o", "-", "#0072B2"),
}
rates = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]


def walk(opt, f, start, end, steps=1000):
    """Return a path, and the step from which it stays within 0.1 of the end; NaN if it does not."""
    path = [np.array(start)]
    for _ in range(steps):
        x, y = path[-1]  # the gradient is a complex derivative
        grad = np.array([f(x + 1e-30j, y).imag, f(x, y + 1e-30j).imag]) / 1e-30
        path.append(opt.step(path[-1], grad))
    far = np.flatnonzero(~(np.hypot(*(np.array(path) - end).T) < 0.1))
    return np.array(path), far[-1] + 1 if far[-1] < steps else np.nan


# %%
# Each optimizer walks with each learning rate. We count the steps in the landscape that takes
# longest, and draw the paths with the best rate, from x to +. SGD has no rate for all three (its
# paths are those of the smallest), momentum has one. Adam and RMSProp with momentum have several,
# and RMSProp gets there sooner. Without momentum, RMSProp jumps between the walls of Rosenbrock's
# valley and does not arrive in 1000 steps.

needed, best = {}, {}
with np.errstate(over="ignore", invalid="ignore"):  # some paths diverge
    for name, (make, *_) in racers.items():
        steps = [[walk(make(lr), *at[:3])[1] for at in landscapes.values()] for lr in rates]
        needed[name] = np.max(steps, axis=1)
        best[name] = rates[np.argmin(np.nan_to_num(needed[name], nan=np.inf))]

fig, axes = plt.subplots(2, 2, figsize=(7, 6), layout="constrained")
for ax, (title, (f, start, end, limits)) in zip(axes.flat, landscapes.items(), strict=False):
    mesh = np.meshgrid(np.linspace(*limits[:2], 200), np.linspace(*limits[2:], 200))
    ax.contour(*mesh, np.log(f(*mesh) + 1e-3), 10, cmap="Greys_r", linewidths=0.6)
    for name, (make, marker, style, color) in racers.items():
        path, _ = walk(make(best[name]), f, start, end)
        ax.plot(*path.T, style, color=color)
        ax.plot(*path[-1], marker, color=color, markersize=8, markeredgecolor="white")
    ax.plot(*start, "kx", *end, "k+", markersize=9)
    ax.axis(limits)
    ax.set_title(title)
for name, (_, marker, style, color) in racers.items():
    axes[1, 1].plot(rates, needed[name], marker + style, color=color, label=name)
axes[1, 1].set(title="Steps until all three are done", xlabel="learning rate", xscale="log")
axes[1, 1].set(xlim=(7e-4, 1.4), ylim=(0, 1600), yticks=[0, 500, 1000])
axes[1, 1].legend(loc="upper right")
plt.show()
