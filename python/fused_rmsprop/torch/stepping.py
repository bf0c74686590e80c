"""A step of which the kernel and torch each make their part, as a `Plan` divides it."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.rmsprop import rmsprop

from fused_rmsprop import _core
from fused_rmsprop.options import GROUP_OPTIONS
from fused_rmsprop.torch.explanation import warn_of_torch_alone
from fused_rmsprop.torch.plan import Plan
from fused_rmsprop.torch.state import complete_for_torch

#: An error of parameters that do not hold still.
CHANGED = "parameters or their state changed during the step"


def step_anew(
    plan: Plan,
    groups: list[dict[str, Any]],
    state: Any,
    whole: list[dict[str, Any]],
    loss_scale: Any = None,
    grad_scale: float = 1.0,
) -> tuple[Any, list[Any]]:
    """Make a step with new options or a new assignment, or one of which torch does a part.

    Parameters
    ----------
    plan : Plan
        The plan of these groups; its optimizer is claimed.
    groups : list of dict
        The groups to step.
    state : dict
        The state of each of their parameters.
    whole : list of dict
        All groups of the optimizer, for the names of parameters.
    loss_scale : tensor, optional
        The scale of the loss.
    grad_scale : float
        The factor of the gradients.

    Returns
    -------
    As `_core.TorchStepper.step`.
    """
    try:
        return _step(plan, groups, state, whole, loss_scale, grad_scale)
    finally:
        plan.stepper.abandon()  # unless it was made
        # Remove states that are still empty. If a signal leaves one, it means the same as none.
        for p in plan.new:
            if not state.get(p):
                state.pop(p, None)
        plan.new = []


def _step(
    plan: Plan,
    groups: list[dict[str, Any]],
    state: Any,
    whole: list[dict[str, Any]],
    loss_scale: Any,
    grad_scale: float,
) -> tuple[Any, list[Any]]:
    stepper = plan.stepper
    plan.follow_options(groups, state)
    given = [group["params"] for group in groups], state, plan.options
    if plan.by_kernel_alone:
        done = stepper.step_claimed(*given, grad_scale)
        if done is not None:
            return done
        plan.assign(groups, state)
    elif not plan.is_assigned:
        plan.assign(groups, state)
    if any(plan.for_torch):
        if not stepper.read(*given):  # so that errors come before torch's part
            plan.assign(groups, state)
            if not stepper.read(*given):
                raise RuntimeError(CHANGED)
        plan.refuse_for_torch(groups, whole, loss_scale is not None)
        if not plan.is_examined:
            warn_of_torch_alone(plan, whole)
            plan.is_examined = True
        for group, params in zip(groups, plan.for_torch, strict=True):
            if with_grad := [p for p in params if p.grad is not None]:
                _step_by_torch(with_grad, group, state, grad_scale)
    done = stepper.step_claimed(*given, grad_scale)
    if done is None:  # torch's part made new state, or moved memory
        plan.assign(groups, state)
        done = stepper.step_claimed(*given, grad_scale)
        if done is None:
            raise RuntimeError(CHANGED)
    return done


def _step_by_torch(params: list[Any], group: dict[str, Any], state: Any, grad_scale: float) -> None:
    """One step of parameters as `torch.optim.RMSprop` makes it."""
    with _core.FpEnvironment():  # but for torch's own step, which takes the user's
        for p in params:
            complete_for_torch(state[p], p, group)
        grads = [p.grad if grad_scale == 1 else p.grad * grad_scale for p in params]
    states = [state[p] for p in params]
    momentum, centered = group["momentum"] > 0, group["centered"]
    own = [name for name, option in GROUP_OPTIONS.items() if option.in_torch]
    names = (*own, "foreach", "differentiable", "capturable")
    rmsprop(
        params,
        grads,
        [entries["square_avg"] for entries in states],
        [entries["grad_avg"] for entries in states] if centered else [],
        [entries["momentum_buffer"] for entries in states] if momentum else [],
        [entries["step"] for entries in states],
        has_complex=any(torch.is_complex(p) for p in params),
        **{name: group[name] for name in names},
    )
