"""A parameter group as users see it: a mapping of its options."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from fused_rmsprop.groups.group import Group
from fused_rmsprop.groups.html import group_html
from fused_rmsprop.groups.views import State
from fused_rmsprop.introspection.html import or_none
from fused_rmsprop.options import GROUP_OPTIONS


def _instead(name: str) -> str:
    item = f"; options are items: group[{name!r}]" if name in GROUP_OPTIONS else ""
    return f"'ParamGroup' object has no attribute {name!r}{item}"


class ParamGroup(MutableMapping[str, Any]):
    """Parameters that share options: a mapping from ``"params"`` and each option to its value.

    Optimizers make these; see `RMSProp.param_groups`. Options are set as in a dict and checked
    at once; a refused change leaves everything as it was. `update` changes several together.
    """

    __slots__ = ("_group",)
    __eq__ = object.__eq__  # identity, as arrays have no truth value to compare by
    __hash__ = object.__hash__

    def __init__(self, group: Group) -> None:
        self._group = group

    @property
    def name(self) -> str:
        """The first part of the names of the group's parameters in the state."""
        return self._group.name

    @property
    def state(self) -> State:
        """The state of each parameter of the group by its name; see `RMSProp.state`."""
        return State((self._group.state,))

    @property
    def state_nbytes(self) -> int:
        """The bytes of all state arrays."""
        return self._group.state_nbytes

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Only called for names that are not there."""
            raise AttributeError(_instead(name), name=name, obj=self)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in GROUP_OPTIONS:
                raise AttributeError(_instead(name))
            super().__setattr__(name, value)

    def __getitem__(self, key: str) -> Any:
        if key == "params":
            self._group.stepper.read_here()
            return self._group.params
        return self._group.options[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"{key!r} cannot be removed from a parameter group")

    def __iter__(self) -> Iterator[str]:
        return iter(("params", *GROUP_OPTIONS))

    def __len__(self) -> int:
        return 1 + len(GROUP_OPTIONS)

    def __repr__(self) -> str:
        return f"ParamGroup({self._group})"

    def _repr_html_(self) -> str | None:
        return or_none(group_html, self._group)

    def _ipython_key_completions_(self) -> list[str]:
        return [*self]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change several options together, or none if any of them is refused."""
        changes = dict(*args, **kwargs)
        if "params" in changes:
            raise ValueError("the arrays of a group cannot be replaced; add_param_group adds some")
        with self._group.stepper.change() as change:
            self._group.prepare(change, self._group.checked(changes))
            change.commit()

    def options(self) -> dict[str, Any]:
        """A copy of the options, without the arrays."""
        return dict(self._group.options)

    def current(self) -> dict[str, Any]:
        """The options of the next step: numbers in the place of functions of the step."""
        return dict(self._group.values())
