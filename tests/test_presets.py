"""Presets against the implementations they are named after, and against the published formulas.

Differences are measured by the largest parameter of all: one that crosses zero on its way keeps the
absolute error of its steps, and the fewer of its digits mean anything the nearer it is to zero.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import PRESETS, RMSProp, exchange
from support import ROOT, TOLERANCE, Array, both_dtypes, needs, needs_torch

Rule = Callable[[Array, Array, dict[str, Any], Any], Any]


def load_agreement() -> Any:
    """The script behind docs/presets.md, which has every combination of options."""
    path = ROOT / "bench/python/agreement.py"
    spec = importlib.util.spec_from_file_location("agreement", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["agreement"] = module
    spec.loader.exec_module(module)
    return module


agreement = load_agreement()


def needs_all_of(library: Any) -> None:
    """Skip the test unless all that a library needs is there."""
    if any(importlib.util.find_spec(name) is None for name in library.needs):
        pytest.skip(f"{' and '.join(library.needs)} are not installed")
    # Of the other two a single file is read, as their imports need much that nobody uses here.
    for name in {"torch", "keras", "tensorflow", "jax", "optax"} & set(library.needs):
        needs(name)


def every_case() -> Iterable[Any]:
    for name, library in agreement.LIBRARIES.items():
        for case in library.cases():
            options = ",".join(f"{k}={v}" for k, v in case.theirs.items())
            yield pytest.param(library, case, id=f"{name}-{options}")


@pytest.mark.slow
@both_dtypes
@pytest.mark.parametrize(("library", "case"), list(every_case()))
def test_the_implementation_itself(library: Any, case: Any, dtype: str) -> None:
    # timm and Keras on torch multiply parameters with a float32 1 - lr * weight_decay, which is off
    # by up to 3e-8, to the same side at every step: hence the wider bound of their cases. Keras on
    # torch computes the factor of a clipped norm in float32, for float64 gradients too.
    needs_all_of(library)
    bound = getattr(case, dtype)
    for kind in case.kinds:
        assert agreement.difference(library, case, kind, dtype) <= bound


def test_no_other_case_has_a_wider_bound() -> None:
    for library in agreement.LIBRARIES.values():
        for case in library.cases():
            decoupled = case.ours.get("weight_decay") and (
                library.preset == "keras" or case.ours.get("decoupled_weight_decay", False)
            )
            assert case.float32 == (3e-6 if decoupled else TOLERANCE["float32"])
            clipped = "global_clipnorm" in case.theirs
            assert case.float64 == (1e-9 if clipped else TOLERANCE["float64"])
    assert {library.preset for library in agreement.LIBRARIES.values()} == set(PRESETS)


# The formulas as they were published, with their own names. `s` is the state of a parameter, `f`
# makes a scalar one of the arrays' dtype.


def tensorflow1(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    """training_ops.cc: ms from ones, epsilon inside the root, lr inside the momentum."""
    ms, mom = s.get("ms", np.ones_like(p)), s.get("mom", np.zeros_like(p))
    ms = ms + (g * g - ms) * (f(1) - f(0.9))
    mom = mom * f(0.9) + (g * f(s["lr"])) / np.sqrt(ms + f(1e-10))
    s |= {"ms": ms, "mom": mom}
    return p - mom


def tensorflow1_centered(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    ms, mg = s.get("ms", np.ones_like(p)), s.get("mg", np.zeros_like(p))
    ms = ms + (g * g - ms) * (f(1) - f(0.9))
    mg = mg + (g - mg) * (f(1) - f(0.9))
    s |= {"ms": ms, "mg": mg}
    return p - (g * f(s["lr"])) / np.sqrt(ms - mg * mg + f(1e-10))


def torch(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    """rmsprop.py: eps outside the root, lr outside the momentum, weight decay in the gradient."""
    square_avg, buf = s.get("square_avg", np.zeros_like(p)), s.get("buf", np.zeros_like(p))
    g = g + f(0.01) * p
    square_avg = f(0.99) * square_avg + f(1 - 0.99) * g * g
    buf = f(0.9) * buf + g / (np.sqrt(square_avg) + f(1e-8))
    s |= {"square_avg": square_avg, "buf": buf}
    return p - f(s["lr"]) * buf


def torch_centered(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    square_avg, grad_avg = s.get("square_avg", np.zeros_like(p)), s.get("avg", np.zeros_like(p))
    square_avg = f(0.99) * square_avg + f(1 - 0.99) * g * g
    grad_avg = grad_avg + f(1 - 0.99) * (g - grad_avg)
    s |= {"square_avg": square_avg, "avg": grad_avg}
    return p - f(s["lr"]) * g / (np.sqrt(square_avg - grad_avg * grad_avg) + f(1e-8))


def keras(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    """rmsprop.py: the decay apart from the step, epsilon inside the root, lr inside momentum."""
    velocity, momentum = s.get("velocity", np.zeros_like(p)), s.get("momentum", np.zeros_like(p))
    p = p - p * f(0.01) * f(s["lr"])
    velocity = f(0.9) * velocity + f(1 - 0.9) * np.square(g)
    momentum = f(0.9) * momentum + f(s["lr"]) * g / np.sqrt(velocity + f(1e-7))
    s |= {"velocity": velocity, "momentum": momentum}
    return p - momentum


def optax(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    """alias.py: eps inside the root, lr before the trace; Nesterov; corrected from step 1 on."""
    nu, trace, t = s.get("nu", np.zeros_like(p)), s.get("trace", np.zeros_like(p)), s["step"]
    nu = f(1 - 0.9) * (g * g) + f(0.9) * nu
    update = -f(s["lr"]) * (g / np.sqrt(nu / f(1 - 0.9**t) + f(1e-8)))
    trace = update + f(0.9) * trace
    s |= {"nu": nu, "trace": trace}
    return p + (update + f(0.9) * trace)


def timm(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    """rmsprop_tf.py: TensorFlow 1's formula, with weight decay in the gradient."""
    square_avg, buf = s.get("square_avg", np.ones_like(p)), s.get("buf", np.zeros_like(p))
    g = g + f(0.01) * p
    square_avg = square_avg + f(1 - 0.9) * (g * g - square_avg)
    buf = f(0.9) * buf + f(s["lr"]) * g / np.sqrt(square_avg + f(1e-10))
    s |= {"square_avg": square_avg, "buf": buf}
    return p - buf


def stable_baselines3(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    """rmsprop_tf_like.py: torch's formula from ones, with eps inside the root."""
    square_avg, buf = s.get("square_avg", np.ones_like(p)), s.get("buf", np.zeros_like(p))
    square_avg = f(0.99) * square_avg + f(1 - 0.99) * g * g
    buf = f(0.9) * buf + g / np.sqrt(square_avg + f(1e-8))
    s |= {"square_avg": square_avg, "buf": buf}
    return p - f(s["lr"]) * buf


def dqn(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    """NeuralQLearner.lua: dw points uphill, where the gradient of the loss points down."""
    dw, avg, square = -g, s.get("g", np.zeros_like(p)), s.get("g2", np.zeros_like(p))
    avg = f(0.95) * avg + f(0.05) * dw
    square = f(0.95) * square + f(0.05) * (dw * dw)
    s |= {"g": avg, "g2": square}
    return p + f(s["lr"]) * (dw / np.sqrt(square - avg * avg + f(0.01)))


def a3c(p: Array, g: Array, s: dict[str, Any], f: Any) -> Any:
    """The equation of the paper's section 4."""
    average = f(0.99) * s.get("g", np.zeros_like(p)) + f(1 - 0.99) * g**2
    s["g"] = average
    return p - f(s["lr"]) * g / np.sqrt(average + f(0.1))


FORMULAS: list[tuple[str, Rule, dict[str, Any]]] = [
    ("torch", torch, {"momentum": 0.9, "weight_decay": 0.01}),
    ("torch", torch_centered, {"centered": True}),
    ("keras", keras, {"momentum": 0.9, "weight_decay": 0.01}),
    ("tensorflow1", tensorflow1, {"momentum": 0.9}),
    ("tensorflow1", tensorflow1_centered, {"centered": True}),
    ("optax", optax, {"momentum": 0.9, "nesterov": True, "bias_correction": True}),
    ("timm", timm, {"momentum": 0.9, "weight_decay": 0.01}),
    ("stable_baselines3", stable_baselines3, {"momentum": 0.9}),
    ("dqn", dqn, {}),
    ("a3c", a3c, {}),
]


@both_dtypes
@pytest.mark.parametrize("kind", ["normal", "mixed"])
@pytest.mark.parametrize(("preset", "rule", "options"), FORMULAS)
def test_the_published_formula(
    preset: str, rule: Rule, options: dict[str, Any], kind: str, dtype: str
) -> None:
    given = agreement.problem(kind, dtype, PRESETS[preset].get("lr", 0.01))
    ours, theirs = ([p.copy() for p in given.params] for _ in range(2))
    opt = RMSProp.from_preset(preset, ours, lr=given.lrs.__getitem__, **options)
    states: list[dict[str, Any]] = [{} for _ in theirs]
    for step, (grads, lr) in enumerate(zip(given.grads, given.lrs, strict=True), start=1):
        opt.step(grads)
        for i, g in enumerate(grads):
            states[i] |= {"lr": lr, "step": step}
            theirs[i] = rule(theirs[i], g, states[i], np.dtype(dtype).type)
    largest = max(float(np.abs(p).max()) for p in theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * largest)


def test_every_preset_has_a_formula() -> None:
    assert {preset for preset, _, _ in FORMULAS} == set(PRESETS)


SAME = {name: name for name in ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")}
KERAS = {"learning_rate": "lr", "rho": "alpha", "epsilon": "eps"}
TENSORFLOW = {"decay": "alpha", "epsilon": "eps", "momentum": "momentum", "centered": "centered"}
TIMM = {"decoupled_decay": "decoupled_weight_decay", "lr_in_momentum": "lr_in_momentum"}
OPTAX = {"decay": "alpha", "initial_scale": "initial_square_avg", "eps_in_sqrt": "eps_inside_sqrt"}
OPTAX |= {name: name for name in ("eps", "centered", "nesterov", "bias_correction")}


@pytest.mark.parametrize(
    ("name", "path", "names"),
    [
        ("torch", "optim.RMSprop", SAME),
        ("keras", "optimizers.RMSprop", KERAS | {k: k for k in ("momentum", "centered")}),
        ("tensorflow", "compat.v1.train.RMSPropOptimizer", TENSORFLOW),
        ("optax", "rmsprop", OPTAX),
        ("timm", "RMSpropTF", SAME | TIMM),
        ("stable_baselines3", "RMSpropTFLike", SAME),
    ],
)
def test_defaults_are_the_implementations_own(name: str, path: str, names: dict[str, str]) -> None:
    library = agreement.LIBRARIES[name]
    needs_all_of(library)
    if name in agreement.SINGLE_FILES:
        found = agreement.single_file(*agreement.SINGLE_FILES[name])
    else:
        found = importlib.import_module(name)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    group = RMSProp.from_preset(library.preset, np.zeros(1)).param_groups[0]
    parameters = inspect.signature(found).parameters
    assert {k: parameters[k].default for k in names} == {k: group[v] for k, v in names.items()}


@pytest.mark.parametrize("name", ["timm", "stable_baselines3"])
def test_their_state_can_be_exchanged_as_torchs(name: str) -> None:
    needs_all_of(agreement.LIBRARIES[name])
    import torch

    module = agreement.single_file(*agreement.SINGLE_FILES[name])
    make = module.RMSpropTF if name == "timm" else module.RMSpropTFLike
    given = agreement.problem("normal", "float64", 0.01)
    ours = [p.copy() for p in given.params]
    tensors = [torch.from_numpy(p.copy()) for p in given.params]
    shared = [torch.from_numpy(p) for p in ours]
    opt = RMSProp.from_preset(name, ours, momentum=0.9)
    optimizer = make(tensors, momentum=0.9)
    for step, grads in enumerate(given.grads[:30]):
        if step in (10, 20):  # ours makes the ten steps between
            to, move = (shared, exchange.from_torch) if step == 10 else (tensors, exchange.to_torch)
            for a, b in zip(to, tensors if step == 10 else shared, strict=True):
                a.copy_(b)
            move(opt, optimizer)
        if 10 <= step < 20:
            opt.step(grads)
        else:
            for tensor, g in zip(tensors, grads, strict=True):
                tensor.grad = torch.from_numpy(g)
            optimizer.step()
    alone = [p.copy() for p in given.params]
    opt = RMSProp.from_preset(name, alone, momentum=0.9)
    for grads in given.grads[:30]:
        opt.step(grads)
    for tensor, expected in zip(tensors, alone, strict=True):
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=0, atol=1e-12)


def test_torchs_centered_variant_under_a_large_steady_gradient() -> None:
    """There ``square_avg - grad_avg**2`` cancels, and its root is NaN; ours has the variance."""
    torch = needs_torch()
    rng = np.random.default_rng(0)
    grads = [np.asarray(1000 + 0.01 * rng.normal(size=1000), np.float32) for _ in range(600)]
    p, exact = np.zeros(1000, np.float32), np.zeros(1000, np.longdouble)
    tensor = torch.zeros(1000, requires_grad=True)
    options = {"lr": 1e-6, "alpha": 0.9, "centered": True}
    opt = RMSProp.from_preset("torch", p, **options)
    optimizer = torch.optim.RMSprop([tensor], **options)
    v, m = np.zeros_like(exact), np.zeros_like(exact)
    for g in grads:
        opt.step(g)
        tensor.grad = torch.from_numpy(g)
        optimizer.step()
        wide = g.astype(np.longdouble)
        m = 0.9 * m + (1 - np.longdouble(0.9)) * wide
        v = 0.9 * v + (1 - np.longdouble(0.9)) * wide * wide
        exact -= 1e-6 * wide / (np.sqrt(v - m * m) + 1e-8)
    assert np.isnan(tensor.detach().numpy()).any()
    # Gradients that deviate by 0.01 from a mean that float32 has to 3e-5.
    np.testing.assert_allclose(p, exact.astype(np.float64), rtol=5e-3)


def test_from_preset() -> None:
    opt = RMSProp.from_preset("keras", np.ones(2), lr=0.5, momentum=0.9)
    group = opt.param_groups[0]
    assert {name: group[name] for name in PRESETS["keras"]} == {**PRESETS["keras"], "lr": 0.5}
    assert group["momentum"] == 0.9
    with pytest.raises(ValueError, match="no preset 'Kears'; is 'keras' meant. There are torch,"):
        RMSProp.from_preset("Kears", np.ones(2))
    with pytest.raises(TypeError, match=r"a str, got a ndarray: call from_preset\(name, params\)"):
        RMSProp.from_preset(np.ones(2), "keras")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no option 'rho'; is alpha meant"):
        RMSProp.from_preset("keras", np.ones(2), rho=0.9)
    with pytest.raises(ValueError, match="'max_grad_norm': it belongs to the optimizer"):
        RMSProp([{"params": np.ones(2), "max_grad_norm": 1.0}])
    with pytest.raises(ValueError, match="has no option 'momentun'; is momentum meant"):
        RMSProp([{"params": np.ones(2), "momentun": 1.0}])
    for name in PRESETS:
        RMSProp.from_preset(name, np.ones(2, np.float32)).step(np.ones(2, np.float32))
