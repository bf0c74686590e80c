"""RMSProp as a method of `scipy.optimize.minimize`; no other module imports SciPy, or this one."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from fused_rmsprop.introspection import show_public
from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.values import Number, as_count, as_flag, as_number

__all__ = ["rmsprop"]

# The status codes and messages of SciPy's own methods.
_CONVERGED = 0, "Optimization terminated successfully."
_MAXITER = 1, "Maximum number of iterations has been exceeded."
_NOT_FINITE = 3, "NaN or infinity encountered."
_STOPPED = 99, "`callback` raised `StopIteration`."


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
        The starting point; not changed. float32 stays float32, any other dtype becomes float64.
    args : tuple
        Further arguments of `fun` and `jac`.
    jac : callable, ``jac(x, *args)``, or True
        The gradient, of shape (n,). Required.
    hess, hessp, bounds, constraints
        Not supported; `hess` and `hessp` are ignored with a `RuntimeWarning`.
    callback : callable, ``callback(xk)`` or ``callback(intermediate_result)``, or None
        Called after each step with the new point. A parameter named ``intermediate_result``
        receives an `OptimizeResult` with ``x``, ``fun``, ``jac`` and ``nit``. `StopIteration` ends
        the run.
    lr : float or callable
        Step size, or a function of the number of completed steps. A constant limits the accuracy:
        x keeps oscillating around a minimum by about `lr`.
    maxiter : int
        The maximum number of steps.
    gtol, tol : float
        Stop when no component of the gradient exceeds `gtol` in magnitude; by default `tol` of
        `minimize`, or else 1e-5. There are no tolerances for changes of `fun` and x: their size
        depends on `lr` and does not measure the distance from a minimum.
    return_best : bool
        If `gtol` is not reached, return the point with the lowest `fun`, because RMSProp is not
        monotone. If False, for a noisy `fun`, return the last point. A point where `fun`, `jac` or
        x is NaN or infinite is returned only if it is `x0`.
    disp : bool
        Print a summary at the end.
    **options
        As in `RMSProp`: ``alpha``, ``eps``, ``momentum``, ``centered``, ``nesterov``, ... With
        ``weight_decay``, which must be a number and not decoupled, the objective is
        ``fun(x) + weight_decay / 2 * sum(x**2)``. `gtol` and `return_best` refer to this sum;
        ``fun`` and ``jac`` in the result exclude the penalty.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``success``, ``status`` and
        ``message``. Status 0: `gtol` reached, the only success; 1: `maxiter` reached, usual with a
        constant `lr`; 3: NaN or infinity; 99: stopped by `callback`.

    Raises
    ------
    ValueError, TypeError
        If the gradient is missing or its shape differs from x, if there are bounds or constraints,
        if an option is unknown or out of bounds, or if x, `fun` or the gradient are not real.

    Notes
    -----
    Each step is one of `RMSProp`, whose docstring has the formula (G. Hinton, 2012). SciPy's
    requirements are in the documentation of `scipy.optimize.minimize`, "Custom minimizers".

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
    gtol = as_number("gtol", gtol if gtol is not None else tol if tol is not None else 1e-5)
    if not gtol >= 0:
        raise ValueError(f"gtol must be >= 0, got {gtol}")
    maxiter = as_count("maxiter", maxiter)
    return_best, disp = as_flag("return_best", return_best), as_flag("disp", disp)

    x = _own(x0)
    opt = RMSProp(x, lr=lr, **options)
    at = partial(_evaluate, fun, jac, args, opt.param_groups[0]["weight_decay"])
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

    ending = _STOPPED if stopped else _MAXITER if point.finite else _NOT_FINITE
    if point.finite and point.slope <= gtol and not stopped:
        kept, ending = point, _CONVERGED
    return _result(kept, nit, *ending, disp)


@dataclass
class _Point:
    """A point in memory of its own and the objective there; ``value`` includes weight decay."""

    x: NDArray[Any]
    fun: float
    jac: NDArray[Any]
    value: float
    slope: float  # the largest component of the gradient, including weight decay
    finite: bool


def _evaluate(
    fun: Any, jac: Any, args: tuple[Any, ...], weight_decay: float, x: NDArray[Any]
) -> _Point:
    """Evaluate `fun` and `jac` at a point; check and copy the results."""
    # A function may keep its argument and may reuse the array that it returns.
    x = x.copy()
    found = fun(x.copy(), *args)
    fun, jac = found if jac is True else (found, jac(x.copy(), *args))
    fun, jac = _scalar(fun), _gradient(jac, x)
    value, total = fun, jac
    if weight_decay:
        with np.errstate(all="ignore"):
            value = fun + 0.5 * weight_decay * float(x @ x)
            total = jac + weight_decay * x
    slope = float(np.maximum(total.max(initial=0), -total.min(initial=0)))
    finite = math.isfinite(value) and math.isfinite(slope) and bool(np.isfinite(x).all())
    return _Point(x, fun, jac, value, slope, finite)


def _refuse(jac: object, bounds: object, constraints: Any, options: dict[str, Any]) -> None:
    """Raise a `ValueError` for unsupported arguments and suggest an alternative."""
    if not callable(jac) and jac is not True:
        raise ValueError(
            "rmsprop needs the gradient and does not estimate it: pass jac=True if fun returns "
            "(value, gradient), or a function such as "
            "jac=lambda x: scipy.optimize.approx_fprime(x, fun)"
        )
    if bounds is not None:
        raise ValueError(
            "rmsprop has no bounds: pass bounds=None and substitute variables "
            "(x = exp(z) is positive), or use method='L-BFGS-B'"
        )
    if constraints not in (None, (), []):
        raise ValueError("rmsprop has no constraints: add a penalty to fun, or use method='SLSQP'")
    if "maximize" in options:
        raise ValueError("minimize() does not maximize: return the negative of fun and gradient")
    if options.get("decoupled_weight_decay") or callable(options.get("weight_decay")):
        raise ValueError(
            "weight decay that is decoupled or scheduled has no objective to minimize: "
            "pass a number as weight_decay"
        )
    if options.get("ema_decay"):
        raise ValueError("ema_decay is not supported: the result has no field for the average")
    if "grads" in options:
        raise ValueError("grads is not supported: gradients come from jac")


def _own(x0: Any) -> NDArray[Any]:
    """Copy x0 to train it."""
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
        got = f"a {type(fun).__name__} of shape {array.shape} and dtype {array.dtype}"
        raise TypeError(f"fun must return one real number, got {got}")
    return float(array.item())


def _gradient(jac: Any, x: NDArray[Any]) -> NDArray[Any]:
    """Check the gradient and copy it in the dtype of x."""
    array = np.atleast_1d(np.asarray(jac))
    if array.dtype.kind not in "fiub":
        raise TypeError(f"the gradient is a {type(jac).__name__} of dtype {array.dtype}")
    if array.shape != x.shape:
        raise ValueError(f"the gradient has shape {array.shape}, but x has shape {x.shape}")
    with np.errstate(over="ignore"):  # a gradient that overflows float32 ends the run
        return np.array(array, x.dtype)


def _stopper(callback: Callable[..., object] | None) -> Callable[[_Point, int], bool]:
    """Return a function that calls `callback` with its preferred argument: True means stop."""
    if callback is None:
        return lambda point, nit: False
    try:
        wants_result = [*inspect.signature(callback).parameters] == ["intermediate_result"]
    except ValueError:  # some functions written in C have no signature
        wants_result = False

    def stops(point: _Point, nit: int) -> bool:
        x, jac = point.x.copy(), point.jac.copy()
        try:
            if wants_result:
                callback(intermediate_result=OptimizeResult(x=x, fun=point.fun, jac=jac, nit=nit))
            else:
                callback(x)
        except StopIteration:
            return True
        return False

    return stops


def _result(point: _Point, nit: int, status: int, message: str, disp: bool) -> OptimizeResult:
    """Return the result, and print a summary if ``disp`` is on."""
    if disp:
        print(message)
        print(f"         Current function value: {point.fun:f}")
        print(f"         Iterations: {nit}")
        print(f"         Function evaluations: {nit + 1}")
        print(f"         Gradient evaluations: {nit + 1}")
    counts = {"nit": nit, "nfev": nit + 1, "njev": nit + 1}
    ending = {"status": status, "success": status == 0, "message": message}
    return OptimizeResult(x=point.x, fun=point.fun, jac=point.jac, **counts, **ending)


show_public(__name__)
