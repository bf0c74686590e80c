"""A drop-in for the `rmsprop` of HIPS autograd, with one fused pass per step.

It does not import autograd; any function that returns gradients will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from fused_rmsprop.base import helps_with_options
from fused_rmsprop.introspection import show_public
from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.values import Number

__all__ = ["rmsprop"]


def _unknown(name: str, where: str, known: Iterable[str]) -> str:
    """The error for an option that is called otherwise here."""
    names = {
        "lr": "step_size",
        "learning_rate": "step_size",
        "alpha": "gamma",
        "rho": "gamma",
        "decay": "gamma",
        "epsilon": "eps",
        "maxiter": "num_iters",
        "steps": "num_iters",
    }
    meant = f"; is {names[name]} meant?" if name in names else ";"
    return f"{where} has no option {name!r}{meant} The options are {', '.join(known)}"


@partial(helps_with_options, where="autograd.rmsprop", hint=_unknown)
def rmsprop(
    grad: Callable[[Any, int], Any],
    x0: Any,
    callback: Callable[[Any, int, Any], object] | None = None,
    num_iters: int = 100,
    step_size: Number = 0.1,
    gamma: Number = 0.9,
    eps: Number = 10**-8,
) -> Any:
    r"""Minimise by gradients, as ``autograd.misc.optimizers.rmsprop`` does.

    .. math::
        v \leftarrow \gamma v + (1 - \gamma) g^2, \qquad
        x \leftarrow x - \mathrm{step\_size} \cdot g / (\sqrt{v} + \mathrm{eps}),
        \qquad v_0 = 1

    Parameters
    ----------
    grad : callable, ``grad(x, i)``
        Returns the gradients at `x`, in its structure; ``i`` counts iterations from 0.
    x0 : array or number, or a nest of lists, tuples and dicts of these
        The starting point; not changed.
    callback : callable, ``callback(x, i, g)``, or None
        Called before each update with the argument and the result of `grad`. It may keep the
        arrays. As in autograd, writing to them takes effect only if `x0` is a single array.
    num_iters : int
        The number of updates.
    step_size : float
        The learning rate, ``>= 0``; `lr` of `RMSProp`.
    gamma : float
        Decay of the running average, ``0 <= gamma < 1``; `alpha` of `RMSProp`.
    eps : float
        Added to the square root, ``> 0``.

    Returns
    -------
    like `x0`
        New float64 arrays, 0-d for numbers.

    Raises
    ------
    TypeError, ValueError
        If a leaf of `x0` or of a gradient is not real, a gradient differs in structure or shape
        from `x0`, or a number is out of bounds.

    Notes
    -----
    The formula, its order of operations and the initial average of one match
    ``autograd/misc/optimizers.py`` (https://github.com/HIPS/autograd). float64 results are
    bit-identical, except that subnormal numbers count as zero here; see `RMSProp`. float32 input is
    converted to float64 before the first call of `grad`; in autograd, before the second. Use
    `RMSProp` to train in float32. Unlike autograd's, this function cannot be differentiated.

    Examples
    --------
    >>> from fused_rmsprop.autograd import rmsprop
    >>> found = rmsprop(lambda x, i: {"a": 2 * (x["a"] - 3)}, {"a": 0.0}, num_iters=200)
    >>> print(found["a"].round(6))
    3.0
    """
    params = _float64(x0, "x0")
    opt = RMSProp(params, lr=step_size, alpha=gamma, eps=eps, initial_square_avg=1.0)
    for i in range(num_iters):
        # Show copies, so that arrays kept by the caller do not change.
        seen = _float64(params, "x0")
        grads = _float64(grad(seen, i), "grads", copy=False)
        if callback is not None:
            shown = seen if isinstance(seen, np.ndarray) else _float64(params, "x0")
            grads_shown = _float64(grads, "grads")
            callback(shown, i, grads_shown)
            if isinstance(params, np.ndarray):
                params[...], grads = shown, grads_shown
        opt.step(grads)
    return params


def _float64(nest: Any, where: str, copy: bool = True) -> Any:
    """Convert the leaves of a nest to float64 arrays in C order; ``where`` names it in errors."""
    if isinstance(nest, dict):
        return {key: _float64(item, f"{where}[{key!r}]", copy) for key, item in nest.items()}
    if isinstance(nest, (list, tuple)):
        items = [_float64(item, f"{where}[{i}]", copy) for i, item in enumerate(nest)]
        return tuple(items) if isinstance(nest, tuple) else items
    array = np.asarray(nest)
    if array.dtype.kind not in "fiub":
        got = f"a {type(nest).__name__} of dtype {array.dtype}"
        raise TypeError(f"{where} is not an array of real numbers: got {got}")
    return array.astype(np.float64, order="C", copy=copy)


show_public(__name__)
