"""The class `RMSprop`: torch's arguments and protocols around the kernel's step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from fused_rmsprop import _core
from fused_rmsprop.base import (
    Optimizer,
    helps_with_options,
    warn_of_spreading,
)
from fused_rmsprop.options import OPTIMIZER_OPTIONS
from fused_rmsprop.torch import private
from fused_rmsprop.torch.attributes import (
    check_attribute,
    check_closure,
    check_given,
    check_group_keys,
)
from fused_rmsprop.torch.averages import Averages
from fused_rmsprop.torch.in_backward import InBackward, check_group, check_setting
from fused_rmsprop.torch.inspection import Inspected
from fused_rmsprop.torch.loading import keep_extra_options
from fused_rmsprop.torch.partial import LoadedByName
from fused_rmsprop.torch.plan import EXTRA_OPTIONS, Plan, check_extra, name_of
from fused_rmsprop.torch.shards import nonfinite_gradient
from fused_rmsprop.torch.sharing import SharesMemory
from fused_rmsprop.torch.state import for_torch_too
from fused_rmsprop.torch.stepping import step_anew
from fused_rmsprop.torch.values import check_bounds
from fused_rmsprop.values import as_flag


@private.answers_grad_scaler(lambda optimizer: optimizer.in_backward)
class RMSprop(Inspected, LoadedByName, Averages, SharesMemory, Optimizer, torch.optim.RMSprop):
    """A drop-in for `torch.optim.RMSprop` that steps all parameters in one fused pass.

    Arguments, their order, defaults and errors are torch's. So are parameter groups, hooks,
    closures, schedulers and ``state_dict()``; the two classes exchange state in mid-training.
    The kernel updates strided float32 and float64 parameters in CPU memory, and the shards of
    DTensors there. Other parameters (on another device, of another dtype, with gaps in memory,
    sharing memory) fall back to torch, and so do groups with ``differentiable``, ``capturable``,
    ``eps=0``, ``alpha=1`` or ``momentum >= 1``. Extra features are keyword arguments, for the
    kernel's parameters only.

    Parameters
    ----------
    params : iterable of tensors, of (name, tensor), or of dicts
        As for every torch optimizer.
    lr, alpha, eps, weight_decay, momentum, centered, maximize
        As for `torch.optim.RMSprop`; ``lr`` may be a tensor.
    capturable, differentiable, foreach
        For torch's own implementation.
    nesterov, eps_inside_sqrt, lr_in_momentum, decoupled_weight_decay, bias_correction : bool
        As in `fused_rmsprop.RMSProp`, which has the formulas; by default False.
    initial_square_avg : float, default 0
        The initial value of ``square_avg``.
    ema_decay : float, default 0
        Share that a step keeps of a running average of the parameters, which starts as a copy of
        them; 0 for none. See `use_ema`.
    max_grad_norm, max_grad_value : float, optional
        Limit the 2-norm of all gradients together, and each element, as
        `torch.nn.utils.clip_grad_norm_` (without its 1e-6) and ``clip_grad_value_`` do before a
        step. The gradients are not changed. `grad_norm` is the norm of the last step.
    max_grad_norm_per_array : float, optional
        Limit the 2-norm of each parameter's gradient, before `max_grad_norm`.
    on_nonfinite : {"propagate", "skip", "raise"}
        The effect of a NaN or an infinity in a gradient: it spreads; the step is skipped, and
        counted in `skipped_steps`; a `FloatingPointError`. For the latter two nothing changes
        (with `in_backward`, only the parameter itself does not).
    flush_denormals : bool, default True
        Count subnormal numbers as zero, which is many times faster on some processors.
    threads : int, optional
        The number of threads for large steps. None: one or all, whichever is measured to be faster.
    in_backward : bool, default False
        Step each parameter during ``loss.backward()``, as soon as its gradient is complete, and
        free the gradient. The training loop stays the same. See `in_backward`.

    Notes
    -----
    A centered state holds the running ``variance`` itself; torch's ``square_avg - grad_avg**2``
    cancels and becomes NaN under a large steady gradient. ``state_dict()`` has both. Results differ
    from torch's in the last bits: torch's depend on the processor, these are NumPy's.

    Examples
    --------
    >>> import torch
    >>> from fused_rmsprop.torch import RMSprop
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = RMSprop(model.parameters(), lr=0.01)
    >>> model(torch.ones(4, 2)).sum().backward()
    >>> optimizer.step()
    """

    state: Any  # by parameter, dicts of tensors
    _stepper: _core.TorchStepper
    _plan: Plan
    #: Shows to monitors the steps that the kernel does not make as a whole.
    _watch: Any = None
    _in_backward: InBackward | None

    @helps_with_options
    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        nesterov: bool = False,
        eps_inside_sqrt: bool = False,
        lr_in_momentum: bool = False,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = False,
        initial_square_avg: float = 0.0,
        ema_decay: float = 0.0,
        max_grad_norm: float | None = None,
        max_grad_norm_per_array: float | None = None,
        max_grad_value: float | None = None,
        on_nonfinite: str = "propagate",
        flush_denormals: bool = True,
        threads: int | None = None,
        in_backward: bool = False,
    ) -> None:
        given = locals()
        check_given(given)
        self._extra_defaults = {name: given[name] for name in EXTRA_OPTIONS}
        self._set_up()
        for name in OPTIMIZER_OPTIONS:
            setattr(self, name, given[name])
        torchs = inspect.signature(torch.optim.RMSprop).parameters
        super().__init__(**{name: given[name] for name in torchs if name in given})
        self.defaults.update(self._extra_defaults)
        self.in_backward = in_backward

    # help() shows types, not their names.
    __init__.__signature__ = inspect.signature(__init__, eval_str=True)  # type: ignore[attr-defined]

    @property
    def in_backward(self) -> bool:
        """Whether backward passes step the parameters; it can be set.

        Each parameter is stepped when its gradient is complete, and the gradient is freed.
        ``step()`` then steps the parameters that still have a gradient. Several backward passes
        make several updates; to accumulate gradients over them, turn this off for all but the last.

        Raises
        ------
        ValueError
            If it is turned on with ``max_grad_norm``, ``on_nonfinite="skip"`` or
            ``differentiable``.
        """
        return self._in_backward is not None

    @in_backward.setter
    def in_backward(self, value: bool) -> None:
        if as_flag("in_backward", value) == self.in_backward:
            return
        with self._stepper.claim():
            former = self._in_backward
            if former is None:
                new = InBackward(self)
                self._plan.forget_assignment()  # so that no step takes the short way
                self._in_backward = new
            else:
                former.end(self)
                self._plan = self._plan.successor(former.last_plans())
                self._in_backward = None

    @property
    def grad_norm(self) -> float | None:
        """The norm of the last step, as in `fused_rmsprop.RMSProp`; None with `in_backward`."""
        return None if self.in_backward else super().grad_norm

    @property
    def threads_used(self) -> int:
        """How many threads the last step used; with `in_backward`, the most for one parameter."""
        parts = self._in_backward
        return super().threads_used if parts is None else parts.threads_used

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see `torch.optim.Optimizer.add_param_group`."""
        with self._stepper.claim():
            if isinstance(param_group, dict):
                where = f"param_groups[{len(self.param_groups)}]"
                check_group_keys(param_group, where)
                group = {**self.defaults, **self._extra_defaults, **param_group}
                check_extra(group, where)
                with private.grad_mode(False):
                    check_bounds(group, where)
                if self._in_backward is not None:
                    check_group(group, where)
                for name in EXTRA_OPTIONS:
                    param_group.setdefault(name, group[name])
            super().add_param_group(param_group)  # its last action adds the group to the list
            if self._in_backward is not None:
                self._in_backward.follow(self)

    def _set_up(self) -> None:
        self._stepper = private.new_stepper()
        self._plan = Plan(self._stepper)
        self._in_backward = None

    def _set(self, name: str, value: Any) -> None:
        if self.in_backward:
            check_setting(name, value)
        self._forget_settings()  # first, in case a signal comes in between
        super()._set(name, value)
        self._forget_settings()  # another thread may have made a step meanwhile

    def _forget_settings(self) -> None:
        self._plan.forget_options()
        self._plan.forget_assignment()  # which depends on limits where parameters are shards
        if (owner := self._in_backward) is not None:
            owner.settings = object()

    def __getstate__(self) -> dict[str, Any]:
        with self._reading():
            settings = {**self._settings(), "skipped_steps": self.skipped_steps}
            beside = {"_settings": settings, "_in_backward": self.in_backward}
            return {**super().__getstate__(), **beside}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with self._stepper.claim() if "_stepper" in self.__dict__ else nullcontext():
            new = object.__new__(type(self))
            new.__dict__.update(self.__dict__)
            state = dict(state)
            in_backward = state.pop("_in_backward", None)
            new._take_state(state)
            self.__dict__.update(new.__dict__)  # all at once
            if self._watch is not None:
                self._watch.follow()
        if in_backward is not None:  # unpickled, or copied
            self.in_backward = in_backward

    def _take_state(self, state: dict[str, Any]) -> None:
        if settings := state.pop("_settings", None):  # unpickled, or copied
            self._set_up()
            for name, value in settings.items():
                setattr(self._stepper, name, value)
            defaults = state["defaults"]
            self._extra_defaults = {n: defaults.get(n, o.default) for n, o in EXTRA_OPTIONS.items()}
        else:  # loaded from a state_dict
            keep_extra_options(state, self.param_groups)
        super().__setstate__(state)
        former, self._plan = self._plan, Plan(self._stepper)
        self._plan.warned = former.warned
        self._plan.accept_options(self.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's layout; see `torch.optim.Optimizer.state_dict`.

        A centered parameter also has its ``variance``, because ``square_avg`` loses its last bits.

        Raises
        ------
        RuntimeError
            In the middle of a step, or inside `use_ema`, where the model has its averages. A
            signal handler within a step gets the state before it or after, unless the step has
            begun to change states.
        """
        with self._reading():
            pass
        # optimizer.state[0] makes a state of this key, which torch would save as a parameter's.
        for key in [k for k, state in self.state.items() if type(k) is int and state == {}]:
            del self.state[key]
        state_dict = dict(super().state_dict())
        with _core.FpEnvironment():
            state_dict["state"] = {k: for_torch_too(s) for k, s in state_dict["state"].items()}
        return state_dict

    def __setattr__(self, name: str, value: Any) -> None:
        if type(self) is RMSprop:
            check_attribute(self, name)
        super().__setattr__(name, value)

    def _reading(self) -> _core.Claim:
        """Whoever reads must not do so while another thread changes something.

        Code that a step of this thread runs, such as a signal handler, may read: the kernel writes
        everything in one call. But not once states are made ready for it, nor where torch has a
        part of the step, which may be made.
        """
        begun = self._stepper.has_changed_states or any(self._plan.for_torch)
        if (owner := self._in_backward) is not None:
            begun = begun or owner.has_begun
        return self._stepper.claim() if begun else self._stepper.reading()

    @private.wrapped_already
    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Perform a single optimization step.

        Parameters
        ----------
        closure : callable, optional
            Reevaluates the model and returns the loss.

        Returns
        -------
        object
            The closure's loss, or None.

        Raises
        ------
        RuntimeError
            If a gradient is sparse (nothing has changed then), or another thread is in the middle
            of a step of this optimizer, or inside `use_ema`. With `in_backward`, also if a
            GradScaler is used, or a parameter has a gradient again after its update.
        FloatingPointError
            With ``on_nonfinite="raise"``, if a gradient is NaN or infinite, or its square
            overflows. Nothing has changed.
        """
        if self._in_backward is not None:
            self._in_backward.refuse_scaler(self)
        # torch would wrap this method in what hooks and its profiler need, which takes as long
        # as a step of a hundred tensors. (Around a subclass's own step torch has put it.)
        if type(self).step is RMSprop.step and private.is_observed(self):
            return self._observed_step(*args, **kwargs)
        return self._step(*args, **kwargs)

    step.__signature__ = inspect.signature(torch.optim.RMSprop.step)  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            check_closure(closure)
            with self._stepper.claim():
                pass  # refuse before the closure runs
            with private.grad_mode(True):
                loss = closure()
        self._step_all()
        if self._watch is not None and self._watch.at_once:
            self._stepper.notify()
        return loss

    def _step_all(self) -> None:
        plan, groups = self._plan, self.param_groups
        done = None
        if plan.by_kernel_alone and plan.has_options_of(groups):
            lists = [group["params"] for group in groups]
            done = self._stepper.step(lists, self.state, plan.options)
        if done is None:  # something has changed since the assignment
            done = self._step_anew()
        nonfinite, unversioned = done
        if unversioned:
            torch.autograd.graph.increment_version(unversioned)
        if nonfinite is not None:
            name = name_of(nonfinite, self.param_groups)
            if self.on_nonfinite == "propagate":
                warn_of_spreading(f"the gradient of {name}", self._stepper)
                self._step_all()
                return
            raise nonfinite_gradient(nonfinite, name, self._plan.has_peers)

    _step.__qualname__ = "RMSprop.step"  # in Python's errors about its arguments
    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    def _step_anew(self) -> tuple[Any, list[Any]]:
        """Make a step with new options or a new assignment, or one of which torch does a part."""
        if self._watch is not None and self._in_backward is None:
            self._stepper.notify()
            self._stepper.prepare_samplers()
        with self._stepper.claim(), private.grad_mode(self.defaults["differentiable"]):
            if self._in_backward is not None:
                self._in_backward.finish(self)
                done = None, list[Any]()
            else:
                groups = self.param_groups
                done = step_anew(self._plan, groups, self.state, groups, self._watch)
        return done
