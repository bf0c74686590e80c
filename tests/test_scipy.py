"""`fused_rmsprop.scipy.rmsprop` as a method of `scipy.optimize.minimize`."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from reference import rmsprop as reference_step
from reference import same_bits
from support import Array, needs, run_python

optimize = needs("scipy.optimize", reason="it is a method of SciPy's minimize")
from fused_rmsprop.scipy import rmsprop  # noqa: E402

TARGET = np.array([1.0, -2.0, 0.5])
SETTLING: dict[str, Any] = {"lr": lambda step: 0.1 * 0.98**step, "alpha": 0.9}


def bowl(x: Array, target: Array = TARGET) -> tuple[float, Array]:
    return float(((x - target) ** 2).sum()), 2 * (x - target)


def value(x: Array) -> float:
    return bowl(x)[0]


def slope(x: Array) -> Array:
    return bowl(x)[1]


def minimize(fun: Any = bowl, x0: Any = (0.0, 0.0, 0.0), **arguments: Any) -> Any:
    return optimize.minimize(fun, x0, **({"jac": True, "method": rmsprop} | arguments))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.05, "alpha": 0.9, "eps": 1e-6, "momentum": 0.9, "centered": True},
        {"weight_decay": 0.1, "momentum": 0.5, "nesterov": True},
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_steps_are_rmsprops(options: dict[str, Any], dtype: type[Any]) -> None:
    x0 = np.array([0.3, 0.2, -0.1], dtype)
    trace: list[Array] = []
    minimize(x0=x0, callback=trace.append, options=options | {"maxiter": 40})
    x, state = x0, {k: np.zeros_like(x0) for k in ("square_avg", "momentum_buffer", "grad_avg")}
    assert len(trace) == 40
    for xk in trace:
        gradient = slope(x).astype(dtype)
        step = {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8} | options
        x, state = reference_step(x, gradient, state, **step)
        assert same_bits(x, xk)


def test_a_minimum_is_found() -> None:
    found = minimize(options=SETTLING)
    assert isinstance(found, optimize.OptimizeResult)
    assert (found.success, found.status) == (True, 0)
    assert found.message == "Optimization terminated successfully."
    np.testing.assert_allclose(found.x, TARGET, atol=1e-5)
    assert found.fun == value(found.x)
    assert same_bits(found.jac, slope(found.x))
    assert abs(found.jac).max() <= 1e-5
    assert found.nfev == found.njev == found.nit + 1 < 1001


def test_every_way_to_give_the_gradient_is_the_same() -> None:
    calls: list[Array] = []

    def counted(x: Array) -> tuple[float, Array]:
        calls.append(x)
        return bowl(x)

    both = minimize(counted, options=SETTLING)
    assert len(calls) == both.nfev
    apart = minimize(value, jac=slope, options=SETTLING)
    direct = rmsprop(bowl, np.zeros(3), jac=True, **SETTLING)
    with_args = minimize(bowl, args=(TARGET,), options=SETTLING)
    one_arg = minimize(bowl, args=TARGET, options=SETTLING)
    for other in (apart, direct, with_args, one_arg):
        assert same_bits(both.x, other.x)
        assert (both.fun, both.nit, both.nfev) == (other.fun, other.nit, other.nfev)


def test_x0_is_not_changed_and_keeps_its_precision() -> None:
    starts: list[tuple[Any, type[Any]]] = [
        (np.zeros(3, np.float32), np.float32),
        (np.zeros(3), np.float64),
        (np.zeros(3, np.float16), np.float64),
        (np.zeros(6, ">f8")[::2], np.float64),
        ([0, 0, 0], np.float64),
    ]
    for x0, dtype in starts:
        before = np.array(x0)
        found = minimize(x0=x0, options={"maxiter": 3})
        assert np.array_equal(x0, before)
        assert found.x.dtype == found.jac.dtype == dtype
        assert not np.array_equal(found.x, before)
    assert minimize(lambda x: (x[0] ** 2, 2 * x), 1.0).x.shape == (1,)


def test_arrays_may_be_kept_changed_and_used_again() -> None:
    expected = minimize(options={"maxiter": 20})
    buffer, kept = np.empty(3), []

    def rough(x: Array) -> tuple[float, Array]:
        kept.append((x, x.copy()))
        fun, buffer[...] = bowl(x)
        return fun, buffer

    def spoil(intermediate_result: Any) -> None:
        intermediate_result.x[...] = intermediate_result.jac[...] = np.nan

    found = minimize(rough, callback=spoil, options={"maxiter": 20})
    buffer[...] = np.nan
    assert same_bits(found.x, expected.x)
    assert same_bits(found.jac, expected.jac)
    assert all(np.array_equal(a, b) for a, b in kept)

    def spoil_x(x: Array) -> float:
        fun = value(x)
        x[...] = np.nan
        return fun

    assert same_bits(minimize(spoil_x, jac=slope, options={"maxiter": 20}).x, expected.x)
    # The gradient of x**2 / 2 is its own argument.
    own = minimize(lambda x: float(x @ x) / 2, x0=[3.0], jac=lambda x: x, options=SETTLING)
    assert own.success


def test_callbacks_of_both_kinds() -> None:
    points: list[Array] = []
    results: list[Any] = []

    def new(intermediate_result: Any) -> None:
        results.append(intermediate_result)

    minimize(callback=points.append, options={"maxiter": 5})
    found = minimize(callback=new, options={"maxiter": 5})
    assert len(points) == len(results) == 5
    for nit, (x, result) in enumerate(zip(points, results, strict=True), 1):
        assert same_bits(x, result.x)
        assert isinstance(result, optimize.OptimizeResult)
        assert (result.nit, result.fun) == (nit, value(x))
        assert same_bits(result.jac, slope(x))
    assert same_bits(points[-1], found.x)


@pytest.mark.parametrize("new", [False, True])
def test_stop_iteration_ends_the_run(new: bool) -> None:
    calls = []

    def stop(x: Any) -> None:
        calls.append(x)
        if len(calls) == 3:
            raise StopIteration

    callback = (lambda intermediate_result: stop(intermediate_result)) if new else stop
    found = minimize(callback=callback)
    assert (found.nit, found.status, found.success) == (3, 99, False)
    assert found.message == "`callback` raised `StopIteration`."
    with contextlib.suppress(StopIteration):  # SciPy before 1.11 does not catch it
        theirs = minimize(method="BFGS", callback=lambda xk: next(iter(())))
        assert (theirs.status, theirs.success) == (99, False)
        assert theirs.message == found.message


def test_other_errors_of_a_callback_are_raised() -> None:
    def fail(x: Array) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        minimize(callback=fail)


@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.1, "decoupled_weight_decay": True}, {"weight_decay": float}]
)
def test_weight_decay_without_an_objective_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no objective to minimize"):
        minimize(options=options)


def test_a_learning_rate_by_the_step() -> None:
    steps: list[int] = []

    def lr(step: int) -> Any:
        steps.append(step)
        return np.float32(0.5 / (1 + step))

    trace: list[Array] = []
    minimize(callback=trace.append, options={"lr": lr, "maxiter": 4})
    assert steps == [0, 1, 2, 3]
    x = np.zeros(3)
    opt = RMSProp(x)
    for step, xk in enumerate(trace):
        opt.lr = float(np.float32(0.5 / (1 + step)))
        opt.step(slope(x))
        assert same_bits(x, xk)


def test_the_best_point_or_the_last() -> None:
    trace: list[Array] = []
    options = {"lr": 0.9, "alpha": 0.5, "maxiter": 11}  # jumps over the minimum
    best = minimize(callback=trace.append, options=options)
    values = [value(x) for x in (np.zeros(3), *trace)]
    assert values[-1] > min(values)
    assert best.fun == value(best.x) == min(values)
    assert same_bits(best.jac, slope(best.x))
    last = minimize(options=options | {"return_best": False})
    assert last.fun == values[-1]
    assert same_bits(last.x, trace[-1])
    for found in (best, last):
        assert (found.status, found.success, found.nit) == (1, False, 11)
        assert found.message == "Maximum number of iterations has been exceeded."


def test_tolerances() -> None:
    loose = minimize(tol=1e-2, options=SETTLING)
    assert loose.success
    assert 1e-5 < abs(loose.jac).max() <= 1e-2
    assert minimize(options=SETTLING | {"gtol": 1e-2}).nit == loose.nit
    assert minimize(tol=1e-9, options=SETTLING | {"gtol": 1e-2}).nit == loose.nit
    there = minimize(x0=TARGET, options={"gtol": 0})
    assert (there.nit, there.nfev, there.success) == (0, 1, True)
    nowhere = minimize(options={"maxiter": 0})
    assert (nowhere.nit, nowhere.status, nowhere.fun) == (0, 1, value(np.zeros(3)))


def test_where_gtol_is_reached_the_result_is_that_point() -> None:
    found = minimize(lambda x: (-value(x), slope(x)), options=SETTLING)  # climbs
    assert found.success
    np.testing.assert_allclose(found.x, TARGET, atol=1e-5)


def test_weight_decay_belongs_to_the_objective() -> None:
    found = minimize(options=SETTLING | {"weight_decay": 2.0})
    assert found.success
    np.testing.assert_allclose(found.x, TARGET / 2, atol=1e-5)  # of (x - t)**2 + x**2
    assert found.fun == value(found.x)
    assert same_bits(found.jac, slope(found.x))
    cut = minimize(x0=TARGET, options=SETTLING | {"weight_decay": 2.0, "maxiter": 5})
    assert not np.array_equal(cut.x, TARGET)


def breaks_down(limit: float, bad: float, where: str) -> Any:
    """The bowl, with NaN or infinity beyond a wall."""

    def fun(x: Array) -> tuple[float, Array]:
        value, gradient = bowl(x)
        if x[0] > limit:
            value = bad if where == "value" else value
            gradient[1] = bad if where == "gradient" else gradient[1]
        return value, gradient

    return fun


@pytest.mark.parametrize("return_best", [True, False])
@pytest.mark.parametrize("where", ["value", "gradient"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_end_the_run(bad: float, where: str, return_best: bool) -> None:
    options = {"return_best": return_best}
    found = minimize(breaks_down(0.55, bad, where), options=options)
    assert (found.status, found.success) == (3, False)
    assert found.message == "NaN or infinity encountered."
    assert 10 < found.nit < 60
    assert 0 < found.x[0] <= 0.55
    assert found.fun == value(found.x) < value(np.zeros(3))
    assert same_bits(found.jac, slope(found.x))
    at_once = minimize(breaks_down(-1, bad, where), options=options)
    assert (at_once.status, at_once.success, at_once.nit) == (3, False, 0)
    assert np.array_equal(at_once.x, np.zeros(3))


def test_an_infinite_x_ends_the_run() -> None:
    found = minimize(lambda x: (0.0, np.ones(3)), options={"lr": 1e308})
    assert (found.status, found.nit) == (3, 1)
    assert np.array_equal(found.x, np.zeros(3))


def test_a_gradient_too_large_for_float32_is_infinite() -> None:
    found = minimize(lambda x: (1.0, np.full(3, 1e300)), x0=np.zeros(3, np.float32))
    assert (found.status, found.nit) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jac": None}, "needs the gradient.*approx_fprime"),
        ({"jac": "2-point"}, "needs the gradient.*pass jac=True"),
        ({"jac": False}, "needs the gradient"),
        ({"bounds": [(0, 1)] * 3}, "no bounds.*L-BFGS-B"),
        ({"constraints": {"type": "eq", "fun": value}}, "no constraints.*SLSQP"),
        ({"constraints": [{"type": "eq", "fun": value}]}, "no constraints"),
        ({"options": {"maximize": True}}, "return the negative"),
        ({"options": {"grads": np.zeros(3)}}, "gradients come from jac"),
        ({"options": {"gtol": -1}}, "gtol must be >= 0"),
        ({"options": {"gtol": np.nan}}, "gtol must be >= 0"),
        ({"options": {"maxiter": -1}}, "maxiter must be >= 0"),
        ({"options": {"alpha": 1.0}}, "alpha"),
        ({"options": {"lr": lambda step: -1.0}}, "lr"),
        (
            {"fun": lambda x: (1.0, np.zeros(2))},
            r"gradient has shape \(2,\), but x has shape \(3,\)",
        ),
        ({"fun": lambda x: (1.0, np.zeros((3, 1)))}, r"shape \(3, 1\)"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimize(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"learning_rate": 0.1}}, "learning_rate"),
        ({"options": {"maxiter": 10.5}}, "maxiter must be an int"),
        ({"options": {"gtol": "small"}}, "gtol must be a number"),
        ({"options": {"lr": "small"}}, "lr must be a number"),
        ({"options": {"disp": "yes"}}, "disp must be True or False"),
        ({"x0": np.zeros(3, complex)}, "x0 has dtype complex128"),
        ({"fun": bowl, "jac": slope}, "pass jac=True"),
        ({"fun": lambda x: x, "jac": slope}, r"one real number, got a ndarray of shape \(3,\)"),
        ({"fun": lambda x: 1j, "jac": slope}, "one real number.*complex128"),
        ({"fun": lambda x: None, "jac": slope}, "one real number, got a NoneType"),
        ({"fun": lambda x: (1.0, None)}, "gradient is a NoneType"),
    ],
)
def test_refused_types(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        minimize(**arguments)


def test_a_matrix_is_refused_when_called_directly() -> None:
    with pytest.raises(ValueError, match="pass x0.ravel()"):
        rmsprop(bowl, np.zeros((3, 1)), jac=True)


def test_a_hessian_is_not_used() -> None:
    with pytest.warns(RuntimeWarning, match="does not use hess") as caught:
        minimize(hess=lambda x: 2 * np.eye(3), options={"maxiter": 1})
    assert len(caught) == 1


def test_finite_differences_as_the_error_says() -> None:
    found = minimize(value, jac=lambda x: optimize.approx_fprime(x, value), options=SETTLING)
    np.testing.assert_allclose(found.x, TARGET, atol=1e-4)


def test_disp(capsys: pytest.CaptureFixture[str]) -> None:
    minimize(options=SETTLING)
    assert capsys.readouterr().out == ""
    found = minimize(options=SETTLING | {"disp": True})
    out = capsys.readouterr().out
    assert out.startswith("Optimization terminated successfully.\n")
    assert f"Iterations: {found.nit}\n" in out


def test_as_the_local_method_of_basinhopping() -> None:
    def wells(x: Array) -> tuple[float, Array]:
        return float((np.cos(14.5 * x - 0.3) + (x + 0.2) * x)[0]), (
            -14.5 * np.sin(14.5 * x - 0.3) + 2 * x + 0.2
        )

    local = {"method": rmsprop, "jac": True, "options": {"lr": 0.01, "maxiter": 200}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the seed's name
        found = optimize.basinhopping(wells, [1.0], minimizer_kwargs=local, niter=30, seed=1)
    assert found.x[0] == pytest.approx(-0.195, abs=0.01)


def test_the_package_does_not_import_scipy() -> None:
    run_python(
        "import sys, fused_rmsprop; assert 'scipy' not in sys.modules\n"
        "import fused_rmsprop.scipy, scipy; assert scipy is not fused_rmsprop.scipy"
    )
