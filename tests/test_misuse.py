"""Every misuse raises, names the leaf, says what to do, and has changed no byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, rmsprop_step
from support import Array, read_only

LEAVES = 40


def make() -> tuple[dict[str, Any], dict[str, Any]]:
    """Nested parameters and fitting gradients; the last of many leaves is layer2's W."""
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    params = {
        "many": [draw(5) for _ in range(LEAVES)],
        "layer1": {"W": draw(4, 3), "b": draw(3)},
        "layer2": {"W": draw(3, 4)},
    }
    grads = {
        "many": [draw(5) for _ in range(LEAVES)],
        "layer1": {"W": draw(4, 3), "b": draw(3)},
        "layer2": {"W": draw(3, 4)},
    }
    return params, grads


def misaligned(array: Array) -> Array:
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    view = buffer[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


BAD_PARAMS = {
    "list of numbers": (lambda p: 1.5, TypeError, "is a float, not a NumPy array"),
    "string": (lambda p: "W", TypeError, "is a str, not a NumPy array"),
    "int": (lambda p: p.astype(np.int64), TypeError, "dtype int64"),
    "half": (lambda p: p.astype(np.float16), TypeError, "dtype float16"),
    "complex": (lambda p: p.astype(complex), TypeError, "dtype complex128"),
    "byte order": (lambda p: p.astype(">f4"), TypeError, "dtype >f4"),
    "object": (lambda p: p.astype(object), TypeError, "dtype object"),
    "masked": (lambda p: np.ma.array(p), TypeError, "masked array"),
    "read-only": (read_only, ValueError, "read-only"),
    "misaligned": (misaligned, ValueError, "not aligned"),
    "strided": (lambda p: np.repeat(p, 2, axis=1)[:, ::2], ValueError, "not contiguous"),
    "reversed": (lambda p: p[::-1], ValueError, "not contiguous"),
    "broadcast": (
        lambda p: np.lib.stride_tricks.as_strided(p, p.shape, (0, 4)), ValueError, "not contiguous",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "error", "message"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_parameter_that_cannot_be_updated(
    spoil: Callable[[Array], Any], error: type[Exception], message: str
) -> None:
    params, _ = make()
    params["layer2"]["W"] = spoil(params["layer2"]["W"])
    with pytest.raises(error, match=message) as caught:
        RMSProp(params)
    assert str(caught.value).startswith("params['layer2']['W'] ")


def test_two_parameters_that_share_memory() -> None:
    params, _ = make()
    params["layer2"]["W"] = params["layer1"]["W"].reshape(3, 4)
    with pytest.raises(ValueError, match="share memory") as caught:
        RMSProp(params)
    assert "params['layer1']['W'] and params['layer2']['W']" in str(caught.value)
    buffer = np.zeros(10)
    with pytest.raises(ValueError, match=r"params\[0\] and params\[1\] share memory"):
        RMSProp([buffer[:6], buffer[5:]])
    RMSProp([buffer[:5], buffer[5:], buffer[5:5]])  # neighbours do not overlap


GOOD = "params['layer2']['W']"


BAD_GRADS: dict[str, tuple[Any, type[Exception], str]] = {
    "float64 for float32": (
        lambda p, g: g.astype(np.float64), TypeError,
        f"grads['layer2']['W'] has dtype float64, but {GOOD} is float32; "
        "convert it: array.astype(np.float32)",
    ),
    "transposed": (
        lambda p, g: g.T.copy(), ValueError,
        f"grads['layer2']['W'] has shape (4, 3), but {GOOD} has shape (3, 4); "
        "it looks transposed: pass array.T",
    ),
    "wrong shape": (
        lambda p, g: g[:2], ValueError,
        f"grads['layer2']['W'] has shape (2, 4), but {GOOD} has shape (3, 4)",
    ),
    "batch left in": (
        lambda p, g: g[None], ValueError,
        f"grads['layer2']['W'] has shape (1, 3, 4), but {GOOD} has shape (3, 4)",
    ),
    "a number": (
        lambda p, g: 0.0, TypeError, "grads['layer2']['W'] is a float, not a NumPy array",
    ),
    "wrong number of axes": (
        lambda p, g: g.ravel(), ValueError,
        f"grads['layer2']['W'] has shape (12,), but {GOOD} has shape (3, 4); "
        "pass array.reshape((3, 4))",
    ),
    "objects": (
        lambda p, g: g.astype(object), TypeError,
        f"grads['layer2']['W'] has dtype object, but {GOOD} is float32",
    ),
    "a NumPy number": (
        lambda p, g: np.asarray(g.mean()), ValueError,
        f"grads['layer2']['W'] has shape (), but {GOOD} has shape (3, 4); "
        "make it one: np.full(param.shape, value, param.dtype)",
    ),
    "a nest": (lambda p, g: [g], ValueError, "grads['layer2']['W'] is a list, but the parameter"),
    "masked": (lambda p, g: np.ma.array(g), TypeError, "grads['layer2']['W'] is a masked array"),
    "the parameter": (
        lambda p, g: p, ValueError, f"grads['layer2']['W'] shares memory with {GOOD}",
    ),
    "part of the parameter": (
        lambda p, g: p[::-1], ValueError, f"grads['layer2']['W'] shares memory with {GOOD}",
    ),
}  # fmt: skip


def bytes_of(opt: RMSProp, params: dict[str, Any]) -> list[bytes]:
    arrays = [*params["many"], *params["layer1"].values(), *params["layer2"].values()]
    arrays += [array for state in opt.state.values() for array in state.values()]
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize(("spoil", "error", "message"), BAD_GRADS.values(), ids=BAD_GRADS)
def test_gradient_that_does_not_fit(
    spoil: Any, error: type[Exception], message: str, bound: bool
) -> None:
    params, grads = make()
    opt = RMSProp(params, momentum=0.9, centered=True)
    opt.step(grads)
    before = bytes_of(opt, params)
    grads["layer2"]["W"] = spoil(params["layer2"]["W"], grads["layer2"]["W"])
    with pytest.raises(error) as caught:
        opt.bind_grads(grads) if bound else opt.step(grads)
    assert str(caught.value).startswith(message)
    assert bytes_of(opt, params) == before
    opt.step(make()[1])  # and it still works
    assert bytes_of(opt, params) != before


def test_gradient_that_is_state() -> None:
    params, grads = make()
    opt = RMSProp(params)
    grads["layer2"]["W"] = opt.state["layer2.W"]["square_avg"]
    with pytest.raises(ValueError, match=r"state\['layer2.W'\]\['square_avg'\]"):
        opt.step(grads)


def test_structure_that_differs() -> None:
    params, grads = make()
    opt = RMSProp(params)
    before = bytes_of(opt, params)

    def refused(changed: Any, message: str) -> None:
        with pytest.raises(ValueError, match="grads") as caught:
            opt.step(changed)
        assert str(caught.value).startswith(message)
        assert bytes_of(opt, params) == before

    refused({**grads, "layer2": {}}, "grads['layer2']['W'] is missing")
    refused({**grads, "layer3": {}}, "grads['layer3'] has no parameter of that name")
    refused({**grads, "layer2": {**grads["layer2"], "c": 1}}, "grads['layer2']['c'] has no param")
    refused({**grads, "many": grads["many"][:-1]}, "grads['many'] has 39 items; the parameters")
    refused({**grads, "many": grads["many"][0]}, "grads['many'] is a numpy.ndarray; the param")
    refused({**grads, "layer1": [1, 2]}, "grads['layer1'] is a list; the parameters there are a d")
    refused([grads], "grads is a list; the parameters there are a dict of 3")


def test_parameter_that_became_read_only() -> None:
    params, grads = make()
    opt = RMSProp(params)
    params["layer2"]["W"].flags.writeable = False
    before = bytes_of(opt, params)
    with pytest.raises(ValueError, match=r"params\['layer2'\]\['W'\] has become read-only"):
        opt.step(grads)
    assert bytes_of(opt, params) == before


@pytest.mark.parametrize("size", [2, 400_000])
def test_parameter_that_was_resized(size: int) -> None:
    p = np.ones(400)
    opt = RMSProp(p)
    p.resize(size, refcheck=False)
    with pytest.raises(ValueError, match="param.* has been resized"):
        opt.step(np.ones(size))


@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
def test_parameter_that_was_reshaped_or_given_another_dtype() -> None:
    p = np.ones((4, 6), np.float32)
    opt = RMSProp(p)
    p.shape = (6, 4)
    with pytest.raises(ValueError, match="reshaped"):
        opt.step(np.ones((6, 4), np.float32))
    p.shape = (4, 6)
    opt.step(np.ones((4, 6), np.float32))
    p.dtype = np.float64  # type: ignore[misc,assignment]
    with pytest.raises(ValueError, match="another dtype"):
        opt.step(np.ones((4, 3)))


class Tricky(np.ndarray[Any, Any]):
    """A subclass that does nothing when asked to copy."""

    def __array_function__(self, *args: Any, **kwargs: Any) -> Any:
        return None


def test_a_subclass_cannot_defeat_the_ordering_of_gradients() -> None:
    p, g = np.zeros((3, 4)), np.asfortranarray(np.ones((3, 4)))
    RMSProp(p.view(Tricky)).step(g.view(Tricky))
    q = np.zeros((3, 4))
    RMSProp(q).step(g)
    assert np.array_equal(p, q)
    assert q.all()


@pytest.mark.parametrize("groups", [False, True])
def test_another_array_in_the_place_of_a_parameter(groups: bool) -> None:
    params, grads = make()
    opt = RMSProp([{"params": params}]) if groups else RMSProp(params)
    root = "params[0]['params']" if groups else "params"

    def refused(where: str) -> None:
        with pytest.raises(ValueError, match="is not the array any more") as caught:
            opt.step([grads] if groups else grads)
        assert str(caught.value).startswith(f"{root}{where} is not")

    old = params["layer2"]["W"]
    params["layer2"]["W"] = old * 1
    refused("['layer2']['W']")
    del params["layer2"]["W"]
    refused("['layer2']['W']")
    params["layer2"]["W"] = old
    params["many"].pop()
    refused(f"['many'][{LEAVES - 1}]")
    assert not any(state["step"] for state in opt.state.values())


def test_nothing_to_step_on() -> None:
    opt = RMSProp(np.ones(3))
    with pytest.raises(ValueError, match="no gradients: pass them"):
        opt.step()


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -0.1}, ValueError, "lr must be finite and >= 0, got -0.1"),
    ({"lr": np.inf}, ValueError, "lr must be finite and >= 0, got inf"),
    ({"lr": np.nan}, ValueError, "lr must be finite"),
    ({"lr": "0.1"}, TypeError, "lr must be a number, or a function of the step, got '0.1'"),
    ({"lr": None}, TypeError, "lr must be a number, or a function of the step, got None"),
    ({"lr": True}, TypeError, "lr must be a number, or a function of the step, got True"),
    ({"lr": 1e39}, ValueError, "overflows in float32"),
    ({"alpha": 1.0}, ValueError, "alpha must be >= 0 and < 1, got 1"),
    ({"alpha": -0.1}, ValueError, "alpha must be >= 0 and < 1"),
    ({"eps": 0.0}, ValueError, "eps must be finite and > 0, got 0"),
    ({"eps": 1e-46}, ValueError, "eps=1e-46 rounds to zero in float32"),
    ({"eps": 1e-40}, ValueError, "subnormal in float32"),
    ({"weight_decay": -1}, ValueError, "weight_decay must be finite and >= 0"),
    ({"momentum": 1.0}, ValueError, "momentum must be >= 0 and < 1"),
    ({"momentum": np.nan}, ValueError, "momentum must be >= 0 and < 1"),
    ({"nesterov": True}, ValueError, "nesterov needs momentum > 0"),
    ({"lr": {"W": 0}}, TypeError, "lr must be a number, or a function of the step, got {'W': 0}"),
    ({"lr": 1j}, TypeError, "lr must be a number, or a function of the step, got 1j"),
    ({"lr": np.complex128(1)}, TypeError, "lr must be a number"),
    ({"lr": 10**400}, ValueError, "lr is too large"),
    ({"centered": 1}, TypeError, "centered must be True or False, got 1"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS, ids=str)
def test_options_out_of_bounds(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    params, grads = make()
    with pytest.raises(error, match=message):
        RMSProp(params, **options)
    opt = RMSProp(params)
    opt.step(grads)
    before, options_before = bytes_of(opt, params), dict(opt.param_groups[0])
    with pytest.raises(error, match=message):
        opt.param_groups[0].update(options)
    assert bytes_of(opt, params) == before
    assert dict(opt.param_groups[0]) == options_before
    valid = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8}
    p, g, v = params["layer2"]["W"], grads["layer2"]["W"], np.zeros((3, 4), np.float32)
    with pytest.raises(error, match=message):
        rmsprop_step(p, g, v, **(valid | options))
    assert bytes_of(opt, params) == before


def test_bounds_of_float64_are_its_own() -> None:
    RMSProp(np.ones(3), lr=1e39, eps=1e-300)
    RMSProp(np.ones(3, np.float32), eps=1e-40, flush_denormals=False)
    with pytest.raises(ValueError, match="float32"):
        RMSProp([np.ones(3), np.ones(3, np.float32)], eps=1e-300)


def test_other_arguments() -> None:
    p = np.ones(3)
    for threads in (0, -1, 1.5, True, "2", 10**12):
        with pytest.raises(ValueError, match="threads must be an int from 1 to 1024"):
            RMSProp(p, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="flush_denormals must be True or False"):
        RMSProp(p, flush_denormals=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="params has no arrays"):
        RMSProp([])
    with pytest.raises(TypeError, match=r"params is a dict_items; .* e.g. dict\(params\)"):
        RMSProp({"a": p}.items())
    with pytest.raises(TypeError, match="params is None; pass an array"):
        RMSProp(None)
    opt: Any = RMSProp(p)
    for typo in ("learning_rate", "grads", "foo"):
        with pytest.raises(
            AttributeError, match="lr, max_grad_norm, .*, flush_denormals, threads can be set"
        ):
            setattr(opt, typo, 1)
    with pytest.raises(AttributeError):
        opt.param_groups[0].lr = 1
    with pytest.raises(TypeError, match=r"params is a dict_values; .* e.g. list\(params\)"):
        RMSProp({"a": p}.values())
    endless: list[Any] = []
    endless.append(endless)
    looped: dict[str, Any] = {"W": p}
    looped["self"] = looped
    for nest in (endless, looped):
        with pytest.raises(ValueError, match="does a container contain itself?"):
            RMSProp(nest)
        with pytest.raises(ValueError, match="the parameter there is a single array"):
            opt.step(nest)
