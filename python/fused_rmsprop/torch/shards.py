"""Refuses options that need whole gradients where each process has only a shard of them."""

from __future__ import annotations

import sys
from typing import Any

from fused_rmsprop import _core
from fused_rmsprop.options import OPTIONS
from fused_rmsprop.torch import private

#: The options that look at each element alone.
_ELEMENTWISE = ("max_grad_value",)
#: The options that need all elements of a gradient, or all gradients.
_WHOLE = [o for o in OPTIONS if o.core == "GradientTransform" and o.name not in _ELEMENTWISE]


def is_shard(param: Any) -> bool:
    """Whether a parameter is split among processes: FSDP's flat parameters, and DTensors."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there are no DTensors
    dtensor = getattr(module, "DTensor", ())
    return isinstance(param, dtensor) or private.is_flattened(param)


def find_shard(stepper: _core.TorchStepper, groups: list[dict[str, Any]]) -> tuple[str, Any] | None:
    """An option that needs whole gradients and a parameter of which there is only a shard.

    It is found without its gradient too: all processes must come to the same result.
    """
    for group in groups:
        values = {o.name: group[o.name] if o.of_group else getattr(stepper, o.name) for o in _WHOLE}
        limits = [f"{o.name}={values[o.name]!r}" for o in _WHOLE if values[o.name] != o.default]
        for p in group["params"] if limits else ():
            if is_shard(p):
                return limits[0], p
    return None


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
