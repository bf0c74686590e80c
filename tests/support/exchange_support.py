"""The frameworks behind one interface, for the tests that exchange state with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, exchange
from support import Array, needs, needs_torch

Arrays = dict[str, Array]
SHAPES: dict[str, tuple[int, ...]] = {"w": (5, 4), "bias": (4,), "a": (2, 3, 2), "scale": ()}
LR = 0.01


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
        torch = needs_torch()
        self.params = {k: torch.from_numpy(a.copy()).requires_grad_() for k, a in params.items()}
        self.optimizer = self.make(list(self.params.values()), lr=LR, **options)

    def make(self, params: Any, **options: Any) -> Any:
        return needs_torch().optim.RMSprop(params, **options)

    def step(self, grads: Mapping[str, Array | None]) -> None:
        for name, p in self.params.items():
            grad = grads[name]
            p.grad = None if grad is None else needs_torch().from_numpy(grad.copy())
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
        needs_torch()
        from fused_rmsprop.torch import RMSprop

        return RMSprop(params, **options)


class Keras:
    """keras.optimizers.RMSprop."""

    name, preset, inside = "keras", "keras", True

    def __init__(self, params: Mapping[str, Array], **options: Any) -> None:
        self.keras = needs("keras")
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
        jax, optax = needs("jax"), needs("optax")
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
            config = needs("keras").config
            stack.callback(config.set_floatx, config.floatx())
            config.set_floatx(dtype)
        if kind is Optax or (kind is Keras and config.backend() == "jax"):
            jax = needs("jax")
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


def case_id(value: Any) -> str:
    if isinstance(value, bool):
        return "inside" if value else "outside"
    if isinstance(value, type):
        return str(value.name)  # type: ignore[attr-defined]
    parts = (f"{k}={getattr(v, '__name__', v)}" for k, v in value.items())
    return ",".join(parts) or "plain"


def refuse(call: Callable[[RMSProp], None], opt: RMSProp, theirs: Any, match: str) -> None:
    before, before_theirs = opt.state_dict(), theirs.state()
    with pytest.raises(ValueError, match=match):
        call(opt)
    assert_same(opt.state_dict(), before)
    assert_same(theirs.state(), before_theirs)


def refuse_both(opt: RMSProp, theirs: Any, match: str) -> None:
    refuse(theirs.take, opt, theirs, match)
    refuse(theirs.give, opt, theirs, match)
