"""Every private name of torch that Python code uses; where one is missing, public ones serve.

The C++ names are in cpp/bindings/torch/private.cpp.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

import torch

from fused_rmsprop import _core

#: Names that torch seems to lack, for tests.
hidden: frozenset[str] = frozenset()

_AMP_SCALING = "_step_supports_amp_scaling"
_STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_GLOBAL_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
_PROFILER = "_profiler_enabled"
_OBSERVERS = (*_STEP_HOOKS, *_GLOBAL_HOOKS, _PROFILER)
_SET_GRAD = "_set_grad_enabled"
_FLATTENED = "_fsdp_flattened"
_LOCAL, _SPEC = "_local_tensor", "_spec"

#: All of them, but for the mark `wrapped_already` sets, which is not underscored.
NAMES = (
    *(_AMP_SCALING, *_OBSERVERS, _SET_GRAD, _FLATTENED, _LOCAL, _SPEC),
    *_core.torch_private_names(),
)

Step = TypeVar("Step")
Class = TypeVar("Class", bound=type)

# torch.optim shows its classes, but not the module.
_optimizer_module = sys.modules[torch.optim.Optimizer.__module__]

# A step asks these every time, after a backward pass has emptied the caches.
_step_hooks_of = attrgetter(*_STEP_HOOKS)
_global_hooks_of = attrgetter(*_GLOBAL_HOOKS)
_profiler_of = attrgetter(_PROFILER)


def _get(owner: object, name: str) -> Any:
    if name in hidden:
        raise AttributeError(name)
    return getattr(owner, name)


def is_observed(optimizer: Any) -> bool:
    """Whether hooks or the profiler want torch's wrapper around a step; True if nobody can tell."""
    if not hidden.isdisjoint(_OBSERVERS):
        return True
    try:
        return bool(
            any(_step_hooks_of(optimizer))
            or any(_global_hooks_of(_optimizer_module))
            or _profiler_of(torch.autograd)()
        )
    except AttributeError:
        return True


def grad_mode(enabled: bool) -> _core.GradMode:
    """`torch.set_grad_enabled` for a ``with`` statement; no signal can prevent its end."""
    try:
        set_grad = _get(torch._C, _SET_GRAD)
    except AttributeError:
        set_grad = torch.set_grad_enabled
    return _core.GradMode(set_grad, enabled, torch.is_grad_enabled())


def answers_grad_scaler(leaves_it_to_step: Callable[[Any], bool]) -> Callable[[Class], Class]:
    """Let a class tell GradScaler whether unscaling and skipping are left to its ``step``.

    In a torch without the private name, the scaler always does both itself.
    """

    def change(optimizer_class: Class) -> Class:
        setattr(optimizer_class, _AMP_SCALING, property(leaves_it_to_step))
        return optimizer_class

    return change


def is_flattened(param: Any) -> bool:
    """Whether FullyShardedDataParallel (FSDP1) has made a parameter a part of a flat one."""
    return _FLATTENED not in hidden and hasattr(param, _FLATTENED)


def has_local(dtensor: Any) -> bool:
    """Whether `local_of` finds the shard of a DTensor that lies in this process."""
    return all(name not in hidden and hasattr(dtensor, name) for name in (_LOCAL, _SPEC))


def local_of(tensor: Any) -> Any:
    """The shard of a DTensor in this process, in its own memory; any other tensor itself.

    ``to_local()`` makes a new tensor, and is a part of the graph.
    """
    return tensor if _LOCAL in hidden else getattr(tensor, _LOCAL, tensor)


def wrapped_already(step: Step) -> Step:
    """Mark a ``step`` method, so that torch does not wrap it in hooks and its profiler's label."""
    step.hooked = True  # type: ignore[attr-defined]
    return step


def why_slow(stepper: _core.TorchStepper | None = None) -> str:
    """Why steps of many small tensors take longer with this torch; empty if they do not."""
    why = (stepper or new_stepper()).why_no_c_functions
    return why and f"tensors are read without torch's C functions, since {why}"


def new_stepper() -> _core.TorchStepper:
    """A stepper that uses torch's private functions if all that it needs are there."""
    return _core.TorchStepper(torch.empty(1), hidden, _LOCAL, _SPEC)
