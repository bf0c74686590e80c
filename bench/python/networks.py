"""Two small networks in NumPy whose backward pass writes into fixed gradient buffers.

They are the demo's MLP and a convolutional network of two strided 3 x 3 layers (im2col). Parameters
are flat lists of the weights and bias of every layer.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fused_rmsprop.demo.mlp import Params, cross_entropy, forward, init_params

from peers import Array, Arrays

MLP_SIZES, MLP_BATCH = (784, 512, 512, 10), 64
IMAGE, CHANNELS, CONVNET_BATCH = 28, (1, 32, 64), 32
HEAD_SIZES = (6 * 6 * 64, 256, 10)  # 28 -> 13 -> 6 pixels
KERNEL, STRIDE = 3, 2


def _as_layers(flat: Arrays) -> Params:
    return [{"W": flat[i], "b": flat[i + 1]} for i in range(0, len(flat), 2)]


def _as_flat(layers: Params) -> Arrays:
    return [array for layer in layers for array in (layer["W"], layer["b"])]


def _dense_backward(layers: Params, activations: Arrays, delta: Array, grads: Arrays) -> Array:
    """Write the gradients of dense layers; return the gradient of the first pre-activation."""
    for i in reversed(range(len(layers))):
        np.matmul(activations[i].T, delta, out=grads[2 * i])
        np.sum(delta, axis=0, out=grads[2 * i + 1])
        if i > 0:
            delta = (delta @ layers[i]["W"].T) * (activations[i] > 0)
    return delta


def mlp_params(rng: np.random.Generator) -> Arrays:
    """Make 669,706 float32 parameters in six arrays."""
    return _as_flat(init_params(MLP_SIZES, rng))


def mlp_backward(params: Arrays, x: Array, labels: Array, grads: Arrays) -> float:
    """Write the gradients of the mean cross-entropy of a batch and return the latter."""
    layers = _as_layers(params)
    activations = forward(layers, x)
    loss, delta = cross_entropy(activations[-1], labels)
    _dense_backward(layers, activations, delta, grads)
    return loss


def convnet_params(rng: np.random.Generator) -> Arrays:
    """Make 611,658 float32 parameters in eight arrays: two convolutions, two dense layers."""
    convolutions = [
        init_params((KERNEL**2 * below, above), rng)[0] for below, above in pairwise(CHANNELS)
    ]
    return _as_flat(convolutions + init_params(HEAD_SIZES, rng))


def _im2col(x: Array) -> tuple[Array, tuple[int, ...]]:
    """Return the patches of images (n, h, w, c) as rows, and the shape of the windows."""
    windows = sliding_window_view(x, (KERNEL, KERNEL), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
    return windows.reshape(-1, x.shape[3] * KERNEL**2), windows.shape


def _col2im(columns: Array, windows: tuple[int, ...], image: tuple[int, ...]) -> Array:
    """Sum overlapping patches; the transpose of `_im2col`."""
    patches = columns.reshape(windows)
    rows, cols = (STRIDE * (n - 1) + 1 for n in windows[1:3])
    x = np.zeros(image, columns.dtype)
    for i in range(KERNEL):
        for j in range(KERNEL):
            x[:, i : i + rows : STRIDE, j : j + cols : STRIDE] += patches[..., i, j]
    return x


def convnet_backward(params: Arrays, x: Array, labels: Array, grads: Arrays) -> float:
    """Write the gradients of the mean cross-entropy of images (n, 28, 28, 1); return the latter."""
    w1, b1, w2, b2 = params[:4]
    columns1, windows1 = _im2col(x)
    y1 = np.maximum(columns1 @ w1 + b1, 0).reshape(*windows1[:3], -1)
    columns2, windows2 = _im2col(y1)
    y2 = np.maximum(columns2 @ w2 + b2, 0)
    head = _as_layers(params[4:])
    activations = forward(head, y2.reshape(len(x), -1))
    loss, delta = cross_entropy(activations[-1], labels)

    delta = _dense_backward(head, activations, delta, grads[4:])
    delta2 = (delta @ head[0]["W"].T).reshape(y2.shape) * (y2 > 0)
    np.matmul(columns2.T, delta2, out=grads[2])
    np.sum(delta2, axis=0, out=grads[3])
    delta1 = (_col2im(delta2 @ w2.T, windows2, y1.shape) * (y1 > 0)).reshape(-1, CHANNELS[1])
    np.matmul(columns1.T, delta1, out=grads[0])
    np.sum(delta1, axis=0, out=grads[1])
    return loss


def check_convnet() -> None:
    """Compare some gradients with central differences, in float64."""
    rng = np.random.default_rng(3)
    params = [p.astype(np.float64) for p in convnet_params(rng)]
    for bias in params[1::2]:
        bias += 0.1 * rng.standard_normal(bias.shape)
    x, labels = rng.standard_normal((4, IMAGE, IMAGE, 1)), rng.integers(0, 10, 4)
    grads, scratch = ([np.empty_like(p) for p in params] for _ in range(2))
    convnet_backward(params, x, labels, grads)
    h = 1e-6
    for index, (p, g) in enumerate(zip(params, grads, strict=True)):
        for at in rng.choice(p.size, 5, replace=False):
            losses = []
            for offset in (h, -h):
                p.flat[at] += offset
                losses.append(convnet_backward(params, x, labels, scratch))
                p.flat[at] -= offset
            slope = (losses[0] - losses[1]) / (2 * h)
            if not np.isclose(slope, g.flat[at], rtol=1e-4, atol=1e-7):
                raise SystemExit(
                    f"convnet: the gradient of parameter {index} is {g.flat[at]:.8g}, "
                    f"central differences give {slope:.8g}"
                )
