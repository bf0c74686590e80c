"""Answers mistaken arguments and attributes of the drop-in with the right ones."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch

from fused_rmsprop import _core
from fused_rmsprop.options import (
    GROUP_OPTIONS,
    OPTIMIZER_OPTIONS,
    OPTIONS,
    unknown_option,
)
from fused_rmsprop.torch.values import check_not_a_function

_SETTINGS = (*OPTIMIZER_OPTIONS, "in_backward")
_TORCHS = {name for name, option in GROUP_OPTIONS.items() if option.in_torch}
_ALIASES = {alias: option.name for option in OPTIONS for alias in option.aliases}
#: The keys of a group that are arguments.
_KEYS = {*GROUP_OPTIONS, *inspect.signature(torch.optim.RMSprop).parameters} - {"params"}
#: Aliases that may be a training loop's own attribute.
_USERS = {
    *("gamma", "beta", "beta2", "decay", "step_size", "initial_scale"),
    *("grad_clip", "max_norm", "clip_norm", "clip_value"),
}
#: Keys of other optimizers' groups that change the formula; torch keeps any other key.
_CHANGE_FORMULA = ("betas", "amsgrad", "dampening", "decay")
_OPTIONS = (*_KEYS, *_SETTINGS)
_ALIKE = 0.87  # not "center" or "moment"
#: What to write for attributes of the NumPy class.
_NUMPYS = {
    "freeze": "p.requires_grad_(False) and p.grad = None freeze a parameter",
    "unfreeze": "p.requires_grad_(True) trains a parameter again",
    "frozen": "see p.requires_grad of each parameter",
    "save": "torch.save(optimizer.state_dict(), path)",
    "load": "optimizer.load_state_dict(torch.load(path))",
    "scale_lr": "for group in optimizer.param_groups: group['lr'] *= factor",
    "effective_lr": "group['lr'] / (state['square_avg'].sqrt() + group['eps']), "
    "where state is optimizer.state[p]",
    "step_count": "optimizer.state[p]['step']",
    "accumulate": "backward() adds to p.grad: call optimizer.step() after several",
    "discard_accumulated": "optimizer.zero_grad()",
    "bind_grads": "gradients are read from p.grad",
}


def _where(name: str) -> str:
    if name in _SETTINGS:
        return f"optimizer.{name}"
    return f"optimizer.param_groups[0][{name!r}], and of further groups alike"


@functools.lru_cache(maxsize=256)  # a GradScaler sets attributes at every step
def _meant(name: str) -> str | None:
    if name in _ALIASES or name.startswith("_"):
        return _ALIASES.get(name)
    with _core.FpEnvironment():  # difflib divides
        near = difflib.get_close_matches(name, _OPTIONS, 1, _ALIKE)
    near += [one for one in _OPTIONS if len(one) > 3 and sorted(one) == sorted(name)]
    return near[0] if near else None


def check_attribute(optimizer: Any, name: str) -> None:
    """Refuse to set an attribute that can only be a mistaken option.

    Schedulers and users set attributes of their own, which pass.
    """
    if name in _USERS or hasattr(type(optimizer), name):
        return
    if meant := _meant(name):
        raise AttributeError(
            f"setting {name!r} of the optimizer would have no effect; set {_where(meant)}"
        )


def no_attribute(optimizer: Any, name: str) -> AttributeError:
    """The error for an attribute that the optimizer does not have."""
    text = f"{type(optimizer).__name__!r} object has no attribute {name!r}"
    if meant := _meant(name):
        text += f"; it is {_where(meant)}"
    elif name in _NUMPYS:
        text += f", which is of the NumPy class; in torch: {_NUMPYS[name]}"
    return AttributeError(text, name=name, obj=optimizer)


def check_given(given: dict[str, Any]) -> None:
    """Refuse arguments of the constructor that torch would refuse without a hint."""
    params = given["params"]
    _check_params("params", params)
    if isinstance(params, (int, float)):
        raise TypeError(
            f"params must be an iterable of tensors or dicts, got {type(params).__name__}; the "
            "parameters come first: RMSprop(model.parameters(), lr=0.01)"
        )
    for name in _TORCHS:
        check_not_a_function(name, given[name])


def _check_params(name: str, params: Any) -> None:
    """Refuse in the place of parameters what they come from."""
    problem = ""
    if isinstance(params, torch.nn.Module) and not isinstance(params, torch.nn.ParameterList):
        problem = "the parameters of a model, not the model: RMSprop(model.parameters())"
    elif callable(params) and not hasattr(params, "__iter__"):
        problem = "tensors, not a function: with parentheses, RMSprop(model.parameters())"
    elif isinstance(params, Mapping) and any(isinstance(key, str) for key in params):
        problem = (
            "tensors, not a dict: RMSprop(params.items()) for tensors by name, RMSprop([group]) "
            "for a group, RMSprop(model.parameters()) for a model"
        )
    if problem:
        raise TypeError(f"{name} must be {problem}")


def check_group_keys(group: dict[str, Any], where: str, accepted: Collection[str] = ()) -> None:
    """Refuse keys of a group that are mistaken options; torch keeps any key.

    Keys that were ``accepted`` before, such as those of a loaded state, are not looked at.
    """
    if "params" not in group:
        near = difflib.get_close_matches("params", [key for key in group if isinstance(key, str)])
        hint = f"; {near[0]!r} is not it" if near else ""
        raise KeyError(f"{where} needs the key 'params'{hint}: {{'params': tensors, ...}}")
    _check_params(f"{where}['params']", group["params"])
    for name in group:
        if name in accepted or name in _OPTIONS or not isinstance(name, str):
            continue
        if name in _CHANGE_FORMULA:
            raise ValueError(unknown_option(name, where))
        if meant := _meant(name):
            raise ValueError(
                f"{where} has no option {name!r}: write {meant!r} for it"
                if meant in _KEYS
                else f"{where} has no option {name!r}: it belongs to the whole optimizer, "
                f"RMSprop(params, {meant}=...)"
            )
    for name in _TORCHS & group.keys():
        check_not_a_function(f"{where}[{name!r}]", group[name])


def check_closure(closure: Any) -> None:
    """Refuse gradients in the place of a closure."""
    if not callable(closure):
        raise TypeError(
            f"step() takes a closure, got {type(closure).__name__}; gradients are read from each "
            "parameter: p.grad = gradient, then optimizer.step()"
        )
