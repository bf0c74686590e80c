"""An optimizer, a parameter group and their state as HTML, as notebooks show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fused_rmsprop.introspection.html import block, counted, paragraph, table
from fused_rmsprop.options import OPTIMIZER_OPTIONS, in_repr

if TYPE_CHECKING:
    from fused_rmsprop.groups.group import Group
    from fused_rmsprop.groups.grouped import GroupedOptimizer
    from fused_rmsprop.groups.views import ParamState, State

_GROUP = ("group", "options", "arrays", "elements", "frozen")
_STATE = ("name", "shape", "dtype", "state", "bytes", "step", "frozen")


def optimizer_html(opt: GroupedOptimizer) -> str:
    """The settings, groups and state of an optimizer."""
    groups = opt._groups
    settings = [
        f"{name}={value!r}"
        for name, value in opt._settings().items()
        if value != OPTIMIZER_OPTIONS[name].default
    ]
    steps = counted(opt.step_count, "step")
    facts = steps, f"{opt.state_nbytes:,} bytes of state", ", ".join(settings)
    frozen = frozenset(opt.frozen)
    return block(
        paragraph(type(opt).__name__, *facts),
        table(_GROUP, map(_group_row, groups), len(groups)),
        _state_table(opt.state, frozen),
    )


def group_html(group: Group) -> str:
    """The options and state of a parameter group."""
    name = f"ParamGroup {group.name!r}" if group.name else "ParamGroup"
    return block(
        paragraph(name, f"{group.state_nbytes:,} bytes of state"),
        table(_GROUP, [_group_row(group)], 1),
        _state_table(group.state, frozenset(group.frozen)),
    )


def state_html(state: State) -> str:
    """The state of parameters: shapes and sizes of arrays, not their elements."""
    title = f"state of {counted(len(state), 'parameter')}"
    return block(paragraph(title), _state_table(state, frozenset()))


def param_state_html(name: str, arrays: Mapping[str, Any]) -> str:
    """The state of one parameter."""
    kinds = [(key, array) for key, array in arrays.items() if key != "step"]
    rows = [(key, array.shape, array.dtype, f"{array.nbytes:,}") for key, array in kinds]
    facts = [counted(int(arrays["step"]), "step")] if "step" in arrays else []
    return block(
        paragraph(f"state of {name!r}", *facts),
        table(("array", "shape", "dtype", "bytes"), rows, len(rows)),
    )


def _group_row(group: Group) -> Sequence[object]:
    arrays = group.core.arrays
    elements = sum(array.size for array in arrays)
    frozen = len(group.frozen) or ""
    return group.name, in_repr(group.options), f"{len(arrays):,}", f"{elements:,}", frozen


def _state_table(state: Mapping[str, ParamState], frozen: frozenset[str]) -> str:
    def rows() -> Iterator[Sequence[object]]:
        for name, of_one in state.items():
            yield _state_row(name, of_one, "frozen" if name in frozen else "")

    return table(_STATE, rows(), len(state))


def _state_row(name: str, state: ParamState, note: str) -> Sequence[object]:
    arrays = {key: array for key, array in state.items() if key != "step"}
    first = next(iter(arrays.values()))
    nbytes = sum(array.nbytes for array in arrays.values())
    kinds, step = ", ".join(arrays), int(state["step"])
    return name, first.shape, first.dtype, kinds, f"{nbytes:,}", step, note
