"""Checks a state before it is loaded: torch takes anything, and a later step would fail."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from typing import Any

import torch

from fused_rmsprop.options import GROUP_OPTIONS
from fused_rmsprop.torch.plan import EXTRA_OPTIONS, check_extra
from fused_rmsprop.torch.state import TENSORS
from fused_rmsprop.torch.values import as_number, check_count, check_tensor
from fused_rmsprop.values import as_flag

#: The options that every state of torch's RMSprop has; together no other optimizer has them.
_ALWAYS = ("lr", "alpha", "eps", "weight_decay")
#: The options of torch that are numbers; `check_extra` checks the others.
_NUMBERS = [n for n, option in GROUP_OPTIONS.items() if option.in_torch and option.read != as_flag]

_OF_NUMPY = (
    "fused_rmsprop.exchange.to_torch(opt, optimizer) takes over the state of an optimizer of NumPy "
    "arrays, opt = fused_rmsprop.RMSProp.load(path, params)"
)


def check_is_state_dict(state_dict: Any) -> None:
    """Raise an error that tells what to load if it is something else than a ``state_dict()``."""
    if isinstance(state_dict, (str, os.PathLike)):
        name = os.fspath(state_dict)
        if name.lower().endswith((".npz", ".safetensors")):
            raise TypeError(f"a state_dict is a dict, got the name of a file: {_OF_NUMPY}")
        raise TypeError(
            "a state_dict is a dict, got the name of a file: "
            f"optimizer.load_state_dict(torch.load({name!r}))"
        )
    if not isinstance(state_dict, Mapping):
        hint = ": pass its state_dict()" if hasattr(state_dict, "state_dict") else ""
        raise TypeError(f"a state_dict is a dict, got {type(state_dict).__name__}{hint}")
    counters = state_dict.get("counters")
    of_numpy = isinstance(counters, Mapping) and "step_count" in counters
    if of_numpy or "checkpoint.json" in state_dict:
        raise TypeError(f"this state is not torch's: {_OF_NUMPY}")


def check_layout(state_dict: Any) -> None:
    """Raise an error unless the containers in a state are those of a ``state_dict()``."""
    if missing := [key for key in ("state", "param_groups") if key not in state_dict]:
        keys = reprlib.repr(list(state_dict))
        raise KeyError(
            f"{missing[0]!r} is missing in the state to be loaded, whose keys are {keys}; is it of "
            "a model, or a checkpoint with an optimizer's state_dict() inside?"
        )
    _check_type("state", state_dict["state"], dict)
    _check_type("param_groups", state_dict["param_groups"], (list, tuple))
    for index, saved in enumerate(state_dict["param_groups"]):
        _check_type(f"param_groups[{index}]", saved, dict)
        _check_type(f"param_groups[{index}]['params']", saved["params"], (list, tuple))


def check_loadable(optimizer: Any, state_dict: Any) -> None:
    """Raise an error that names the parameter and the key if a value is of the wrong kind.

    A hook of ``load_state_dict``. Missing keys and other numbers of parameters are torch's to
    refuse, and it gives the states their parameters' dtypes and devices.
    """
    check_layout(state_dict)
    states, groups = state_dict["state"], state_dict["param_groups"]
    for index, (group, saved) in enumerate(zip(optimizer.param_groups, groups, strict=False)):
        where = f"param_groups[{index}]"
        for name in _NUMBERS:
            if name in saved:
                as_number(f"{where}[{name!r}] of the state to be loaded", saved[name])
        names = group.get("param_names")
        for i, (param, key) in enumerate(zip(group["params"], saved["params"], strict=False)):
            if key in states:
                name = f" ({names[i]})" if names else ""
                _check_state(f"the state of {where}['params'][{i}]{name}", states[key], param)
        if lacks := [name for name in _ALWAYS if name not in saved]:
            raise ValueError(
                f"{where} of the state to be loaded is not RMSprop's: it lacks {', '.join(lacks)}; "
                "another optimizer saved it"
            )


def keep_extra_options(loaded: dict[str, Any], present_groups: list[dict[str, Any]]) -> None:
    """Keep the options that a loaded state does not have: it is from torch's own optimizer."""
    groups = zip(loaded["param_groups"], present_groups, strict=True)
    for index, (group, present) in enumerate(groups):
        # torch's formula is that of the defaults; the start of its averages is unknown.
        before = {
            n: group.get(n, o.default) for n, o in EXTRA_OPTIONS.items() if o.core or n in group
        }
        for name in EXTRA_OPTIONS:
            group.setdefault(name, present[name])
        where = f"the state to be loaded into param_groups[{index}]"
        states = [s for p in group["params"] if (s := loaded["state"].get(p))]
        check_extra(group, where, before=before, states=states)


def check_is_of_rmsprop(where: str, state: Any) -> None:
    """Refuse the state of another optimizer, such as Adam's, which torch would take."""
    tensors = [key for key in state if key != "step"]
    if tensors and not {"square_avg", "variance"} & state.keys():
        raise ValueError(
            f"{where} is not RMSprop's: it has {', '.join(map(str, tensors))}, and no square_avg; "
            "another optimizer saved it"
        )


def fits(state: Any, param: Any) -> bool:
    """Whether the tensors of a saved state have the parameter's shape and layout."""
    tensors = [state[name] for name in TENSORS & state.keys() if torch.is_tensor(state[name])]
    return all(t.shape == param.shape and t.layout == param.layout for t in tensors)


def _check_state(where: str, state: Any, param: Any) -> None:
    _check_type(where, state, dict)
    check_is_of_rmsprop(where, state)
    if "step" in state:
        check_count(f"{where}: step", state["step"])
    for name in TENSORS & state.keys():
        value = state[name]
        check_tensor(f"{where}: {name}", value)
        loses = value.is_complex() and not param.is_complex()
        if value.shape != param.shape or value.layout != param.layout or loses:
            raise ValueError(
                f"{where}: {name} is {_description(value)}, the parameter {_description(param)}"
            )


def _check_type(what: str, value: Any, kind: Any) -> None:
    if not isinstance(value, kind):
        wanted = "dict" if kind is dict else "list"
        raise TypeError(
            f"{what} must be a {wanted} in a state to be loaded, got {type(value).__name__}"
        )


def _description(tensor: Any) -> str:
    return f"{tensor.dtype}, {tensor.layout}, of shape {tuple(tensor.shape)}"
