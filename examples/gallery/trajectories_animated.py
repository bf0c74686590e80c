r"""
A race through the valley
=========================

Four optimizers, step by step, on :math:`f = 0.1 x_1^2 + 2 x_2^2` with the learning rate 0.4. SGD
jumps across the valley, the steps of AdaGrad shrink too soon, Adam overshoots by its momentum, and
RMSProp arrives first. All are from |optimizers.py|.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation

from optimizers import SGD, AdaGrad, Adam, RMSProp

steps = 20
racers = {
    "SGD": (SGD(lr=0.4), "^--", "#D55E00"),
    "AdaGrad": (AdaGrad(lr=0.4), "s:", "black"),
    "Adam": (Adam(lr=0.4), "D-.", "#E69F00"),
    "RMSProp": (RMSProp(lr=0.4, alpha=0.9), "o-", "#0072B2"),
}

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
x1, x2 = np.meshgrid(np.linspace(-5.5, 2, 100), np.linspace(-2.6, 2, 100))
levels = [0.05, 0.2, 0.8, 2, 4, 7, 11]
ax.contour(x1, x2, 0.1 * x1**2 + 2 * x2**2, levels, cmap="Greys_r", linewidths=0.7)
ax.plot(0, 0, "k+", markersize=10)

paths, lines = {}, {}
for name, (opt, style, color) in racers.items():
    path = [np.array([-5.0, -2.0])]
    for _ in range(steps):
        grad = np.array([0.2, 4.0]) * path[-1]
        path.append(opt.step(path[-1], grad))
    paths[name] = np.array(path)
    lines[name] = ax.plot(*paths[name].T, style, color=color, markersize=5, label=name)[0]
ax.set(xlabel="$x_1$", ylabel="$x_2$")
ax.legend(loc="upper right", ncol=4)


def show(step):
    """Draw the paths up to a step."""
    for name, line in lines.items():
        line.set_data(*paths[name][: step + 1].T)
    ax.set_title(f"step {step}")


frames = [*range(steps + 1), *[steps] * 5]  # the last one stays for a while
animation = FuncAnimation(fig, show, frames, interval=300)
fig.canvas.draw()  # starts it, also without a screen
plt.show()
