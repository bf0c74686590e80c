"""The update of one array as a plain function; the caller owns the state."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.options import Number, as_flag, as_threads, core_options, parse_options


def rmsprop_step(
    param: NDArray[Any],
    grad: NDArray[Any],
    square_avg: NDArray[Any],
    *,
    lr: Number,
    alpha: Number,
    eps: Number,
    weight_decay: Number = 0.0,
    momentum: Number = 0.0,
    centered: bool = False,
    nesterov: bool = False,
    maximize: bool = False,
    momentum_buffer: NDArray[Any] | None = None,
    grad_avg: NDArray[Any] | None = None,
    flush_denormals: bool = True,
    threads: int | None = 1,
) -> None:
    """Update one array and its state in place, in one pass.

    Parameters
    ----------
    param : ndarray of float32 or float64, any shape
        Updated in place: writable, aligned and contiguous in any order of its axes.
    grad : ndarray, dtype and shape of `param`
        Only read. In another memory order than `param` it is copied into order first.
    square_avg : ndarray, dtype, shape and memory order of `param`
        The running average of ``grad**2``; zeros before the first step. With `centered` it holds
        the running variance instead.
    lr, alpha, eps, weight_decay, momentum, centered, nesterov, maximize
        As in `RMSProp`.
    momentum_buffer, grad_avg : ndarray, dtype, shape and memory order of `param`
        More state, zeros before the first step: needed where ``momentum > 0``, and where
        `centered`. Left alone where not needed.
    flush_denormals : bool
        As in `RMSProp`.
    threads : int or None
        The size of the team for a large array; None for all that are available. A single call
        cannot find out whether a team is worth it, as `RMSProp` does, so the default is one.

    Raises
    ------
    TypeError
        If an array is not an array or has the wrong dtype, or an option is not a number.
    ValueError
        If an option is out of its bounds, or an array is missing, has the wrong shape, cannot be
        written to, is not contiguous, or shares memory with another. Nothing has changed then.

    Examples
    --------
    >>> import numpy as np
    >>> from fused_rmsprop import rmsprop_step
    >>> param, square_avg = np.ones(3), np.zeros(3)
    >>> rmsprop_step(param, np.array([0.5, -2.0, 0.0]), square_avg, lr=0.01, alpha=0.99, eps=1e-8)
    >>> param.round(3)
    array([0.9, 1.1, 1. ])
    """
    options = parse_options(
        {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "nesterov": nesterov,
            "maximize": maximize,
        },
        "rmsprop_step",
    )
    _core.rmsprop_step(
        param,
        grad,
        square_avg,
        momentum_buffer,
        grad_avg,
        core_options(options),
        as_flag("flush_denormals", flush_denormals),
        as_threads(threads),
    )
