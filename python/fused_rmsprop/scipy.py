"""RMSProp as a method of `scipy.optimize.minimize`.

The only module that imports SciPy; nothing else of the package imports it.
"""

from __future__ import annotations

import inspect
import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.options import Number, as_flag, as_number

__all__ = ["rmsprop"]

# The codes and texts of SciPy's own methods.
_CONVERGED, _MAXITER, _NOT_FINITE, _STOPPED = 0, 1, 3, 99
_MESSAGES = {
    _CONVERGED: "Optimization terminated successfully.",
    _MAXITER: "Maximum number of iterations has been exceeded.",
    _NOT_FINITE: "NaN or infinity encountered.",
    _STOPPED: "`callback` raised `StopIteration`.",
}


def rmsprop(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    jac: Callable[..., Any] | bool | None = None,
    hess: object = None,
    hessp: object = None,
    bounds: object = None,
    constraints: Any = (),
    callback: Callable[..., object] | None = None,
    *,
    lr: Number | Callable[[int], Number] = 1e-2,
    maxiter: int = 1000,
    gtol: Number | None = None,
    tol: Number | None = None,
    return_best: bool = True,
    disp: bool = False,
    **options: Any,
) -> OptimizeResult:
    """Minimise a function by its gradient, as ``minimize(fun, x0, jac=True, method=rmsprop)``.

    Parameters
    ----------
    fun : callable, ``fun(x, *args)``
        The objective, a number; with ``jac=True`` it returns ``(value, gradient)``.
    x0 : array of shape (n,)
        Where to begin; it is not changed. float32 stays float32, anything else becomes float64.
    args : tuple
        Further arguments of `fun` and `jac`.
    jac : callable, ``jac(x, *args)``, or True
        The gradient, of shape (n,). It is needed.
    hess, hessp
        Not used; a `RuntimeWarning` says so.
    bounds, constraints
        Refused.
    callback : callable, ``callback(xk)`` or ``callback(intermediate_result)``, or None
        Called after each step with the new point; under the name ``intermediate_result`` it
        gets an `OptimizeResult` of ``x``, ``fun``, ``jac`` and ``nit``. `StopIteration` ends
        the run.
    lr : float or callable
        Step size, or a function of the number of steps done so far, 0 at first. As a constant
        it bounds how near to a minimum the run gets: x goes on moving to and fro by about `lr`.
    maxiter : int
        The most steps.
    gtol : float
        Done when no component of the gradient is larger in magnitude; by default `tol`, or
        else 1e-5. There are no tolerances for steps of `fun` and x: the size of a step is what
        `lr` makes it and says nothing of the distance from a minimum.
    tol : float
        What `minimize` passes on of its argument ``tol``.
    return_best : bool
        If `gtol` is not reached, return the point of the lowest value of `fun` on the way: RMSProp
        is not monotone. False, for a noisy `fun`: the last point. Never one where `fun`, `jac` or x
        is NaN or infinite, unless that is `x0`.
    disp : bool
        Print how it ended.
    **options
        As in `RMSProp`: ``alpha``, ``eps``, ``momentum``, ``centered``, ``nesterov``, ... With
        ``weight_decay``, a number here and not decoupled, the objective is
        ``fun(x) + weight_decay / 2 * sum(x**2)``: `gtol` and `return_best` mean this sum, while
        ``fun`` and ``jac`` in the result are without it.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``success``, ``status`` and
        ``message``. Status 0: `gtol` is reached, and this alone is success; 1: `maxiter` steps
        done, as most runs of a constant `lr` end; 3: NaN or infinity; 99: stopped by `callback`.

    Raises
    ------
    ValueError
        If the gradient is not given or has another shape than x, if there are bounds or
        constraints, or if an option is out of bounds.
    TypeError
        If an option is unknown, or x, `fun` or the gradient are not real numbers.

    Notes
    -----
    The steps are those of `RMSProp`, whose docstring has the formula (G. Hinton, 2012), on the
    gradient at each point. What SciPy asks of a method is in the documentation of
    `scipy.optimize.minimize`, "Custom minimizers".

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> from fused_rmsprop.scipy import rmsprop
    >>> options = {"lr": lambda step: 0.01 * 0.999**step, "alpha": 0.9, "maxiter": 20_000}
    >>> found = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=rmsprop, options=options)
    >>> found.success, found.x.round(3)
    (True, array([1., 1.]))
    """
    _refuse(jac, bounds, constraints, options)
    if hess is not None or hessp is not None:
        warnings.warn("rmsprop does not use hess and hessp.", RuntimeWarning, stacklevel=3)
    gtol = _tolerance(gtol if gtol is not None else tol if tol is not None else 1e-5)
    maxiter = _count(maxiter)
    return_best, disp = as_flag("return_best", return_best), as_flag("disp", disp)

    x = _own(x0)
    opt = RMSProp(x, lr=lr, **options)
    at = _Objective(fun, jac, args, opt.param_groups[0]["weight_decay"])
    stops = _stopper(callback)

    point = kept = at(x)
    nit, stopped = 0, False
    while not stopped and point.finite and point.slope > gtol and nit < maxiter:
        opt.step(point.jac)
        nit += 1
        point = at(x)
        if point.finite and (point.value <= kept.value or not return_best):
            kept = point
        stopped = stops(point, nit)

    if stopped:
        result = _result(kept, nit, _STOPPED)
    elif not point.finite:
        result = _result(kept, nit, _NOT_FINITE)
    elif point.slope <= gtol:
        result = _result(point, nit, _CONVERGED)
    else:
        result = _result(kept, nit, _MAXITER)
    if disp:
        _print(result)
    return result


@dataclass
class _Point:
    """A point of its own memory, and what is known there; ``value`` includes weight decay."""

    x: NDArray[Any]
    fun: float
    jac: NDArray[Any]
    value: float
    slope: float  # the largest component of the gradient, weight decay included
    finite: bool


@dataclass
class _Objective:
    """`fun` and `jac` at a point, checked and copied."""

    fun: Callable[..., Any]
    jac: Any
    args: tuple[Any, ...]
    weight_decay: float

    def __call__(self, x: NDArray[Any]) -> _Point:
        # Functions may keep the array they are given, and return one that they use again.
        x = x.copy()
        if self.jac is True:
            fun, jac = self.fun(x.copy(), *self.args)
        else:
            fun, jac = self.fun(x.copy(), *self.args), self.jac(x.copy(), *self.args)
        fun, jac = _scalar(fun), _gradient(jac, x)
        value, total = fun, jac
        if self.weight_decay:
            with np.errstate(all="ignore"):
                value = fun + 0.5 * self.weight_decay * float(x @ x)
                total = jac + self.weight_decay * x
        slope = float(np.maximum(total.max(initial=0), -total.min(initial=0)))
        finite = math.isfinite(value) and math.isfinite(slope) and bool(np.isfinite(x).all())
        return _Point(x, fun, jac, value, slope, finite)


def _refuse(jac: object, bounds: object, constraints: Any, options: dict[str, Any]) -> None:
    """Raise a `ValueError` for what this method cannot do, with what to do instead."""
    if not callable(jac) and jac is not True:
        raise ValueError(
            "rmsprop needs the gradient, which it does not estimate: pass jac=True if fun "
            "returns (value, gradient), or the function, e.g. "
            "jac=lambda x: scipy.optimize.approx_fprime(x, fun)"
        )
    if bounds is not None:
        raise ValueError(
            "rmsprop has no bounds: pass bounds=None and substitute the variables "
            "(x = exp(z) is positive), or use method='L-BFGS-B'"
        )
    if not (constraints is None or (isinstance(constraints, (list, tuple)) and not constraints)):
        raise ValueError("rmsprop has no constraints: add a penalty to fun, or use method='SLSQP'")
    if "maximize" in options:
        raise ValueError("minimize() does not maximize: return the negative of fun and gradient")
    if options.get("decoupled_weight_decay") or callable(options.get("weight_decay")):
        raise ValueError(
            "weight decay that is decoupled, or a function of the step, has no objective to "
            "minimize: pass a number as weight_decay"
        )
    if options.get("ema_decay"):
        raise ValueError("there would be no way to read the average of ema_decay")
    if "grads" in options:
        raise ValueError("gradients come from jac; there are none to bind")


def _tolerance(value: Any) -> float:
    gtol = as_number("gtol", value)
    if not gtol >= 0:
        raise ValueError(f"gtol must be >= 0, got {value!r}")
    return gtol


def _count(maxiter: Any) -> int:
    try:
        count = operator.index(maxiter)
    except TypeError:
        raise TypeError(f"maxiter must be an int, got {maxiter!r}") from None
    if count < 0:
        raise ValueError(f"maxiter must be >= 0, got {maxiter!r}")
    return count


def _own(x0: Any) -> NDArray[Any]:
    """A copy of x0 to be trained."""
    array = np.atleast_1d(np.asarray(x0))
    if array.dtype.kind not in "fiub":
        raise TypeError(f"x0 has dtype {array.dtype}; rmsprop minimises over real numbers")
    if array.ndim != 1:
        raise ValueError(f"x0 has shape {array.shape}; pass x0.ravel()")
    dtype = np.float32 if array.dtype.type is np.float32 else np.float64
    return np.array(array, dtype)


def _scalar(fun: Any) -> float:
    if isinstance(fun, tuple):
        raise TypeError("fun returned a tuple; if it is (value, gradient), pass jac=True")
    array = np.asarray(fun)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise TypeError(
            "fun must return one real number, got a "
            f"{type(fun).__name__} of shape {array.shape} and dtype {array.dtype}"
        )
    return float(array.item())


def _gradient(jac: Any, x: NDArray[Any]) -> NDArray[Any]:
    """A copy of the gradient in the dtype of x."""
    array = np.atleast_1d(np.asarray(jac))
    if array.dtype.kind not in "fiub":
        raise TypeError(f"the gradient is a {type(jac).__name__} of dtype {array.dtype}")
    if array.shape != x.shape:
        raise ValueError(f"the gradient has shape {array.shape}, but x has shape {x.shape}")
    with np.errstate(over="ignore"):  # too large for float32: infinite, which ends the run
        return np.array(array, x.dtype)


def _stopper(callback: Callable[..., object] | None) -> Callable[[_Point, int], bool]:
    """What calls `callback` in the way it wants to be called, and tells whether to stop."""
    if callback is None:
        return lambda point, nit: False
    try:
        wants_result = set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except ValueError:  # some functions written in C have no signature
        wants_result = False

    def stops(point: _Point, nit: int) -> bool:
        x = point.x.copy()
        try:
            if wants_result:
                jac = point.jac.copy()
                callback(intermediate_result=OptimizeResult(x=x, fun=point.fun, jac=jac, nit=nit))
            else:
                callback(x)
        except StopIteration:
            return True
        return False

    return stops


def _result(point: _Point, nit: int, status: int) -> OptimizeResult:
    return OptimizeResult(
        x=point.x,
        fun=point.fun,
        jac=point.jac,
        nit=nit,
        nfev=nit + 1,
        njev=nit + 1,
        status=status,
        success=status == _CONVERGED,
        message=_MESSAGES[status],
    )


def _print(result: OptimizeResult) -> None:
    print(result.message)
    print(f"         Current function value: {result.fun:f}")
    print(f"         Iterations: {result.nit}")
    print(f"         Function evaluations: {result.nfev}")
    print(f"         Gradient evaluations: {result.njev}")
