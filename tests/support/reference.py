"""The plain NumPy reference: the formula with one expression per line, for any options.

The kernel must give these bits. Written for reading, not for speed; knows nothing of the package.
"""

from __future__ import annotations

import ctypes
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
    state: dict[str, Any],
    *,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    nesterov: bool = False,
    maximize: bool = False,
    eps_inside_sqrt: bool = False,
    lr_in_momentum: bool = False,
    decoupled_weight_decay: bool = False,
    bias_correction: bool = False,
    ema_decay: float = 0.0,
    grad_scale: float = 1.0,
    max_grad_value: float = np.inf,
    clip_factor: float = 1.0,
) -> tuple[Array, dict[str, Any]]:
    """One step: the new parameter and the new state (as `initial_state` has it)."""
    with np.errstate(all="ignore"):
        new = dict(state)
        v = state["square_avg"]
        step = new["step"] = state.get("step", 0) + 1
        if bias_correction:  # the averages divided by 1 - alpha**step, and kept so
            alpha = alpha * (1 - power(alpha, step - 1)) / (1 - power(alpha, step))
        g = scaled(g, grad_scale * clip_factor)
        if max_grad_value < np.inf:
            g = np.clip(g, -max_grad_value * clip_factor, max_grad_value * clip_factor)
        if maximize:
            g = -g
        if weight_decay != 0:
            if decoupled_weight_decay:
                p = p - (lr * weight_decay) * p
            else:
                g = g + weight_decay * p
        if centered:
            m = state["grad_avg"]
            d = g - m
            v = alpha * v + (alpha * (1 - alpha)) * (d * d)
            new["grad_avg"] = alpha * m + (1 - alpha) * g
        else:
            v = alpha * v + (1 - alpha) * (g * g)
        new["square_avg"] = v
        den = np.sqrt(v + eps) if eps_inside_sqrt else np.sqrt(v) + eps
        if momentum == 0:
            p = p - lr * g / den
        elif lr_in_momentum:
            b = new["momentum_buffer"] = momentum * state["momentum_buffer"] + lr * g / den
            p = p - (lr * g / den + momentum * b) if nesterov else p - b
        else:
            b = new["momentum_buffer"] = momentum * state["momentum_buffer"] + g / den
            p = p - lr * (g / den + momentum * b) if nesterov else p - lr * b
        if ema_decay != 0:
            new["param_avg"] = ema_decay * state["param_avg"] + (1 - ema_decay) * p
        return p, new


def scaled(g: Array, scale: float) -> Array:
    """``scale * g``, by two factors where the dtype would count the scale as zero."""
    tiny = float(np.finfo(g.dtype).tiny)
    if 0 < abs(scale) < tiny:
        return (scale / tiny) * (tiny * g)
    return scale * g


def initial_state(p: Array, initial_square_avg: float = 0.0) -> dict[str, Any]:
    """What any options need before the first step."""
    return {
        "step": 0,
        "square_avg": np.full_like(p, initial_square_avg),
        "momentum_buffer": np.zeros_like(p),
        "grad_avg": np.zeros_like(p),
        "param_avg": p.copy(),
    }


def power(base: float, n: int) -> float:
    """``base**n`` by repeated squaring, so that no library's pow decides on the bits."""
    result = 1.0
    for bit in range(n.bit_length()):
        if n >> bit & 1:
            result *= base
        base *= base
    return result


def grad_norm(grads: list[Array], grad_scale: float = 1.0, max_grad_value: float = np.inf) -> float:
    """The 2-norm of all gradients together, summed in the order that is promised.

    Squares in double; chunks of 4096 elements in 16 lanes, whose sums are added by halves; the
    chunks of all arrays in 1024 segments of equal number.
    """
    sums = []
    with np.errstate(all="ignore"):
        for g in grads:
            x = np.clip(scaled(g.reshape(-1), grad_scale), -max_grad_value, max_grad_value)
            for first in range(0, x.size, 4096):
                chunk = x[first : first + 4096].astype(np.float64)
                padded = np.zeros((-(-chunk.size // 16), 16))
                padded.reshape(-1)[: chunk.size] = chunk
                lanes = np.zeros(16)
                for row in padded:
                    lanes = lanes + row * row
                while lanes.size > 1:
                    half = lanes.size // 2
                    lanes = lanes[:half] + lanes[half:]
                sums.append(float(lanes[0]))
        used = min(1024, len(sums))
        total = 0.0
        for i in range(used):
            segment = 0.0
            for value in sums[len(sums) * i // used : len(sums) * (i + 1) // used]:
                segment += value
            total += segment
    return float(np.sqrt(total))


# The C library has the functions of fenv.h, or Windows' own.
LIBC = ctypes.CDLL("ucrtbase" if platform.system() == "Windows" else None)
_MACHINE = f"{platform.system()} {platform.machine()}"
#: Where fenv_t has the word that controls subnormal numbers, and the bits that make them zero.
_FLUSH = {
    "Linux x86_64": (28, 0x8040),
    "Linux aarch64": (0, 1 << 24),
    "Darwin x86_64": (4, 0x8040),
    "Darwin arm64": (8, 1 << 24),
}
_WINDOWS_FLUSH, _WINDOWS_MASK = 0x01000000, 0x03000000  # _DN_FLUSH, _MCW_DN


def _fenv() -> ctypes.Array[ctypes.c_char]:
    buffer = ctypes.create_string_buffer(64)
    LIBC.fegetenv(buffer)
    return buffer


def fp_environment() -> object:
    """The floating-point environment of this thread: control, rounding, sticky flags.

    On x86-64, not the address of the last x87 instruction: AMD's processors lose it whenever the
    system runs another thread on the core.
    """
    if platform.system() == "Windows":
        return LIBC._controlfp(0, 0), LIBC._statusfp()
    fenv = _fenv().raw
    return fenv[:12] + fenv[28:32] if _MACHINE == "Linux x86_64" else fenv


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let this thread's processor count subnormal numbers as zero, for NumPy's loops too."""
    if platform.system() == "Windows":
        control = LIBC._controlfp(0, 0)
        LIBC._controlfp(_WINDOWS_FLUSH, _WINDOWS_MASK)
        try:
            yield
        finally:
            LIBC._controlfp(control, _WINDOWS_MASK)
        return
    offset, bits = _FLUSH[_MACHINE]
    before = _fenv()
    during = ctypes.create_string_buffer(before.raw, 64)
    word = ctypes.c_uint32.from_buffer(during, offset)
    word.value |= bits
    LIBC.fesetenv(during)
    try:
        yield
    finally:
        LIBC.fesetenv(before)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same bits, where any NaN counts as any other.

    IEEE 754 leaves a NaN's sign and payload open, and NumPy's own loops differ in them.
    """
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if a.tobytes() == b.tobytes():
        return True
    both_nan = np.isnan(a) & np.isnan(b)
    bits = np.dtype(f"u{a.dtype.itemsize}")
    as_bits = [np.array(x, order="C").reshape(-1).view(bits) for x in (a, b)]
    return bool(np.all(both_nan.reshape(-1) | (as_bits[0] == as_bits[1])))
