"""The state of parameters as users see it: read-only mappings whose `repr` prints no elements."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from fused_rmsprop.base import unknown_name
from fused_rmsprop.groups.html import param_state_html, state_html
from fused_rmsprop.introspection.html import or_none

Array: TypeAlias = NDArray[Any]

#: How many entries a `repr` lists.
_LISTED = 20


class Keys(KeysView[str]):
    """The keys of a view, printed as names."""

    def __repr__(self) -> str:
        return f"KeysView({_listed(self, repr, ', ', '[{}]')})"


class ParamState(Mapping[str, Array]):
    """The state of one parameter: a read-only mapping from ``"step"`` and each kind to its array.

    Parameters
    ----------
    name : str
        The name of the parameter, for errors.
    arrays : dict of ndarray
        Views of the memory that steps update.
    """

    __slots__ = ("_arrays", "_name")

    def __init__(self, name: str, arrays: dict[str, Array]) -> None:
        self._name = name
        self._arrays = arrays

    def __getitem__(self, key: str) -> Array:
        try:
            return self._arrays[key]
        except KeyError:
            known = ", ".join(map(repr, self._arrays))
            raise KeyError(f"state[{self._name!r}] has no {key!r}; it has {known}") from None

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def keys(self) -> Keys:
        """The names of the arrays."""
        return Keys(self)

    def __repr__(self) -> str:
        lines = [
            f"  {key}: {int(array)}" if key == "step" else f"  {key}: {described(array)}"
            for key, array in self._arrays.items()
        ]
        return "\n".join([f"state of {self._name!r}", *lines])

    def _repr_html_(self) -> str | None:
        return or_none(param_state_html, self._name, self)

    def _ipython_key_completions_(self) -> list[str]:
        return [*self._arrays]


class State(Mapping[str, ParamState]):
    """The state of parameters by their names: a read-only mapping.

    Parameters
    ----------
    groups : sequence of dict
        The state of the parameters of each group by their names, which groups replace in place.
    """

    __slots__ = ("_groups",)

    def __init__(self, groups: Sequence[dict[str, ParamState]]) -> None:
        self._groups = groups

    def __getitem__(self, name: str) -> ParamState:
        for group in self._groups:
            if name in group:
                return group[name]
        raise unknown_name(name, [*self])

    def __contains__(self, name: object) -> bool:
        return any(name in group for group in self._groups)

    def __iter__(self) -> Iterator[str]:
        for group in self._groups:
            yield from group

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    def keys(self) -> Keys:
        """The names of the parameters."""
        return Keys(self)

    def __repr__(self) -> str:
        def line(name: str) -> str:
            state = self[name]
            arrays = {key: array for key, array in state.items() if key != "step"}
            nbytes = sum(array.nbytes for array in arrays.values())
            each = described(next(iter(arrays.values())), nbytes)
            return f"  {name}: {', '.join(arrays)} of {each}, step {int(state['step'])}"

        plural = "" if len(self) == 1 else "s"
        return f"state of {len(self)} parameter{plural}\n{_listed(self, line, chr(10), '{}')}"

    def _repr_html_(self) -> str | None:
        return or_none(state_html, self)

    def _ipython_key_completions_(self) -> list[str]:
        return [*self]


def described(array: Array, nbytes: int | None = None) -> str:
    """Shape, dtype and bytes of an array, or of several that are alike."""
    return f"{array.shape} {array.dtype}, {array.nbytes if nbytes is None else nbytes:,} bytes"


def _listed(names: Any, text: Any, separator: str, around: str) -> str:
    """The first names, each as its text, and how many follow."""
    shown = [text(name) for name, _ in zip(names, range(_LISTED), strict=False)]
    rest = len(names) - len(shown)
    more = [f"{'  ' * (separator != ', ')}... and {rest:,} more"] if rest else []
    return around.format(separator.join(shown + more))
