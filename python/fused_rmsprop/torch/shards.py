"""Parameters that are split among processes: which of them the kernel steps, shard by shard."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from fused_rmsprop import _core
from fused_rmsprop.base import nonfinite_error
from fused_rmsprop.options import OPTIONS
from fused_rmsprop.torch import private

#: The options that look at each element alone.
_ELEMENTWISE = ("max_grad_value",)
#: The options that need all elements of a gradient, or all gradients.
_WHOLE = [o for o in OPTIONS if o.core == "GradientTransform" and o.name not in _ELEMENTWISE]


def is_dtensor(tensor: Any) -> bool:
    """Whether a tensor is split among processes as `torch.distributed.tensor` does it."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there are no DTensors
    return isinstance(tensor, getattr(module, "DTensor", ()))


def is_split_alike(a: Any, b: Any) -> bool:
    """Whether two tensors are split among processes in the same way, or both are not split."""
    if not (is_dtensor(a) and is_dtensor(b)):
        return is_dtensor(a) == is_dtensor(b)
    return bool(a.placements == b.placements and a.device_mesh == b.device_mesh)


def shape_at(tensor: Any, coordinate: Sequence[int]) -> tuple[int, ...]:
    """The shape of the shard of a DTensor that lies at a place in its mesh."""
    shape = list(tensor.shape)
    splits = zip(shard_dims(tensor), coordinate, tensor.device_mesh.shape, strict=True)
    for dim, index, count in splits:
        if dim is not None:
            size = -(-shape[dim] // count)  # the last ones may be smaller, or empty
            shape[dim] = max(0, min(shape[dim], (index + 1) * size) - index * size)
    return tuple(shape)


def shard_dims(tensor: Any) -> list[int | None]:
    """For each dimension of a DTensor's mesh, the dimension of the tensor that it splits."""
    return [place.dim % tensor.ndim if place.is_shard() else None for place in tensor.placements]


def tensor_here(param: Any) -> Any:
    """The tensor in this process of a parameter that the kernel may step, None for any other.

    Of a DTensor that is its shard, if it has plain shards, and so has its gradient.
    """
    if is_lazy(param):
        return None
    if type(param).__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
        return param
    return None if _why_no_plain_shard(param) else private.local_of(param)


def why_not_here(param: Any) -> str:
    """The reason why there is no `tensor_here`, to follow "because"."""
    if is_dtensor(param) and (why := _why_no_plain_shard(param)):
        return why
    return f"its class {type(param).__name__} has a __torch_dispatch__ of its own"


def _why_no_plain_shard(param: Any) -> str:
    if not is_dtensor(param) or not private.has_local(param):
        return f"its class {type(param).__name__} is unknown"
    tensor = sys.modules["torch.distributed.tensor"]
    if type(param) is not tensor.DTensor:
        return f"its class {type(param).__name__} is derived from DTensor"
    if any(type(place) not in (tensor.Shard, tensor.Replicate) for place in param.placements):
        return f"it is a DTensor with the placements {tuple(param.placements)}"
    coordinate = param.device_mesh.get_coordinate()
    if coordinate is None:
        return "it is a DTensor of other processes"
    local = private.local_of(param)
    if type(local) is not torch.Tensor or local.shape != shape_at(param, coordinate):
        return "it is a DTensor whose shards are not those of torch.chunk"
    if param.grad is not None and not is_split_alike(param, param.grad):
        return "its gradient is not split among processes as it is"
    return ""


def find_shard(
    stepper: _core.TorchStepper, groups: list[dict[str, Any]], each_alone: bool
) -> tuple[str, Any] | None:
    """An option that needs whole gradients, and a parameter of which they are unknown.

    It is found without its gradient too: all processes must come to the same result. With
    ``each_alone``, parameters are stepped one by one, when processes do not wait for each other.
    """
    for group in groups:
        limits = _limits(stepper, group)
        for p in group["params"] if limits else ():
            split = is_dtensor(p) and (each_alone or tensor_here(p) is None)
            if split or private.is_flattened(p):
                return limits[0], p
    return None


def needs_whole_gradients(stepper: _core.TorchStepper, groups: list[dict[str, Any]]) -> bool:
    """Whether an option in use needs all elements of a gradient, or all gradients."""
    return any(_limits(stepper, group) for group in groups)


def _limits(stepper: _core.TorchStepper, group: dict[str, Any]) -> list[str]:
    values = {o.name: group[o.name] if o.of_group else getattr(stepper, o.name) for o in _WHOLE}
    return [f"{o.name}={values[o.name]!r}" for o in _WHOLE if values[o.name] != o.default]


def shard_error(limit: str, name: str) -> ValueError:
    """The error for what `find_shard` has found."""
    return ValueError(
        f"{limit} needs the whole gradient of {name}, and this process has only its shard (FSDP or "
        "DTensor): each process would clip, or skip, by another norm. Nothing has changed. Make "
        "the optimizer without this option, and clip before the step: FSDP has "
        "model.clip_grad_norm_(1.0), fully_shard and DTensor take "
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0). Both return the norm of all "
        "gradients: leave the step out if it is not finite"
    )


def nonfinite_gradient(param: Any, name: str, has_peers: bool) -> FloatingPointError:
    """The error for a parameter whose gradient is not finite, here or in another process."""
    what = f"the gradient of {name}"
    grad = torch.empty(0) if param.grad is None else private.local_of(param.grad.detach())
    if has_peers and bool(grad.isfinite().all()):
        return FloatingPointError(
            f"{what} has NaN or infinite elements in another process, or overflows when the step "
            "scales or squares it; nothing has changed"
        )
    if is_dtensor(param):
        what = f"this process's shard of {what}"
    return nonfinite_error(what, grad.resolve_neg().numpy())
