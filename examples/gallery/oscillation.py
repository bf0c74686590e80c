"""
Oscillation and what cures it
=============================

Near a minimum the gradient shrinks, but RMSProp divides by its root mean square, so the step stays
about as long as ``lr``. If that is longer than the way to the minimum, the next step goes back: the
parameters swing, and the loss stays where it is. The sign to look for is the share of parameters
whose next update goes the other way, which a ``Monitor`` records.

The problem is convex and has no noise: linear regression on the ten features of scikit-learn's
diabetes data, with the gradient over all rows.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

from fused_rmsprop import RMSProp
from fused_rmsprop.monitor import Monitor
from fused_rmsprop.schedules import Cosine

x, y = load_diabetes(return_X_y=True)
x, y = x / x.std(axis=0), (y - y.mean()) / y.std()
least = 0.5 * np.mean((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2)
STEPS = 500


def train(**options):
    """Return the loss above its minimum and the share of reversed updates, by step."""
    w = np.zeros(x.shape[1])
    opt = RMSProp(w, **options)
    losses = []
    with Monitor(opt, every=1, max_points=STEPS + 1) as monitor:
        for _ in range(STEPS):
            error = x @ w - y
            losses.append(0.5 * np.mean(error**2) - least)
            opt.step(x.T @ error / len(y))
    return np.array(losses), monitor.history.total("reversed")[:-1]  # the last has no next


# %%
# Four cures of a learning rate that is too high: 0.1, with ``alpha=0.9``. Momentum adds up about
# ten steps, so its ``lr`` is a tenth as well.

high_loss, high_reversed = train(lr=0.1, alpha=0.9)
cures = {
    "lower lr\nlr=0.01": train(lr=0.01, alpha=0.9),
    "longer average\nalpha=0.999": train(lr=0.1, alpha=0.999),
    "momentum=0.9\nlr=0.01": train(lr=0.01, alpha=0.9, momentum=0.9),
    "schedule\nlr=Cosine(0.1)": train(lr=Cosine(0.1, transition_steps=STEPS), alpha=0.9),
}
final_losses = [losses[-50:].mean() for losses, _ in cures.values()]
reversed_shares = [share[-50:].mean() for _, share in cures.values()]

# %%
# With a tenth of the learning rate the swings are a tenth as wide and cost a hundredth of the loss.
# But all updates still reverse in the end, and the loss stops again. The longer average makes the
# first steps very long; then it remembers their gradients, and the steps are too short to swing.
# Momentum makes the swings smaller, but they stay. The schedule starts as fast as the high rate and
# ends below the low one.

fig, axes = plt.subplots(2, 4, figsize=(7, 4.8), sharex=True, sharey="row", layout="constrained")
for (title, (losses, share)), (above, below) in zip(cures.items(), axes.T):
    above.semilogy(high_loss, color="0.6", ls="--", label="no cure")
    above.semilogy(losses, color="#0072B2", label="cure")
    for by_step, color, style in (high_reversed, "0.6", "--"), (share, "#0072B2", "-"):
        mean_of_20 = np.convolve(by_step, np.ones(20) / 20, "valid")
        below.plot(np.arange(20, STEPS), mean_of_20, color=color, ls=style)
    above.set_title(title, fontsize="medium")
    below.set(xlabel="step", ylim=(-0.05, 1.05))
axes[0, 0].set_ylabel("loss above minimum")
axes[1, 0].set_ylabel("reversed updates")
axes[0, 0].legend(loc="lower left")
plt.show()
