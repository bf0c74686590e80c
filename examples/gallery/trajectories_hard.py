"""
One learning rate for three landscapes
======================================

At the starts of the paths, the gradients of Rosenbrock's and Beale's functions are more than fifty
times as large as above the saddle. SGD's step (|optimizers.py|) grows with the gradient: a rate for
a steep wall is too small for a saddle. RMSProp's step does not depend on the gradient's size.
"""

import matplotlib.pyplot as plt
import numpy as np

from optimizers import SGD, Adam, Momentum, RMSProp


def beale(x, y):
    """Return Beale's function."""
    return sum((c - x + x * y**k) ** 2 for k, c in enumerate((1.5, 2.25, 2.625), start=1))


valley = (lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-1.5, 2.0), (1, 1))
landscapes = {  # function, start and minimum; limits of the picture
    "Rosenbrock": (*valley, [-2, 1.6, -0.6, 2.8]),
    "Beale": (beale, (1.0, 1.5), (3, 0.5), [-0.4, 3.6, -1.6, 1.8]),
    "Saddle": (lambda x, y: x**2 / 2 + (y**2 - 1) ** 2 / 4, (1.5, 1e-6), (0, 1), [-1, 2, -0.5, 2]),
}
racers = {
    "SGD": (SGD, "#D55E00"),
    "Momentum": (Momentum, "#009E73"),
    "Adam": (Adam, "#E69F00"),
    "RMSProp, momentum": (lambda lr: RMSProp(lr, momentum=0.9), "#0072B2"),
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
# Each optimizer walks with each learning rate. The table has the steps in the landscape that takes
# longest; an x if it takes over 1000. The paths, from x to +, have the best rate (SGD: 0.001).
# SGD has no rate for all three, momentum has one. Adam and RMSProp with momentum have several, and
# RMSProp gets there sooner. Without momentum, it jumps between the walls of Rosenbrock's valley.

needed, best = {}, {}
with np.errstate(over="ignore", invalid="ignore"):  # some paths diverge
    for name, (make, _) in racers.items():
        steps = [[walk(make(lr), *at[:3])[1] for at in landscapes.values()] for lr in rates]
        needed[name] = np.max(steps, axis=1)
        best[name] = rates[np.argmin(np.nan_to_num(needed[name], nan=np.inf))]

top, bottom = plt.figure(figsize=(7, 7.8), layout="constrained").subfigures(2, height_ratios=(4, 1))
axes, table = top.subplots(3, 4, sharex="row", sharey="row"), bottom.subplots()
for row, (title, (f, start, end, limits)) in zip(axes, landscapes.items()):
    mesh = np.meshgrid(np.linspace(*limits[:2], 200), np.linspace(*limits[2:], 200))
    for ax, (name, (make, color)) in zip(row, racers.items()):
        ax.contour(*mesh, np.log(f(*mesh) + 1e-3), 10, cmap="Greys_r", linewidths=0.5)
        path, steps = walk(make(best[name]), f, start, end)
        ax.plot(*path.T, color=color, linewidth=1.8)
        ax.plot(*start, "kx", *end, "k+", markersize=8, markeredgewidth=1.5)
        ax.set(xlim=limits[:2], ylim=limits[2:])
        done = f"{steps:.0f} steps" if steps > 0 else "not in 1000"
        ax.set_title(f"{name}\n{done}" if title == "Rosenbrock" else done, fontsize=10)
    row[0].set_ylabel(f"{title}: $x_2$")
top.supxlabel("$x_1$")
for (y, x), steps in np.ndenumerate([*needed.values()]):
    table.plot(x, y, "" if steps > 0 else "x", color="0.6")
    table.text(x, y, f"{steps:.0f}" if steps > 0 else "", ha="center", va="center")
table.set(xlabel="learning rate", xticks=range(10), xticklabels=rates, ylim=(3.5, -0.5))
table.set(yticks=range(4), yticklabels=racers, title="Steps until all three are done")
plt.show()
