"""The `RMSProp` class: what users call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from fused_rmsprop import _core
from fused_rmsprop.base import (
    NO_AVERAGES,
    helps_with_options,
    nonfinite_error,
    warn_of_spreading,
)
from fused_rmsprop.checkpoint.saving import Saving
from fused_rmsprop.groups.leafwise import LeafwiseOptimizer
from fused_rmsprop.groups.specs import check_order, is_group, is_list_of_groups, is_nest
from fused_rmsprop.options import (
    GROUP_OPTIONS,
    OPTIMIZER_OPTIONS,
    option_meant,
    parse_options,
)
from fused_rmsprop.presets import preset
from fused_rmsprop.values import Number, Schedulable, as_scale

_ONE = 1.0


class RMSProp(LeafwiseOptimizer, Saving):
    r"""RMSProp for NumPy arrays, updated where they lie in one fused pass.

    .. math::
        v \leftarrow \alpha v + (1 - \alpha) g^2, \qquad
        p \leftarrow p - \mathrm{lr} \cdot g / (\sqrt{v} + \mathrm{eps})

    The result is, bit for bit, that of the NumPy expression in the arrays' dtype, on every
    instruction set and for any number of threads.

    Parameters
    ----------
    params : array, or sequence or mapping of arrays, nested at will, or list of dicts
        The arrays to train: float32 or float64, writable, aligned, contiguous in any order of
        their axes, of any shape. A list of dicts with the key ``"params"`` makes parameter
        groups: the other keys are options of that group, and ``"name"`` names it. None is no
        parameter. Training updates these very arrays: write new values into them
        (``params["W"][...] = w``); `step` refuses an array put in the place of one.
        If a variable is rebound (``W = W * 2``), the old array is trained; `step` warns once where
        it can tell that nothing else refers to that array any more.
    lr : float or callable
        Step size, ``>= 0``, or a function of the number of completed steps that returns it: one of
        `fused_rmsprop.schedules`, of optax's, or your own.
    alpha : float or callable
        Share of the running average that a step keeps, ``0 <= alpha < 1``. The average looks
        back about ``1 / (1 - alpha)`` steps. With `bias_correction`, a number.
    eps : float
        Added to the square root, ``> 0`` also in the arrays' dtype.
    weight_decay : float or callable
        L2 penalty ``>= 0``: ``weight_decay * p`` is added to the gradient.
    momentum : float or callable
        Share of the momentum buffer that a step keeps, ``0 <= momentum < 1``; 0 for none:
        ``b = momentum * b + g / (sqrt(v) + eps)``, ``p = p - lr * b``. Where a function returns
        0, the step has no momentum and leaves the buffer as it is, as in torch.
    centered : bool
        Divide by the standard deviation of the gradient instead of its root mean square. The
        state holds the variance itself, which cannot turn negative as ``v - grad_avg**2`` does.
    nesterov : bool
        With momentum, look ahead: ``p = p - lr * (g / (sqrt(v) + eps) + momentum * b)``.
    maximize : bool
        Climb instead of descend.
    eps_inside_sqrt : bool
        Divide by ``sqrt(v + eps)`` instead, as TensorFlow, Keras and optax do.
    lr_in_momentum : bool
        The buffer holds steps instead of directions, as in TensorFlow, Keras and optax:
        ``b = momentum * b + lr * g / (sqrt(v) + eps)``, ``p = p - b``. A change of `lr` then
        acts gradually.
    decoupled_weight_decay : bool
        ``p = p - lr * weight_decay * p`` before the update. The penalty in the gradient loses most
        of its effect in the division by the root.
    initial_square_avg : float
        The initial value of `square_avg` (centered: of the variance), ``>= 0``. TensorFlow 1
        starts from 1, which makes the first steps smaller.
    bias_correction : bool
        Divide the averages by ``1 - alpha**t`` at step t, to make up for the zeros that they start
        from; without it the first steps are up to ``1 / sqrt(1 - alpha)`` times as large. With
        `centered`, the corrected variance of the first step is 0, so that the first step is
        ``lr * g / eps``: too large, unless `eps` is as large as gradients are.
    ema_decay : float
        Share that a step keeps of a running average of the parameters, which starts as a copy of
        them, ``0 <= ema_decay < 1``; 0 for none. See `use_ema`.
    max_grad_norm : float or None
        Multiply gradients by ``min(1, max_grad_norm / norm)``, where `grad_norm`, in double, is
        the 2-norm of all of them together. Infinity: only measure it. One NaN makes all parameters
        NaN, of which a warning tells once, unless `on_nonfinite` is ``"skip"`` or ``"raise"``.
    max_grad_norm_per_array : float or None
        The same for each array by the norm of its own gradient, as Keras' ``clipnorm``; it comes
        before `max_grad_norm`, which then takes the norm of the gradients so clipped.
    max_grad_value : float or None
        Limit each element of a gradient to ``+-max_grad_value``, before the norm is taken.
    on_nonfinite : {"propagate", "skip", "raise"}
        The effect of a NaN or an infinity in a gradient: IEEE 754 decides; the step is skipped, and
        counted in `skipped_steps`; a `FloatingPointError` says where it is. For the latter two
        nothing changes, `step_count` included; skipping drops accumulated gradients. They also
        refuse a finite gradient whose square overflows (float32: from about 2e19), which would
        make its average infinite and so stop its parameter for ever.
    flush_denormals : bool
        Count subnormal numbers as zero during the step. They make some processors a hundred
        times slower, and the averages of a unit that is no longer used end up there. False:
        the bits of NumPy for those too.
    threads : int or None
        The size of the team for large steps. None: one thread or all that are available,
        whichever is measured to be faster in the loop around the step.
    grads : like `params`, or None
        Gradient arrays to bind: ``step()`` without an argument reads them.

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
    place of alpha, which is 0 at the first step. The state then holds ``v / (1 - alpha**t)``
    itself, and the variance cannot turn negative either.

    Gradients are scaled by ``grad_scale``, limited, clipped; ``maximize`` and weight decay follow.

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

    _REBUILT = frozenset(("defaults", "_stepper", "_groups", "_views", "_grouped"))

    @helps_with_options
    def __init__(
        self,
        params: object,
        lr: Schedulable = 1e-2,
        alpha: Schedulable = 0.99,
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
        max_grad_norm_per_array: Number | None = None,
        max_grad_value: Number | None = None,
        on_nonfinite: str = "propagate",
        flush_denormals: bool = True,
        threads: int | None = None,
        grads: object = None,
    ) -> None:
        given = locals()
        check_order(params, lr)
        self._build(
            params if is_list_of_groups(params) else [{"params": params}],
            is_list_of_groups(params),
            {name: given[name] for name in GROUP_OPTIONS},
            {name: given[name] for name in OPTIMIZER_OPTIONS},
        )
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
        params, **options
            As for the class; options given here override those of the preset.

        Raises
        ------
        TypeError, ValueError
            If there is no such option, or no such preset; and as the class does.
        """
        return cls(params, **{**preset(name), **options})

    def _build(
        self,
        specs: Sequence[Mapping[str, Any]],
        grouped: bool,
        defaults: dict[str, Any],
        settings: dict[str, Any],
        step_count: int = 0,
        from_pickle: bool = False,
    ) -> None:
        self.defaults = parse_options(defaults, "RMSProp")
        self._stepper = _core.NumpyStepper()
        self._stepper.step_count = step_count
        self._groups, self._views, self._grouped = [], (), grouped
        for name, value in settings.items():
            setattr(self, name, value)
        self._add(specs, grouped, from_pickle)

    def step(self, grads: object = None, grad_scale: Number = _ONE) -> None:
        """Update all parameters in place.

        Parameters
        ----------
        grads : like the parameters, or None
            Arrays of the parameters' shapes and dtypes, in the same structure: lists by
            position, dicts by key, parameter groups as a list of one item each. A None leaf
            leaves its parameter and state as they are. Gradients are only read. One in another
            memory order than its parameter is copied into order first, which is slower.
            Arrays of other libraries on the CPU, and NumPy numbers for 0-d parameters, are read
            through DLPack or the buffer protocol.
            None: the mean of the accumulated gradients, or else the bound gradients.
        grad_scale : float
            A factor of the gradients, ``> 0``, say ``1 / loss_scale``.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit its parameter or shares memory with written arrays, a
            parameter has become read-only, nothing is bound, or a function of the step returned
            a value out of bounds. Nothing has changed then.
        FloatingPointError
            With ``on_nonfinite="raise"``, if a gradient is NaN or infinite, or its square
            overflows. Nothing has changed.
        RuntimeError
            If another thread is in the middle of a step of this optimizer, or made one while
            this step asked functions of the step, or inside `use_ema` or `leafwise`. Nothing has
            changed then.
        """
        after = -1
        for group in self._groups:
            if group.scheduled:
                after = self._stepper.step_count if after < 0 else after
                group.follow_schedules()
        if grad_scale is _ONE and after < 0:  # less to convert in a call of half a microsecond
            nonfinite = self._stepper.step(grads)
        else:
            if is_nest(grad_scale):
                raise TypeError(
                    "step takes the gradients alone, opt.step(grads): the optimizer has had the "
                    "parameters since it was made"
                )
            scale = as_scale("grad_scale", grad_scale)
            nonfinite = self._stepper.step(grads, scale, after)
        if nonfinite is not None:
            if self.on_nonfinite == "propagate":
                warn_of_spreading(nonfinite[0], self._stepper)
                RMSProp.step(self, grads, grad_scale)
                return
            sums = self._stepper.accumulated > 0
            kept = ", and the sums are kept: discard_accumulated() drops them" if sums else ""
            raise nonfinite_error(*nonfinite, "nothing has changed" + kept)

    def accumulate(self, grads: object = None) -> None:
        """Add gradients to the sum; the next ``step()`` takes its mean.

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
        self._stepper.discard_accumulated()

    def bind_grads(self, grads: object) -> None:
        """Bind arrays that the backward pass fills, so that ``step()`` reads them; None unbinds.

        Parameters
        ----------
        grads : like the parameters, or None
            As for `step`, but NumPy arrays only: others may never change.
        """
        self._stepper.bind(grads)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add arrays with options of their own; ``step`` then takes a list of one item per group.

        This unbinds bound gradients, because the new group's are not among them.

        Parameters
        ----------
        param_group : dict
            ``"params"``, options that differ from the optimizer's own, and perhaps ``"name"``,
            which begins the names of its arrays in `state`; by default its index.
        """
        if not is_group(param_group):
            raise TypeError("a parameter group is a dict with the key 'params'")
        self._add([param_group], True)

    def use_ema(self) -> AbstractContextManager[None]:
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
        if not any(group.options["ema_decay"] for group in self._groups):
            raise ValueError(NO_AVERAGES)
        return self._averages()

    def _averages(self) -> AbstractContextManager[None]:
        return self._stepper.averages()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Only called for names that are not there."""
            if name in GROUP_OPTIONS:
                raise AttributeError(
                    f"options belong to the groups: opt.param_groups[0][{name!r}]", name=name
                )
            if meant := option_meant(name):
                raise AttributeError(f"there is no {name!r}; is {meant} meant?", name=name)
            if name == "zero_grad":
                raise AttributeError(
                    "there is no zero_grad, because no gradients are kept: delete the line"
                )
            return super().__getattribute__(name)  # raises its own error

    def __setattr__(self, name: str, value: Any) -> None:
        if name in GROUP_OPTIONS and name != "lr":
            raise AttributeError(
                f"options belong to the groups: opt.param_groups[0][{name!r}] = {value!r}"
            )
        settable = ("lr", *OPTIMIZER_OPTIONS)
        ours = type(self).__module__.startswith("fused_rmsprop.")  # a subclass may have more
        if ours and name not in (*self._REBUILT, *settable):
            hint = f"; is {meant} meant?" if (meant := option_meant(name)) else ":"
            raise AttributeError(
                f"there is no {name!r} to set{hint} {', '.join(settable)} can be set here, "
                "the other options in opt.param_groups[0], gradients with opt.bind_grads"
            )
        super().__setattr__(name, value)
