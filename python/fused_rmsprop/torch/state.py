"""The state of one parameter: as torch keeps it, as the kernel takes it, and from one to the other.

Centered, torch keeps ``square_avg`` about zero, the kernel the ``variance`` about ``grad_avg``.
"""

from __future__ import annotations

from typing import Any

import torch

from fused_rmsprop import _core
from fused_rmsprop.groups.state import KINDS, StateKind, needed_kinds
from fused_rmsprop.options import GROUP_OPTIONS
from fused_rmsprop.torch import private
from fused_rmsprop.torch.shards import is_dtensor, is_split_alike
from fused_rmsprop.torch.values import as_number, check_tensor

#: The keys of the tensors in a parameter's state, but for ``"step"``.
TENSORS = {name for kind in KINDS for name in (kind.name, kind.name_if_centered) if name}
#: The kinds of state that torch has.
_TORCH_KINDS = [k for k in KINDS if k.option is None or GROUP_OPTIONS[k.option].in_torch]


def complete(
    state: dict[str, Any], param: Any, group: dict[str, Any], stepper: _core.TorchStepper
) -> dict[str, Any]:
    """Return a state with all tensors that a step of the kernel needs, in the parameter's order.

    It is ``state`` itself if nothing is missing, and a new dict otherwise.
    """
    entries = dict(state)
    step = entries.setdefault("step", 0.0)
    if not (torch.is_tensor(step) and step.numel() == 1 and stepper.can_step(step)):
        entries["step"] = _new_count(as_number("step", step))
    for name in TENSORS & entries.keys():
        check_tensor(name, entries[name])
    _settle(entries)
    if not group["centered"]:
        entries = as_torch_has_it(entries)
    elif "square_avg" in entries:
        entries = _with_variance(entries)
    for kind in KINDS:
        if not kind.needed(group) and not kind.kept:
            entries.pop(kind.name, None)
    for kind in needed_kinds(group):
        key = kind.key(group)
        if key not in entries:
            entries[key] = _new(kind, param, group)
        elif entries[key].shape != param.shape:
            raise _wrong_shape(key, entries[key], param)
        elif not _is_in_order(param, entries[key], stepper):
            _check_is_split(key, entries[key], param)
            entries[key] = stepper.in_order(param, entries[key])
    unchanged = entries.keys() == state.keys() and all(entries[k] is state[k] for k in state)
    return state if unchanged else entries


def _is_in_order(param: Any, tensor: Any, stepper: _core.TorchStepper) -> bool:
    """Whether the elements of a state lie as the parameter's do."""
    alike = is_split_alike(param, tensor) and stepper.same_order(param, tensor)
    return alike and not private.local_of(tensor).is_neg()


def _check_is_split(key: str, tensor: Any, param: Any) -> None:
    """Raise an error if one is a DTensor and the other is not."""
    if is_dtensor(tensor) != is_dtensor(param):
        kinds = ("a DTensor", "a plain tensor")[:: 1 if is_dtensor(tensor) else -1]
        raise RuntimeError(
            f"{key} is {kinds[0]}, and its parameter {kinds[1]}; load the state by "
            "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict, which splits it as "
            "the parameters are split"
        )


def completed_for_torch(state: dict[str, Any], param: Any, group: dict[str, Any]) -> dict[str, Any]:
    """Return a state with all tensors that a step of torch needs, which can take it."""
    for name in TENSORS & state.keys():
        check_tensor(name, state[name])
    entries = dict(as_torch_has_it(state))
    step = entries.setdefault("step", 0.0)
    if not torch.is_tensor(step):
        device = param.device if group["capturable"] else "cpu"
        entries["step"] = _new_count(as_number("step", step), device)
    elif step.numel() != 1:
        raise RuntimeError(f"step must be a tensor of one element, got {step.numel()}")
    for kind in _TORCH_KINDS:
        if kind.needed(group):
            if kind.name not in entries:
                entries[kind.name] = _new(kind, param, group)
            _check_for_torch(kind.name, entries[kind.name], param)
    return entries


def _check_for_torch(key: str, tensor: Any, param: Any) -> None:
    if tensor.shape != param.shape:
        raise _wrong_shape(key, tensor, param)
    if tensor.device != param.device or not torch.can_cast(param.dtype, tensor.dtype):
        raise RuntimeError(
            f"{key} is {tensor.dtype} on {tensor.device}, and its parameter is {param.dtype} on "
            f"{param.device}; convert it, or delete the state: del optimizer.state[param]"
        )


def _wrong_shape(key: str, tensor: Any, param: Any) -> RuntimeError:
    return RuntimeError(
        f"{key} has shape {tuple(tensor.shape)}, and its parameter now has "
        f"{tuple(param.shape)}; make a new optimizer for it, or delete its state: "
        "del optimizer.state[param]"
    )


def replaced_in_shared(state: dict[str, Any], entries: dict[str, Any]) -> str:
    """The keys whose tensors are new in ``entries``, if the state lies in shared memory, or "".

    Other processes have that memory: each would go on with new tensors of its own.
    """
    if entries is state or not any(map(_is_shared, state.values())):
        return ""
    return ", ".join(key for key, value in entries.items() if value is not state.get(key))


def _is_shared(value: Any) -> bool:
    # Tensors of other devices always say that they are.
    value = private.local_of(value)
    return torch.is_tensor(value) and value.device.type == "cpu" and bool(value.is_shared())


def _new_count(steps: float, device: Any = "cpu") -> Any:
    double = torch.get_default_dtype() == torch.float64
    return torch.tensor(steps, dtype=torch.float64 if double else torch.float32, device=device)


def _new(kind: StateKind, param: Any, group: dict[str, Any]) -> Any:
    if kind.start == "param":
        return param.detach().clone(memory_format=torch.preserve_format)
    start = 0 if kind.start is None else group[kind.start]
    return torch.full_like(param.detach(), start, memory_format=torch.preserve_format)


def _second_moment(state: dict[str, Any]) -> Any:
    # Not addcmul, which rounds once on some processors and twice on others.
    return state["variance"] + state["grad_avg"] * state["grad_avg"]


def _settle(state: dict[str, Any]) -> None:
    """Decide between a saved variance and the ``square_avg`` beside it: torch updates only that."""
    if "variance" in state and "square_avg" in state:
        # Of a DTensor, each process looks at its shard alone: either way, all go on alike.
        saved, now = map(private.local_of, (state["square_avg"], _second_moment(state)))
        stale = not torch.equal(now, saved)
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
    return _exchanged(state, "variance", "square_avg", _second_moment(state))


def _with_variance(state: dict[str, Any]) -> dict[str, Any]:
    """The same the other way; a difference that cancelled below zero is zero."""
    square_avg, grad_avg = state["square_avg"], state.get("grad_avg")
    if grad_avg is None:
        return _exchanged(state, "square_avg", "variance", square_avg.clone())
    variance = square_avg - grad_avg * grad_avg
    return _exchanged(state, "square_avg", "variance", variance.clamp_(min=0))


def _exchanged(state: dict[str, Any], old: str, new: str, tensor: Any) -> dict[str, Any]:
    """The state with another entry in the place of the one called ``old``."""
    return {new if k == old else k: tensor if k == old else v for k, v in state.items()}
