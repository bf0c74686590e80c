"""The update of one array as a plain function; the caller owns the state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.base import helps_with_options
from fused_rmsprop.groups.state import KINDS
from fused_rmsprop.options import GROUP_OPTIONS, core_options, parse_options, scheduled
from fused_rmsprop.values import LARGEST_STEP_COUNT, Number, as_flag, as_limit, as_scale, as_threads


@helps_with_options
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
    eps_inside_sqrt: bool = False,
    lr_in_momentum: bool = False,
    decoupled_weight_decay: bool = False,
    bias_correction: bool = False,
    ema_decay: Number = 0.0,
    step: int = 0,
    momentum_buffer: NDArray[Any] | None = None,
    grad_avg: NDArray[Any] | None = None,
    param_avg: NDArray[Any] | None = None,
    grad_scale: Number = 1.0,
    max_grad_value: Number | None = None,
    flush_denormals: bool = True,
    threads: int | None = 1,
) -> None:
    """Update one array and its state in place, in one pass.

    Parameters
    ----------
    param : ndarray of float32 or float64, any shape
        Updated in place: writable, aligned and contiguous in any order of its axes.
    grad : ndarray, dtype and shape of `param`
        Only read. In another memory order than `param` it is copied into order first. Arrays of
        other libraries on the CPU are read through DLPack or the buffer protocol.
    square_avg : ndarray, dtype, shape and memory order of `param`
        The running average of ``grad**2``; zeros before the first step. With `centered` it holds
        the running variance instead.
    lr, alpha, eps, weight_decay, momentum, centered, nesterov, maximize, eps_inside_sqrt, \
lr_in_momentum, decoupled_weight_decay, bias_correction, ema_decay
        As in `RMSProp`, but numbers only.
    step : int
        How many steps were made before; only bias correction asks.
    momentum_buffer, grad_avg, param_avg : ndarray, dtype, shape and memory order of `param`
        More state, needed where ``momentum > 0``, where `centered`, and where ``ema_decay > 0``:
        zeros before the first step, but for `param_avg`, which is a copy of `param`. Left alone
        where not needed.
    grad_scale, max_grad_value
        As in `RMSProp.step` and `RMSProp`.
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
    given = locals()
    options = parse_options({n: given[n] for n in GROUP_OPTIONS if n in given}, "rmsprop_step")
    if names := scheduled(options):
        raise TypeError(f"{names[0]} must be a number here: rmsprop_step does not count steps")
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 0:
        raise ValueError(f"step must be an int >= 0, got {step!r}")
    if step > LARGEST_STEP_COUNT:
        raise ValueError(f"step must be at most 2**53, which no training reaches, got {step}")
    _core.rmsprop_step(
        param,
        grad,
        [given[kind.name] for kind in KINDS],
        step,
        core_options(options),
        as_scale("grad_scale", grad_scale),
        as_limit("max_grad_value", max_grad_value),
        as_flag("flush_denormals", flush_denormals),
        as_threads("threads", threads) or 0,
    )
