"""All of an optimizer as a dict, and back: copied, compared with an optimizer, loaded into it.

A state_dict has the keys ``"state"`` (name to arrays), ``"param_groups"`` (options, and the names
as ``"params"``), ``"settings"`` and ``"counters"``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fused_rmsprop import _core
from fused_rmsprop.groups.group import Checked, Group
from fused_rmsprop.groups.state import GRAD_SUM, KINDS, Array, needed_kinds
from fused_rmsprop.options import GROUP_OPTIONS, OPTIMIZER_OPTIONS, parse_options
from fused_rmsprop.values import LARGEST_STEP_COUNT

COUNTERS = ("step_count", "skipped_steps", "accumulated")
SETTINGS = tuple(name for name, option in OPTIMIZER_OPTIONS.items() if option.in_files)
#: Settings that files, state_dicts and pickles of earlier releases lack; they get their default.
LATER_SETTINGS = ("max_grad_norm_per_array",)
_MOST_LINES = 20  # of an error


@dataclass(frozen=True)
class Saved:
    """The parts of a state_dict, and the parameters if a file has them."""

    state: Mapping[str, Any]
    groups: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    counters: Mapping[str, int]
    params: Mapping[str, Any] | None
    source: str  # its name in errors

    @property
    def kind(self) -> str:
        """A short name: the source may be a long path."""
        return "the state_dict" if self.params is None else "the file"


def state_dict_of(stepper: _core.NumpyStepper, groups: Sequence[Group]) -> dict[str, Any]:
    """A copy of everything but the parameters, while nobody changes it."""
    with stepper.reading():
        return _copies(stepper, groups)


def snapshot_of(
    stepper: _core.NumpyStepper, groups: Sequence[Group]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The same and copies of the parameters by their names, as of one moment.

    Raises a `ValueError` if an array has been reshaped or replaced: its file could not be loaded.
    """
    with stepper.reading():
        for group in groups:
            group.core.check_unchanged()
        params = {
            name: array.copy(order="K")
            for group in groups
            for name, array in zip(group.core.names, group.core.arrays, strict=True)
        }
        return _copies(stepper, groups), params


def _copies(stepper: _core.NumpyStepper, groups: Sequence[Group]) -> dict[str, Any]:
    state = {
        name: {key: array.copy() for key, array in arrays.items()}
        for group in groups
        for name, arrays in group.state.items()
    }
    for group in groups:
        for name, grad_sum in group.grad_sums().items():
            state[name][GRAD_SUM] = grad_sum.copy()
    return {
        "state": state,
        "param_groups": [
            group.options
            | {"params": group.core.names, "name": group.name}
            | ({"frozen": group.frozen} if group.frozen else {})
            for group in groups
        ],
        "settings": {name: getattr(stepper, name) for name in SETTINGS},
        "counters": {name: getattr(stepper, name) for name in COUNTERS},
    }


def prepare_loading(
    change: _core.Change,
    groups: Sequence[Group],
    saved: Saved,
    own: Callable[[Saved], Saved],
) -> None:
    """Add saved state and parameters to a change; raise a `ValueError` if they do not fit.

    ``own`` is called when they do: it cuts their arrays to the parts that this process steps.
    """
    loaded = _core.NumpyStepper()
    for name in SETTINGS:
        setattr(loaded, name, OPTIMIZER_OPTIONS[name].read(name, saved.settings[name]))
    for name, count in saved.counters.items():
        setattr(loaded, name, count)
    if found := _differences(groups, saved):
        more = [f"and {len(found) - _MOST_LINES} more"] if len(found) > _MOST_LINES else []
        raise ValueError(
            f"{saved.source} does not fit (names come from the structure of the parameters, and "
            "the names of groups; rename= maps saved names to these, strict=False takes what "
            "fits):\n  " + "\n  ".join(found[:_MOST_LINES] + more)
        )
    checked = [
        group.validated(
            saved_options(part, f"param_groups[{i}] of {saved.source}"),
            loaded.flush_denormals,
            loaded.step_count,
        )
        for i, (group, part) in enumerate(zip(groups, saved.groups, strict=True))
    ]
    saved = own(saved)
    change.take_settings(loaded)
    for group, of_group, part in zip(groups, checked, saved.groups, strict=True):
        _prepare_group(change, group, of_group, saved.state, saved.params)
        frozen = part.get("frozen", ())
        change.set_frozen(group.core, [name in frozen for name in group.core.names])


def _prepare_group(
    change: _core.Change,
    group: Group,
    checked: Checked,
    state: Mapping[str, Any],
    params: Mapping[str, Any] | None,
) -> None:
    names = group.core.names
    kinds = {kind.name for kind in needed_kinds(checked.options)}
    kinds |= {k.name for k in KINDS if k.kept and all(k.name in state[n] for n in names)}
    group.prepare_saved(change, checked, state, kinds)
    if params is not None:
        for name, param in zip(names, group.core.arrays, strict=True):
            change.copy(param, params[name])


def saved_options(saved: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a saved group, or a `ValueError` if some are missing or wrong."""
    parsed = _parsed_options(saved, where)
    if missing := [key for key in GROUP_OPTIONS if key not in parsed]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return parsed


def _parsed_options(saved: Mapping[str, Any], where: str) -> dict[str, Any]:
    options = {k: v for k, v in saved.items() if k not in ("params", "name", "frozen")}
    return parse_options(options, where)


def _differences(groups: Sequence[Group], saved: Saved) -> list[str]:
    """All reasons why saved state cannot be loaded into groups."""
    found: list[str] = []
    same = len(groups) == len(saved.groups)
    if not same:
        found.append(
            f"{saved.kind} has {len(saved.groups)} parameter groups, the optimizer {len(groups)}"
        )
    everywhere = [name for part in saved.groups for name in part["params"]]
    for i, group in enumerate(groups):
        where = f"param_groups[{i}] of {saved.kind}" if same else saved.kind
        names = saved.groups[i]["params"] if same else everywhere
        found += [f"{n!r} is not in {where}" for n in sorted({*group.core.names} - {*names})]
        if same:
            found += [f"{n!r} is in {where} only" for n in sorted({*names} - {*group.core.names})]
        parsed = _parsed_options(saved.groups[i], where) if same else group.options
        if missing := [key for key in GROUP_OPTIONS if key not in parsed]:
            found.append(f"{where} lacks {', '.join(missing)}")
        for name, array in zip(group.core.names, group.core.arrays, strict=True):
            if name in names:
                found += reasons(name, array, saved, group.options | parsed)
    if not same:
        ours = {name for group in groups for name in group.core.names}
        found += [f"{n!r} is in {saved.kind} only" for n in sorted({*everywhere} - ours)]
    if saved.counters["accumulated"] == 0:
        found += [
            f"state[{name!r}] has a grad_sum, and nothing was accumulated"
            for name, arrays in saved.state.items()
            if isinstance(arrays, Mapping) and GRAD_SUM in arrays
        ]
    return found


def reasons(name: str, array: Array, saved: Saved, options: Mapping[str, Any]) -> list[str]:
    """The reasons why the saved arrays of a parameter cannot be loaded with these options."""
    if saved.params is not None:
        found = _different(f"the saved parameter {name!r}", saved.params.get(name), array)
        if found:  # its state differs likewise
            return found
    return _different_state(name, saved.state.get(name), array, options)


def _check_frozen(group: Mapping[str, Any]) -> None:
    frozen = group.get("frozen", [])
    if not isinstance(frozen, list):
        raise ValueError(f"'frozen' of a saved group is a {type(frozen).__name__}, not a list")
    if unknown := [name for name in frozen if name not in group["params"]]:
        raise ValueError(f"{unknown[0]!r} is frozen in a saved group, but none of its parameters")


def _different(where: str, saved: Any, array: Array) -> list[str]:
    """The reason why a saved array cannot be loaded beside a parameter; at most one line."""
    if not isinstance(saved, np.ndarray):
        return [f"{where} is a {type(saved).__name__}, not an array"]
    if (saved.dtype, saved.shape) != (array.dtype, array.shape):
        return [
            f"{where} is {saved.dtype} of shape {saved.shape}, "
            f"the parameter {array.dtype} of shape {array.shape}"
        ]
    return []


def _different_state(
    name: str, state: object, array: Array, options: Mapping[str, Any]
) -> list[str]:
    """The reasons why the saved state of a parameter cannot be loaded with these options."""
    if not isinstance(state, Mapping):
        return [f"state[{name!r}] is missing"]
    optional = {kind.name for kind in KINDS if kind.kept} | {GRAD_SUM}
    needed = {"step"} | {kind.key(options) for kind in needed_kinds(options)}
    found = []
    for key in sorted(needed | (state.keys() & optional)):
        where = f"state[{name!r}][{key!r}]"
        if key not in state:
            found.append(f"{where} is missing")
        elif key != "step":
            found += _different(where, state[key], array)
        elif not _is_count(state[key]):
            found.append(f"{where} is {state[key]!r}, not a number of steps up to 2**53")
    return found


def _is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number of steps that a training can reach."""
    # A masked array may have no value; NumPy 1.23 warns of nested lists of different lengths.
    if isinstance(value, (np.ma.MaskedArray, list, tuple)):
        return False
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return False
    if array.shape != () or not np.issubdtype(array.dtype, np.integer):
        return False
    return 0 <= int(array) <= LARGEST_STEP_COUNT


def parts_of(
    state_dict: object,
    params: Mapping[str, Any] | None = None,
    source: str = "the state_dict",
) -> Saved:
    """The parts of a state_dict, or a `ValueError` that tells the difference from one."""
    keys = ("state", "param_groups", "settings", "counters")
    if not isinstance(state_dict, Mapping) or any(key not in state_dict for key in keys):
        got = (
            f"a dict of {', '.join(map(str, state_dict))}"
            if isinstance(state_dict, Mapping)
            else f"a {type(state_dict).__name__}"
        )
        raise ValueError(
            f"a state_dict of RMSProp has the keys {', '.join(keys)}; this is {got}. "
            "RMSProp.load(path, params) reads a file, other.state_dict() is that of an optimizer, "
            "fused_rmsprop.exchange.from_torch(opt, optimizer) takes over the state of torch's"
        )
    state, groups, settings, counters = (state_dict[key] for key in keys)
    if isinstance(settings, Mapping):
        later = {name: OPTIMIZER_OPTIONS[name].default for name in LATER_SETTINGS}
        settings = {**later, **settings}
    if not isinstance(state, Mapping) or not isinstance(groups, (list, tuple)):
        raise ValueError("in a state_dict of RMSProp, state is a dict and param_groups a list")
    for group in groups:
        names = group.get("params") if isinstance(group, Mapping) else None
        if not isinstance(names, list) or not all(isinstance(n, str) for n in (*names, *group)):
            raise ValueError(
                "in a state_dict of RMSProp, param_groups are dicts with the key 'params', names"
            )
        _check_frozen(group)
    for what, part, names in (("settings", settings, SETTINGS), ("counters", counters, COUNTERS)):
        if not isinstance(part, Mapping) or set(part) != set(names):
            raise ValueError(f"in a state_dict of RMSProp, {what} are {', '.join(names)}")
    for name, count in counters.items():
        if isinstance(count, bool) or not _is_count(count):
            raise ValueError(
                f"in a state_dict of RMSProp, {name} is an int >= 0 and <= 2**53, not {count!r}"
            )
    counts = {name: int(count) for name, count in counters.items()}
    return Saved(dict(state), list(groups), settings, counts, params, source)
