"""The class `RMSprop`: torch's arguments and protocols around the kernel's step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.optim.rmsprop import rmsprop

from fused_rmsprop import _core
from fused_rmsprop.base import NO_AVERAGES, Optimizer, nonfinite_error
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.options import GROUP_OPTIONS, OPTIMIZER_OPTIONS
from fused_rmsprop.torch import private
from fused_rmsprop.torch.loading import check_loadable
from fused_rmsprop.torch.plan import EXTRA_OPTIONS, Plan, check_extra, name_of
from fused_rmsprop.torch.state import complete_for_torch, for_torch_too


class RMSprop(Optimizer, torch.optim.RMSprop):
    """A drop-in for `torch.optim.RMSprop` that steps all parameters in one fused pass.

    Arguments, their order, defaults and errors are torch's. So are parameter groups, hooks,
    closures, schedulers and ``state_dict()``; the two classes exchange state in mid-training.
    The kernel updates strided float32 and float64 parameters in CPU memory. Other parameters (on
    another device, of another dtype, with gaps in memory, sharing memory) fall back to torch, and
    so do groups with ``differentiable``, ``capturable``, ``eps=0``, ``alpha >= 1`` or
    ``momentum >= 1``. Extra features are keyword arguments, for the kernel's parameters only.

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
    on_nonfinite : {"propagate", "skip", "raise"}
        The effect of a NaN or an infinity in a gradient: it spreads; the step is skipped, and
        counted in `skipped_steps`; a `FloatingPointError`. For the latter two nothing changes.
    flush_denormals : bool, default True
        Count subnormal numbers as zero, which is many times faster on some processors.
    threads : int, optional
        The number of threads for large steps. None: one or all, whichever is measured to be faster.

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
        max_grad_value: float | None = None,
        on_nonfinite: str = "propagate",
        flush_denormals: bool = True,
        threads: int | None = None,
    ) -> None:
        given = locals()
        self._extra_defaults = {name: given[name] for name in EXTRA_OPTIONS}
        self._set_up()
        for name in OPTIMIZER_OPTIONS:
            setattr(self, name, given[name])
        torchs = inspect.signature(torch.optim.RMSprop).parameters
        super().__init__(**{name: given[name] for name in torchs if name in given})
        self.defaults.update(self._extra_defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see `torch.optim.Optimizer.add_param_group`."""
        with self._stepper.claim():
            if isinstance(param_group, dict):
                group = {**self.defaults, **self._extra_defaults, **param_group}
                check_extra(group, f"param_groups[{len(self.param_groups)}]")
                for name in EXTRA_OPTIONS:
                    param_group.setdefault(name, group[name])
            super().add_param_group(param_group)  # its last action adds the group to the list

    def _set_up(self) -> None:
        private.take_over_amp_scaling(self)
        self._stepper = private.new_stepper()
        self._plan = Plan(self._stepper)

    def _set(self, name: str, value: Any) -> None:
        self._plan.forget_options()  # first, in case a signal comes in between
        super()._set(name, value)
        self._plan.forget_options()  # another thread may have made a step meanwhile

    def __getstate__(self) -> dict[str, Any]:
        with self._reading():
            settings = {**self._settings(), "skipped_steps": self.skipped_steps}
            return {**super().__getstate__(), "_settings": settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with self._stepper.claim() if "_stepper" in self.__dict__ else nullcontext():
            new = object.__new__(type(self))
            new.__dict__.update(self.__dict__)
            new._take_state(dict(state))
            self.__dict__.update(new.__dict__)  # all at once

    def _take_state(self, state: dict[str, Any]) -> None:
        if settings := state.pop("_settings", None):  # unpickled, or copied
            self._set_up()
            for name, value in settings.items():
                setattr(self._stepper, name, value)
            defaults = state["defaults"]
            self._extra_defaults = {n: defaults.get(n, o.default) for n, o in EXTRA_OPTIONS.items()}
        else:  # loaded from a state_dict
            self._keep_extra_options(state)
        super().__setstate__(state)
        self._plan = Plan(self._stepper)
        self._plan.accept_options(self.param_groups)

    def _keep_extra_options(self, loaded: dict[str, Any]) -> None:
        """Keep the options that a loaded state does not have: it is from torch's own optimizer."""
        for index, (group, present) in enumerate(
            zip(loaded["param_groups"], self.param_groups, strict=True)
        ):
            # torch's formula is that of the defaults; the start of its averages is unknown.
            before = {
                n: group.get(n, o.default) for n, o in EXTRA_OPTIONS.items() if o.core or n in group
            }
            for name in EXTRA_OPTIONS:
                group.setdefault(name, present[name])
            where = f"the state to be loaded into param_groups[{index}]"
            states = [s for p in group["params"] if (s := loaded["state"].get(p))]
            check_extra(group, where, before=before, states=states)

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
        state_dict = dict(super().state_dict())
        with _core.FpEnvironment():
            state_dict["state"] = {k: for_torch_too(s) for k, s in state_dict["state"].items()}
        return state_dict

    @in_fp_environment
    def load_state_dict(self, state_dict: Any) -> None:
        """Load a state of this class or of torch's; see `torch.optim.Optimizer.load_state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it does not fit. Nothing has changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"a state_dict is a dict, got {type(state_dict).__name__}")
        with self.register_load_state_dict_pre_hook(check_loadable):  # after the user's own
            super().load_state_dict(state_dict)

    def _reading(self) -> _core.Claim:
        """Whoever reads must not do so while another thread changes something.

        Code that a step of this thread runs, such as a signal handler, may read: the kernel writes
        everything in one call. But not once states are made ready for it, nor where torch has a
        part of the step, which may be made.
        """
        begun = self._stepper.has_changed_states or any(self._plan.for_torch)
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
        The closure's loss, or None.

        Raises
        ------
        RuntimeError
            If a gradient is sparse (nothing has changed then), or another thread is in the middle
            of a step of this optimizer, or inside `use_ema`.
        FloatingPointError
            With ``on_nonfinite="raise"``, if a gradient is NaN or infinite. Nothing has changed.
        """
        try:
            found_inf = getattr(self, "found_inf", 0)  # set by GradScaler, like grad_scale
            if float(found_inf) > 0:
                return None
            # torch would wrap this method in what hooks and its profiler need, which takes as long
            # as a step of a hundred tensors. (Around a subclass's own step torch has put it.)
            if type(self).step is RMSprop.step and private.is_observed(self):
                return self._observed_step(*args, **kwargs)
            return self._step(*args, **kwargs)
        except BaseException:  # GradScaler takes its scale away only after a step
            try:
                self.__dict__.pop("grad_scale", None)
            finally:  # also after a signal
                self.__dict__.pop("found_inf", None)
            raise

    step.__signature__ = inspect.signature(torch.optim.RMSprop.step)  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with self._stepper.claim():
                pass  # refuse before the closure runs
            with private.grad_mode(True):
                loss = closure()
        loss_scale = getattr(self, "grad_scale", None)
        grad_scale = 1.0
        if loss_scale is not None:
            with _core.FpEnvironment():
                grad_scale = 1.0 / float(loss_scale)

        plan, groups = self._plan, self.param_groups
        done = None
        if plan.by_kernel_alone and plan.has_options_of(groups):
            lists = [group["params"] for group in groups]
            done = self._stepper.step(lists, self.state, plan.options, grad_scale)
        if done is None:  # something has changed since the assignment
            done = self._step_anew(grad_scale)
        nonfinite, unversioned = done
        if unversioned:
            torch.autograd.graph.increment_version(unversioned)
        if nonfinite is not None:
            what = f"the gradient of {name_of(nonfinite, self.param_groups)}"
            raise nonfinite_error(what, nonfinite.grad.detach().resolve_neg().numpy())
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    def _step_anew(self, grad_scale: float) -> tuple[Any, list[Any]]:
        """Make a step with new options or a new assignment, or one of which torch does a part."""
        with self._stepper.claim(), private.grad_mode(self.defaults["differentiable"]):
            try:
                return self._step_claimed(grad_scale)
            finally:
                self._stepper.abandon()  # unless it was made
                # Remove states that are still empty. If a signal leaves one, it means the same as
                # none.
                for p in self._plan.new:
                    if not self.state.get(p):
                        self.state.pop(p, None)
                self._plan.new = []

    def _step_claimed(self, grad_scale: float) -> tuple[Any, list[Any]]:
        plan, groups = self._plan, self.param_groups
        plan.follow_options(groups, self.state)
        given = [group["params"] for group in groups], self.state, plan.options
        if plan.by_kernel_alone:
            done = self._stepper.step_claimed(*given, grad_scale)
            if done is not None:
                return done
            plan.assign(groups, self.state)
        elif not plan.is_assigned:
            plan.assign(groups, self.state)
        if any(plan.for_torch):
            if not self._stepper.read(*given):  # so that errors come before torch's part
                plan.assign(groups, self.state)
                if not self._stepper.read(*given):
                    raise RuntimeError(_CHANGED)
            plan.refuse_for_torch(groups, getattr(self, "grad_scale", None) is not None)
            for group, params in zip(groups, plan.for_torch, strict=True):
                if with_grad := [p for p in params if p.grad is not None]:
                    self._step_by_torch(with_grad, group, grad_scale)
        done = self._stepper.step_claimed(*given, grad_scale)
        if done is None:  # torch's part made new state, or moved memory
            plan.assign(groups, self.state)
            done = self._stepper.step_claimed(*given, grad_scale)
            if done is None:
                raise RuntimeError(_CHANGED)
        return done

    def _step_by_torch(self, params: list[Any], group: dict[str, Any], grad_scale: float) -> None:
        """One step of parameters as `torch.optim.RMSprop` makes it."""
        with _core.FpEnvironment():  # but for torch's own step, which takes the user's
            for p in params:
                complete_for_torch(self.state[p], p, group)
            grads = [p.grad if grad_scale == 1 else p.grad * grad_scale for p in params]
        states = [self.state[p] for p in params]
        momentum, centered = group["momentum"] > 0, group["centered"]
        own = [name for name, option in GROUP_OPTIONS.items() if option.in_torch]
        names = (*own, "foreach", "differentiable", "capturable")
        rmsprop(
            params,
            grads,
            [state["square_avg"] for state in states],
            [state["grad_avg"] for state in states] if centered else [],
            [state["momentum_buffer"] for state in states] if momentum else [],
            [state["step"] for state in states],
            has_complex=any(torch.is_complex(p) for p in params),
            **{name: group[name] for name in names},
        )

    def use_ema(self) -> AbstractContextManager[None]:
        """Inside a ``with``, the parameters hold their running averages.

        Their trained values come back at the end, also after an error. A parameter without a
        gradient so far has no average and stays as it is. Values written meanwhile are lost; the
        optimizer refuses to step, to be saved, loaded and copied.

        Raises
        ------
        ValueError
            If no parameter group has an ``ema_decay``.
        RuntimeError
            If it is in use already.

        Examples
        --------
        >>> import torch
        >>> from fused_rmsprop.torch import RMSprop
        >>> p = torch.ones(1, requires_grad=True)
        >>> optimizer = RMSprop([p], lr=0.1, ema_decay=0.5)
        >>> p.sum().backward()
        >>> optimizer.step()
        >>> with optimizer.use_ema():
        ...     print(round(p.item(), 3))
        0.5
        >>> print(round(p.item(), 3))
        0.0
        """
        self._with_averages()  # so that a mistake is an error here, and not of the `with`
        return _core.ShownAverages(self._stepper, self._averages)

    def _with_averages(self) -> list[dict[str, Any]]:
        groups = [group for group in self.param_groups if group["ema_decay"]]
        if not groups:
            raise ValueError(NO_AVERAGES)
        return groups

    def _averages(self) -> list[tuple[Any, Any]]:
        return [
            (p, state["param_avg"])
            for group in self._with_averages()
            for p in group["params"]
            if "param_avg" in (state := self.state.get(p, {}))
        ]


_CHANGED = "parameters or their state changed during the step"
