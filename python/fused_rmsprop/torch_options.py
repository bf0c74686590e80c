"""The options of the drop-in for torch: those of its groups, and what a user may give for them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

import torch

from fused_rmsprop import _core
from fused_rmsprop.options import SETTINGS, as_flag, as_number, check_start

#: What torch's optimizer does not have, the kernel's alone, and the defaults.
OWN: dict[str, Any] = {
    "nesterov": False,
    "eps_inside_sqrt": False,
    "lr_in_momentum": False,
    "decoupled_weight_decay": False,
    "bias_correction": False,
    "initial_square_avg": 0.0,
    "ema_decay": 0.0,
}
_FLAGS = [name for name, default in OWN.items() if default is False]
_NUMBERS = ("lr", "alpha", "eps", "weight_decay", "momentum", "ema_decay")
#: What may change how the kernel updates a group.
OPTIONS = (
    *("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
    *("differentiable", "capturable", *OWN),
)
#: What belongs to the whole optimizer, and goes along in copies of it.
WHOLE = (*SETTINGS, "threads")
_FLOATS = (torch.float32, torch.float64)


def check_own(group: dict[str, Any], where: str, params: Iterable[Any] = ()) -> None:
    """Refuse what has no meaning among the options that torch does not check."""
    for name in WHOLE:
        if name in group:
            raise ValueError(
                f"{where}: {name} belongs to the whole optimizer, not to a group: "
                f"RMSprop(params, {name}={group[name]!r})"
            )
    for name in _FLAGS:
        as_flag(name, group[name])
    ema_decay = as_number("ema_decay", group["ema_decay"])
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must be >= 0 and < 1, got {ema_decay}")
    start = as_number("initial_square_avg", group["initial_square_avg"])
    dtypes = {p.dtype for p in params} & {*_FLOATS} or {torch.float64}
    for dtype in dtypes:
        check_start({**group, "initial_square_avg": start}, str(dtype), torch.finfo(dtype).max)
    if group["nesterov"] and not group["momentum"] > 0:
        raise ValueError(
            f"nesterov needs momentum > 0, and {where} has momentum={group['momentum']}"
        )


def check_meaning(
    group: dict[str, Any], before: dict[str, Any], states: list[Any], where: str
) -> None:
    """Refuse options with which the state of steps with the ones before means something else."""
    if before["bias_correction"] != group["bias_correction"] and any(
        float(state.get("step", 0)) > 0 for state in states
    ):
        raise ValueError(
            f"{where} has state of steps with bias_correction={before['bias_correction']}, which "
            f"means something else than with bias_correction={group['bias_correction']}"
        )
    if before["lr_in_momentum"] != group["lr_in_momentum"] and any(
        "momentum_buffer" in state for state in states
    ):
        raise ValueError(
            f"{where} has momentum buffers of lr_in_momentum={before['lr_in_momentum']}, which "
            f"mean something else than with lr_in_momentum={group['lr_in_momentum']}"
        )


def kernel_options(group: dict[str, Any]) -> _core.Options:
    """The options of a group as the kernel takes them."""
    options: dict[str, Any] = {name: _number(name, group[name]) for name in _NUMBERS}
    options |= {name: bool(group[name]) for name in ("centered", "maximize", *_FLAGS)}
    return _core.Options(**options)


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, (str, bytes)):
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{name} must be a number or a tensor of one, got {reprlib.repr(value)}")


def unlike_kernel(param: Any, group: dict[str, Any]) -> str:
    """Why the kernel leaves a parameter to torch."""
    for name in ("differentiable", "capturable"):
        if group[name]:
            return f"{name} is set"
    if param.device.type != "cpu" or param.dtype not in _FLOATS or param.layout != torch.strided:
        return f"it is {param.dtype}, {param.layout} on {param.device}"
    for name, bound, good in (
        ("eps", "> 0", float(group["eps"]) > 0),
        ("alpha", "< 1", float(group["alpha"]) < 1),
        ("momentum", "< 1", float(group["momentum"]) < 1),
    ):
        if not good:
            return f"the kernel needs {name} {bound}, and it is {group[name]}"
    return (
        "its memory has gaps, is shared with another parameter, or an option is too large or small "
        f"for {param.dtype}"
    )
