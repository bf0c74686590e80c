"""State from and to torch, Keras and optax: training goes on as if there had been no change."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fused_rmsprop import RMSProp, exchange

Array = NDArray[Any]
Arrays = dict[str, Array]

SHAPES: dict[str, tuple[int, ...]] = {"w": (5, 4), "bias": (4,), "a": (2, 3, 2), "scale": ()}
LR = 0.01
# Keras asks torch's tensors for an array in a way that torch does not know yet.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def framework(name: str) -> Any:
    """A module, or the test is skipped. They warn of what later versions of others will do."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return pytest.importorskip(name, reason=f"state is exchanged with {name}")


def some_params(dtype: str) -> Arrays:
    rng = np.random.default_rng(1)
    return {name: np.asarray(rng.normal(size=s), dtype) for name, s in SHAPES.items()}


def some_grads(dtype: str, steps: int = 16) -> list[Arrays]:
    rng = np.random.default_rng(2)
    return [
        {name: np.asarray(rng.normal(size=s), dtype) for name, s in SHAPES.items()}
        for _ in range(steps)
    ]


def schedule(step: Any) -> Any:
    return LR / (1 + 0.1 * step)


class Torch:
    """torch.optim.RMSprop with the interface of the tests."""

    name, preset, inside = "torch", "torch", False

    def __init__(self, params: Mapping[str, Array], **options: Any) -> None:
        torch = framework("torch")
        self.params = {k: torch.from_numpy(a.copy()).requires_grad_() for k, a in params.items()}
        self.optimizer = self.make(list(self.params.values()), lr=LR, **options)

    def make(self, params: Any, **options: Any) -> Any:
        return framework("torch").optim.RMSprop(params, **options)

    def step(self, grads: Mapping[str, Array | None]) -> None:
        for name, p in self.params.items():
            grad = grads[name]
            p.grad = None if grad is None else framework("torch").from_numpy(grad.copy())
        self.optimizer.step()

    def values(self) -> Arrays:
        return {name: p.detach().numpy() for name, p in self.params.items()}

    def give(self, opt: RMSProp) -> None:
        exchange.from_torch(opt, self.optimizer)

    def take(self, opt: RMSProp) -> None:
        exchange.to_torch(opt, self.optimizer)

    def state(self) -> Any:
        return copy.deepcopy(self.optimizer.state_dict())


class DropIn(Torch):
    """The class of fused_rmsprop.torch."""

    name = "drop-in"

    def make(self, params: Any, **options: Any) -> Any:
        framework("torch")
        from fused_rmsprop.torch import RMSprop

        return RMSprop(params, **options)


class Keras:
    """keras.optimizers.RMSprop."""

    name, preset, inside = "keras", "keras", True

    def __init__(self, params: Mapping[str, Array], **options: Any) -> None:
        self.keras = framework("keras")
        if "ema_decay" in options:
            options |= {"use_ema": True, "ema_momentum": options.pop("ema_decay")}
        self.variables = [
            self.keras.Variable(a.copy(), dtype=a.dtype.name) for a in params.values()
        ]
        self.names = list(params)
        self.optimizer = self.keras.optimizers.RMSprop(LR, **options)
        self.optimizer.build(self.variables)

    def step(self, grads: Mapping[str, Array]) -> None:
        self.optimizer.apply([self.keras.ops.convert_to_tensor(grads[k]) for k in self.names])

    def values(self) -> Arrays:
        arrays = map(self.keras.ops.convert_to_numpy, self.variables)
        return dict(zip(self.names, arrays, strict=True))

    def give(self, opt: RMSProp) -> None:
        exchange.from_keras(opt, self.optimizer)

    def take(self, opt: RMSProp) -> None:
        exchange.to_keras(opt, self.optimizer)

    def state(self) -> Any:
        return [np.array(self.keras.ops.convert_to_numpy(v)) for v in self.optimizer.variables]


class Optax:
    """optax.rmsprop; ``how`` it is made decides which counts there are, and where."""

    name, preset, inside = "optax", "optax", True

    def __init__(self, params: Mapping[str, Array], how: str = "", **options: Any) -> None:
        jax, optax = framework("jax"), framework("optax")
        lr = options.pop("lr", LR)
        if how == "inject":
            inject = optax.inject_hyperparams(optax.rmsprop, static_args=tuple(options))
            self.transform = inject(lr, **options)
        else:
            self.transform = optax.rmsprop(lr, **options)
        if how == "chain":
            self.transform = optax.chain(optax.clip_by_global_norm(1e9), self.transform)
        self.jax, self.optax = jax, optax
        # Nested, as names of one level could hide an error in how they are joined.
        self.params = {"layer": [{k: jax.numpy.asarray(a.copy()) for k, a in params.items()}]}
        self.opt_state = self.transform.init(self.params)

    def step(self, grads: Mapping[str, Array]) -> None:
        nested = {"layer": [{k: self.jax.numpy.asarray(g) for k, g in grads.items()}]}
        updates, self.opt_state = self.transform.update(nested, self.opt_state, self.params)
        self.params = self.optax.apply_updates(self.params, updates)

    def values(self) -> Arrays:
        return {name: np.asarray(a) for name, a in self.params["layer"][0].items()}

    def give(self, opt: RMSProp) -> None:
        exchange.from_optax(opt, self.opt_state)

    def take(self, opt: RMSProp) -> None:
        structure = self.jax.tree_util.tree_structure(self.opt_state)
        dtypes = [leaf.dtype for leaf in self.jax.tree_util.tree_leaves(self.opt_state)]
        self.opt_state = exchange.to_optax(opt, self.opt_state)
        leaves = self.jax.tree_util.tree_leaves(self.opt_state)
        assert self.jax.tree_util.tree_structure(self.opt_state) == structure
        assert [leaf.dtype for leaf in leaves] == dtypes
        assert all(isinstance(leaf, self.jax.Array) for leaf in leaves)

    def state(self) -> Any:
        return list(map(np.asarray, self.jax.tree_util.tree_leaves(self.opt_state)))


@contextmanager
def in_dtype(kind: Any, dtype: str) -> Iterator[None]:
    """Frameworks that compute in float32 unless told otherwise are told."""
    with ExitStack() as stack:
        if kind is Keras:
            config = framework("keras").config
            stack.callback(config.set_floatx, config.floatx())
            config.set_floatx(dtype)
        if kind is Optax or (kind is Keras and config.backend() == "jax"):
            jax = framework("jax")
            stack.callback(jax.config.update, "jax_enable_x64", jax.config.jax_enable_x64)
            jax.config.update("jax_enable_x64", dtype == "float64")
        yield


def make_ours(kind: Any, params: Arrays, **options: Any) -> tuple[RMSProp, Arrays]:
    """An optimizer with the options of another, and the arrays that it trains."""
    arrays = {name: a.copy() for name, a in params.items()}
    options.pop("how", None)
    options = {"lr": LR, "alpha": options.pop("decay", options.pop("rho", 0.9)), **options}
    tree: Any = {"layer": [arrays]} if kind is Optax else arrays
    return RMSProp.from_preset(kind.preset, tree, **options), arrays


def step_ours(opt: RMSProp, kind: Any, grads: Mapping[str, Any]) -> None:
    opt.step({"layer": [dict(grads)]} if kind is Optax else dict(grads))


def make_theirs(kind: Any, params: Arrays, **options: Any) -> Any:
    if issubclass(kind, Torch):
        options = {"alpha": 0.9, **options}
    return kind(params, **options)


def assert_close(a: Mapping[str, Array], b: Mapping[str, Array], tolerance: float) -> None:
    """To within a share of the largest parameter: one near zero has few digits of its own."""
    scale = max(float(np.abs(x).max()) for x in b.values())
    for name in b:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance * scale)


def assert_same(a: Any, b: Any) -> None:
    """Nested containers of tensors, arrays and numbers, bit for bit."""
    if isinstance(a, Mapping):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


PLAIN: dict[str, Any] = {}
MOMENTUM = {"momentum": 0.9}
CENTERED = {"centered": True}
BOTH = {**MOMENTUM, **CENTERED}
NESTEROV = {**MOMENTUM, "nesterov": True}
CORRECTED = {"bias_correction": True}
# At the first step the variance is 0: optax's then is noise, which a larger eps drowns.
CORRECTED_BOTH = {**CORRECTED, **BOTH, "eps": 1.0}
SCHEDULED = {"lr": schedule, **MOMENTUM}
COUNTED = {"lr", "bias_correction"}  # what makes optax count steps

CASES = [
    *((kind, options) for kind in (Torch, Keras) for options in (PLAIN, MOMENTUM, CENTERED, BOTH)),
    *((DropIn, options) for options in (PLAIN, {**BOTH, "nesterov": True})),
    (DropIn, {**CORRECTED, **BOTH}),
    (DropIn, {**MOMENTUM, "lr_in_momentum": True}),
    *((Optax, options) for options in (PLAIN, MOMENTUM, CENTERED, BOTH, NESTEROV, CORRECTED)),
    *((Optax, options) for options in (CORRECTED_BOTH, {**CORRECTED, **NESTEROV})),
    (Optax, {"lr": schedule}),
    (Optax, {"lr": schedule, **CORRECTED}),
    (Optax, {"how": "chain", **BOTH}),
    (Optax, {"how": "inject", **BOTH}),
    (Optax, {"how": "inject", "lr": schedule, **CORRECTED}),
]


def case_id(value: Any) -> str:
    if isinstance(value, bool):
        return "inside" if value else "outside"
    if isinstance(value, type):
        return str(value.name)  # type: ignore[attr-defined]
    parts = (f"{k}={getattr(v, '__name__', v)}" for k, v in value.items())
    return ",".join(parts) or "plain"


# Where ours has the learning rate in the buffer, and where it has not; without one it is the same.
every_case = pytest.mark.parametrize(
    ("kind", "options", "inside"),
    [(*case, x) for case in CASES for x in ([False, True] if "momentum" in case[1] else [False])],
    ids=case_id,
)
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@both_dtypes
@every_case
def test_they_go_on_where_ours_stopped(kind: Any, options: Any, inside: bool, dtype: str) -> None:
    with in_dtype(kind, dtype):
        opt, arrays = make_ours(kind, some_params(dtype), **{**options, "lr_in_momentum": inside})
        grads = some_grads(dtype)
        for g in grads[:8]:
            step_ours(opt, kind, g)
        theirs = make_theirs(kind, arrays, **options)
        before = opt.state_dict()
        theirs.take(opt)
        assert_same(opt.state_dict(), before)
        for g in grads[8:]:
            theirs.step(g)
            step_ours(opt, kind, g)
        assert_close(theirs.values(), arrays, TOLERANCE[dtype])


@both_dtypes
@every_case
def test_ours_goes_on_where_they_stopped(kind: Any, options: Any, inside: bool, dtype: str) -> None:
    with in_dtype(kind, dtype):
        theirs = make_theirs(kind, some_params(dtype), **options)
        grads = some_grads(dtype)
        for g in grads[:8]:
            theirs.step(g)
        opt, arrays = make_ours(kind, theirs.values(), **{**options, "lr_in_momentum": inside})
        before = theirs.state()
        theirs.give(opt)
        assert_same(theirs.state(), before)
        if kind is not Optax or options.get("how") == "inject" or options.keys() & COUNTED:
            assert opt.step_count == 8
            assert all(state["step"] == 8 for state in opt.state.values())
        for g in grads[8:]:
            theirs.step(g)
            step_ours(opt, kind, g)
        assert_close(arrays, theirs.values(), TOLERANCE[dtype])


@both_dtypes
@pytest.mark.parametrize("options", [PLAIN, MOMENTUM, BOTH], ids=case_id)
@pytest.mark.parametrize("kind", [Torch, DropIn, Keras, Optax], ids=case_id)
def test_there_and_back(kind: Any, options: Any, dtype: str) -> None:
    """The same bits, where nothing has to be computed; else to the last bits."""
    with in_dtype(kind, dtype):
        theirs, copied = (make_theirs(kind, some_params(dtype), **options) for _ in range(2))
        for g in some_grads(dtype):
            theirs.step(g)
        opt, _ = make_ours(kind, theirs.values(), **options)
        theirs.give(opt)
        copied.take(opt)
        again, _ = make_ours(kind, theirs.values(), **options)
        copied.give(again)
        if not options.get("centered"):
            # Without a count optax's steps are unknown, and none are counted on either way.
            assert_same(copied.state(), theirs.state())
            assert_same(again.state_dict(), opt.state_dict())
            return
        for name, state in opt.state.items():
            for key, array in state.items():
                rtol = 20 * float(
                    np.finfo(dtype).eps
                )  # of a variance that is not small beside the mean
                np.testing.assert_allclose(again.state[name][key], array, rtol=rtol)


def test_bias_corrected_averages_of_optax_are_times_what_the_zeros_lack() -> None:
    with in_dtype(Optax, "float64"):
        opt, _ = make_ours(Optax, some_params("float64"), **CORRECTED)
        theirs = make_theirs(Optax, some_params("float64"), **CORRECTED)
        theirs.give(opt)  # before the first step there is nothing to divide by
        assert all(not state["square_avg"].any() for state in opt.state.values())
        for g in some_grads("float64", 3):
            step_ours(opt, Optax, g)
        theirs.take(opt)
        state = theirs.opt_state[0]
        assert int(state.count) == 3
        corrected = opt.state["layer.0.w"]["square_avg"]
        np.testing.assert_allclose(state.nu["layer"][0]["w"], corrected * (1 - 0.9**3), rtol=1e-14)


def test_counts_follow_the_steps() -> None:
    for options in ({"lr": schedule}, {"lr": schedule, "how": "inject", **CORRECTED}):
        opt, _ = make_ours(Optax, some_params("float32"), **options)
        for g in some_grads("float32", 5):
            step_ours(opt, Optax, g)
        theirs = make_theirs(Optax, some_params("float32"), **options)
        theirs.take(opt)
        counts = [x for x in theirs.state() if x.dtype == np.int32]
        assert counts
        assert all(count == 5 for count in counts)

    keras = make_theirs(Keras, some_params("float32"))
    opt, _ = make_ours(Keras, some_params("float32"))
    for g in some_grads("float32", 5):
        step_ours(opt, Keras, g)
    keras.take(opt)
    assert int(keras.optimizer.iterations) == 5


def test_without_a_count_in_optax_ours_stays() -> None:
    theirs = make_theirs(Optax, some_params("float32"))
    opt, _ = make_ours(Optax, some_params("float32"))
    step_ours(opt, Optax, some_grads("float32")[0])
    theirs.give(opt)
    assert opt.step_count == 1
    assert all(state["step"] == 1 for state in opt.state.values())
    assert all(not state["square_avg"].any() for state in opt.state.values())


def test_a_bare_array_is_param_in_optax() -> None:
    jax, optax = framework("jax"), framework("optax")
    opt_state = optax.rmsprop(LR).init(jax.numpy.zeros(3))
    opt = RMSProp.from_preset("optax", np.zeros(3))
    opt.step(np.ones(3))
    opt_state = exchange.to_optax(opt, opt_state)
    np.testing.assert_allclose(opt_state[0].nu, 0.1, rtol=1e-6)


def test_parameters_without_a_step_have_no_state_in_torch() -> None:
    opt, arrays = make_ours(Torch, some_params("float64"), **BOTH, initial_square_avg=0.25)
    theirs = make_theirs(Torch, arrays, **BOTH)
    step_ours(opt, Torch, {**some_grads("float64")[0], "a": None})
    theirs.take(opt)
    assert set(theirs.optimizer.state_dict()["state"]) == {0, 1, 2, 3}  # "a" begins at 0.25

    opt, arrays = make_ours(Torch, some_params("float64"), **BOTH)
    step_ours(opt, Torch, {**some_grads("float64")[0], "a": None})
    theirs = make_theirs(Torch, arrays, **BOTH)
    theirs.step(some_grads("float64")[1])
    theirs.take(opt)
    assert set(theirs.optimizer.state_dict()["state"]) == {0, 1, 3}

    back, _ = make_ours(Torch, arrays, **BOTH, initial_square_avg=0.25)
    for g in some_grads("float64"):
        step_ours(back, Torch, g)
    theirs.give(back)
    assert [int(state["step"]) for state in back.state.values()] == [1, 1, 0, 1]
    assert (back.state["a"]["variance"] == 0.25).all()
    assert not back.state["a"]["grad_avg"].any()
    assert not back.state["a"]["momentum_buffer"].any()
    assert back.step_count == 1


def test_groups_are_matched_in_order() -> None:
    torch = framework("torch")
    a, b, c = (np.full(3, x) for x in (1.0, 2.0, 3.0))
    opt = RMSProp([{"params": [a, b]}, {"params": [c], "centered": True, "momentum": 0.5}])
    opt.step([[a * 0.1, b * 0.2], [c * 0.3]])
    tensors = [torch.tensor(x, requires_grad=True) for x in (a, b, c)]
    special = {"params": tensors[2:], "centered": True, "momentum": 0.5}
    optimizer = torch.optim.RMSprop([{"params": [t]} for t in tensors[:2]] + [special])
    exchange.to_torch(opt, optimizer)
    state = optimizer.state_dict()["state"]
    assert list(state[2]) == ["momentum_buffer", "grad_avg", "square_avg", "step"]
    np.testing.assert_array_equal(state[1]["square_avg"], opt.state["0.1"]["square_avg"])
    m, q = opt.state["1.0"]["grad_avg"], opt.state["1.0"]["variance"]
    np.testing.assert_allclose(state[2]["square_avg"], q + m * m, rtol=1e-15)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_rounded_to_and_exact_from(half: str) -> None:
    torch = framework("torch")
    opt, arrays = make_ours(Torch, some_params("float32"), **MOMENTUM)
    for g in some_grads("float32", 3):
        step_ours(opt, Torch, g)
    params = [torch.from_numpy(a).to(getattr(torch, half)) for a in arrays.values()]
    optimizer = torch.optim.RMSprop(params, alpha=0.9, **MOMENTUM)
    exchange.to_torch(opt, optimizer)
    for i, state in enumerate(opt.state.values()):
        for key in ("square_avg", "momentum_buffer"):
            found = optimizer.state_dict()["state"][i][key]
            assert found.dtype == getattr(torch, half)
            assert torch.equal(found, torch.from_numpy(np.array(state[key])).to(found.dtype))
    exchange.from_torch(opt, optimizer)
    for i, state in enumerate(opt.state.values()):
        found = optimizer.state_dict()["state"][i]["square_avg"]
        np.testing.assert_array_equal(state["square_avg"], found.float().numpy())


def test_what_cancelled_below_zero_is_zero() -> None:
    torch = framework("torch")
    optimizer = torch.optim.RMSprop([torch.zeros(1)], centered=True)
    state = {"step": 3, "square_avg": torch.tensor([0.9]), "grad_avg": torch.tensor([1.0])}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {0: state}, "param_groups": groups})
    opt = RMSProp(np.zeros(1), centered=True)
    exchange.from_torch(opt, optimizer)
    assert opt.state["param"]["variance"] == 0


def test_averages_of_the_parameters_are_those_of_keras() -> None:
    opt, arrays = make_ours(Keras, some_params("float32"), ema_decay=0.7)
    theirs = make_theirs(Keras, arrays, ema_decay=0.7)
    grads = some_grads("float32")
    for g in grads[:8]:
        step_ours(opt, Keras, g)
    for variable, array in zip(theirs.variables, arrays.values(), strict=True):
        variable.assign(array.copy())
    theirs.take(opt)
    for g in grads[8:]:
        step_ours(opt, Keras, g)
        theirs.step(g)
    expected = {name: state["param_avg"].copy() for name, state in opt.state.items()}
    back, _ = make_ours(Keras, arrays, ema_decay=0.7)
    theirs.give(back)
    assert_close({k: s["param_avg"] for k, s in back.state.items()}, expected, 1e-6)


def test_the_learning_rate_in_a_buffer_is_that_of_the_next_step() -> None:
    opt, arrays = make_ours(Torch, some_params("float64"), **MOMENTUM, lr_in_momentum=True)
    theirs = make_theirs(Torch, arrays, **MOMENTUM)
    step_ours(opt, Torch, some_grads("float64")[0])
    buffers = [state["momentum_buffer"].copy() for state in opt.state.values()]
    opt.lr = lambda step: 0.5 if step == 1 else 2.0
    theirs.take(opt)
    for i, buffer in enumerate(buffers):
        found = theirs.optimizer.state_dict()["state"][i]["momentum_buffer"]
        np.testing.assert_array_equal(found, buffer / 0.5)
    theirs.step(some_grads("float64")[1])
    theirs.give(opt)  # two steps
    found = theirs.optimizer.state_dict()["state"][0]["momentum_buffer"]
    np.testing.assert_array_equal(opt.state["w"]["momentum_buffer"], found * 2.0)


# What differs between the two, and what is said of it.
Refusal = tuple[dict[str, Any], dict[str, Any], str]
ONE_SIDED: list[Refusal] = [
    (MOMENTUM, {}, r"momentum is on for '.*' in opt only"),
    ({}, MOMENTUM, r"momentum is on for '.*' in the other optimizer only"),
    (CENTERED, {}, r"centered is on for '.*' in opt only"),
    ({}, CENTERED, r"centered is on for '.*' in the other optimizer only"),
    (CORRECTED, {}, r"bias_correction is on for '.*' in opt only"),
]
ONE_SIDED_OPTAX: list[Refusal] = [
    ({}, CORRECTED, r"bias_correction is on for '.*' in the other optimizer only")
]
ONE_SIDED_KERAS: list[Refusal] = [
    ({"ema_decay": 0.5}, {}, r"ema_decay is on for 'w' in opt only"),
    ({}, {"ema_decay": 0.5}, r"ema_decay is on for 'w' in the other optimizer only"),
]


def refuse(call: Callable[[RMSProp], None], opt: RMSProp, theirs: Any, match: str) -> None:
    before, before_theirs = opt.state_dict(), theirs.state()
    with pytest.raises(ValueError, match=match):
        call(opt)
    assert_same(opt.state_dict(), before)
    assert_same(theirs.state(), before_theirs)


def refuse_both(opt: RMSProp, theirs: Any, match: str) -> None:
    refuse(theirs.take, opt, theirs, match)
    refuse(theirs.give, opt, theirs, match)


@pytest.mark.parametrize(
    ("kind", "mine", "others", "match"),
    [
        *((kind, *refusal) for kind in (Torch, Keras, Optax) for refusal in ONE_SIDED),
        *((Optax, *refusal) for refusal in ONE_SIDED_OPTAX),
        *((Keras, *refusal) for refusal in ONE_SIDED_KERAS),
    ],
)
def test_options_on_one_side_only_are_refused(
    kind: Any, mine: dict[str, Any], others: dict[str, Any], match: str
) -> None:
    opt, arrays = make_ours(kind, some_params("float32"), **mine)
    theirs = make_theirs(kind, arrays, **others)
    step_ours(opt, kind, some_grads("float32")[0])
    theirs.step(some_grads("float32")[1])
    refuse_both(opt, theirs, match)


@pytest.mark.parametrize("kind", [Torch, Keras, Optax], ids=case_id)
def test_other_parameters_are_refused(kind: Any) -> None:
    params = some_params("float32")
    fewer = {name: a for name, a in params.items() if name != "scale"}
    opt, _ = make_ours(kind, params)
    step_ours(opt, kind, some_grads("float32")[0])
    match = "layer.0.scale" if kind is Optax else "opt has 4 parameters, the other optimizer 3"
    refuse_both(opt, make_theirs(kind, fewer), match)
    # The last in every order, so that those before it would have been changed.
    reshaped = {**params, "w": params["w"].T.copy(), "scale": np.zeros(1, np.float32)}
    match = r"is of shape \(.*\), its counterpart .* of shape \("
    refuse_both(opt, make_theirs(kind, reshaped), match)


@pytest.mark.parametrize("kind", [Torch, Keras, Optax], ids=case_id)
def test_accumulated_gradients_are_refused(kind: Any) -> None:
    opt, arrays = make_ours(kind, some_params("float32"))
    grads = some_grads("float32")[0]
    opt.accumulate({"layer": [grads]} if kind is Optax else grads)
    refuse_both(opt, make_theirs(kind, arrays), "accumulated gradients")


@pytest.mark.parametrize("kind", [Torch, Keras, Optax], ids=case_id)
def test_a_learning_rate_of_zero_cannot_be_divided_by(kind: Any) -> None:
    options = {**MOMENTUM, "lr_in_momentum": not kind.inside}
    opt, arrays = make_ours(kind, some_params("float32"), **options)
    theirs = make_theirs(kind, arrays, **MOMENTUM)
    step_ours(opt, kind, some_grads("float32")[0])
    theirs.step(some_grads("float32")[1])
    opt.lr = 0.0
    refuse(theirs.give if kind.inside else theirs.take, opt, theirs, "learning rate")


@pytest.mark.parametrize("kind", [Torch, Keras, Optax], ids=case_id)
def test_what_is_no_optimizer_is_refused(kind: Any) -> None:
    theirs = make_theirs(kind, some_params("float32"))
    for call in (theirs.take, theirs.give):
        with pytest.raises(TypeError, match="opt must be a fused_rmsprop.RMSProp, got"):
            call({})
    if kind is not Optax:
        opt, _ = make_ours(kind, some_params("float32"))
        if kind is Torch:
            theirs.optimizer = framework("torch").optim.SGD(theirs.params.values())
        else:
            theirs.optimizer = framework("keras").optimizers.SGD()
        for call in (theirs.take, theirs.give):
            with pytest.raises(TypeError, match=r"RMSprop, got a .*SGD"):
                call(opt)


def test_torch_refusals() -> None:
    torch = framework("torch")
    opt, arrays = make_ours(Torch, some_params("float32"), **MOMENTUM)
    theirs = make_theirs(Torch, arrays, **MOMENTUM)
    theirs.step(some_grads("float32")[0])
    del theirs.optimizer.state[theirs.params["scale"]]["momentum_buffer"]
    refuse(theirs.give, opt, theirs, r"the state of param_groups.* lacks momentum_buffer")

    opt = RMSProp(np.zeros(2))
    optimizer = torch.optim.RMSprop([torch.zeros(2, dtype=torch.complex64)])
    for call in (exchange.to_torch, exchange.from_torch):
        with pytest.raises(ValueError, match="complex64: not a floating-point number"):
            call(opt, optimizer)


def test_keras_refusals() -> None:
    keras = framework("keras")
    opt = RMSProp.from_preset("keras", np.zeros(2))
    accumulating = keras.optimizers.RMSprop(gradient_accumulation_steps=2)
    accumulating.build([keras.Variable(np.zeros(2))])
    for call in (exchange.to_keras, exchange.from_keras):
        with pytest.raises(ValueError, match="has not been built"):
            call(opt, keras.optimizers.RMSprop())
        with pytest.raises(ValueError, match="gradient_accumulation_steps"):
            call(opt, accumulating)


def test_optax_refusals() -> None:
    jax, optax = framework("jax"), framework("optax")
    opt = RMSProp.from_preset("optax", np.zeros(2))
    params = jax.numpy.zeros(2)
    rmsprop = optax.rmsprop(LR)
    two = optax.chain(rmsprop, rmsprop)
    for transform, match in [
        (optax.adam(LR), "found: ScaleByAdamState"),
        (optax.sgd(LR), "found: none"),
        (two, "found: ScaleByRmsState, ScaleByRmsState"),
        (optax.chain(rmsprop, optax.ema(0.9)), r"opt_state\[1\].ema is no state of optax.rmsprop"),
        (optax.MultiSteps(rmsprop, 2), "mini_step is no state of optax.rmsprop"),
    ]:
        opt_state, before = transform.init(params), opt.state_dict()
        for call in (exchange.to_optax, exchange.from_optax):
            with pytest.raises(ValueError, match=match):
                call(opt, opt_state)
            assert_same(opt.state_dict(), before)


def test_optax_has_one_count() -> None:
    theirs = make_theirs(Optax, some_params("float32"), **CORRECTED)
    opt, _ = make_ours(Optax, some_params("float32"), **CORRECTED)
    step_ours(opt, Optax, {**some_grads("float32")[0], "a": None})
    refuse(theirs.take, opt, theirs, "'layer.0.a' has made 0 of 1 steps")

    theirs = make_theirs(Optax, some_params("float32"), lr=schedule, **CORRECTED)
    rms, rate, trace = theirs.opt_state
    theirs.opt_state = (rms, rate._replace(count=rate.count + 1), trace)
    opt, _ = make_ours(Optax, some_params("float32"), **CORRECTED)
    refuse(theirs.give, opt, theirs, r"the counts in opt_state differ: \[0, 1\]")


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, fused_rmsprop, fused_rmsprop.exchange\n"
        "assert not {'torch', 'keras', 'jax', 'optax', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
