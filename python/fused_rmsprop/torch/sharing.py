"""State in shared memory, which several processes step: nothing of it may be replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parameter import is_lazy

from fused_rmsprop import _core
from fused_rmsprop.torch import private
from fused_rmsprop.torch.plan import Plan, name_of
from fused_rmsprop.torch.state import complete, completed_for_torch


class SharesMemory:
    """An optimizer whose state other processes can step."""

    _stepper: _core.TorchStepper
    _plan: Plan
    param_groups: Any
    state: Any

    def share_memory(self) -> None:
        """Move the state of all parameters to shared memory, for other processes to step.

        Call it before they start, beside ``model.share_memory()``. Parameters that require a
        gradient and have no state get one, as the kernel keeps it (centered: ``variance``). A step
        never replaces a tensor of a state in shared memory. If it would have to, because the state
        was shared in torch's form, torch steps the parameter.

        Raises
        ------
        ValueError
            If a parameter is not initialized yet.

        Examples
        --------
        >>> import torch
        >>> from fused_rmsprop.torch import RMSprop
        >>> model = torch.nn.Linear(2, 1).share_memory()
        >>> optimizer = RMSprop(model.parameters(), centered=True)
        >>> optimizer.share_memory()
        >>> optimizer.state[model.weight]["variance"].is_shared()
        True
        """
        with self._stepper.claim(), private.grad_mode(False), _core.FpEnvironment():
            _share_states(self._plan, self.param_groups, self.state)


def _share_states(plan: Plan, groups: list[dict[str, Any]], state: Any) -> None:
    """Make the state of all parameters, as their next step keeps it, and move it to shared memory.

    The optimizer is claimed. After an error no state has other values.
    """
    for group in groups:
        for p in group["params"]:
            if is_lazy(p):
                raise ValueError(
                    f"{name_of(p, groups)} has no shape yet, and so no state to share: run the "
                    "model on one batch before optimizer.share_memory()"
                )
    plan.follow_options(groups, state)
    try:
        plan.assign(groups, state, groups)
    finally:
        plan.stepper.abandon()  # it was to find out who steps which parameter
        plan.forget_assignment()
    shared: list[tuple[Any, dict[str, Any]]] = []
    for group, for_torch in zip(groups, plan.for_torch, strict=True):
        torchs = {id(p) for p in for_torch if id(p) not in plan.replacing}
        for p in group["params"]:
            before = state.get(p, {})
            if not before and p.grad is None and not p.requires_grad:
                continue
            by_torch = id(p) in torchs
            entries = (
                completed_for_torch(before, p, group)
                if by_torch
                else complete(before, p, group, plan.stepper)
            )
            for value in entries.values():
                if torch.is_tensor(value):
                    value.share_memory_()
            shared.append((p, entries))
    for p, entries in shared:
        if (target := state[p]) is not entries:
            _core.replace_entries(target, entries)
