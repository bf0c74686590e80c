"""The state of an optimizer apart from it: taken, checked against another, given to it.

A state_dict has the keys ``"state"`` (name to arrays), ``"param_groups"`` (options, and the names
as ``"params"``), ``"settings"`` and ``"counters"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fused_rmsprop import _core
from fused_rmsprop.options import OPTIONS, SETTINGS, parse_options
from fused_rmsprop.param_group import Array, Checked, ParamGroup, claimed, different, is_count

COUNTERS = ("step_count", "skipped_steps", "accumulated")


def settings_of(stepper: _core.Stepper) -> dict[str, Any]:
    """What the optimizer was told that can change a result."""
    return {name: getattr(stepper, name) for name in SETTINGS}


def state_dict_of(stepper: _core.Stepper, groups: Sequence[ParamGroup]) -> dict[str, Any]:
    """A copy of everything but the parameters, while nobody changes it."""
    with claimed(stepper):
        return _copies(stepper, groups)


def snapshot_of(
    stepper: _core.Stepper, groups: Sequence[ParamGroup]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The same and copies of the parameters by their names, as of one moment."""
    with claimed(stepper):
        params = {
            name: array.copy(order="K")
            for group in groups
            for name, array in zip(group.core.names, group.core.arrays, strict=True)
        }
        return _copies(stepper, groups), params


def _copies(stepper: _core.Stepper, groups: Sequence[ParamGroup]) -> dict[str, Any]:
    return {
        "state": {name: state for group in groups for name, state in group.saved_state().items()},
        "param_groups": [
            group.options() | {"params": group.core.names, "name": group.name} for group in groups
        ],
        "settings": settings_of(stepper),
        "counters": {name: getattr(stepper, name) for name in COUNTERS},
    }


class Loading:
    """A state_dict that was found to fit an optimizer; nothing is changed before `apply`."""

    def __init__(
        self,
        stepper: _core.Stepper,
        groups: Sequence[ParamGroup],
        state_dict: object,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self._stepper = stepper
        self._groups = groups
        self._params = params
        self._state, saved_groups, settings, self._counters = _parts_of(state_dict)
        self._settings = {name: parse(settings[name]) for name, parse in SETTINGS.items()}
        if len(saved_groups) != len(groups):
            raise ValueError(
                f"the state_dict has {len(saved_groups)} parameter groups, "
                f"the optimizer {len(groups)}"
            )
        self._checked: list[Checked] = []
        found: list[str] = []
        for i, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
            where = f"param_groups[{i}] of the state_dict"
            if other_names := _other_names(group.core.names, saved["params"], where):
                found += other_names
                continue
            options = {k: v for k, v in saved.items() if k not in ("params", "name")}
            parsed = parse_options(options, where)
            if missing := [key for key in OPTIONS if key not in parsed]:
                raise ValueError(f"{where} lacks {', '.join(missing)}")
            self._checked.append(
                group.validated(
                    parsed, self._settings["flush_denormals"], self._counters["step_count"]
                )
            )
            if params is not None:
                for name, array in zip(group.core.names, group.core.arrays, strict=True):
                    found += different(f"the saved parameter {name!r}", params.get(name), array)
            found += group.differences(parsed, self._state)
        if self._counters["accumulated"] == 0:
            found += [
                f"state[{name!r}] has a grad_sum, and nothing was accumulated"
                for name, state in self._state.items()
                if isinstance(state, Mapping) and "grad_sum" in state
            ]
        if found:
            raise ValueError(
                "the saved state does not fit (names come from the structure of the parameters, "
                "and the names of groups):\n  " + "\n  ".join(found)
            )

    def apply(self) -> None:
        """Take over the options, the state, the settings, the counters and the parameters."""
        with claimed(self._stepper):
            for name, value in {**self._settings, **self._counters}.items():
                setattr(self._stepper, name, value)
            for group, checked in zip(self._groups, self._checked, strict=True):
                group.load(checked, self._state)
                if self._params is not None:
                    for name, array in zip(group.core.names, group.core.arrays, strict=True):
                        array[...] = self._params[name]


def _other_names(ours: Sequence[str], theirs: Sequence[str], where: str) -> list[str]:
    found = [f"{name!r} is not in {where}" for name in sorted(set(ours) - set(theirs))]
    return found + [f"{name!r} is in {where} only" for name in sorted(set(theirs) - set(ours))]


def _parts_of(
    state_dict: object,
) -> tuple[dict[str, Any], list[Any], Mapping[str, Any], dict[str, int]]:
    """The parts of a state_dict, or a `ValueError` that says what it is instead."""
    keys = ("state", "param_groups", "settings", "counters")
    if not isinstance(state_dict, Mapping) or any(key not in state_dict for key in keys):
        got = (
            f"a dict of {', '.join(map(str, state_dict))}"
            if isinstance(state_dict, Mapping)
            else f"a {type(state_dict).__name__}"
        )
        raise ValueError(
            f"a state_dict of RMSProp has the keys {', '.join(keys)}; this is {got}. "
            "fused_rmsprop.exchange.from_torch takes over the state of an optimizer of torch"
        )
    state, groups, settings, counters = (state_dict[key] for key in keys)
    if not isinstance(state, Mapping) or not isinstance(groups, (list, tuple)):
        raise ValueError("in a state_dict of RMSProp, state is a dict and param_groups a list")
    if not all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups
    ):
        raise ValueError(
            "in a state_dict of RMSProp, param_groups are dicts with the key 'params', names"
        )
    for what, part, names in (("settings", settings, SETTINGS), ("counters", counters, COUNTERS)):
        if not isinstance(part, Mapping) or set(part) != set(names):
            raise ValueError(f"in a state_dict of RMSProp, {what} are {', '.join(names)}")
    for name, count in counters.items():
        if isinstance(count, bool) or not is_count(count):
            raise ValueError(f"in a state_dict of RMSProp, {name} is an int >= 0, not {count!r}")
    return dict(state), list(groups), settings, {k: int(v) for k, v in counters.items()}
