"""Steps each parameter as soon as backward() has its gradient, and frees the gradient.

A parameter has a stepper and a plan of its own here. All of it happens under the optimizer's claim.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

from fused_rmsprop import _core
from fused_rmsprop.base import nonfinite_error
from fused_rmsprop.options import OPTIMIZER_OPTIONS
from fused_rmsprop.torch import private
from fused_rmsprop.torch.peers import CHANGED
from fused_rmsprop.torch.plan import Plan, name_of
from fused_rmsprop.torch.stepping import step_anew

if TYPE_CHECKING:
    from fused_rmsprop.torch.optimizer import RMSprop

_MODE = "in_backward=True steps each parameter as soon as its gradient is complete"
_NO_GRAD_SCALER = (
    f"{_MODE}: backward() knows neither the scale of a GradScaler nor whether another gradient is "
    "infinite, and has stepped the parameters with scaled gradients. Leave the scaler out, which "
    "autocast to bfloat16 does not need, or set in_backward=False"
)

#: The attributes that a GradScaler gives an optimizer that unscales by itself.
_SCALER_VALUES = ("grad_scale", "found_inf")

_ONE_REFUSED = (
    "its parameter has not changed, and those stepped before it stay stepped; call zero_grad() "
    "before the next backward pass"
)


_AGAIN = (
    "{} was stepped during backward() and has a gradient again; step() would update it a second "
    "time. DistributedDataParallel, which averages gradients later, needs in_backward=False. If an "
    "interrupt left the gradient, call zero_grad()"
)


def check_setting(name: str, value: Any) -> None:
    """Refuse a setting of an optimizer that needs all gradients before the first update."""
    if name == "max_grad_norm" and value is not None:
        raise ValueError(
            f"{_MODE}, and max_grad_norm={value!r} needs the norm of all gradients first: use "
            "max_grad_norm_per_array, which clips each parameter's gradient by its own norm, "
            "max_grad_value, which limits each element, or in_backward=False"
        )
    if name == "on_nonfinite" and value == "skip":
        raise ValueError(
            f"{_MODE}, and on_nonfinite='skip' leaves out a step as a whole, when parameters may "
            "have been stepped already: use on_nonfinite='raise', or in_backward=False"
        )


def check_group(group: dict[str, Any], where: str) -> None:
    """Refuse options of a group that have no meaning during a backward pass."""
    if group["differentiable"]:
        raise ValueError(
            f"{where}: {_MODE}, and differentiable=True would record the update in a graph while "
            "backward() is still reading one: use in_backward=False"
        )


class InBackward:
    """The updates of an optimizer's parameters during backward passes.

    The hooks of the parameters do not keep the optimizer alive. It owns this object, with which
    they end. A round is all the updates that make one step of the training loop.
    """

    def __init__(self, optimizer: RMSprop) -> None:
        #: Another one means that the settings of the optimizer have changed.
        self.settings = object()
        #: The number of threads for the updates of a round; None: each finds its own.
        self.threads: int | None = None
        #: The number of rounds so far.
        self.round = 0
        self._open = False  # whether the last one goes on
        self._largest = 0  # parameter, in bytes
        self._series = _core.SeriesThreads()
        # Not in __del__: the garbage collector would have cleared what a handle refers to.
        self._handles: dict[int, Any] = {}  # of the hooks, by the parameter's id
        weakref.finalize(self, _remove_all, self._handles)
        self._updates: dict[int, _Update] = {}  # by the parameter's id; replaced, never changed
        # A backward pass runs a thread for each kind of device, whose hooks come at any time.
        self._lock = threading.RLock()
        _living.add(self)
        for name in OPTIMIZER_OPTIONS:
            check_setting(name, getattr(optimizer, name))
        for index, group in enumerate(optimizer.param_groups):
            check_group(group, f"param_groups[{index}]")
        self.follow(optimizer)

    def renew_lock(self) -> None:
        """In a forked child, forget a thread that does not exist here."""
        self._lock = threading.RLock()

    @staticmethod
    def refuse_scaler(optimizer: RMSprop) -> None:
        """Raise an error if a GradScaler has called ``step()``; it leaves its values there."""
        values = optimizer.__dict__
        if values.keys() & _SCALER_VALUES:
            for name in _SCALER_VALUES:  # the scaler would take them away only after a step
                values.pop(name, None)
            raise RuntimeError(_NO_GRAD_SCALER)

    @property
    def has_begun(self) -> bool:
        """Whether an update has prepared states but not been made, or torch makes a part of it."""
        return any(
            update.stepper.has_changed_states or any(update.plan.for_torch)
            for update in self._updates.values()
        )

    @property
    def threads_used(self) -> int:
        """The largest number of threads of the parameters' last updates."""
        return max((update.stepper.threads_used for update in self._updates.values()), default=1)

    def follow(self, optimizer: RMSprop) -> None:
        """Take up the parameters that the groups now have; the optimizer is claimed."""
        updates: dict[int, _Update] = {}
        for index, group in enumerate(optimizer.param_groups):
            for position, p in enumerate(group["params"]):
                if update := updates.get(id(p)):
                    update.params.append(p)  # given twice
                    continue
                update = self._updates.get(id(p)) or _Update(p, optimizer, index, self._handles)
                update.index, update.position, update.params = index, position, [p]
                updates[id(p)] = update
        former, self._updates = self._updates, updates
        for key in former.keys() - updates.keys():
            former[key].unhook()
        hook = _hook_of(optimizer)
        for update in updates.values():
            update.hook(hook)
        self._largest = max((_nbytes(update.param) for update in updates.values()), default=0)
        self._find_shared_memory()

    def _find_shared_memory(self) -> None:
        """Leave parameters that share memory to torch, as a step of all of them together does."""
        shared: set[int] = set()
        scratch = private.new_stepper()
        options = [_core.Options(**_core.Options.defaults())]
        none: dict[str, Any] = {}
        able = [u.param for u in self._updates.values() if u.plan.can_step(u.param)]
        while True:
            slots = [(p, 0, none, none) for p in able if id(p) not in shared]
            more = {id(slots[i][0]) for i in scratch.assign(slots, [], {}, options)}
            if not more:
                break
            shared |= more
        for key, update in self._updates.items():
            update.take_memory(frozenset(shared & {key}))

    def last_plans(self) -> dict[int, Plan]:
        """For each group, the plan of the parameter that was updated last."""
        made = sorted((u for u in self._updates.values() if u.round > 0), key=lambda u: u.round)
        return {update.index: update.plan for update in made}

    def update(self, optimizer: RMSprop, param: Any) -> None:
        """Step a parameter whose gradient is complete, and free the gradient."""
        with self._lock, optimizer._stepper.claim():
            update = self._updates.get(id(param))
            if update is None or optimizer._in_backward is not self:  # turned off meanwhile
                return
            if not self._open or update.round == self.round:  # perhaps nobody calls step()
                self._begin_round(optimizer)
            try:
                self._make(param, optimizer)
            except Exception:
                self._end_round(optimizer)
                raise
        if optimizer._watch is not None:
            optimizer._stepper.notify()

    def end(self, optimizer: RMSprop) -> None:
        """End a round of updates that no step has ended; the optimizer is claimed."""
        if self._open:
            self._end_round(optimizer)

    def finish(self, optimizer: RMSprop) -> None:
        """Step the parameters that still have a gradient; the optimizer is claimed."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        updates = [self._updates.get(id(p)) for p in params]
        if not self._open:
            self._begin_round(optimizer)
        try:
            for p, update in zip(params, updates, strict=True):
                if p.grad is not None and update is not None and update.round == self.round:
                    raise RuntimeError(_AGAIN.format(name_of(p, optimizer.param_groups)))
            if not all(update is not None and update.is_hooked for update in updates):
                self.follow(optimizer)
            for p in params:
                if p.grad is not None:
                    self._make(p, optimizer)
        finally:
            self._end_round(optimizer)

    def _make(self, param: Any, optimizer: RMSprop) -> None:
        update = self._updates.get(id(param))
        if update is None or not update.make(optimizer, self):
            self.follow(optimizer)
            update = self._updates.get(id(param))
            if update is not None and not update.make(optimizer, self):
                raise RuntimeError(CHANGED)

    def _begin_round(self, optimizer: RMSprop) -> None:
        self.end(optimizer)
        if optimizer._watch is not None:
            optimizer._watch.begin()
        self.threads = optimizer.threads
        if self._largest >= optimizer._stepper.serial_below_bytes:
            self.threads = self._series.begin(self.threads)
        self._open = True
        self.round += 1

    def _end_round(self, optimizer: RMSprop) -> None:
        self._series.end()
        self._open = False
        if optimizer._watch is not None:
            optimizer._watch.end()


class _Update:
    """The update of one parameter."""

    def __init__(self, param: Any, optimizer: RMSprop, index: int, handles: dict[int, Any]) -> None:
        self.param = param
        self.params = [param]  # once for each time that it was given
        self.index, self.position = index, 0  # where it is in the groups
        self.stepper = private.new_stepper()
        self._loaded = optimizer._plan  # the optimizer has a new one for a loaded state
        self.plan = self._loaded.part(index, self.stepper)
        self._settings: object = None  # not taken over yet
        self._memory: object = None
        self._threads: int | None = None
        self._handles = handles
        #: The round in which it was last made.
        self.round = 0

    def hook(self, hook: Callable[[Any], None]) -> None:
        """Let backward passes call a function, if the parameter can have a gradient of them."""
        if not self.is_hooked:
            handle = self.param.register_post_accumulate_grad_hook(hook)
            self._handles[id(self.param)] = handle

    def unhook(self) -> None:
        """Undo that."""
        handle = self._handles.pop(id(self.param), None)
        if handle is not None:
            handle.remove()

    @property
    def is_hooked(self) -> bool:
        """Whether backward passes call the hook; True if there is nothing to call it for."""
        can_be = self.param.requires_grad and self.param.is_leaf and not is_lazy(self.param)
        return id(self.param) in self._handles or not can_be

    def take_memory(self, shared: frozenset[int]) -> None:
        """Take over whether the parameter, where it now is, shares its memory with another."""
        self._memory = self._memory_now()
        if self.plan.shared != shared:
            self.plan.shared = shared
            self.plan.forget_assignment()

    def _memory_now(self) -> object:
        p = self.param
        if not self.plan.can_step(p):
            return None
        here = private.local_of(p)
        return (here.data_ptr(), here.dtype, here.shape, here.stride())

    def make(self, optimizer: RMSprop, owner: InBackward) -> bool:
        """Step the parameter and free its gradient; False if it is not where it was followed."""
        groups, p = optimizer.param_groups, self.param
        if self.index >= len(groups):
            return False
        group = groups[self.index]
        params = group["params"]
        if self.position >= len(params) or params[self.position] is not p:
            return False
        before, self.round = self.round, owner.round  # first: an interrupt leaves the gradient
        try:
            done = self._step(optimizer, owner, group)
        except Exception:
            self.round = before
            raise
        if not done:
            self.round = before
            return False
        if optimizer._watch is not None:
            optimizer._watch.after(p)
        p.grad = None
        return True

    def _step(self, optimizer: RMSprop, owner: InBackward, group: dict[str, Any]) -> bool:
        """Make all of that but free the gradient."""
        done, plan, p = None, self.plan, self.param
        if self._threads != owner.threads:
            self.stepper.threads = self._threads = owner.threads
        if (
            plan.by_kernel_alone
            and plan.has_options_of([group])
            and self._settings is owner.settings
            and (state := optimizer.state.get(p)) is not None
        ):
            done = self.stepper.step_claimed([self.params], {p: state}, plan.options)
        if done is None:
            if self._memory != self._memory_now():
                return False
            done = self._make_anew(optimizer, owner, group)
        nonfinite, unversioned = done
        if unversioned:
            torch.autograd.graph.increment_version(unversioned)
        if nonfinite is not None:
            what = f"the gradient of {name_of(p, optimizer.param_groups)}"
            grad = p.grad.detach().resolve_neg().numpy()
            raise nonfinite_error(what, grad, _ONE_REFUSED)
        return True

    def _make_anew(
        self, optimizer: RMSprop, owner: InBackward, group: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        check_group(group, f"param_groups[{self.index}]")
        self._take_over(optimizer, owner)
        p = self.param
        state = {p: optimizer.state[p]}
        try:
            with private.grad_mode(False):
                alone = [{**group, "params": self.params}]
                return step_anew(self.plan, alone, state, optimizer.param_groups)
        finally:
            if not state.get(p):
                optimizer.state.pop(p, None)

    def _take_over(self, optimizer: RMSprop, owner: InBackward) -> None:
        """Take over what has changed of the optimizer."""
        if self._loaded is not optimizer._plan:
            loaded = optimizer._plan
            plan = loaded.part(self.index, self.stepper)
            plan.shared = self.plan.shared
            self.plan, self._loaded = plan, loaded
        if self._settings is not owner.settings:
            settings = owner.settings
            self.plan.forget_options()
            self.plan.forget_assignment()
            for name in OPTIMIZER_OPTIONS:
                if name != "threads":
                    setattr(self.stepper, name, getattr(optimizer, name))
            self._settings = settings
        self.plan.first = self.index


def _nbytes(param: Any) -> int:
    return 0 if is_lazy(param) else int(private.local_of(param).nbytes)


def _hook_of(optimizer: RMSprop) -> Callable[[Any], None]:
    reference = weakref.ref(optimizer)

    def update(param: Any) -> None:
        optimizer = reference()
        owner = None if optimizer is None else optimizer._in_backward
        if optimizer is not None and owner is not None:
            owner.update(optimizer, param)

    return update


def _remove_all(handles: dict[int, Any]) -> None:
    for handle in handles.values():
        handle.remove()


_living: weakref.WeakSet[InBackward] = weakref.WeakSet()


def _renew_locks() -> None:
    for each in _living:
        each.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
