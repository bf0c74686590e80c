"""`torch.optim.RMSprop` with the fused kernel, for parameters that live on the CPU.

Needs torch, which ``import fused_rmsprop`` does not import.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
    _use_grad_for_differentiable,
)
from torch.optim.rmsprop import rmsprop

from fused_rmsprop import _core
from fused_rmsprop.options import as_flag
from fused_rmsprop.settings import Settings
from fused_rmsprop.torch_options import (
    OPTIONS,
    OWN,
    WHOLE,
    check_meaning,
    check_own,
    kernel_options,
    unlike_kernel,
)
from fused_rmsprop.torch_state import as_torch_has_it, complete, for_torch_too, in_order, replace

__all__ = ["RMSprop"]

_C_FUNCTIONS = True  # whether to read tensors through torch's C functions where it has them
_STATE = ("step", "square_avg", "momentum_buffer", "grad_avg", "param_avg")
_CENTERED = ("step", "variance", *_STATE[2:])


class RMSprop(Settings, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, one fused pass over all parameters at once.

    A drop-in: the arguments, their order, defaults and errors are torch's, and so are parameter
    groups, hooks, closures, learning-rate schedulers and ``state_dict()``, which the two classes
    exchange in mid-training. Strided float32 and float64 parameters in the CPU's memory are updated
    by the kernel where they lie; all others (another device or dtype, memory with gaps or shared
    between parameters), and groups with options that it does not take
    (``differentiable``, ``capturable``, ``eps=0``, ``alpha >= 1``, ``momentum >= 1``), by torch.

    Parameters
    ----------
    params : iterable of tensors, of (name, tensor), or of dicts
        What to optimize, as for every torch optimizer.
    lr, alpha, eps, weight_decay, momentum, centered, maximize
        As for `torch.optim.RMSprop`; ``lr`` may be a tensor.
    capturable, differentiable
        Left to torch's own implementation.
    foreach : bool, optional
        How torch updates what the kernel does not; the kernel takes all tensors together anyway.
    nesterov, eps_inside_sqrt, lr_in_momentum, decoupled_weight_decay, bias_correction : bool
        As in `fused_rmsprop.RMSProp`, which has the formulas; by default False. Only the kernel
        knows them.
    initial_square_avg : float, default 0
        What ``square_avg`` starts from.
    ema_decay : float, default 0
        Share that a step keeps of a running average of the parameters, which starts as a copy of
        them; 0 for none. See `use_ema`.
    max_grad_norm, max_grad_value : float, optional
        What the 2-norm of all gradients together, and each of their elements, is limited to, as by
        `torch.nn.utils.clip_grad_norm_` and ``clip_grad_value_`` before the step, but for the 1e-6
        that torch adds to the norm; the gradients are left as they are. The norm of the last step
        is in `grad_norm`.
    on_nonfinite : {"propagate", "skip", "raise"}
        What a NaN or an infinity in a gradient does: spreads; has the step left out and counted in
        `skipped_steps`; raises. In the latter two nothing changes, not even the step count.
    flush_denormals : bool, default True
        Whether subnormal numbers count as zero, which is many times faster on some processors.
    threads : int, optional
        How many threads work on large steps. None: one or all, whichever the optimizer measures to
        be faster in this loop.

    Notes
    -----
    Centered, the state holds ``variance``, the running variance itself; torch's
    ``square_avg - grad_avg**2`` cancels and becomes NaN under a large steady gradient. In
    ``state_dict()`` it is torch's ``square_avg`` again. Results differ from torch's in the last
    bits: torch's depend on the processor, these do not (they are NumPy's).

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
    _stepper: _core.TensorStepper

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
        self._own_defaults = {
            "nesterov": nesterov,
            "eps_inside_sqrt": eps_inside_sqrt,
            "lr_in_momentum": lr_in_momentum,
            "decoupled_weight_decay": decoupled_weight_decay,
            "bias_correction": bias_correction,
            "initial_square_avg": initial_square_avg,
            "ema_decay": ema_decay,
        }
        self._set_up()
        self.max_grad_norm = max_grad_norm
        self.max_grad_value = max_grad_value
        self.on_nonfinite = on_nonfinite
        self.flush_denormals = flush_denormals
        self.threads = threads
        super().__init__(
            params,
            lr,
            alpha,
            eps,
            weight_decay,
            momentum,
            centered,
            capturable,
            foreach,
            maximize,
            differentiable,
        )
        self.defaults.update(self._own_defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see `torch.optim.Optimizer.add_param_group`."""
        if isinstance(param_group, dict):
            group = {**self.defaults, **self._own_defaults, **param_group}
            check_own(group, f"param_groups[{len(self.param_groups)}]")
            for name in OWN:
                param_group.setdefault(name, group[name])
        super().add_param_group(param_group)

    def _set_up(self) -> None:
        # GradScaler then leaves unscaling and skipping to step().
        self._step_supports_amp_scaling = True
        this = weakref.ref(self)  # without a cycle its memory is free at once
        self._stepper = _core.TensorStepper(
            torch.empty(0),
            _C_FUNCTIONS,
            in_order,
            torch.autograd.graph.increment_version,
            lambda param: this()._raise_nonfinite(param),  # type: ignore[union-attr]
        )
        self._showing_averages = False
        self._given: object = None  # the options that _options and _suits were made of
        self._options: list[_core.Options] = []
        self._checked: list[dict[str, Any]] = []  # the options of groups that were found good
        self._suits: object = None
        self._plan: object = None  # what the kernel was told to step
        self._for_torch: list[list[Any]] = []  # the other parameters, by group

    @property
    def flush_denormals(self) -> bool:
        """Whether subnormal numbers count as zero during a step."""
        return self._stepper.flush_denormals

    @flush_denormals.setter
    def flush_denormals(self, value: bool) -> None:
        self._stepper.flush_denormals = as_flag("flush_denormals", value)
        self._given = None  # what the kernel takes depends on it

    def __getstate__(self) -> dict[str, Any]:
        if self._showing_averages:
            raise RuntimeError(_SHOWING)
        settings = {name: getattr(self._stepper, name) for name in (*WHOLE, "skipped_steps")}
        return {**super().__getstate__(), "_settings": settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if settings := state.pop("_settings", None):  # unpickled, or copied
            self._set_up()
            for name, value in settings.items():
                setattr(self._stepper, name, value)
            self._own_defaults = {n: state["defaults"].get(n, value) for n, value in OWN.items()}
        else:  # loaded from a state_dict
            self._merge_own(state)
        super().__setstate__(state)
        self._plan = None
        self._checked = []

    def _merge_own(self, loaded: dict[str, Any]) -> None:
        """Keep the options that a loaded state does not have: it is from torch's own optimizer."""
        for index, (group, present) in enumerate(
            zip(loaded["param_groups"], self.param_groups, strict=True)
        ):
            torchs = {name: group.get(name, default) for name, default in OWN.items()}
            for name in OWN:
                group.setdefault(name, present[name])
            where = f"param_groups[{index}]"
            states = [s for p in group["params"] if (s := loaded["state"].get(p))]
            check_meaning(group, torchs, states, f"what is to be loaded into {where}")
            check_own(group, f"what is to be loaded into {where}")

    def state_dict(self) -> dict[str, Any]:
        """The state as `torch.optim.RMSprop` has it; see `torch.optim.Optimizer.state_dict`.

        Where it is centered, each parameter also has its ``variance``, whose last bits
        ``square_avg`` cannot hold.
        """
        state_dict = dict(super().state_dict())
        state_dict["state"] = {k: for_torch_too(s) for k, s in state_dict["state"].items()}
        return state_dict

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
            if type(self).step is RMSprop.step and self._is_observed():
                return self._observed_step(*args, **kwargs)
            return self._step(*args, **kwargs)
        except BaseException:  # GradScaler takes its scale away only after a step
            for name in ("found_inf", "grad_scale"):
                self.__dict__.pop(name, None)
            raise

    step.hooked = True  # type: ignore[attr-defined]  # so torch leaves it alone
    step.__signature__ = inspect.signature(torch.optim.RMSprop.step)  # type: ignore[attr-defined]

    def _is_observed(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        )

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        if self._showing_averages:
            raise RuntimeError(_SHOWING)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        loss_scale = getattr(self, "grad_scale", None)
        grad_scale = 1.0 if loss_scale is None else 1.0 / float(loss_scale)

        given = [tuple(group[name] for name in OPTIONS) for group in self.param_groups]
        if given != self._given:
            self._take_options(given)
        lists = [group["params"] for group in self.param_groups]
        # False where anything is not as it was when the kernel was told of it.
        if (
            self._suits != self._plan
            or any(self._for_torch)
            or not self._stepper.step(lists, self.state, self._options, grad_scale)
        ):
            self._step_anew(lists, grad_scale)
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    @torch.no_grad()
    def _take_options(self, given: list[tuple[Any, ...]]) -> None:
        own = [{name: g[name] for name in (*OWN, "momentum")} for g in self.param_groups]
        for index, group in enumerate(self.param_groups):
            before = self._checked[index] if index < len(self._checked) else None
            if own[index] == before:  # a scheduler changes others at every step
                continue
            where = f"param_groups[{index}]"
            check_own(group, where, group["params"])
            if before is not None:
                states = [s for p in group["params"] if (s := self.state.get(p))]
                check_meaning(group, before, states, where)
        self._checked = own
        self._options = [kernel_options(group) for group in self.param_groups]
        self._suits = self._find_suits(self._options)
        # A tensor's value can change without anyone noticing: it is read at every step.
        tensors = any(isinstance(value, torch.Tensor) for values in given for value in values)
        self._given = None if tensors else given

    @_use_grad_for_differentiable
    def _step_anew(self, lists: list[list[Any]], grad_scale: float) -> None:
        """A step for which something must be assigned anew, or of which torch does a part."""
        self._stepper.acquire()
        new = [p for params in lists for p in params if not self.state.get(p)]
        skipped = self._stepper.skipped_steps
        made = False
        try:
            self._step_claimed(lists, grad_scale)
            made = self._stepper.skipped_steps == skipped
        finally:
            if not made:  # and so nothing has changed
                for p in new:
                    self.state.pop(p, None)
                self._plan = None
            self._stepper.release()

    def _step_claimed(self, lists: list[list[Any]], grad_scale: float) -> None:
        given = lists, self.state, self._options
        if not (any(self._for_torch) and self._suits == self._plan and self._stepper.read(*given)):
            self._assign(self._suits)
            if not self._stepper.read(*given):
                raise RuntimeError(_CHANGED)
        self._refuse_for_torch()
        for group, params in zip(self.param_groups, self._for_torch, strict=True):
            if params:
                self._step_by_torch({**group, "params": params}, grad_scale)
        if not self._stepper.step(*given, grad_scale):
            self._assign(self._suits)  # torch's part made new state
            if not self._stepper.step(*given, grad_scale):
                raise RuntimeError(_CHANGED)

    def _find_suits(self, options: list[_core.Options]) -> object:
        """What decides which parameters the kernel takes and which state they need."""
        flush = self._stepper.flush_denormals
        return [
            (
                not (group["differentiable"] or group["capturable"]),
                {torch.float32: o.suits(False, flush), torch.float64: o.suits(True, flush)},
                group["momentum"] > 0,
                bool(group["centered"]),
                group["ema_decay"] > 0,
            )
            for group, o in zip(self.param_groups, options, strict=True)
        ]

    def _assign(self, suits: Any) -> None:
        """Tell the kernel which parameters it steps, and which memory is theirs."""
        self._plan = None
        shared: set[int] = set()
        while True:
            self._for_torch = [[] for _ in self.param_groups]
            slots = list(self._slots(suits, shared))
            lists = [group["params"] for group in self.param_groups]
            # Those that share memory must be updated one after the other.
            more = {id(slots[i][0]) for i in self._stepper.assign(slots, lists, self.state)}
            if not more:
                break
            shared |= more
        self._plan = suits

    def _slots(self, suits: Any, shared: set[int]) -> Iterator[tuple[Any, ...]]:
        """What `TensorStepper.assign` takes; fills ``_for_torch`` with all other parameters."""
        seen = set(shared)
        for index, (group, (usable, by_dtype, *_)) in enumerate(
            zip(self.param_groups, suits, strict=True)
        ):
            for p in group["params"]:
                if usable and by_dtype.get(p.dtype) and id(p) not in seen and self._kernel_can(p):
                    state = self._kernel_state(p, group)
                    keys = _CENTERED if group["centered"] else _STATE
                    yield p, index, state, *(state.get(key) for key in keys)
                else:
                    self._for_torch[index].append(p)
                seen.add(id(p))

    def _kernel_can(self, p: Any) -> bool:
        plain = type(p).__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl
        return plain and not p.is_inference() and self._stepper.can_step(p) and not p.is_neg()

    def _kernel_state(self, p: Any, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter with all that the kernel needs; empty before its first step."""
        if not self.state.get(p) and p.grad is None:
            return {}
        state: dict[str, Any] = self.state[p]
        complete(state, p, group, self._stepper.same_order)
        return state

    def _refuse_for_torch(self) -> None:
        """Refuse what torch's implementation cannot do, before anything has changed."""
        settings = [name for name in _LIMITS if getattr(self, name) not in (None, "propagate")]
        scaled = getattr(self, "grad_scale", None) is not None
        for group, params in zip(self.param_groups, self._for_torch, strict=True):
            own = [name for name in OWN if group[name]] + settings
            for p in params:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("RMSprop does not support sparse gradients")
                if scaled and p.grad.dtype == torch.float16:
                    raise ValueError("Attempting to unscale FP16 gradients.")  # as GradScaler does
                if own:
                    raise ValueError(
                        f"{own[0]} is the kernel's alone, and {self._name_of(p)} is torch's to "
                        f"step: {unlike_kernel(p, group)}"
                    )

    def _name_of(self, param: Any) -> str:
        for index, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p is param:
                    names = group.get("param_names")
                    return f"param_groups[{index}]['params'][{i}]" + (
                        f" ({names[i]})" if names else ""
                    )
        raise KeyError(param)

    def _raise_nonfinite(self, param: Any) -> None:
        """Say which gradient is not finite, and where."""
        what = self._name_of(param)
        wrong = (~torch.isfinite(param.grad)).nonzero().tolist()
        if not wrong:
            raise FloatingPointError(
                f"the gradient of {what} is finite, but overflows {param.dtype}, or when "
                "GradScaler's scale is taken out; nothing has changed"
            )
        place = tuple(wrong[0])
        raise FloatingPointError(
            f"the gradient of {what} has {len(wrong)} NaN or infinite "
            f"element{'s' * (len(wrong) > 1)}, the first at index {place}: "
            f"{param.grad[place].item()}; nothing has changed"
        )

    @contextmanager
    def use_ema(self) -> Iterator[None]:
        """Inside a ``with``, the parameters hold their running averages, and after it their values.

        A parameter that has never had a gradient has no average and stays as it is. What is
        written to a parameter meanwhile is lost; the optimizer refuses to step and to be copied.

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
        if not any(group["ema_decay"] for group in self.param_groups):
            raise ValueError("there are no averages: make the optimizer with ema_decay=0.999, say")
        if self._showing_averages:
            raise RuntimeError(_SHOWING)
        params = [p for g in self.param_groups if g["ema_decay"] for p in g["params"]]
        averages = {
            p: s["param_avg"] for p in params if "param_avg" in (s := self.state.get(p, {}))
        }
        values = {p: p.detach().clone(memory_format=torch.preserve_format) for p in averages}
        self._showing_averages = True
        try:
            _write(averages)
            yield
        finally:
            self._showing_averages = False
            _write(values)

    def _step_by_torch(self, group: dict[str, Any], grad_scale: float) -> None:
        """One step of a group as `torch.optim.RMSprop` makes it."""
        for p in group["params"]:
            if p in self.state:
                replace(self.state[p], as_torch_has_it(self.state[p]))
        params: list[Any] = []
        grads: list[Any] = []
        square_avgs: list[Any] = []
        momentum_buffers: list[Any] = []
        grad_avgs: list[Any] = []
        steps: list[Any] = []
        has_complex = self._init_group(
            group, params, grads, square_avgs, momentum_buffers, grad_avgs, steps
        )
        if grad_scale != 1:
            grads = [g * grad_scale for g in grads]
        names = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")
        flags = ("foreach", "maximize", "differentiable", "capturable")
        rmsprop(
            params,
            grads,
            square_avgs,
            grad_avgs,
            momentum_buffers,
            steps,
            has_complex=has_complex,
            **{name: group[name] for name in (*names, *flags)},
        )


_LIMITS = ("max_grad_norm", "max_grad_value", "on_nonfinite")
_CHANGED = "parameters or their state changed during the step"
_SHOWING = (
    "this optimizer is inside use_ema(), where the parameters are their averages: leave the with "
    "block first"
)


@torch.no_grad()
def _write(values: dict[Any, Any]) -> None:
    """Write values into the parameters."""
    for p, value in values.items():
        p.copy_(value)
