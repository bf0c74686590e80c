"""Convert a state_dict to checkpoint contents and back.

Arrays are named ``params/<name>`` and ``state/<name>/<key>``; everything else is metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fused_rmsprop.groups.state import Array
from fused_rmsprop.options import GROUP_OPTIONS
from fused_rmsprop.schedules.plain import as_plain, from_plain, lost_functions


def as_content(
    state_dict: Mapping[str, Any], params: Mapping[str, Array], defaults: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and the metadata of a checkpoint; `from_content` is the inverse."""
    arrays = {f"params/{name}": array for name, array in params.items()}
    for name, entries in state_dict["state"].items():
        arrays |= {f"state/{name}/{key}": array for key, array in entries.items()}
    groups = [
        {key: group[key] for key in ("params", "name")}
        | {"options": {name: as_plain(group[name]) for name in GROUP_OPTIONS}}
        for group in state_dict["param_groups"]
    ]
    return arrays, {
        "state": {name: list(entries) for name, entries in state_dict["state"].items()},
        "param_groups": groups,
        "settings": state_dict["settings"],
        "counters": state_dict["counters"],
        "defaults": {name: as_plain(value) for name, value in defaults.items()},
    }


def from_content(
    arrays: Mapping[str, Array],
    metadata: Mapping[str, Any],
    overrides: Mapping[str, Any],
    specs: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, Array], dict[str, Any]]:
    """Return the state_dict, the parameters and the defaults of a checkpoint.

    ``overrides`` replace saved options in all groups; if the option was an unsaved function in some
    groups, only in those. ``specs``, the groups given by the user, can also supply such functions.
    """
    options = [group["options"] for group in metadata["param_groups"]]
    lost = {name for saved in options for name in saved if lost_functions(saved[name])}

    def option(i: int, name: str, value: Any) -> Any:
        functions = lost_functions(value)
        if functions and name in specs[i]:
            return specs[i][name]
        if name in overrides and (functions or name not in lost):
            return overrides[name]
        if functions:
            raise ValueError(
                f"{name} of param_groups[{i}] was a function, and a file cannot hold "
                f"{functions[0]}: pass it again, as RMSProp.load(path, params, {name}=...) "
                "or in the group"
            )
        return from_plain(value)

    groups = [
        {"params": group["params"], "name": group["name"]}
        | {name: option(i, name, value) for name, value in group["options"].items()}
        for i, group in enumerate(metadata["param_groups"])
    ]
    state = {
        name: {key: arrays[f"state/{name}/{key}"] for key in keys}
        for name, keys in metadata["state"].items()
    }
    state_dict = {
        "state": state,
        "param_groups": groups,
        "settings": {k: overrides.get(k, value) for k, value in metadata["settings"].items()},
        "counters": metadata["counters"],
    }
    # Groups added later use the defaults; an unsaved function becomes that of the first group.
    defaults = {
        name: groups[0][name] if lost_functions(value) else overrides.get(name, from_plain(value))
        for name, value in metadata["defaults"].items()
    }
    return state_dict, {name: arrays[f"params/{name}"] for name in state}, defaults
