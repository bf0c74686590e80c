"""States that cannot be loaded: the error names the place, and the optimizer is as before."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fused_rmsprop
from torch_support import RMSprop, torch

OPTIONS: dict[str, Any] = {"momentum": 0.9, "centered": True, "ema_decay": 0.5}


def made() -> tuple[list[Any], Any]:
    params = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    opt = RMSprop([("first", params[0]), ("second", params[1])], lr=0.1, **OPTIONS)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    return params, opt


def assert_refused(damage: Any, error: Any, message: str) -> None:
    """Refused; every step that follows is the one without it."""
    results = []
    for damaged in (False, True):
        params, opt = made()
        if damaged:
            saved = copy.deepcopy(opt.state_dict())
            before = copy.deepcopy(saved)
            with pytest.raises(error, match=message):
                opt.load_state_dict(damage(saved) or saved)
            assert str(opt.state_dict()) == str(before)
            assert not opt._optimizer_load_state_dict_pre_hooks
        opt.step()
        results.append([*params, *(t for p in params for t in opt.state[p].values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


WRONG_COUNTS = {
    "list": ([], TypeError),
    "str": ("x", TypeError),
    "digits": ("3", TypeError),
    "bytes": (b"3", TypeError),
    "object": (object(), TypeError),
    "None": (None, TypeError),
    "bool": (True, TypeError),
    "complex": (1j, TypeError),
    "too large for a float": (10**400, ValueError),
    "NaN": (float("nan"), ValueError),
    "infinity": (float("inf"), ValueError),
    "negative": (-1, ValueError),
    "half": (1.5, ValueError),
    "too large": (2**53 + 1, ValueError),
    "tensor of NaN": (torch.tensor(torch.nan), ValueError),
    "negative tensor": (torch.tensor(-1.0), ValueError),
    "too large a tensor": (torch.tensor(2.0**60), ValueError),
    "two": (torch.ones(2), TypeError),
    "empty": (torch.ones(0), TypeError),
    "complex tensor": (torch.tensor(1j), TypeError),
}


@pytest.mark.parametrize(("step", "error"), WRONG_COUNTS.values(), ids=WRONG_COUNTS.keys())
def test_a_step_that_is_no_count(step: Any, error: Any) -> None:
    assert_refused(
        lambda saved: saved["state"][1].update(step=step),
        error,
        re.escape("the state of param_groups[0]['params'][1] (second): step must be a "),
    )


@pytest.mark.parametrize("step", [0, 7, 7.0, torch.tensor(7.0), torch.tensor([7]), 2**53])
def test_a_step_that_is_a_count(step: Any) -> None:
    _, opt = made()
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][1]["step"] = step
    opt.load_state_dict(saved)
    opt.step()


WRONG_TENSORS = {
    "list": ([], TypeError),
    "str": ("x", TypeError),
    "None": (None, TypeError),
    "int": (-(2**70), TypeError),
    "float": (1.0, TypeError),
    "dict": ({}, TypeError),
    "array": (torch.ones(2, 2).numpy(), TypeError),
    "shape": (torch.ones(4), ValueError),
    "one": (torch.ones(()), ValueError),
    "complex": (torch.ones(2, 2, dtype=torch.complex64), ValueError),
    "sparse": (torch.ones(2, 2).to_sparse(), ValueError),
}


@pytest.mark.parametrize(("value", "error"), WRONG_TENSORS.values(), ids=WRONG_TENSORS.keys())
@pytest.mark.parametrize(
    "key", ["square_avg", "variance", "grad_avg", "momentum_buffer", "param_avg"]
)
def test_state_that_is_no_tensor_like_the_parameter(key: str, value: Any, error: Any) -> None:
    place = f"the state of param_groups[0]['params'][1] (second): {key} "
    assert_refused(lambda saved: saved["state"][1].update({key: value}), error, re.escape(place))


WRONG_PARTS = {
    "state": (lambda s: s.update(state=[]), "state must be a dict"),
    "state of one": (lambda s: s["state"].update({1: [1, 2]}), r"\[1\] \(second\) must be a dict"),
    "no state": (lambda s: s["state"].update({1: None}), r"\[1\] \(second\) must be a dict"),
    "groups": (lambda s: s.update(param_groups=3), "param_groups must be a list"),
    "group": (lambda s: s.update(param_groups=[[]]), r"param_groups\[0\] must be a dict"),
    "params": (lambda s: s["param_groups"][0].update(params=3), r"\['params'\] must be a list"),
    "list": (lambda _: [1], "a state_dict is a dict"),
    "int": (lambda _: 3, "a state_dict is a dict"),
}


@pytest.mark.parametrize(("damage", "message"), WRONG_PARTS.values(), ids=WRONG_PARTS.keys())
def test_parts_of_another_type(damage: Any, message: str) -> None:
    assert_refused(damage, TypeError, message)


def test_state_of_arrays_of_numpy_names_the_exchange(tmp_path: Path) -> None:
    _, opt = made()
    before = str(opt.state_dict())
    other = fused_rmsprop.RMSProp(np.ones(2))
    other.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        states = [other.state_dict(), {**arrays}, tmp_path / "x.npz"]
    for state in states:
        with pytest.raises(TypeError, match=r"fused_rmsprop.exchange.to_torch\(opt, optimizer\)"):
            opt.load_state_dict(state)
    for optimizer in (opt, other):
        with pytest.raises(TypeError, match=r"a dict, got RMS.*: pass its state_dict\(\)"):
            opt.load_state_dict(optimizer)
    assert str(opt.state_dict()) == before


@pytest.mark.parametrize("name", ["lr", "alpha", "eps", "weight_decay", "momentum"])
@pytest.mark.parametrize("value", ["x", None, [], 10**400], ids=["str", "None", "list", "large"])
def test_options_that_are_no_numbers(name: str, value: Any) -> None:
    assert_refused(
        lambda saved: saved["param_groups"][0].update({name: value}),
        ValueError if value == 10**400 else TypeError,
        rf"param_groups\[0\]\['{name}'\] of the state to be loaded (must be a|is too large)",
    )


def test_a_hook_of_the_user_mends_a_state_before_it_is_checked() -> None:
    _, opt = made()
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][1]["step"] = "x"

    def mend(_: Any, state_dict: Any) -> None:
        state_dict["state"][1]["step"] = 3.0

    opt.register_load_state_dict_pre_hook(mend)
    opt.load_state_dict(saved)
    assert opt.state[opt.param_groups[0]["params"][1]]["step"] == 3


@pytest.mark.parametrize("key", ["square_avg", "variance", "grad_avg", "momentum_buffer"])
@pytest.mark.parametrize("value", [-(2**70), "x", None, [1.0]], ids=["int", "str", "None", "list"])
def test_state_that_the_user_replaces_is_checked_too(key: str, value: Any) -> None:
    params, opt = made()
    before = params[0].detach().clone()
    right = dict(opt.state[params[0]])
    opt.state[params[0]][key] = value
    with pytest.raises(TypeError, match=f"{key} must be a tensor, got"):
        opt.step()
    assert torch.equal(params[0], before)
    opt.state[params[0]].clear()
    opt.state[params[0]].update(right)
    opt.step()


@pytest.mark.parametrize(
    "step", ["3", [], 10**400, torch.ones(2)], ids=["str", "list", "large", "two"]
)
def test_a_count_that_the_user_replaces_is_checked_too(step: Any) -> None:
    params, opt = made()
    opt.state[params[0]]["step"] = step
    with pytest.raises((TypeError, ValueError), match=r"step (must be a number|is too large)"):
        opt.step()
    opt.state[params[0]]["step"] = 1
    opt.step()
