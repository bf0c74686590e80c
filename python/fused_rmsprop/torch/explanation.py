"""Tells who steps each parameter of an optimizer, the kernel or torch, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from fused_rmsprop.base import warn_the_caller
from fused_rmsprop.options import OPTIMIZER_OPTIONS
from fused_rmsprop.torch import private
from fused_rmsprop.torch.plan import (
    Plan,
    is_other_kind,
    name_of,
    why_for_torch,
)
from fused_rmsprop.torch.shards import find_shard, is_dtensor
from fused_rmsprop.torch.state import complete, replaced_in_shared

#: How many parameters a `repr` lists.
_LISTED = 30


class Stepped(NamedTuple):
    """Who steps one parameter.

    Attributes
    ----------
    name : str
        The name of the parameter, or its place in the groups.
    by : str
        "kernel", "torch" or "nobody".
    why : str
        The reason.
    """

    name: str
    by: str
    why: str


class Explanation(tuple[Stepped, ...]):
    """Who steps each parameter, as a tuple of `Stepped`; it prints as a table.

    `str` has all parameters, `repr` the first of them and a count of the others.

    Attributes
    ----------
    slow : str
        Why steps of many small tensors take longer with this torch; empty if they do not.
    """

    slow: str = ""

    def __str__(self) -> str:
        return self._table(len(self))

    def __repr__(self) -> str:
        return self._table(_LISTED)

    def _table(self, most: int) -> str:
        rows = self[:most]
        counts = [f"{sum(row.by == by for row in self)} by {name}" for by, name in _BY.items()]
        shown = [text for text in counts if not text.startswith("0 ")]
        lines = [f"{len(self)} parameters: {', '.join(shown)}"]
        wide = max((len(row.name) for row in rows), default=0)
        lines += [f"  {row.name:{wide}}  {row.by:6}  {row.why}" for row in rows]
        if len(self) > most:
            lines.append(f"  ... and {len(self) - most} more: print(optimizer.explain())")
        if self.slow:
            lines.append(f"Steps of many small tensors are slow: {self.slow}")
        return "\n".join(lines)


_RAISES = "step() raises an error"
_BY = {"kernel": "the kernel", "torch": "torch", "nobody": "nobody"}


class _Trial(Plan):
    """A plan that divides the parameters as a step does, without their state."""

    taken: set[int]

    def _slots(self, *args: Any) -> Iterator[Any]:
        self.taken = set()
        for slot in super()._slots(*args):
            self.taken.add(id(slot[0]))
            yield slot

    def _state_of(self, p: Any, group: Any, states: Any) -> tuple[Any, Any]:
        return {}, {}


def explanation(optimizer: Any) -> Explanation:
    """Divide the parameters as the next step of an optimizer would, and tell why."""
    whole = optimizer.param_groups
    plan = _Trial(private.new_stepper())
    for name in OPTIMIZER_OPTIONS:
        setattr(plan.stepper, name, getattr(optimizer, name))
    groups = [
        {**group, "params": [p for p in group["params"] if not is_lazy(p)]} for group in whole
    ]
    plan.follow_options(groups, {})
    plan.each_alone = optimizer.in_backward
    sharded = find_shard(plan.stepper, groups, plan.each_alone)
    if sharded is None:
        plan.assign(groups, {}, whole)
        _find_shared_state(plan, groups, optimizer.state)
    seen: set[int] = set()
    rows: list[Stepped] = []
    taken = plan.taken - plan.replacing.keys() if sharded is None else set()
    for index, group in enumerate(whole):
        names = group.get("param_names")
        for i, p in enumerate(group["params"]):
            name = names[i] if names else f"param_groups[{index}]['params'][{i}]"
            if sharded is not None:
                why = f"{_RAISES}: {sharded[0]} needs whole gradients, not shards"
                rows.append(Stepped(name, "nobody", why))
                continue
            by_kernel = id(p) in taken and id(p) not in seen
            rows.append(Stepped(name, *_judge(p, by_kernel, plan, group, whole)))
            seen.add(id(p))
    raising = next((row.name for row in rows if row.why.startswith(_RAISES)), None)
    if raising is not None:
        because = f"{_RAISES} because of {raising}"
        rows = [row if row.by == "nobody" else Stepped(row.name, "nobody", because) for row in rows]
    explained = Explanation(rows)
    explained.slow = private.why_slow(plan.stepper)
    return explained


def _find_shared_state(plan: _Trial, groups: list[dict[str, Any]], states: Any) -> None:
    """Note the parameters whose state lies in shared memory and would have to be replaced."""
    for group in groups:
        for p in group["params"]:
            state = states.get(p)
            if (
                id(p) in plan.taken
                and state
                and any(torch.is_tensor(t) and t.is_shared() for t in state.values())
            ):
                if keys := replaced_in_shared(state, complete(state, p, group, plan.stepper)):
                    plan.replacing[id(p)] = keys


def _judge(p: Any, by_kernel: bool, plan: Plan, group: Any, whole: list[Any]) -> tuple[str, str]:
    if is_lazy(p):
        return "nobody", "it has no shape before its module has seen an input"
    if p.grad is None and not p.requires_grad:
        return "nobody", "it does not require a gradient and has none"
    later = "" if p.grad is not None else "; it has no gradient now, and waits for one"
    if by_kernel:
        shard = ", a shard of a DTensor" if is_dtensor(p) else ""
        return "kernel", f"{p.dtype} in CPU memory{shard}{later}"
    why = why_for_torch(p, plan, group, whole)
    if p.grad is not None and p.grad.is_sparse:
        return "nobody", f"{_RAISES}: its gradient is sparse"
    if extra := plan.not_for_torch(group):
        return "nobody", f"{_RAISES}: torch has no {extra[0]}, and {why}{later}"
    return "torch", f"{why}{later}"


def warn_of_torch_alone(plan: Plan, whole: list[dict[str, Any]]) -> None:
    """Warn once if torch steps a whole model because of the kind of its parameters.

    ``whole`` has all groups of the optimizer. An error in the place of the warning comes again.
    """
    if plan.warned:
        return
    trained = [
        p for group in whole for p in group["params"] if p.requires_grad or p.grad is not None
    ]
    if not trained or not all(is_other_kind(p) for p in trained):
        return
    if any(group["differentiable"] or group["capturable"] for group in whole):
        return  # asks for torch
    p = trained[0]
    warn_the_caller(
        f"all parameters fall back to torch.optim.RMSprop: the kernel steps float32 and float64 in "
        f"CPU memory, and {name_of(p, whole)} is {p.dtype} on {p.device}; print("
        "optimizer.explain()) tells more"
    )
    plan.warned.append(True)
