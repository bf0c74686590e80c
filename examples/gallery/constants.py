"""
The constants
=============

Which constants must be tuned? Here is the final loss of RMSProp over ``lr`` and ``alpha``, and of
Adam over ``lr`` and ``beta2``. The vertical axes count the steps that the average of squared
gradients looks back. The learning rate decides; hardly any average is wrong.

The model is logistic regression on scikit-learn's breast cancer data, trained for 300 steps of 16
rows. All models learn at once: each is a row of a matrix, and a parameter group of the optimizer.
Adam is from |optimizers.py|.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from sklearn.datasets import load_breast_cancer

from fused_rmsprop import RMSProp

from optimizers import Adam

x, y = load_breast_cancer(return_X_y=True)
x = (x - x.mean(axis=0)) / x.std(axis=0) * np.where(y == 1, 1, -1)[:, np.newaxis]
lrs, windows = np.geomspace(1e-4, 10, 40), np.geomspace(2, 1000, 40)
all_lrs, decays = (grid.ravel() for grid in np.meshgrid(lrs, 1 - 1 / windows))


def final_losses(optimizer):
    """Return the loss by window and learning rate."""
    rng = np.random.default_rng(0)
    weights = np.zeros((all_lrs.size, x.shape[1]))
    models = zip(weights, all_lrs, decays)
    opt = RMSProp([{"params": row, "lr": lr, "alpha": alpha} for row, lr, alpha in models])
    adam = Adam(all_lrs[:, np.newaxis], betas=(0.9, decays[:, np.newaxis]))
    for _ in range(300):
        rows = x[rng.integers(len(x), size=16)]
        grads = -1 / (1 + np.exp(np.minimum(weights @ rows.T, 500))) @ rows / 16
        if optimizer == "RMSProp":
            opt.step(list(grads))  # updates the rows in place
        else:
            weights = adam.step(weights, grads)
    return np.logaddexp(0, -weights @ x.T).mean(axis=1).reshape(windows.size, lrs.size)


losses = {name: final_losses(name) for name in ("RMSProp", "Adam")}
middle = losses["RMSProp"][20]  # by learning rate, eight to a power of ten
i = middle.argmin()
tenfold_ratios = middle[[i - 8, i + 8]] / middle[i]
alpha_ratio = losses["RMSProp"][:, i].max() / middle[i]

# %%
# A learning rate ten times too small or too large raises the loss of RMSProp by half or more, the
# choice of ``alpha`` by a tenth at most. So a grid of 16 trials (squares) spends 12 of them on a
# constant that hardly matters. 16 random trials (circles) have 16 learning rates (J. Bergstra and
# Y. Bengio, JMLR 13, 2012). They win most of a thousand comparisons with a grid at a random place,
# though this valley is so wide that the grid, too, often comes close.

rng = np.random.default_rng(3)
places = np.linspace(0.125, 0.875, 4)
grid, random = np.array([(u, v) for u in places for v in places]), rng.random((16, 2))
best = []
for _ in range(1000):
    for points in grid + rng.uniform(-0.125, 0.125, size=2), rng.random((16, 2)):
        columns, rows = (points.T * 40).astype(int)
        best.append(losses["RMSProp"][rows, columns].min())
random_wins = np.mean(np.array(best[1::2]) < best[::2])
print(f"Random trials find the lower loss in {random_wins:.0%}.")

fig, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharey=True, layout="constrained")
for ax, (name, average) in zip(axes, {"RMSProp": "alpha", "Adam": "beta2"}.items()):
    image = ax.pcolormesh(lrs, windows, losses[name], cmap="cividis_r", norm=LogNorm(0.05, 5))
    for marker, points, label in ("s", grid, "grid of 16"), ("o", random, "16 random"):
        u, v = points.T
        ax.plot(1e-4 * 1e5**u, 2 * 500**v, marker, color="white", mec="black", ms=5, label=label)
    ax.set(title=name, xscale="log", yscale="log", xlabel="lr", ylabel=f"1 / (1 - {average})")
fig.colorbar(image, ax=axes, label="final loss")
axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2)
plt.show()
