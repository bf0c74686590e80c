"""A step of which the kernel and torch each make their part, as a `Plan` divides it."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.rmsprop import rmsprop

from fused_rmsprop import _core
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.options import GROUP_OPTIONS
from fused_rmsprop.torch.explanation import warn_of_torch_alone
from fused_rmsprop.torch.peers import CHANGED
from fused_rmsprop.torch.plan import Plan, name_of
from fused_rmsprop.torch.state import completed_for_torch, replaced_in_shared


def step_anew(
    plan: Plan,
    groups: list[dict[str, Any]],
    state: Any,
    whole: list[dict[str, Any]],
    watch: Any = None,
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
    watch : object, optional
        What shows a step to monitors if torch makes a part of it.

    Returns
    -------
    As `_core.TorchStepper.step`.
    """
    try:
        return _step(plan, groups, state, whole, watch)
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
    watch: Any,
) -> tuple[Any, list[Any]]:
    plan.follow_options(groups, state)
    if plan.by_kernel_alone:
        done = plan.stepper.step_claimed([g["params"] for g in groups], state, plan.options)
        if done is not None:
            return done
        plan.assign(groups, state, whole)
    elif plan.is_out_of_date:
        plan.assign(groups, state, whole)
    if not any(plan.for_torch):
        return _step_by_kernel(plan, groups, state, whole)
    if watch is None:
        return _step_by_both(plan, groups, state, whole)
    made = False
    try:
        watch.begin()
        nonfinite, unversioned = _step_by_both(plan, groups, state, whole)
        made = nonfinite is None
    finally:
        watch.end(made)
    return nonfinite, unversioned


def _step_by_both(
    plan: Plan, groups: list[dict[str, Any]], state: Any, whole: list[dict[str, Any]]
) -> tuple[Any, list[Any]]:
    given = [group["params"] for group in groups], state, plan.options
    if not plan.stepper.read(*given):  # so that errors come before torch's part
        plan.assign(groups, state, whole)
        if not plan.stepper.read(*given):
            raise RuntimeError(CHANGED)
    plan.refuse_for_torch(groups, whole)
    prepared = _prepared_for_torch(plan, groups, state, whole)
    if not plan.is_examined:
        warn_of_torch_alone(plan, whole)
        plan.is_examined = True
    for group, entries in prepared:
        _step_by_torch(entries, group, state)
    return _step_by_kernel(plan, groups, state, whole)


def _step_by_kernel(
    plan: Plan, groups: list[dict[str, Any]], state: Any, whole: list[dict[str, Any]]
) -> tuple[Any, list[Any]]:
    given = [group["params"] for group in groups], state, plan.options
    done = plan.stepper.step_claimed(*given)
    if done is None:  # torch's part made new state, or moved memory
        plan.assign(groups, state, whole)
        done = plan.stepper.step_claimed(*given)
        if done is None:
            raise RuntimeError(CHANGED)
    return done


@in_fp_environment  # but for torch's own step, which takes the user's
def _prepared_for_torch(
    plan: Plan, groups: list[dict[str, Any]], state: Any, whole: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[Any, dict[str, Any]]]]:
    """By group, torch's parameters and the states that they need; nothing has changed yet.

    As far as possible, torch's errors come here and not when it has stepped other parameters.
    """
    prepared = []
    for group, params in zip(groups, plan.for_torch, strict=True):
        entries = {}
        for p in params:
            if p.grad is None:
                continue
            _check_writable(p, group, whole)
            before = state.get(p, {})
            entries[p] = completed_for_torch(before, p, group)
            if keys := replaced_in_shared(before, entries[p]):
                raise RuntimeError(
                    f"the state of {name_of(p, whole)} lies in shared memory, and this step needs "
                    f"another {keys}, which each process would make for itself: call "
                    "optimizer.share_memory() with these options before the other processes start"
                )
        if entries:
            prepared.append((group, entries))
    return prepared


def _check_writable(param: Any, group: dict[str, Any], whole: list[dict[str, Any]]) -> None:
    """Raise the errors of torch's operations in place, and of its options."""
    problem = ""
    if param.is_inference() and not torch.is_inference_mode_enabled():
        problem = "is an inference tensor, which can be updated in torch.inference_mode() only"
    elif param.layout == torch.strided and any(
        n > 1 and s == 0 for n, s in zip(param.shape, param.stride(), strict=True)
    ):
        problem = "has several elements in one place of memory: use param.clone()"
    elif torch.is_grad_enabled() and param.is_leaf and param.requires_grad:
        problem = "is a leaf that requires grad, which differentiable=True cannot update in place"
    if problem:
        raise RuntimeError(f"{name_of(param, whole)} {problem}")
    if group["capturable"] and param.device.type == "cpu":
        raise AssertionError("If capturable=True, params and state_steps must be on an accelerator")
    if group["differentiable"] and group["foreach"]:
        raise AssertionError(
            "_foreach ops don't support autograd: differentiable=True needs foreach=None"
        )


def _step_by_torch(entries: dict[Any, dict[str, Any]], group: dict[str, Any], state: Any) -> None:
    """One step of parameters as `torch.optim.RMSprop` makes it."""
    params = [*entries]
    for p in params:
        _core.replace_entries(state[p], entries[p])
    states = [state[p] for p in params]
    momentum, centered = group["momentum"] > 0, group["centered"]
    own = [name for name, option in GROUP_OPTIONS.items() if option.in_torch]
    names = (*own, "foreach", "differentiable", "capturable")
    rmsprop(
        params,
        [p.grad for p in params],
        [entries["square_avg"] for entries in states],
        [entries["grad_avg"] for entries in states] if centered else [],
        [entries["momentum_buffer"] for entries in states] if momentum else [],
        [entries["step"] for entries in states],
        has_complex=any(torch.is_complex(p) for p in params),
        **{name: group[name] for name in names},
    )
