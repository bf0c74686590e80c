"""Train inside a Numba function that calls the C interface, beside a step that Numba compiles.

The whole loop runs in nopython mode: Numba calls fused_rmsprop_step() as C does. Both ways end with
the same parameters, bit for bit.
"""

import ctypes

import numpy as np
from numba import njit

import fused_rmsprop

BATCH, LR, ALPHA, EPS = 64, 1e-3, 0.9, 1e-8

library = ctypes.CDLL(fused_rmsprop.get_library())
library.fused_rmsprop_create.restype = ctypes.c_void_p
library.fused_rmsprop_last_error.restype = ctypes.c_char_p
step = library.fused_rmsprop_step
step.argtypes, step.restype = [ctypes.c_void_p], ctypes.c_int


def checked(code):
    """Return what a function of the library returned, unless it is an error."""
    if code < 0:
        raise ValueError(library.fused_rmsprop_last_error().decode())
    return code


def new_optimizer(options, arrays):
    """Return an optimizer of one float64 parameter; the arrays must outlive it."""
    optimizer = ctypes.c_void_p(library.fused_rmsprop_create())
    for name, value in options.items():
        checked(
            library.fused_rmsprop_set_option(optimizer, 0, name.encode(), ctypes.c_double(value))
        )
    size = ctypes.c_size_t(arrays["param"].size)
    i = checked(library.fused_rmsprop_add_parameter(optimizer, 0, 1, size))  # 1: float64
    for name, array in arrays.items():
        address = ctypes.c_void_p(array.ctypes.data)
        checked(library.fused_rmsprop_bind(optimizer, i, name.encode(), address))
    return optimizer


@njit
def write_gradient(w, x, y, grad):
    """Write the gradient of the mean squared error of a linear model; return the error."""
    grad[:] = 0
    loss = 0.0
    for i in range(len(y)):
        error = -y[i]
        for j in range(len(w)):
            error += x[i, j] * w[j]
        loss += error * error / len(y)
        for j in range(len(w)):
            grad[j] += 2 * error * x[i, j] / len(y)
    return loss


@njit
def train(optimizer, w, x, y, grad, epochs):
    """Train with the step of the library; return the loss of the last batch, or an error's code."""
    loss = 0.0
    for _ in range(epochs):
        for first in range(0, len(y), BATCH):
            batch = slice(first, first + BATCH)
            loss = write_gradient(w, x[batch], y[batch], grad)
            code = step(optimizer)
            if code < 0:
                return float(code)
    return loss


@njit
def train_by_numba(w, v, x, y, grad, epochs):
    """Do the same with a step that Numba compiles."""
    loss = 0.0
    for _ in range(epochs):
        for first in range(0, len(y), BATCH):
            batch = slice(first, first + BATCH)
            loss = write_gradient(w, x[batch], y[batch], grad)
            for j in range(len(w)):
                v[j] = ALPHA * v[j] + (1 - ALPHA) * (grad[j] * grad[j])
                w[j] = w[j] - LR * grad[j] / (np.sqrt(v[j]) + EPS)
    return loss


def main(epochs=100, seed=0):
    """Fit a line in 100 dimensions both ways and return the last loss."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1024, 100))
    y = x @ rng.uniform(-1, 1, 100)
    w, grad, square_avg = np.zeros(100), np.zeros(100), np.zeros(100)
    optimizer = new_optimizer(
        {"lr": LR, "alpha": ALPHA, "eps": EPS},
        {"param": w, "grad": grad, "square_avg": square_avg},
    )
    loss = train(optimizer.value, w, x, y, grad, epochs)
    library.fused_rmsprop_destroy(optimizer)

    other, v = np.zeros(100), np.zeros(100)
    train_by_numba(other, v, x, y, grad, epochs)
    same = np.array_equal(w, other) and np.array_equal(square_avg, v)
    bits = "the same bits" if same else "other bits"
    print(f"after {epochs} epochs: loss {loss:.6f}; the step by Numba gives {bits}")
    return loss


if __name__ == "__main__":
    main()
