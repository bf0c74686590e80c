"""Decides which parameters the kernel steps and which torch does, and which options they have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from fused_rmsprop import _core
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.groups.state import KINDS, check_fixed
from fused_rmsprop.options import (
    GROUP_OPTIONS,
    OPTIMIZER_OPTIONS,
    check_start,
    core_options,
)
from fused_rmsprop.torch import private
from fused_rmsprop.torch.attributes import check_group_keys
from fused_rmsprop.torch.peers import set_peers
from fused_rmsprop.torch.shards import find_shard, shard_error, tensor_here, why_not_here
from fused_rmsprop.torch.state import complete, replaced_in_shared
from fused_rmsprop.torch.values import as_number, check_bounds
from fused_rmsprop.values import as_flag

#: The options of a group that torch does not have.
EXTRA_OPTIONS = {name: option for name, option in GROUP_OPTIONS.items() if not option.in_torch}
#: torch's options of a group that the kernel does not have, where they are on.
_TORCH_ONLY = ("differentiable", "capturable")
_FLOATS = (torch.float32, torch.float64)
#: The options that limit or check gradients.
_GRADIENT_OPTIONS = [o for o in OPTIMIZER_OPTIONS.values() if o.core == "GradientTransform"]
#: The options that need state of their own.
_STATE_OPTIONS = tuple(kind.option for kind in KINDS if kind.option)
#: A change of one of these changes the plan.
_followed_of = itemgetter(*GROUP_OPTIONS, *_TORCH_ONLY)
#: Types whose values do not change.
_PLAIN = (float, int, bool, type(None))


@in_fp_environment
def check_extra(
    group: dict[str, Any],
    where: str,
    params: Iterable[Any] = (),
    before: Mapping[str, Any] = MappingProxyType({}),
    states: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Raise an error if an extra option is fixed or out of its bounds; torch checks its own."""
    for name in (*OPTIMIZER_OPTIONS, "in_backward"):
        if name in group:
            raise ValueError(
                f"{where}: {name} belongs to the whole optimizer, not to a group: "
                f"RMSprop(params, {name}={group[name]!r})"
            )
    extra = {name: option.read(name, group[name]) for name, option in EXTRA_OPTIONS.items()}
    check_fixed(before, extra, states, where)
    # The bound of momentum is torch's to check.
    momentum = 0.5 if as_number("momentum", group["momentum"]) > 0 else 0.0
    dtypes = {p.dtype for p in params} & {*_FLOATS} or {torch.float64}
    try:
        core_options({**_core.Options.defaults(), **extra, "momentum": momentum}).validate(
            True, False
        )
        for dtype in dtypes:
            check_start(extra, torch.finfo(dtype).dtype, torch.finfo(dtype).max)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _checked_options(group: dict[str, Any]) -> dict[str, Any]:
    """The options whose changes are checked; a scheduler changes others at every step."""
    options = {name: group[name] for name in (*EXTRA_OPTIONS, *_STATE_OPTIONS)}
    return {**options, "keys": frozenset(group)}


def _followed(groups: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    # With the number of keys: one may have come that does not belong to a group.
    return [(len(group), *_followed_of(group)) for group in groups]


def kernel_options(group: Mapping[str, Any]) -> _core.Options:
    """The options of a group as the kernel takes them, not checked."""
    values = {}
    for name, option in GROUP_OPTIONS.items():
        is_flag = option.read is as_flag  # torch takes anything for a flag
        values[name] = bool(group[name]) if is_flag else as_number(name, group[name])
    return core_options(values)


class Plan:
    """The division of an optimizer's parameters between the kernel and torch.

    It holds as long as the options, the parameters and the tensors of their state stay. It is
    changed only while the stepper is claimed, and a signal may interrupt that anywhere.
    """

    def __init__(self, stepper: _core.TorchStepper) -> None:
        self.stepper = stepper
        #: The ids of parameters that share memory with parameters of other plans.
        self.shared: Set[int] = frozenset()
        #: The place of the first group among all groups of the optimizer.
        self.first = 0
        #: The options of each group, for the kernel.
        self.options: list[_core.Options] = []
        #: The parameters of each group that torch steps.
        self.for_torch: list[list[Any]] = []
        #: Those among them that had neither gradient nor state, so that their kind may change.
        self.waiting: list[Any] = []
        #: By id of a parameter, the tensors in shared memory that the kernel would have to replace.
        self.replacing: dict[int, str] = {}
        #: The parameters that got their first state in the last assignment.
        self.new: list[Any] = []
        #: Whether the assignment was looked at for a warning.
        self.is_examined = False
        #: Whether its parameters are stepped one by one, and not all of them together.
        self.each_alone = False
        #: Whether its steps ask other processes, which have shards of the parameters.
        self.has_peers = False
        #: Not empty once the user was warned; plans of one optimizer share it.
        self.warned: list[bool] = []
        self._given: object = None  # the options as the user gave them
        self._checked: list[dict[str, Any]] = []  # the extra options that were found good
        self._needs: object = None  # all that decides what must be assigned
        self._assigned: object = None  # the same when the kernel was told

    @property
    def by_kernel_alone(self) -> bool:
        """Whether the kernel steps all parameters, and knows them."""
        return self.is_assigned and not any(self.for_torch)

    @property
    def is_assigned(self) -> bool:
        """Whether the kernel knows which parameters it steps."""
        return self._needs is not None and self._needs is self._assigned

    @property
    def is_out_of_date(self) -> bool:
        """Whether the parameters must be divided anew."""
        return not self.is_assigned or any(p.grad is not None for p in self.waiting)

    def has_options_of(self, groups: list[dict[str, Any]]) -> bool:
        """Whether these are the options that the kernel knows."""
        return self._given == _followed(groups)

    def forget_options(self) -> None:
        """The options must be read anew: a setting that they depend on has changed."""
        self._given = None

    def forget_assignment(self) -> None:
        """The kernel must be told anew which parameters it steps."""
        self._assigned = None

    def part(self, index: int, stepper: _core.TorchStepper) -> Plan:
        """A plan for parameters of one group, whose options are checked as far as they are here."""
        part = Plan(stepper)
        part.each_alone = True
        part.warned = self.warned
        part._checked = self._checked[index : index + 1]
        return part

    def successor(self, parts: Mapping[int, Plan]) -> Plan:
        """A new plan, whose options are checked as far as they were here, or in parts since."""
        plan = Plan(self.stepper)
        plan.warned = self.warned
        count = max([len(self._checked), *(index + 1 for index in parts)])
        plan._checked = [self._checked_in(index, parts) for index in range(count)]
        return plan

    def _checked_in(self, index: int, parts: Mapping[int, Plan]) -> dict[str, Any]:
        if index in parts and parts[index]._checked:
            return parts[index]._checked[0]
        return self._checked[index] if index < len(self._checked) else {}

    def accept_options(self, groups: list[dict[str, Any]]) -> None:
        """Take the options of a loaded state for checked: they give it its meaning."""
        self._assigned = self._given = None
        self._checked = [_checked_options(group) for group in groups]

    def follow_options(self, groups: list[dict[str, Any]], state: Any) -> None:
        """Take over the options of all groups if they have changed."""
        given = _followed(groups)
        if given != self._given:
            with private.grad_mode(False), _core.FpEnvironment():
                self._take_options(given, groups, state)

    def _take_options(
        self, given: list[tuple[Any, ...]], groups: list[dict[str, Any]], state: Any
    ) -> None:
        self._given = None
        extra = [_checked_options(group) for group in groups]
        for index, group in enumerate(groups):
            before = self._checked[index] if index < len(self._checked) else {}
            if extra[index] == before:
                continue
            where = f"param_groups[{self.first + index}]"
            check_group_keys(group, where, before.get("keys", ()))
            states = [s for p in group["params"] if (s := state.get(p))]
            check_extra(group, where, group["params"], before, states)
        self._checked = extra
        self.options = [kernel_options(group) for group in groups]
        flush = self.stepper.flush_denormals
        for index, (group, options) in enumerate(zip(groups, self.options, strict=True)):
            if not options.suits(True, flush):  # torch would step it
                check_bounds(group, f"param_groups[{self.first + index}]")
        needs = [
            (
                not any(group[name] for name in _TORCH_ONLY),
                {torch.float32: o.suits(False, flush), torch.float64: o.suits(True, flush)},
                *(bool(group[name]) for name in _STATE_OPTIONS),
            )
            for group, o in zip(groups, self.options, strict=True)
        ]
        if needs != self._needs:
            self._needs = needs  # anew only if it differs: steps compare the objects
        # The value of a tensor or an array can change unnoticed, so such options are read at every
        # step.
        if all(type(value) in _PLAIN for values in given for value in values):
            self._given = given

    @in_fp_environment
    def assign(self, groups: list[dict[str, Any]], state: Any, whole: list[dict[str, Any]]) -> None:
        """Tell the kernel which parameters it steps, and which memory is theirs.

        ``whole`` has all groups of the optimizer, for the names of parameters.
        """
        self._assigned = None
        self.is_examined = False
        if (found := find_shard(self.stepper, groups, self.each_alone)) is not None:
            limit, shard = found
            raise shard_error(limit, name_of(shard, whole))
        self.new = []
        shared = set(self.shared)
        lists = [group["params"] for group in groups]
        while True:
            for_torch: list[list[Any]] = [[] for _ in groups]
            self.replacing = {}
            slots = list(self._slots(groups, state, shared, for_torch))
            # Those that share memory must be updated one after the other.
            more = {id(slots[i][0]) for i in self.stepper.assign(slots, lists, state, self.options)}
            if not more:
                break
            shared |= more
        self.for_torch = for_torch
        self.waiting = [p for ps in for_torch for p in ps if p.grad is None and not state.get(p)]
        self.has_peers = set_peers(self.stepper, [slot[0] for slot in slots], groups)
        self._assigned = self._needs

    def _slots(
        self,
        groups: list[dict[str, Any]],
        state: Any,
        shared: set[int],
        for_torch: list[list[Any]],
    ) -> Iterator[tuple[Any, int, dict[str, Any], dict[str, Any]]]:
        """The parameters for the kernel with their groups and states; others to ``for_torch``."""
        needs: Any = self._needs
        seen = set(shared)
        for index, (group, (usable, by_dtype, *_)) in enumerate(zip(groups, needs, strict=True)):
            for p in group["params"]:
                if usable and by_dtype.get(p.dtype) and id(p) not in seen and self.can_step(p):
                    before, entries = self._state_of(p, group, state)
                    if not (keys := replaced_in_shared(before, entries)):
                        yield p, index, before, entries
                        seen.add(id(p))
                        continue
                    self.replacing[id(p)] = keys
                for_torch[index].append(p)
                seen.add(id(p))

    def can_step(self, p: Any) -> bool:
        """Whether the kernel can step a parameter where it lies, if its options allow it."""
        here = tensor_here(p)
        if here is None or p.is_inference() or here.is_inference():
            return False
        return self.stepper.can_step(p) and not here.is_neg()

    def _state_of(
        self, p: Any, group: dict[str, Any], states: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state of a parameter and its entries for a step; none before its first step."""
        state = states.get(p)
        if not state:
            if p.grad is None:
                return {}, {}
            self.new.append(p)
            state = states[p]  # empty, which means the same as none
        return state, complete(state, p, group, self.stepper)

    def not_for_torch(self, group: dict[str, Any]) -> list[str]:
        """The options in use that torch's implementation does not have."""
        limits = [o.name for o in _GRADIENT_OPTIONS if getattr(self.stepper, o.name) != o.default]
        return [name for name in EXTRA_OPTIONS if group[name]] + limits

    def refuse_for_torch(self, groups: list[dict[str, Any]], whole: list[dict[str, Any]]) -> None:
        """Refuse gradients and options that torch's implementation cannot take.

        ``whole`` has all groups of the optimizer, for the names of parameters.
        """
        for group, params in zip(groups, self.for_torch, strict=True):
            extra = self.not_for_torch(group)
            for p in params:
                if p.grad is None:
                    continue
                if p.grad.layout != torch.strided and p.grad.layout != p.layout:
                    raise RuntimeError("RMSprop does not support sparse gradients")
                if extra:
                    raise ValueError(
                        f"{extra[0]} is not supported for {name_of(p, whole)}, which falls back "
                        f"to torch.optim.RMSprop because {why_for_torch(p, self, group, whole)}"
                    )


def is_other_kind(param: Any) -> bool:
    """Whether a parameter is none that the kernel knows: by its device, dtype or layout."""
    return param.device.type != "cpu" or param.dtype not in _FLOATS or param.layout != torch.strided


def why_for_torch(param: Any, plan: Plan, group: dict[str, Any], whole: list[Any]) -> str:
    """The reason why a plan leaves a parameter to torch, to follow "because"."""
    if keys := plan.replacing.get(id(param)):
        return (
            f"its state lies in shared memory and the kernel needs another {keys}: call "
            "optimizer.share_memory() before the other processes start"
        )
    for name in _TORCH_ONLY:
        if group[name]:
            return f"{name} is set"
    if is_other_kind(param):
        return f"it is {param.dtype}, {param.layout} on {param.device}"
    for name, bound, good in (
        ("eps", "> 0", float(group["eps"]) > 0),
        ("alpha", "< 1", float(group["alpha"]) < 1),
        ("momentum", "< 1", float(group["momentum"]) < 1),
    ):
        if not good:
            return f"the kernel needs {name} {bound}, and it is {group[name]}"
    try:
        flush = plan.stepper.flush_denormals
        kernel_options(group).validate(param.dtype == torch.float64, flush)
    except ValueError as error:
        return f"the kernel refuses an option: {error}"
    return _why_of_memory(param, plan) or _why_shared(param, whole)


def _why_of_memory(param: Any, plan: Plan) -> str | None:
    if plan.can_step(param):
        return None
    here = tensor_here(param)
    if here is None:
        return why_not_here(param)
    if param.is_inference() or here.is_inference():
        return "it is an inference tensor"
    if here.is_neg():
        return "it is a view of negated memory"
    if here.data_ptr() % here.element_size():
        return "its memory is not aligned to its elements"
    return "its memory has gaps or overlaps itself"


def _why_shared(param: Any, whole: list[Any]) -> str:
    params = [p for group in whole for p in group["params"]]
    if sum(p is param for p in params) > 1:
        return "it is given more than once"
    begin, end = _extent(param)
    for p in params:
        if p is not param and not is_other_kind(p) and not is_lazy(p):
            other_begin, other_end = _extent(p)
            if begin < other_end and other_begin < end:
                return f"it shares memory with {name_of(p, whole)}"
    return "it shares memory with another parameter"


def _extent(tensor: Any) -> tuple[int, int]:
    """The addresses of the first element and after the last one."""
    tensor = private.local_of(tensor)
    begin = tensor.data_ptr()
    steps = [(n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return begin, begin + (sum(steps) + 1) * tensor.element_size() * bool(tensor.numel())


def name_of(param: Any, groups: list[dict[str, Any]]) -> str:
    """The place of a parameter in its group, with its name if torch knows it."""
    for index, group in enumerate(groups):
        for i, p in enumerate(group["params"]):
            if p is param:
                names = group.get("param_names")
                name = f" ({names[i]})" if names else ""
                return f"param_groups[{index}]['params'][{i}]{name}"
    raise KeyError(param)
