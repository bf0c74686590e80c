"""Answers mistaken arguments and attributes of the drop-in with the right ones."""

from __future__ import annotations

import difflib
import functools
from typing import Any

import torch

from fused_rmsprop import _core
from fused_rmsprop.options import GROUP_OPTIONS, OPTIMIZER_OPTIONS, OPTIONS
from fused_rmsprop.torch.values import check_not_a_function

_SETTINGS = (*OPTIMIZER_OPTIONS, "in_backward")
_TORCHS = {name for name, option in GROUP_OPTIONS.items() if option.in_torch}
_ALIASES = {alias: option.name for option in OPTIONS for alias in option.aliases}
#: Names that are certainly not a user's own attribute. Other aliases, such as "gamma", may be one.
_MEANT = {**{name: name for name in (*GROUP_OPTIONS, *_SETTINGS)}, "learning_rate": "lr"}
_ALIKE = 0.85


def _where(name: str) -> str:
    if name in _SETTINGS:
        return f"optimizer.{name}"
    return f"optimizer.param_groups[0][{name!r}], and of further groups alike"


@functools.lru_cache(maxsize=256)  # a GradScaler sets attributes at every step
def _meant(name: str) -> str | None:
    with _core.FpEnvironment():  # difflib divides
        near = difflib.get_close_matches(name, _MEANT, 1, _ALIKE)
    return _MEANT[near[0]] if near else None


def check_attribute(optimizer: Any, name: str) -> None:
    """Refuse to set an attribute that can only be a mistaken option.

    Schedulers and users set attributes of their own, which pass.
    """
    own = optimizer.__dict__
    if "param_groups" not in own or name in own:  # being made, or not new
        return
    if name.startswith("_") or hasattr(type(optimizer), name):
        return
    if meant := _meant(name):
        raise AttributeError(
            f"setting {name!r} of the optimizer would have no effect; set {_where(meant)}"
        )


def no_attribute(optimizer: Any, name: str) -> AttributeError:
    """The error for an attribute that the optimizer does not have."""
    text = f"{type(optimizer).__name__!r} object has no attribute {name!r}"
    if meant := None if name.startswith("_") else _meant(_ALIASES.get(name, name)):
        text += f"; it is {_where(meant)}"
    return AttributeError(text, name=name, obj=optimizer)


def check_given(given: dict[str, Any]) -> None:
    """Refuse arguments of the constructor that torch would refuse without a hint."""
    params = given["params"]
    if isinstance(params, torch.nn.Module):
        raise TypeError(
            "params must be the parameters of a model, not the model: RMSprop(model.parameters())"
        )
    if isinstance(params, (int, float)):
        raise TypeError(
            f"params must be an iterable of tensors or dicts, got {type(params).__name__}; the "
            "parameters come first: RMSprop(model.parameters(), lr=0.01)"
        )
    for name in _TORCHS:
        check_not_a_function(name, given[name])


def check_group_keys(group: dict[str, Any], where: str) -> None:
    """Refuse keys of a group that are known by another name here; torch keeps any key."""
    if "params" not in group:
        near = difflib.get_close_matches("params", [key for key in group if isinstance(key, str)])
        hint = f"; {near[0]!r} is not it" if near else ""
        raise KeyError(f"{where} needs the key 'params'{hint}: {{'params': tensors, ...}}")
    for name in group:
        if name in _ALIASES and name not in GROUP_OPTIONS:
            raise ValueError(
                f"{where} has no option {name!r}: write {_ALIASES[name]!r} for it"
                if _ALIASES[name] in GROUP_OPTIONS
                else f"{where} has no option {name!r}: it belongs to the whole optimizer, "
                f"RMSprop(params, {_ALIASES[name]}=...)"
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
