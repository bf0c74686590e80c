"""The `RMSProp` class: groups, names, state, and what a user may ask for."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import ItemsView, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from fused_rmsprop import _core
from fused_rmsprop.options import (
    OPTIONS,
    Number,
    as_flag,
    as_threads,
    parse_options,
)
from fused_rmsprop.param_group import ParamGroup, State, claimed


class RMSProp:
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
    lr : float
        Step size, ``>= 0``.
    alpha : float
        Share of the running average that a step keeps, ``0 <= alpha < 1``. The average looks
        back about ``1 / (1 - alpha)`` steps.
    eps : float
        Added to the square root, ``> 0`` also in the arrays' dtype.
    weight_decay : float
        L2 penalty ``>= 0``: ``weight_decay * p`` is added to the gradient.
    momentum : float
        Share of the momentum buffer that a step keeps, ``0 <= momentum < 1``; 0 for none:
        ``b = momentum * b + g / (sqrt(v) + eps)``, ``p = p - lr * b``.
    centered : bool
        Divide by the standard deviation of the gradient instead of its root mean square. The
        variance is kept itself, so it cannot turn negative as ``v - grad_avg**2`` does.
    nesterov : bool
        With momentum, look ahead: ``p = p - lr * (g / (sqrt(v) + eps) + momentum * b)``.
    maximize : bool
        Climb instead of descend.
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

    def __init__(
        self,
        params: object,
        lr: Number = 1e-2,
        alpha: Number = 0.99,
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        momentum: Number = 0.0,
        centered: bool = False,
        *,
        nesterov: bool = False,
        maximize: bool = False,
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
        }
        grouped = _is_list_of_groups(params)
        specs = params if grouped else [{"params": params}]
        self._build(specs, grouped, defaults, as_flag("flush_denormals", flush_denormals), threads)
        if not any(group.core.names for group in self._groups):
            raise ValueError("params has no arrays")
        if grads is not None:
            self.bind_grads(grads)

    def _build(
        self,
        specs: Any,
        grouped: bool,
        defaults: dict[str, Any],
        flush_denormals: bool,
        threads: int | None,
    ) -> None:
        self.defaults = parse_options(defaults, "RMSProp")
        self._stepper = _core.Stepper()
        self._stepper.flush_denormals = flush_denormals
        self.threads = threads
        self._groups: list[ParamGroup] = []
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
                _checked_container(spec["params"], root),
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

    def step(self, grads: object = None) -> None:
        """Update all parameters in place.

        Parameters
        ----------
        grads : like the parameters, or None
            Arrays of the parameters' shapes and dtypes, in the same structure: lists by
            position, dicts by key, parameter groups as a list of one item each. A None leaf
            leaves its parameter and state as they are. They are only read; arrays in another
            memory order than their parameters are copied into order first, which is slower.
            None: the bound gradients.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit its parameter or shares memory with what is written, a
            parameter has become read-only, or nothing is bound. Nothing has changed then.
        RuntimeError
            If another thread is in the middle of a step of this optimizer.
        """
        self._stepper.step(grads)

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
        if not _is_group(param_group):
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
        """The step size of all groups; setting it sets it for all.

        Reading it raises a `ValueError` if the groups differ.
        """
        values = [group["lr"] for group in self._groups]
        if len(set(values)) > 1:
            raise ValueError(f"the groups differ in lr: {values}; read param_groups[i]['lr']")
        return float(values[0])

    @lr.setter
    def lr(self, value: Number) -> None:
        with claimed(self._stepper):
            changed = [group.checked({"lr": value}) for group in self._groups]
            for group, options in zip(self._groups, changed, strict=True):
                group.commit(options)

    @property
    def threads(self) -> int | None:
        """The size of the team for large steps, or None for what measures fastest."""
        return self._stepper.threads or None

    @threads.setter
    def threads(self, value: int | None) -> None:
        self._stepper.threads = as_threads(value)

    @property
    def threads_used(self) -> int:
        """How many threads the last step used."""
        return self._stepper.threads_used

    @property
    def flush_denormals(self) -> bool:
        """Whether subnormal numbers count as zero during a step."""
        return self._stepper.flush_denormals

    @flush_denormals.setter
    def flush_denormals(self, value: bool) -> None:
        flush = as_flag("flush_denormals", value)
        with claimed(self._stepper):
            for group in self._groups:
                group.validate(group, flush)
            self._stepper.flush_denormals = flush

    @property
    def state(self) -> Mapping[str, State]:
        """The state of each parameter by its name, as views of the very memory that steps update.

        Names are the keys and indices that lead to the parameter, joined by dots
        (``"layer1.W"``), with the group's name or index in front where there are groups;
        ``"param"`` for a single array. Each has ``step`` (0-d, int64), ``square_avg`` or, if
        centered, ``variance`` and ``grad_avg``, and with momentum ``momentum_buffer``.
        """
        # A ChainMap iterates over its last map first.
        return MappingProxyType(ChainMap(*(group.state for group in reversed(self._groups))))

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state and the options, to be given to `load_state_dict`.

        Returns
        -------
        dict
            ``"state"``: name to copies of the arrays; ``"param_groups"``: a list of the options
            of each group, with its names as ``"params"``; ``"flush_denormals"``.
        """
        with claimed(self._stepper):
            return {
                "state": {
                    name: {key: array.copy() for key, array in state.items()}
                    for group in self._groups
                    for name, state in group.state.items()
                },
                "param_groups": [
                    group.options() | {"params": group.core.names} for group in self._groups
                ],
                "flush_denormals": self.flush_denormals,
            }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state: bit for bit as if there had been no break.

        Parameters
        ----------
        state_dict : dict
            From `state_dict` of an optimizer of parameters with the same names, shapes and
            dtypes. The parameters themselves are not part of it: load those as well.

        Raises
        ------
        ValueError
            If it does not fit, with all differences. Nothing has changed then.
        """
        state, saved_groups, flush = _parts_of(state_dict)
        if len(saved_groups) != len(self._groups):
            raise ValueError(
                f"the state_dict has {len(saved_groups)} parameter groups, "
                f"the optimizer {len(self._groups)}"
            )
        options, found = [], []
        for i, (group, saved) in enumerate(zip(self._groups, saved_groups, strict=True)):
            where = f"param_groups[{i}] of the state_dict"
            ours, theirs = set(group.core.names), set(saved["params"])
            found += [f"{name!r} is not in {where}" for name in sorted(ours - theirs)]
            found += [f"{name!r} is in {where} only" for name in sorted(theirs - ours)]
            if ours != theirs:
                continue
            parsed = parse_options({k: v for k, v in saved.items() if k != "params"}, where)
            if missing := [key for key in self.defaults if key not in parsed]:
                raise ValueError(f"{where} lacks {', '.join(missing)}")
            group.validate(parsed, flush)
            options.append(parsed)
            found += group.differences(parsed, state)
        if found:
            raise ValueError(
                "the saved state does not fit (names come from the structure of the parameters, "
                "and the names of groups):\n  " + "\n  ".join(found)
            )

        with claimed(self._stepper):
            self._stepper.flush_denormals = flush
            for group, parsed in zip(self._groups, options, strict=True):
                group.load(parsed, state)

    def __repr__(self) -> str:
        rest = f"flush_denormals={self.flush_denormals}, threads={self.threads}"
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
        return {
            "build": (specs, self._grouped, self.defaults, self.flush_denormals, self.threads),
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
_OWN_ATTRIBUTES = {"defaults", "_stepper", "_groups", "_grads", "_grouped"}
_SETTABLE = ("lr", "threads", "flush_denormals")


def _parts_of(state_dict: Any) -> tuple[dict[str, Any], list[Any], bool]:
    """The three parts of a state_dict, or a `ValueError` that says what it is instead."""
    keys = ("state", "param_groups", "flush_denormals")
    if not isinstance(state_dict, Mapping) or any(key not in state_dict for key in keys):
        got = (
            f"a dict of {', '.join(map(str, state_dict))}"
            if isinstance(state_dict, Mapping)
            else f"a {type(state_dict).__name__}"
        )
        raise ValueError(f"a state_dict of RMSProp has the keys {', '.join(keys)}; this is {got}")
    state, groups, flush = (state_dict[key] for key in keys)
    if not isinstance(state, Mapping) or not isinstance(groups, (list, tuple)):
        raise ValueError("in a state_dict of RMSProp, state is a dict and param_groups a list")
    if not all(isinstance(group, Mapping) and "params" in group for group in groups):
        raise ValueError("in a state_dict of RMSProp, param_groups are dicts with the key 'params'")
    return dict(state), list(groups), as_flag("flush_denormals", flush)


def _is_group(item: object) -> bool:
    return isinstance(item, Mapping) and "params" in item


def _is_list_of_groups(params: object) -> bool:
    """Whether this is torch's list of dicts; an error if it only looks like one."""
    if _has_options(params):
        raise ValueError("parameter groups come in a list: [{'params': ..., 'lr': ...}]")
    if not isinstance(params, (list, tuple)):
        return False
    if not any(_is_group(item) or _has_options(item) for item in params):
        return False
    for i, item in enumerate(params):
        if not _is_group(item):
            raise ValueError(
                f"params[{i}] is not a parameter group, a dict with the key 'params', "
                "but params looks like a list of such"
            )
    return True


def _has_options(item: object) -> bool:
    """Whether a dict has values that only a parameter group has: numbers under options' names."""
    return isinstance(item, dict) and any(
        isinstance(item.get(name), (int, float)) for name in OPTIONS
    )


def _checked_container(params: object, root: str) -> object:
    """Refuse iterators and views, whose items gradients could not be matched with by position."""
    if params is None or isinstance(params, (str, bytes)):
        raise TypeError(f"{root} is {params!r}; pass an array, or a list, tuple or dict of arrays")
    if isinstance(params, Iterable) and not isinstance(params, (list, tuple, dict)):
        if not hasattr(params, "__array__"):
            container = "dict" if isinstance(params, ItemsView) else "list"
            raise TypeError(
                f"{root} is a {type(params).__name__}; pass a list, tuple or dict of arrays, "
                f"e.g. {container}({root})"
            )
    return params
