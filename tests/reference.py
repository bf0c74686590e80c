"""The plain NumPy reference: the formula with one expression per line, for any options.

The kernel must give these bits. Written for reading, not for speed; knows nothing of the package.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rmsprop(
    p: Array,
    g: Array,
    state: dict[str, Array],
    *,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    nesterov: bool = False,
    maximize: bool = False,
) -> tuple[Array, dict[str, Array]]:
    """One step: the new parameter and the new state (square_avg, momentum_buffer, grad_avg)."""
    with np.errstate(all="ignore"):
        new = dict(state)
        v = state["square_avg"]
        if maximize:
            g = -g
        if weight_decay != 0:
            g = g + weight_decay * p
        if centered:
            m = state["grad_avg"]
            d = g - m
            v = alpha * v + (alpha * (1 - alpha)) * (d * d)
            new["grad_avg"] = alpha * m + (1 - alpha) * g
        else:
            v = alpha * v + (1 - alpha) * (g * g)
        new["square_avg"] = v
        den = np.sqrt(v) + eps
        if momentum == 0:
            return p - lr * g / den, new
        b = momentum * state["momentum_buffer"] + g / den
        new["momentum_buffer"] = b
        if nesterov:
            return p - lr * (g / den + momentum * b), new
        return p - lr * b, new


_LIBM = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
_FLUSH = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}  # offset in glibc's fenv_t, bits


def fp_environment() -> bytes:
    """The floating-point environment of this thread: control, rounding, sticky flags."""
    buffer = ctypes.create_string_buffer(64)
    _LIBM.fegetenv(buffer)
    return buffer.raw


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let this thread's processor count subnormal numbers as zero, for NumPy's loops too."""
    offset, bits = _FLUSH[platform.machine()]
    before = ctypes.create_string_buffer(fp_environment(), 64)
    during = ctypes.create_string_buffer(before.raw, 64)
    control = ctypes.c_uint32.from_buffer(during, offset)
    control.value |= bits
    _LIBM.fesetenv(during)
    try:
        yield
    finally:
        _LIBM.fesetenv(before)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same bits, where any NaN counts as any other.

    IEEE 754 leaves a NaN's sign and payload open, and NumPy's own loops differ in them.
    """
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    both_nan = np.isnan(a) & np.isnan(b)
    bits = np.dtype(f"u{a.dtype.itemsize}")
    as_bits = [np.array(x, order="C").reshape(-1).view(bits) for x in (a, b)]
    return bool(np.all(both_nan.reshape(-1) | (as_bits[0] == as_bits[1])))
