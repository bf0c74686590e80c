"""Train on several processes: ``mpiexec -n 4 python examples/mpi_digits.py``.

With 1, 2, 3, 4, 6 or 12 processes the result has the same bits.
"""

import os
import sys
import zlib

# Before NumPy loads BLAS: each process uses one core, and leaves the others to the other ranks.
# With another number of threads, BLAS may add in another order, which changes the bits.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits

from fused_rmsprop.mpi import RMSProp

COMM = MPI.COMM_WORLD
MICRO_BATCHES = 12  # of each batch, for any number of ranks


def forward(params, x):
    """Return the ReLU layer and the logits."""
    hidden = np.maximum(x @ params["W1"] + params["b1"], 0)
    return hidden, hidden @ params["W2"] + params["b2"]


def loss_and_grads(params, x, y):
    """Return the mean cross-entropy, and its gradients."""
    hidden, logits = forward(params, x)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()

    p[np.arange(len(y)), y] -= 1  # p becomes the gradient of the summed loss by the logits
    p /= len(y)
    below = (p @ params["W2"].T) * (hidden > 0)
    return float(loss), {"W1": x.T @ below, "b1": below.sum(0), "W2": hidden.T @ p, "b2": p.sum(0)}


def main(epochs=10, seed=0, path=None):
    """Train on four fifths of scikit-learn's digits; save the result if there is a path."""
    if MICRO_BATCHES % COMM.size:
        raise SystemExit(f"{COMM.size} ranks cannot share {MICRO_BATCHES} micro-batches evenly")
    rng = np.random.default_rng(seed)  # all ranks draw the same numbers
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    x, y = (images[order] / 16).astype(np.float32), labels[order]
    shapes = {"W1": (64, 64), "b1": 64, "W2": (64, 10), "b2": 10}
    params = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    opt = RMSProp(params, alpha=0.9)
    for epoch in range(epochs):
        opt.lr = 5e-3 * (1 - epoch / epochs)
        total = 0.0
        for batch in np.split(rng.permutation(1440), 20):
            # accumulate adds rank 0, 1, ... in this order, so micro-batch k goes to rank k % size.
            for mine in np.split(batch, MICRO_BATCHES)[COMM.rank :: COMM.size]:
                loss, grads = loss_and_grads(params, x[mine], y[mine])
                opt.accumulate(grads)
                total += loss
            opt.step()
        total = COMM.allreduce(total)
        if COMM.rank == 0:
            print(f"epoch {epoch + 1:2}: loss {total / (20 * MICRO_BATCHES):.4f}")

    score = float((forward(params, x[1440:])[1].argmax(axis=1) == y[1440:]).mean())
    checksum = zlib.crc32(b"".join(array.tobytes() for array in params.values()))
    if COMM.rank == 0:
        print(f"accuracy on unseen digits {score:.1%}, parameters {checksum:08x}")
    if path:
        opt.save(path)  # on all ranks; rank 0 writes the file


if __name__ == "__main__":
    main(path=next(iter(sys.argv[1:]), None))
