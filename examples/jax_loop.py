"""Train in place with gradients from JAX: NumPy owns the parameters, JAX differentiates.

JAX may read an array of NumPy where it lies, and it computes in the background. A step that writes
into the parameters too early would change a computation under way. So wait for everything that JAX
computes from the parameters, with jax.block_until_ready, before the step.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fused_rmsprop import RMSProp


def forward(params, x):
    """Return the predictions: a layer of tanh, then a linear one."""
    return jnp.tanh(x @ params["W1"] + params["b1"]) @ params["W2"] + params["b2"]


@jax.jit
@jax.value_and_grad
def loss_and_grads(params, x, y):
    """Return the mean squared error and its gradients, in the structure of the parameters."""
    return jnp.mean((forward(params, x) - y) ** 2)


def main(steps=2000, seed=0):
    """Fit two waves and return the share of the variance that is explained."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (4096, 2)).astype(np.float32)
    y = np.sin(3 * x[:, :1]) * np.cos(3 * x[:, 1:])
    params = {
        "W1": rng.standard_normal((2, 64)).astype(np.float32),
        "b1": rng.standard_normal(64).astype(np.float32),
        "W2": rng.standard_normal((64, 1)).astype(np.float32) / 8,
        "b2": np.zeros(1, np.float32),
    }
    opt = RMSProp(params, alpha=0.9)
    for step in range(steps):
        opt.lr = 2e-3 * (1 - step / steps)
        batch = rng.integers(0, len(x), 128)
        loss, grads = jax.block_until_ready(loss_and_grads(params, x[batch], y[batch]))
        opt.step(grads)  # reads JAX's arrays through DLPack, without a copy
    error = np.asarray(forward(params, x)) - y
    score = 1 - float(np.mean(error**2) / np.var(y))
    print(f"after {steps} steps: loss {float(loss):.4f}, explained variance {score:.1%}")
    return score


if __name__ == "__main__":
    main()
