"""The base class of `RMSProp` that manages its parameter groups, their options and state."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from fused_rmsprop import _core
from fused_rmsprop.base import Optimizer, unknown_name, warn_the_caller
from fused_rmsprop.groups.group import Group
from fused_rmsprop.groups.html import optimizer_html
from fused_rmsprop.groups.param_group import ParamGroup
from fused_rmsprop.groups.specs import checked_container
from fused_rmsprop.groups.state import KINDS, Array, rates
from fused_rmsprop.groups.views import State
from fused_rmsprop.introspection.html import or_none
from fused_rmsprop.options import in_repr
from fused_rmsprop.values import Number, Schedulable, as_factor, as_schedulable


class GroupedOptimizer(Optimizer):
    """An optimizer of parameter groups."""

    defaults: dict[str, Any]  # the options of groups that do not have their own
    _stepper: _core.NumpyStepper
    _groups: list[Group]
    _views: tuple[ParamGroup, ...]  # the same as users see them
    _grouped: bool  # the user gave groups, and gives gradients as one item per group

    def _add(
        self, specs: Sequence[Mapping[str, Any]], grouped: bool, from_pickle: bool = False
    ) -> None:
        """Add groups, each given as a torch-style dict; all of them, or none after an error."""
        with self._stepper.change() as change:
            added = self._prepared(change, specs, grouped, from_pickle)
            views = tuple(ParamGroup(group) for group in added)
            new = {
                "_grouped": grouped,
                "_groups": [*self._groups, *added],
                "_views": (*self._views, *views),
            }
            change.add([group.core for group in added], grouped)
            change.update(vars(self), new)
            change.commit()

    def _prepared(
        self,
        change: _core.Change,
        specs: Sequence[Mapping[str, Any]],
        grouped: bool,
        from_pickle: bool,
    ) -> list[Group]:
        """Make groups; the change will give them their state."""
        added: list[Group] = []
        taken = {name for group in self._groups for name in group.core.names}
        for spec in specs:
            index = len(self._groups) + len(added)
            name = spec.get("name", str(index) if grouped else "")
            if not isinstance(name, str):
                raise TypeError(f"the name of parameter group {index} is {name!r}, not a str")
            root = f"params[{index}]['params']" if grouped else "params"
            own = {key: value for key, value in spec.items() if key not in ("params", "name")}
            group = Group(
                change,
                self._stepper,
                checked_container(spec["params"], root),
                self.defaults | own,
                root=root,
                name=name,
                where=f"param_groups[{index}]",
                cut=partial(self._cut, [*self._groups, *added]),
                from_pickle=from_pickle,
            )
            for leaf in group.core.names:
                if leaf in taken:
                    raise ValueError(
                        f"two parameters would be called {leaf!r} in state; "
                        "rename a key, or give the parameter group another 'name'"
                    )
                taken.add(leaf)
            added.append(group)
        return added

    def _cut(self, before: Sequence[Group], core: _core.Group) -> Any:
        """Choose the parts of a new group that this process steps: all, here."""
        return None

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The parameter groups; ``opt.param_groups[0]["lr"] = 0.1`` changes an option."""
        return self._views

    def _common(self, option: str) -> float:
        values = [group.values()[option] for group in self._groups]
        if len(set(values)) > 1:
            also = "; opt.scale_lr(factor) multiplies all" if option == "lr" else ""
            raise ValueError(
                f"the groups differ in {option}: {values}; "
                f"read param_groups[i].current()['{option}']{also}"
            )
        return float(values[0])

    @property
    def lr(self) -> float:
        """The step size of the next step, for all groups; setting it sets it for all.

        Set it to a float or to a function of the step, which ends the one that was there; a float
        warns then (`scale_lr` keeps the function). What was set is ``param_groups[0]["lr"]``.
        Reading it raises a `ValueError` if the groups differ.
        """
        return self._common("lr")

    @lr.setter
    def lr(self, value: Schedulable) -> None:
        ended = [lr for group in self._groups if callable(lr := group.options["lr"])]
        if ended and not callable(as_schedulable("lr", value)):
            warn_the_caller(
                f"lr was the schedule {ended[0]!r}; setting it to a number ends it. To "
                "keep it, write opt.scale_lr(factor). To end it on purpose, write "
                "opt.lr = schedules.Constant(x) or opt.param_groups[0]['lr'] = x"
            )
        self._set_lr([value] * len(self._groups))

    def _set_lr(self, values: Sequence[Schedulable]) -> None:
        with self._stepper.change() as change:
            for group, value in zip(self._groups, values, strict=True):
                group.prepare(change, group.checked({"lr": value}))
            change.commit()

    def scale_lr(self, factor: Number) -> None:
        """Multiply `lr` of all groups, numbers and functions of the step alike.

        A function becomes ``schedules.Scaled(function, factor=factor)``, so it goes on.

        Parameters
        ----------
        factor : float
            The factor, ``> 0`` and finite.

        Raises
        ------
        TypeError, ValueError
            If the factor, or an `lr` that it leads to, is out of bounds. Nothing has changed then.
        RuntimeError
            Inside `use_ema` or `leafwise`, or while another thread steps.

        Examples
        --------
        >>> import numpy as np
        >>> from fused_rmsprop import RMSProp, schedules
        >>> opt = RMSProp(np.zeros(3), lr=schedules.Linear(0.5, end_value=0.0, transition_steps=4))
        >>> opt.scale_lr(0.5)
        >>> opt.lr
        0.25
        """
        from fused_rmsprop.schedules import Scaled  # not part of every program

        by = as_factor("factor", factor)
        with _core.FpEnvironment():
            rates = [group.options["lr"] for group in self._groups]
            self._set_lr([Scaled(lr, factor=by) if callable(lr) else by * lr for lr in rates])

    def freeze(self, *patterns: str) -> None:
        """Leave parameters alone from the next step on, as if their gradients were None.

        Neither the parameter nor its state changes, and its gradient, which may be anything, is
        neither checked nor part of the norm. `unfreeze` goes on with the state as it is.

        Parameters
        ----------
        *patterns : str
            Names in `state`, or patterns of them: ``*`` is any text, ``?`` any character.

        Raises
        ------
        KeyError
            If no parameter has the name, or matches the pattern. Nothing has changed then.
        RuntimeError
            Inside `use_ema` or `leafwise`, or while another thread steps.

        Examples
        --------
        >>> import numpy as np
        >>> from fused_rmsprop import RMSProp
        >>> opt = RMSProp({"layer1": {"W": np.ones(2)}, "layer2": {"W": np.ones(2)}})
        >>> opt.freeze("layer1.*")
        >>> opt.frozen
        ('layer1.W',)
        """
        if not patterns:
            raise TypeError("freeze() needs a name or a pattern; opt.freeze('*') freezes all")
        self._freeze(patterns, True)

    def unfreeze(self, *patterns: str) -> None:
        """Update frozen parameters again; without an argument, all.

        Parameters
        ----------
        *patterns : str
            As for `freeze`.

        Raises
        ------
        KeyError, RuntimeError
            As `freeze` does.
        """
        self._freeze(patterns or ("*",), False)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the parameters that `freeze` has frozen."""
        return tuple(name for group in self._groups for name in group.frozen)

    def _freeze(self, patterns: Sequence[str], frozen: bool) -> None:
        named = matching(patterns, [*self.state])
        with self._stepper.change() as change:
            for group in self._groups:
                pairs = zip(group.core.names, group.core.frozen, strict=True)
                flags = [frozen if name in named else before for name, before in pairs]
                change.set_frozen(group.core, flags)
            change.commit()

    def _set(self, name: str, value: Any) -> None:
        if name != "flush_denormals":
            return super()._set(name, value)
        with self._stepper.claim():
            for group in self._groups:
                group.validate(value)
            return super()._set(name, value)

    @property
    def step_count(self) -> int:
        """How many steps have been made: the argument of functions of the step."""
        return self._stepper.step_count

    @property
    def observation_window(self) -> float:
        """About how many steps the running average looks back: ``1 / (1 - alpha)``."""
        with _core.FpEnvironment():
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
            A new array of the parameter's shape and dtype: the factor of a gradient at the next
            step if its running average stayed.

        Raises
        ------
        KeyError
            If there is no such parameter.
        """
        for group in self._groups:
            if name in group.state:
                options = group.values()
                v = group.state[name][KINDS[0].key(options)]
                with _core.FpEnvironment():
                    found = rates(options["lr"], v, options["eps"], options["eps_inside_sqrt"])
                    return found.astype(v.dtype, copy=False)
        raise unknown_name(name, [*self.state])

    @property
    def state(self) -> State:
        """The state of each parameter by its name, as views of the very memory that steps update.

        Names are the keys and indices that lead to the parameter, joined by dots
        (``"layer1.W"``), with the group's name or index in front where there are groups;
        ``"param"`` for a single array. Each has ``step`` (0-d, int64), ``square_avg`` or, if
        centered, ``variance`` and ``grad_avg``, with momentum ``momentum_buffer``, and with an
        average of the parameters ``param_avg``.
        """
        return State([group.state for group in self._groups])

    def __repr__(self) -> str:
        rest = in_repr(self._settings())
        if self.step_count > 0:
            rest += f", step_count={self.step_count}"
        if not self._grouped:
            return f"RMSProp({self._groups[0]}; {rest})"
        groups = "".join(f"  {group.name!r}: {group}\n" for group in self._groups)
        return f"RMSProp({rest},\n{groups})"

    def _repr_html_(self) -> str | None:
        return or_none(optimizer_html, self)


def matching(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """The names that are one of the patterns, or else match one; a `KeyError` if one has none."""
    found: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                f"a name or a pattern is a str, got {reprlib.repr(pattern)}; several are "
                "arguments of their own: freeze(*names), unfreeze(*names)"
            )
        matches = [pattern] if pattern in names else [n for n in names if fnmatchcase(n, pattern)]
        if not matches:
            raise unknown_name(pattern, names)
        found.update(matches)
    return found
