"""Every misuse of `RMSProp.leafwise` raises, says what to do, and has changed nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from leafwise_support import NAMES, assert_twins, gradients, make, nested
from reference import same_bits
from support import Array, halved, read_only

BAD_GRADS: dict[str, tuple[Callable[[RMSProp, dict[str, Array]], Any], Any, str]] = {
    "type": (lambda opt, p: 1.5, TypeError, "is a float, not a NumPy array"),
    "dtype": (lambda opt, p: np.ones((4, 3, 2)), TypeError, "has dtype float64, but"),
    "shape": (lambda opt, p: p["body.W"], ValueError, r"has shape \(13, 5\), but"),
    "transposed": (lambda opt, p: p["head.V"].copy().T, ValueError, "it looks transposed"),
    "parameter": (lambda opt, p: p["head.V"], ValueError, "shares memory with params"),
    "state": (lambda opt, p: opt.state["head.V"]["square_avg"], ValueError, "shares memory with"),
}


@pytest.mark.parametrize(("bad", "error", "message"), BAD_GRADS.values(), ids=BAD_GRADS)
def test_a_bad_gradient_changes_nothing_and_can_be_replaced(
    bad: Callable[[RMSProp, dict[str, Array]], Any], error: type[Exception], message: str
) -> None:
    ours, twin = make(), make()
    grads = gradients(ours[1], 1)
    with ours[0].leafwise() as update:
        update("head.b", grads["head.b"])
        before = ours[1]["head.V"].copy()
        with pytest.raises(error, match=message) as caught:
            update("head.V", bad(*ours))
        assert str(caught.value).startswith("grads[1]['V'] ")
        assert same_bits(ours[1]["head.V"], before)
        update("head.V", grads["head.V"])
    twin[0].step(nested(grads, ["head.b", "head.V"]))
    assert_twins(ours, twin)


def test_a_parameter_that_has_become_read_only() -> None:
    opt, params = make()
    before = params["head.b"].copy()
    with opt.leafwise() as update:
        params["head.b"].flags.writeable = False
        with pytest.raises(ValueError, match=r"params\[1\].*'b'\] has become read-only"):
            update("head.b", before)
    assert same_bits(params["head.b"], before)


def test_a_read_only_gradient_is_read() -> None:
    ours, twin = make(), make()
    grads = gradients(ours[1], 1)
    with ours[0].leafwise() as update:
        update("head.b", read_only(grads["head.b"]))
    twin[0].step(nested(grads, ["head.b"]))
    assert_twins(ours, twin)


def test_a_parameter_that_was_replaced_is_refused_on_entering() -> None:
    params = {"W": np.ones(2), "b": np.ones(2)}
    opt = RMSProp(params)
    params["b"] = np.ones(2)
    with pytest.raises(ValueError, match="is not the array any more"), opt.leafwise():
        pass
    assert opt.step_count == 0


def test_names() -> None:
    class Name(str):
        def __hash__(self) -> int:
            raise AssertionError

    opt = RMSProp({"layer3": {"W": np.ones(2), "b": np.ones(2)}, "\ud800": np.ones(1)})
    with opt.leafwise() as update:
        with pytest.raises(KeyError, match="no parameter 'Layer3.W'; is 'layer3.W' meant"):
            update("Layer3.W", np.ones(2))
        with pytest.raises(KeyError, match="no parameter 'x'; there are layer3.W, layer3.b"):
            update("x", np.ones(2))
        with pytest.raises(TypeError, match=r"named by a str, as in opt\.state; got int"):
            update(0, np.ones(2))  # type: ignore[arg-type]
        update(Name("layer3.W"), np.ones(2))
        update("\ud800", np.ones(1))
        with pytest.raises(ValueError, match=r"'W'\] has been updated .* already\. A block is one"):
            update("layer3.W", np.ones(2))
    assert [int(state["step"]) for state in opt.state.values()] == [1, 0, 1]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("layer1.w", "'layer1.W' meant"), ("w", "'layer1.W' meant"), ("W2", "there are layer1.W"),
        ("layer1", "'layer1.W' or 'layer1.b' meant"), ("layer1.weight", "there are layer1.W"),
        ("a10", "'a1' or 'a0' meant|'a1' meant|there are"),
    ],
)  # fmt: skip
def test_hints_at_names(name: str, hint: str) -> None:
    many = {f"a{i}": np.ones(1) for i in range(30) if i != 10}
    opt = RMSProp({"layer1": {"W": np.ones(2), "b": np.ones(2)}, **many})
    with opt.leafwise() as update, pytest.raises(KeyError, match=hint) as error:
        update(name, np.ones(2))
    assert "and 11 others" in str(error.value)
    with pytest.raises(KeyError, match=hint):
        opt.effective_lr(name)


def test_calls_with_other_arguments() -> None:
    p, g = np.ones(2), np.ones(2)
    opt = RMSProp({"W": p})
    with opt.leafwise() as update:
        call: Any = update
        wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((), {}), (("W", g, 0.5), {}), (("W", g), {"grad_scale": 0.5}),
            ((), {"name": "W", "gradient": g}),
        ]  # fmt: skip
        for args, kwargs in wrong:
            with pytest.raises(TypeError, match=r"update\(name, grad\); grad_scale belongs to opt"):
                call(*args, **kwargs)
        assert (p == 1).all()
        update(name="W", grad=g)
    leafwise: Any = opt.leafwise
    for gradients_ in ({"W": g}, [g], g):
        with pytest.raises(TypeError, match="leafwise\\(\\) takes no gradients: with opt.leafwise"):
            leafwise(gradients_)


def test_a_gradient_that_is_not_finite() -> None:
    options: dict[str, Any] = {"on_nonfinite": "raise", "momentum": 0.9}
    ours, twin = make(**options), make(**options)
    grads = gradients(ours[1], 1)
    wrong = grads["head.b"].copy()
    wrong[5] = np.nan

    def block() -> None:
        with ours[0].leafwise() as update:
            update("body.W", grads["body.W"])
            update("head.b", wrong)

    with pytest.raises(FloatingPointError, match=r"index \(5,\): nan; its leaf has not") as caught:
        block()
    assert str(caught.value).startswith("grads[1]['b'] has 1 NaN")
    twin[0].step(nested(grads, ["body.W"]))
    assert_twins(ours, twin)


REFUSED: dict[str, tuple[Callable[[RMSProp], Any], str]] = {
    "norm": (lambda opt: setattr(opt, "max_grad_norm", 1.0), "set max_grad_norm = None"),
    "infinite norm": (lambda opt: setattr(opt, "max_grad_norm", np.inf), "max_grad_value, which"),
    "skip": (lambda opt: setattr(opt, "on_nonfinite", "skip"), "'raise' or 'propagate'"),
    "accumulated": (lambda opt: opt.accumulate(np.ones(2)), r"discard_accumulated\(\) drops them"),
}


@pytest.mark.parametrize(("prepare", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_on_entering(prepare: Callable[[RMSProp], Any], message: str) -> None:
    opt = RMSProp(np.ones(2), lr=halved)
    prepare(opt)
    block = opt.leafwise()
    with pytest.raises(ValueError, match=message), block:
        pass
    assert opt.step_count == 0
    opt.max_grad_norm, opt.on_nonfinite = None, "raise"
    opt.discard_accumulated()
    with block as update:  # it was not entered
        update("param", np.ones(2))
    assert opt.step_count == 1


def test_a_bad_scale_and_a_bad_schedule() -> None:
    opt = RMSProp(np.ones(2), lr=lambda step: 0.1 if step == 0 else -1)
    with pytest.raises(ValueError, match="grad_scale"):
        opt.leafwise(0.0)
    with opt.leafwise():
        pass
    with pytest.raises(ValueError, match=r"by lr\(1\)"):
        opt.leafwise()
    assert opt.step_count == 1


def test_a_step_between_the_call_and_the_block() -> None:
    scheduled, plain = RMSProp(np.ones(2), lr=halved), RMSProp(np.ones(2))
    for opt in (scheduled, plain):
        block = opt.leafwise()
        opt.step(np.ones(2))
        if opt is scheduled:
            with pytest.raises(RuntimeError, match=r"another step .*leafwise\(\) again"), block:
                pass
        else:
            with block:
                pass
    assert (scheduled.step_count, plain.step_count) == (1, 2)


def test_functions_of_the_step_are_asked_once() -> None:
    asked = []

    def lr(step: int) -> float:
        asked.append(step)
        return 0.1

    opt = RMSProp([np.ones(1), np.ones(1)], lr=lr)
    asked.clear()
    for _ in range(2):
        with opt.leafwise() as update:
            update("0", np.ones(1))
            update("1", np.ones(1))
    assert asked in ([0, 1], [1])


def test_there_is_no_norm_afterwards() -> None:
    opt = RMSProp(np.ones(2), on_nonfinite="raise")
    opt.step(np.ones(2))
    assert opt.grad_norm is not None
    with opt.leafwise():
        pass
    assert opt.grad_norm is None


def test_settings_hold_to_the_end_of_the_block() -> None:
    ours, twin = make(max_grad_value=0.1), make(max_grad_value=0.1)
    grads = gradients(ours[1], 1)
    with ours[0].leafwise() as update:
        update("head.b", grads["head.b"])
        ours[0].max_grad_value = None
        ours[0].on_nonfinite = "raise"
        update("head.V", np.full_like(grads["head.V"], np.inf))
    twin[0].step(nested({**grads, "head.V": np.full((4, 3, 2), np.inf, np.float32)}, NAMES[3:]))
    assert_twins(ours, twin)
