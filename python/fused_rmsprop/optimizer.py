"""The `RMSProp` class: groups, names, state, and what a user may ask for."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from fused_rmsprop import _core
from fused_rmsprop.options import (
    FIXED,
    OPTIONS,
    SETTINGS,
    Number,
    Schedulable,
    as_flag,
    as_scale,
    parse_options,
    unknown_option,
)
from fused_rmsprop.param_group import Array, ParamGroup, State, claimed
from fused_rmsprop.param_specs import checked_container, is_group, is_list_of_groups
from fused_rmsprop.presets import preset
from fused_rmsprop.saved_state import Loading, settings_of, snapshot_of, state_dict_of
from fused_rmsprop.settings import Settings

_ONE = 1.0


class RMSProp(Settings):
    r"""RMSProp for NumPy arrays, updated where they lie in one fused pass.

    .. math::
        v \leftarrow \alpha v + (1 - \alpha) g^2, \qquad
        p \leftarrow p - \mathrm{lr} \cdot g / (\sqrt{v} + \mathrm{eps})

    The result is, bit for bit, that of the NumPy expression in the arrays' dtype, on every
    instruction set and for any number of threads.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, nested at will, or list of dicts
        The arrays to train: float32 or float64, writable, aligned, contiguous in any order of
        their axes, of any shape. A list of dicts with the key ``"params"`` makes parameter
        groups: the other keys are options of that group, and ``"name"`` names it. None stands
        for a parameter that is not there. These very arrays are trained: write new values into
        them (``params["W"][...] = w``); an array put in the place of one is refused by `step`.
    lr : float or callable
        Step size, ``>= 0``. Also a function of the number of completed steps that returns it:
        one of `fused_rmsprop.schedules`, of optax's, or your own.
    alpha : float
        Share of the running average that a step keeps, ``0 <= alpha < 1``. The average looks
        back about ``1 / (1 - alpha)`` steps.
    eps : float
        Added to the square root, ``> 0`` also in the arrays' dtype.
    weight_decay : float or callable
        L2 penalty ``>= 0``: ``weight_decay * p`` is added to the gradient.
    momentum : float or callable
        Share of the momentum buffer that a step keeps, ``0 <= momentum < 1``; 0 for none:
        ``b = momentum * b + g / (sqrt(v) + eps)``, ``p = p - lr * b``. A step at which a function
        returns 0 is one without momentum and leaves the buffer as it is, as in torch.
    centered : bool
        Divide by the standard deviation of the gradient instead of its root mean square. The
        variance is kept itself, so it cannot turn negative as ``v - grad_avg**2`` does.
    nesterov : bool
        With momentum, look ahead: ``p = p - lr * (g / (sqrt(v) + eps) + momentum * b)``.
    maximize : bool
        Climb instead of descend.
    eps_inside_sqrt : bool
        Divide by ``sqrt(v + eps)`` instead, as TensorFlow, Keras and optax do.
    lr_in_momentum : bool
        The buffer takes up steps instead of directions, as in TensorFlow, Keras and optax:
        ``b = momentum * b + lr * g / (sqrt(v) + eps)``, ``p = p - b``. A change of `lr` then
        acts gradually.
    decoupled_weight_decay : bool
        ``p = p - lr * weight_decay * p`` before the update, instead of the penalty in the
        gradient, which the division by the root takes most of the effect from.
    initial_square_avg : float
        What `square_avg` (centered: the variance) starts from, ``>= 0``. TensorFlow 1 starts
        from 1, which makes the first steps smaller.
    bias_correction : bool
        Divide the averages by ``1 - alpha**t`` at step t, the share that is not the zeros they
        start from; without it the first steps are up to ``1 / sqrt(1 - alpha)`` times as large.
        They are kept so divided, by an alpha that grows: see the notes.
    ema_decay : float
        Share that a step keeps of a running average of the parameters, which starts as a copy of
        them, ``0 <= ema_decay < 1``; 0 for none. See `use_ema`.
    max_grad_norm : float or None
        Gradients are multiplied with ``min(1, max_grad_norm / norm)``, where the norm is the
        2-norm of all of them together, in double, kept as `grad_norm`. Infinity: only measured.
    max_grad_value : float or None
        Each element of a gradient is limited to ``+-max_grad_value``, before the norm is taken.
    on_nonfinite : {"propagate", "skip", "raise"}
        What a NaN or an infinity in a gradient does: IEEE 754 decides; the step is left out and
        counted in `skipped_steps`; a `FloatingPointError` says where it is. For the latter two
        nothing changes, `step_count` included; skipping drops what was accumulated.
    flush_denormals : bool
        Count subnormal numbers as zero during the step. They make some processors a hundred
        times slower, and the averages of a unit that is no longer used end up there. False:
        the bits of NumPy for those too.
    threads : int or None
        The size of the team for large steps. None: all that are available if that is faster in
        the loop around the step, which is measured now and then, and else one.
    grads : like `params`, or None
        Gradient arrays to bind, so that ``step()`` reads them without being given any.

    Raises
    ------
    TypeError, ValueError
        If an array cannot be updated in place, two share memory, or an option is out of bounds.

    Notes
    -----
    The formula is G. Hinton's (Neural Networks for Machine Learning, lecture 6e, 2012); names
    and defaults are those of ``torch.optim.RMSprop``. Centered is A. Graves's variant
    (arXiv:1308.0850, 2013), as a recurrence of the variance ``q``: ``d = g - m``,
    ``q = alpha * q + alpha * (1 - alpha) * d**2``, ``m = alpha * m + (1 - alpha) * g``.

    With bias correction step t uses ``alpha * (1 - alpha**(t - 1)) / (1 - alpha**t)`` in the
    place of alpha, from 0 at the first step on: the averages are then ``v / (1 - alpha**t)``
    themselves, and the variance that of the corrected averages, which cannot turn negative
    either.

    Gradients are scaled by ``grad_scale``, then limited, then clipped; ``maximize`` and weight
    decay follow.

    Examples
    --------
    >>> import numpy as np
    >>> from fused_rmsprop import RMSProp
    >>> params = {"W": np.ones((2, 2), np.float32), "b": np.zeros(2, np.float32)}
    >>> opt = RMSProp(params, lr=0.01, alpha=0.9)
    >>> opt.step({"W": np.full((2, 2), 0.5, np.float32), "b": None})
    >>> print(params["W"].round(3))
    [[0.968 0.968]
     [0.968 0.968]]
    >>> int(opt.state["W"]["step"]), int(opt.state["b"]["step"])
    (1, 0)
    """

    _stepper: _core.Stepper

    def __init__(
        self,
        params: object,
        lr: Schedulable = 1e-2,
        alpha: Number = 0.99,
        eps: Number = 1e-8,
        weight_decay: Schedulable = 0.0,
        momentum: Schedulable = 0.0,
        centered: bool = False,
        *,
        nesterov: bool = False,
        maximize: bool = False,
        eps_inside_sqrt: bool = False,
        lr_in_momentum: bool = False,
        decoupled_weight_decay: bool = False,
        initial_square_avg: Number = 0.0,
        bias_correction: bool = False,
        ema_decay: Number = 0.0,
        max_grad_norm: Number | None = None,
        max_grad_value: Number | None = None,
        on_nonfinite: str = "propagate",
        flush_denormals: bool = True,
        threads: int | None = None,
        grads: object = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "nesterov": nesterov,
            "maximize": maximize,
            "eps_inside_sqrt": eps_inside_sqrt,
            "lr_in_momentum": lr_in_momentum,
            "decoupled_weight_decay": decoupled_weight_decay,
            "initial_square_avg": initial_square_avg,
            "bias_correction": bias_correction,
            "ema_decay": ema_decay,
        }
        settings = {
            "max_grad_norm": max_grad_norm,
            "max_grad_value": max_grad_value,
            "on_nonfinite": on_nonfinite,
            "flush_denormals": flush_denormals,
            "threads": threads,
        }
        grouped = is_list_of_groups(params)
        specs = params if grouped else [{"params": params}]
        self._build(specs, grouped, defaults, settings)
        if not any(group.core.names for group in self._groups):
            raise ValueError("params has no arrays")
        if grads is not None:
            self.bind_grads(grads)

    @classmethod
    def from_preset(cls, name: str, params: object, **options: Any) -> RMSProp:
        """An optimizer with the options of another implementation.

        Parameters
        ----------
        name : str
            One of `fused_rmsprop.PRESETS`: ``"torch"``, ``"keras"``, ``"tensorflow1"``,
            ``"optax"``, ``"timm"``, ``"stable_baselines3"``, ``"dqn"``, ``"a3c"``.
        params : like `params` of the class
            What to train.
        **options
            As for the class; they come before those of the preset.

        Raises
        ------
        ValueError
            If there is no such preset, or option.
        """
        known = (*OPTIONS, *SETTINGS, "threads", "grads")
        if cls is RMSProp and (unknown := options.keys() - {*known}):
            raise ValueError(unknown_option(min(unknown), "RMSProp", known))
        return cls(params, **{**preset(name), **options})

    def _build(
        self,
        specs: Any,
        grouped: bool,
        defaults: dict[str, Any],
        settings: dict[str, Any],
        step_count: int = 0,
    ) -> None:
        self.defaults = parse_options(defaults, "RMSProp")
        self._stepper = _core.Stepper()
        self._stepper.step_count = step_count
        self._groups: list[ParamGroup] = []
        self._scheduled: list[ParamGroup] = []  # those with options that are functions
        for name, value in settings.items():
            setattr(self, name, value)
        self._grads: object = None
        self._grouped = grouped
        roots = [f"params[{i}]['params']" for i in range(len(specs))] if grouped else ["params"]
        self._add(list(zip(specs, roots, strict=True)))

    def _add(self, specs: list[tuple[Mapping[str, Any], str]]) -> None:
        """Add groups, each given as a torch-style dict and what errors call its arrays."""
        added: list[ParamGroup] = []
        taken = {name for group in self._groups for name in group.core.names}
        for spec, root in specs:
            index = len(self._groups) + len(added)
            default_name = str(index) if self._grouped else ""
            name = spec.get("name", default_name)
            if not isinstance(name, str):
                raise TypeError(f"the name of parameter group {index} is {name!r}, not a str")
            options = {k: v for k, v in spec.items() if k not in ("params", "name")}
            group = ParamGroup(
                self._stepper,
                checked_container(spec["params"], root),
                self.defaults | options,
                root=root,
                name=name,
                where=f"param_groups[{index}]",
            )
            for leaf in group.core.names:
                if leaf in taken:
                    raise ValueError(
                        f"two parameters would be called {leaf!r} in state; "
                        "rename a key, or give the parameter group another 'name'"
                    )
                taken.add(leaf)
            added.append(group)
        self._stepper.add([group.core for group in added], self._grouped)
        self._groups += added
        for group in added:
            group.enlist(self._scheduled)

    def step(self, grads: object = None, grad_scale: Number = _ONE) -> None:
        """Update all parameters in place.

        Parameters
        ----------
        grads : like the parameters, or None
            Arrays of the parameters' shapes and dtypes, in the same structure: lists by
            position, dicts by key, parameter groups as a list of one item each. A None leaf
            leaves its parameter and state as they are. They are only read; arrays in another
            memory order than their parameters are copied into order first, which is slower.
            None: the mean of what `accumulate` was given, or else the bound gradients.
        grad_scale : float
            What gradients are multiplied with first, ``> 0``, say ``1 / loss_scale``.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit its parameter or shares memory with what is written, a
            parameter has become read-only, nothing is bound, or a function of the step returned
            what the option cannot be. Nothing has changed then.
        FloatingPointError
            With ``on_nonfinite="raise"``, if a gradient is NaN or infinite. Nothing has changed.
        RuntimeError
            If another thread is in the middle of a step of this optimizer, or inside `use_ema`.
        """
        for group in self._scheduled:
            group.follow_schedules()
        if grad_scale is _ONE:  # one conversion less in a call of half a microsecond
            self._stepper.step(grads)
        else:
            self._stepper.step(grads, as_scale(grad_scale))

    def accumulate(self, grads: object = None) -> None:
        """Add gradients to those of which the next ``step()`` takes the mean.

        ``step()`` multiplies their sum by ``1 / n`` after n calls. A None leaf adds nothing; a
        parameter without any gradient in all n calls is left alone. The first call allocates an
        array per parameter.

        Parameters
        ----------
        grads : like the parameters, or None
            As for `step`; None: the bound gradients.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `step` does. Nothing has been added then.
        """
        for group in self._groups:
            group.need_grad_sum()
        self._stepper.accumulate(grads)

    def discard_accumulated(self) -> None:
        """Forget the gradients that `accumulate` was given since the last step."""
        with claimed(self._stepper):
            self._stepper.accumulated = 0

    def bind_grads(self, grads: object) -> None:
        """Bind arrays that the backward pass fills, so that ``step()`` reads them; None unbinds.

        Parameters
        ----------
        grads : like the parameters, or None
            As for `step`.
        """
        self._stepper.bind(grads)
        self._grads = grads

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add arrays with options of their own; ``step`` then takes a list of one item per group.

        Bound gradients are no longer bound: those of the new group are not among them.

        Parameters
        ----------
        param_group : dict
            ``"params"``, options that differ from the optimizer's own, and perhaps ``"name"``,
            which begins the names of its arrays in `state`; by default its index.
        """
        index = len(self._groups)
        if not is_group(param_group):
            raise TypeError("a parameter group is a dict with the key 'params'")
        grouped, self._grouped = self._grouped, True
        try:
            self._add([(param_group, f"params[{index}]['params']")])
        except BaseException:
            self._grouped = grouped
            raise
        self._grads = None

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The parameter groups; ``opt.param_groups[0]["lr"] = 0.1`` changes an option."""
        return tuple(self._groups)

    @property
    def lr(self) -> float:
        """The step size of the next step, for all groups; setting it sets it for all.

        Set it to a float or to a function of the step, which ends the one that was there; what
        was set is ``param_groups[0]["lr"]``. Reading it raises a `ValueError` if the groups differ.
        """
        return self._common("lr")

    @lr.setter
    def lr(self, value: Schedulable) -> None:
        with claimed(self._stepper):
            changed = [group.checked({"lr": value}) for group in self._groups]
            for group, checked in zip(self._groups, changed, strict=True):
                group.commit(checked)

    def _common(self, option: str) -> float:
        values = [group.current()[option] for group in self._groups]
        if len(set(values)) > 1:
            raise ValueError(
                f"the groups differ in {option}: {values}; "
                f"read param_groups[i].current()['{option}']"
            )
        return float(values[0])

    @property
    def flush_denormals(self) -> bool:
        """Whether subnormal numbers count as zero during a step."""
        return self._stepper.flush_denormals

    @flush_denormals.setter
    def flush_denormals(self, value: bool) -> None:
        flush = as_flag("flush_denormals", value)
        with claimed(self._stepper):
            for group in self._groups:
                group.validate(group.current(), flush)
            self._stepper.flush_denormals = flush

    @property
    def step_count(self) -> int:
        """How many steps have been made: what functions of the step are called with."""
        return self._stepper.step_count

    @property
    def observation_window(self) -> float:
        """About how many steps the running average looks back: ``1 / (1 - alpha)``."""
        return 1 / (1 - self._common("alpha"))

    @property
    def state_nbytes(self) -> int:
        """The bytes of the state arrays of parameters' size, and of accumulated gradients."""
        return sum(group.state_nbytes for group in self._groups)

    def effective_lr(self, name: str) -> Array:
        """The step size of every element of a parameter: ``lr / (sqrt(v) + eps)``.

        Parameters
        ----------
        name : str
            The parameter's name in `state`.

        Returns
        -------
        ndarray
            A new array of the parameter's shape and dtype: what the next step would multiply a
            gradient with, were its running average to stay.

        Raises
        ------
        KeyError
            If there is no such parameter.
        """
        for group in self._groups:
            if name in group.state:
                options, state = group.current(), group.state[name]
                v = state["variance" if options["centered"] else "square_avg"]
                if options["eps_inside_sqrt"]:
                    return np.asarray(options["lr"] / np.sqrt(v + options["eps"]), v.dtype)
                return np.asarray(options["lr"] / (np.sqrt(v) + options["eps"]), v.dtype)
        raise KeyError(f"there is no parameter {name!r}; there are {', '.join(self.state)}")

    @contextmanager
    def use_ema(self) -> Iterator[None]:
        """Inside a ``with``, the parameters' arrays hold their running averages.

        They are written into the arrays' own memory, and the trained values again at the end,
        also after an error; what is written to a parameter in between is lost. Meanwhile the
        optimizer refuses to step, to be saved, and changes of its groups, `lr` among them.

        Raises
        ------
        ValueError
            If no parameter group has an `ema_decay`, or a parameter has become read-only.

        Examples
        --------
        >>> import numpy as np
        >>> from fused_rmsprop import RMSProp
        >>> p = np.ones(1)
        >>> opt = RMSProp(p, lr=0.1, ema_decay=0.5)
        >>> opt.step(np.ones(1))
        >>> with opt.use_ema():
        ...     print(p.round(3))
        [0.5]
        >>> print(p.round(3))
        [0.]
        """
        if not any(group["ema_decay"] for group in self._groups):
            raise ValueError("there are no averages: make the optimizer with ema_decay=0.999, say")
        why = (
            "this optimizer is inside use_ema(), where the parameters are their averages: "
            "leave the with block first"
        )
        with claimed(self._stepper, why), ExitStack() as stack:
            for group in self._groups:
                stack.enter_context(group.showing_averages())
            yield

    @property
    def state(self) -> Mapping[str, State]:
        """The state of each parameter by its name, as views of the very memory that steps update.

        Names are the keys and indices that lead to the parameter, joined by dots
        (``"layer1.W"``), with the group's name or index in front where there are groups;
        ``"param"`` for a single array. Each has ``step`` (0-d, int64), ``square_avg`` or, if
        centered, ``variance`` and ``grad_avg``, with momentum ``momentum_buffer``, and with
        `ema_decay` ``param_avg``.
        """
        # A ChainMap iterates over its last map first.
        return MappingProxyType(ChainMap(*(group.state for group in reversed(self._groups))))

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state and the options, to be given to `load_state_dict`.

        Returns
        -------
        dict
            ``"state"``: name to copies of the arrays; ``"param_groups"``: a list of the options
            of each group, with its names as ``"params"``; ``"settings"``: what belongs to the
            optimizer; ``"counters"``.
        """
        return state_dict_of(self._stepper, self._groups)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state: bit for bit as if there had been no break.

        Parameters
        ----------
        state_dict : dict
            From `state_dict` of an optimizer of parameters with the same names, shapes and
            dtypes. The parameters themselves are not part of it: load those as well, or use
            `save` and `load`.

        Raises
        ------
        ValueError
            If it does not fit, with all differences. Nothing has changed then.
        """
        Loading(self._stepper, self._groups, state_dict).apply()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters and all that `load` needs to go on into one file.

        A file that was there is replaced in the end, at once: a crash, whenever it comes, leaves
        the old file or the new one, whole.

        Parameters
        ----------
        path : str or os.PathLike
            Ends in ``.npz``, which `numpy.load` opens and holds no pickle, or in
            ``.safetensors`` (``pip install 'fused-rmsprop[safetensors]'``). Parameters are in it
            as ``params/<name>``, their state as ``state/<name>/<key>``.

        Raises
        ------
        ValueError, ImportError, OSError
            If the suffix is another, safetensors is not installed, or the file cannot be written.

        Notes
        -----
        What is written is copied first, so other threads may go on stepping meanwhile. A schedule
        of `fused_rmsprop.schedules` is saved; of any other function only the fact,
        and `load` asks for it. Bound gradients and `threads` are not saved.
        """
        # Imported when needed: together they take longer than the rest of the package.
        from fused_rmsprop import checkpoint
        from fused_rmsprop.saved_file import as_content

        state_dict, params = snapshot_of(self._stepper, self._groups)
        checkpoint.write(path, *as_content(state_dict, params, self.defaults))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        params: Any,
        *,
        threads: int | None = None,
        grads: object = None,
        **options: Any,
    ) -> RMSProp:
        """An optimizer that goes on from a file of `save`, bit for bit.

        Parameters
        ----------
        path : str or os.PathLike
            The file.
        params : like `params` of the class
            Arrays with the names, shapes and dtypes of the saved ones, in the same groups. They
            take over the saved values. Of the groups' options only functions are looked at that
            could not be saved.
        threads, grads
            As for the class; they are not saved.
        **options
            Of the class, to be used instead of the saved ones: for all groups, or, where some had
            a function that could not be saved, for these. What needs state that was not saved is
            set afterwards: ``opt.param_groups[0]["momentum"] = 0.9``.

        Returns
        -------
        RMSProp
            With the saved state, options, settings and counters.

        Raises
        ------
        ValueError
            If the parameters or the state do not fit, with all differences; if the file is
            damaged or no checkpoint (`fused_rmsprop.checkpoint.CheckpointError`); if an option
            was saved as a function and is not given. No parameter has changed then.
        OSError
            If the file cannot be read.
        """
        from fused_rmsprop import checkpoint
        from fused_rmsprop.saved_file import from_content

        arrays, metadata = checkpoint.read(path)
        if unknown := options.keys() - {*OPTIONS, *SETTINGS}:
            raise ValueError(unknown_option(min(unknown), "RMSProp.load", (*OPTIONS, *SETTINGS)))
        if fixed := options.keys() & {*FIXED}:
            raise ValueError(f"{min(fixed)} is fixed: the saved state began with it")
        grouped = is_list_of_groups(params)
        specs = list(params) if grouped else [{"params": params}]
        saved_groups = metadata["param_groups"]
        if len(specs) != len(saved_groups):
            raise ValueError(f"{path} has {len(saved_groups)} parameter groups, not {len(specs)}")
        state_dict, saved_params, defaults = from_content(arrays, metadata, options, specs)
        opt = cls.__new__(cls)
        opt._build(
            [
                {**saved, "params": spec["params"], "name": spec.get("name", saved["name"])}
                for spec, saved in zip(specs, state_dict["param_groups"], strict=True)
            ],
            grouped,
            defaults,
            state_dict["settings"] | {"threads": threads},
            state_dict["counters"]["step_count"],
        )
        Loading(opt._stepper, opt._groups, state_dict, saved_params).apply()
        if grads is not None:
            opt.bind_grads(grads)
        return opt

    def __repr__(self) -> str:
        settings = settings_of(self._stepper) | {"threads": self.threads}
        settings["step_count"] = self.step_count
        rest = ", ".join(
            f"{name}={value!r}"
            for name, value in settings.items()
            if name in ("flush_denormals", "threads") or value not in (None, "propagate", 0)
        )
        if not self._grouped:
            return f"RMSProp({self._groups[0].summary()}; {rest})"
        groups = "".join(f"  {group.name!r}: {group.summary()}\n" for group in self._groups)
        return f"RMSProp({rest},\n{groups})"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OPTIONS and name != "lr":
            raise AttributeError(
                f"options belong to the groups: opt.param_groups[0][{name!r}] = {value!r}"
            )
        if type(self) is RMSProp and name not in (*_OWN_ATTRIBUTES, *_SETTABLE):
            raise AttributeError(
                f"there is no {name!r} to set: {', '.join(_SETTABLE)} can be set here, "
                "the other options in opt.param_groups[0], gradients with opt.bind_grads"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        specs = [
            {**group, "name": group.name} if self._grouped else dict(group)
            for group in self._groups
        ]
        settings = settings_of(self._stepper) | {"threads": self.threads}
        return {
            "build": (specs, self._grouped, self.defaults, settings, self.step_count),
            "grads": self._grads,
            "state_dict": self.state_dict(),
            "attributes": {k: v for k, v in vars(self).items() if k not in _OWN_ATTRIBUTES},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._build(*state["build"])
        self.load_state_dict(state["state_dict"])
        self.bind_grads(state["grads"])
        vars(self).update(state["attributes"])


#: What a pickle rebuilds; the rest are attributes of a subclass or of a user.
_OWN_ATTRIBUTES = {"defaults", "_stepper", "_groups", "_scheduled", "_grads", "_grouped"}
_SETTABLE = (
    *("lr", "threads", "flush_denormals"),
    *("max_grad_norm", "max_grad_value", "on_nonfinite"),
)
