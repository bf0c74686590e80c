"""The `rmsprop` of HIPS autograd: the same arguments and trajectory, in one pass a step.

It knows nothing of autograd and does not import it: any function that gives gradients will do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.options import Number


def rmsprop(
    grad: Callable[[Any, int], Any],
    x0: Any,
    callback: Callable[[Any, int, Any], object] | None = None,
    num_iters: int = 100,
    step_size: Number = 0.1,
    gamma: Number = 0.9,
    eps: Number = 10**-8,
) -> Any:
    r"""Minimise by gradients: a replacement for ``autograd.misc.optimizers.rmsprop``.

    .. math::
        v \leftarrow \gamma v + (1 - \gamma) g^2, \qquad
        x \leftarrow x - \mathrm{step\_size} \cdot g / (\sqrt{v} + \mathrm{eps}),
        \qquad v_0 = 1

    Parameters
    ----------
    grad : callable, ``grad(x, i)``
        The gradients at `x`, in its structure; ``i`` counts iterations from 0.
    x0 : array or number, or list, tuple or dict of such, nested at will
        Where to begin; it is not changed.
    callback : callable, ``callback(x, i, g)``, or None
        Called before each update, with what `grad` was given and gave. It may keep the arrays.
        What it writes into them takes effect where `x0` is a single array, and not where it is
        a nest, as in autograd.
    num_iters : int
        The number of updates.
    step_size : float
        The learning rate, ``>= 0``; `lr` of `RMSProp`.
    gamma : float
        Share of the running average that an update keeps, ``0 <= gamma < 1``; `alpha` of `RMSProp`.
    eps : float
        Added to the square root, ``> 0``.

    Returns
    -------
    like `x0`
        New float64 arrays, 0-d for numbers.

    Raises
    ------
    TypeError
        If a leaf of `x0` or of a gradient is not made of real numbers.
    ValueError
        If a gradient has another structure or shape than `x0`, or a number is out of bounds.

    Notes
    -----
    The formula, its order of operations and the average that begins at one are those of
    ``autograd/misc/optimizers.py`` (https://github.com/HIPS/autograd), so float64 arrays go
    through the very same bits; only subnormal numbers count as zero here, see `RMSProp`. Everything
    is computed in float64. autograd does so from the second iteration on, as its average is
    float64; `grad` sees float32 only once there, never here. For training in float32 use `RMSProp`
    itself. One cannot differentiate through this function, as one can through autograd's.

    Examples
    --------
    >>> from fused_rmsprop.autograd import rmsprop
    >>> found = rmsprop(lambda x, i: {"a": 2 * (x["a"] - 3)}, {"a": 0.0}, num_iters=200)
    >>> print(found["a"].round(6))
    3.0
    """
    params = _new(x0, "x0")
    opt = RMSProp(params, lr=step_size, alpha=gamma, eps=eps)
    for state in opt.state.values():
        state["square_avg"].fill(1)
    for i in range(num_iters):
        # Never the arrays that are trained: who keeps what they saw keeps what it was.
        seen = _new(params, "x0")
        grads = _map(_float64, grad(seen, i), "grads")
        if callback is not None:
            shown = seen if isinstance(seen, np.ndarray) else _new(params, "x0")
            grads_shown = _new(grads, "grads")
            callback(shown, i, grads_shown)
            if isinstance(params, np.ndarray):
                params[...], grads = shown, grads_shown
        opt.step(grads)
    return params


def _map(function: Callable[[Any, str], Any], nest: Any, where: str) -> Any:
    """The nest with ``function(leaf, name)`` in the place of each leaf."""
    if isinstance(nest, dict):
        return {key: _map(function, item, f"{where}[{key!r}]") for key, item in nest.items()}
    if isinstance(nest, (list, tuple)):
        items = [_map(function, item, f"{where}[{i}]") for i, item in enumerate(nest)]
        return tuple(items) if isinstance(nest, tuple) else items
    return function(nest, where)


def _float64(leaf: Any, where: str) -> NDArray[np.float64]:
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{where} is not an array of real numbers, but a {type(leaf).__name__} "
            f"of dtype {array.dtype}"
        )
    return np.asarray(array, np.float64)


def _new(nest: Any, where: str) -> Any:
    """Copies in the same structure, C-contiguous."""
    return _map(lambda leaf, name: np.array(_float64(leaf, name), order="C"), nest, where)
