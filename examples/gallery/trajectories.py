r"""
Paths through an elongated valley
=================================

:math:`f = 0.1 x_1^2 + 2 x_2^2` is twenty times as curved in one direction as in the other. All
optimizers take 20 steps with the learning rate 0.4 (Adadelta has none); momentum is 0.5. Function,
start and constants are from `Dive into Deep Learning
<https://d2l.ai/chapter_optimization/rmsprop.html>`_. All
optimizers are from |optimizers.py|.
"""

import matplotlib.pyplot as plt
import numpy as np

from optimizers import SGD, Adadelta, AdaGrad, Adam, Momentum, RMSProp

lr, steps = 0.4, 20
options = {"lr": lr, "alpha": 0.9, "eps": 1e-6, "eps_inside_sqrt": True}
optimizers = {
    "SGD": SGD(lr),
    "Momentum": Momentum(lr, momentum=0.5),
    "AdaGrad": AdaGrad(lr),
    "Adadelta": Adadelta(),
    "Adam": Adam(lr),
    "RMSProp": RMSProp(**options),
    "RMSProp, momentum": RMSProp(**options, momentum=0.5),
    "RMSProp, centered": RMSProp(**options, centered=True),
    "RMSProp, Nesterov": RMSProp(**options, momentum=0.5, nesterov=True),
}


def f(x1, x2):
    """Return the height of the valley."""
    return 0.1 * x1**2 + 2 * x2**2


paths, final = {}, {}
for name, opt in optimizers.items():
    path = [np.array([-5.0, -2.0])]
    for _ in range(steps):
        grad = np.array([0.2, 4.0]) * path[-1]
        path.append(opt.step(path[-1], grad))
    paths[name], final[name] = np.array(path), f(*path[-1])

# %%
# SGD jumps across the valley and creeps along it. RMSProp moves about as fast in both directions,
# and its four variants get closer to the minimum than any other optimizer. AdaGrad sets out in the
# same direction, but its steps shrink. Adadelta must first learn the length of its steps. Adam
# overshoots: its momentum is 0.9.
#
# The picture ends before RMSProp starts to jump. With ``steps = 200`` it does: back and forth
# across the minimum, by the learning rate. That is why the rate must fall in the end.

x1, x2 = np.meshgrid(np.linspace(-5.5, 2, 100), np.linspace(-2.6, 2, 100))
levels = [0.05, 0.2, 0.8, 2, 4, 7, 11]
fig, axes = plt.subplots(3, 3, figsize=(7, 6), sharex=True, sharey=True, layout="constrained")
for ax, (name, path) in zip(axes.flat, paths.items(), strict=True):
    ax.contour(x1, x2, f(x1, x2), levels, cmap="Greys_r", linewidths=0.7)
    ax.plot(0, 0, "k+", markersize=10)
    color = "#0072B2" if "RMSProp" in name else "#D55E00"
    ax.plot(*path.T, "o-", color=color, markersize=3.5)
    ax.set_title(f"{name}\nf = {final[name]:.2g} at the end", fontsize=10)
fig.supxlabel("$x_1$")
fig.supylabel("$x_2$")
plt.show()
