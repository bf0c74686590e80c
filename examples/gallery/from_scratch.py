"""
RMSProp from scratch
====================

RMSProp divides each gradient by the root mean square of the recent gradients, element by element.
A parameter with small gradients then moves as fast as one with large gradients:

.. code-block:: text

    v = 0
    repeat
        g = gradient of the loss at p
        v = alpha * v + (1 - alpha) * g²         average of squared gradients
        p = p - lr * g / (√v + eps)              step: about lr in each element

Here it fits a linear regression whose inputs have very different scales, once in NumPy and once
with this package, and both give the same bits.
"""

import matplotlib.pyplot as plt
import numpy as np

from fused_rmsprop import RMSProp

rng = np.random.default_rng(0)
inputs = rng.standard_normal((200, 4)) * [0.1, 1.0, 3.0, 10.0]
targets = inputs @ [4.0, -2.0, 0.5, 0.1] + 0.1 * rng.standard_normal(200)
lr, alpha, eps, steps = 0.01, 0.9, 1e-8, 600


def loss_and_grad(p):
    """Return half the mean squared error and its gradient."""
    error = inputs @ p - targets
    return (error**2).mean() / 2, inputs.T @ error / len(error)


# %%
# The formula in NumPy:

p = np.zeros(4)
v = np.zeros(4)
numpy_losses = []
for _ in range(steps):
    loss, g = loss_and_grad(p)
    v = alpha * v + (1 - alpha) * g**2
    p = p - lr * g / (np.sqrt(v) + eps)
    numpy_losses.append(loss)

# %%
# The package updates the array in place:

params = np.zeros(4)
opt = RMSProp(params, lr=lr, alpha=alpha, eps=eps)
fused_losses = []
for _ in range(steps):
    loss, g = loss_and_grad(params)
    opt.step(g)
    fused_losses.append(loss)

# %%
# The comparison is ``==``, without a tolerance: every parameter and every loss has the same bits.

identical = bool((params == p).all()) and fused_losses == numpy_losses
print("identical bits:", identical)

fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
ax.plot(numpy_losses, color="#E69F00", linewidth=7, alpha=0.6, label="five lines of NumPy")
ax.plot(fused_losses, color="black", linewidth=1.5, linestyle="--", label="fused_rmsprop")
ax.set(yscale="log", xlabel="step", ylabel="loss", title="Two implementations, the same bits")
ax.legend()
plt.show()
