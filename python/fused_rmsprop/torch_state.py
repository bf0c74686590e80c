"""The state of one of torch's parameters, as torch has it and as the kernel takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import _get_scalar_dtype

#: dtype, device and number of elements of a number of steps that the kernel can count up.
_COUNTS = ((torch.float32, "cpu", 1), (torch.float64, "cpu", 1))


def complete(
    state: dict[str, Any],
    param: Any,
    group: dict[str, Any],
    same_order: Callable[[Any, Any], bool],
) -> None:
    """Make a state what a step of the kernel needs: all its tensors, in the parameter's order."""
    step = state.setdefault("step", 0.0)
    if not torch.is_tensor(step) or (step.dtype, step.device.type, step.numel()) not in _COUNTS:
        state["step"] = torch.tensor(float(step), dtype=_get_scalar_dtype(), device="cpu")
    _settle(state)
    if not group["centered"]:
        replace(state, as_torch_has_it(state))
    elif "square_avg" in state:
        replace(state, _with_variance(state))
    if not group["ema_decay"]:
        state.pop("param_avg", None)
    for key in _wanted(group):
        if key not in state:
            state[key] = _start(key, param, group)
        elif not same_order(param, state[key]):
            state[key] = in_order(param, state[key])


def _wanted(group: dict[str, Any]) -> list[str]:
    return [
        "variance" if group["centered"] else "square_avg",
        *["momentum_buffer"] * (group["momentum"] > 0),
        *["grad_avg"] * bool(group["centered"]),
        *["param_avg"] * (group["ema_decay"] > 0),
    ]


@torch.no_grad()
def _start(key: str, param: Any, group: dict[str, Any]) -> Any:
    if key == "param_avg":
        return param.clone(memory_format=torch.preserve_format)
    start = group["initial_square_avg"] if key in ("square_avg", "variance") else 0
    return torch.full_like(param, start, memory_format=torch.preserve_format)


@torch.no_grad()
def in_order(param: Any, tensor: Any) -> Any:
    """A copy of a tensor in the memory order and the dtype of a parameter."""
    if tensor.layout != torch.strided:
        raise RuntimeError("RMSprop does not support sparse gradients")
    return torch.empty_like(param, memory_format=torch.preserve_format).copy_(tensor)


def _second_moment(state: dict[str, Any]) -> Any:
    return torch.addcmul(state["variance"], state["grad_avg"], state["grad_avg"])


def _settle(state: dict[str, Any]) -> None:
    """Decide between a saved variance and the ``square_avg`` beside it: torch updates only that."""
    if "variance" in state and "square_avg" in state:
        stale = not torch.equal(_second_moment(state), state["square_avg"])
        del state["variance" if stale else "square_avg"]


def for_torch_too(state: Any) -> Any:
    """A parameter's state as torch has it, with the ``variance`` at the end if there is one."""
    if not isinstance(state, dict) or "variance" not in state:
        return state
    if "square_avg" in state:  # just loaded
        return state
    return {**as_torch_has_it(state), "variance": state["variance"]}


def as_torch_has_it(state: Any) -> Any:
    """A parameter's state with ``square_avg`` in the place of ``variance``."""
    if not isinstance(state, dict) or "variance" not in state:
        return state
    if "square_avg" in state:
        return {key: value for key, value in state.items() if key != "variance"}
    square_avg = _second_moment(state)
    return {
        "square_avg" if key == "variance" else key: square_avg if key == "variance" else value
        for key, value in state.items()
    }


def _with_variance(state: dict[str, Any]) -> dict[str, Any]:
    """The same the other way; what cancelled below zero is zero."""
    grad_avg = state.get("grad_avg")
    square_avg = state["square_avg"]
    variance = (
        square_avg.clone()
        if grad_avg is None
        else torch.addcmul(square_avg, grad_avg, grad_avg, value=-1).clamp_(min=0)
    )
    return {
        "variance" if key == "square_avg" else key: variance if key == "square_avg" else value
        for key, value in state.items()
    }


def replace(state: dict[str, Any], new: dict[str, Any]) -> None:
    """Give a state dict that others hold other entries."""
    if state is not new:
        state.clear()
        state.update(new)
