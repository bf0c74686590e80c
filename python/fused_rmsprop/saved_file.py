"""What of an optimizer lies in a file, and the way from a state_dict to it and back.

Arrays are called ``params/<name>`` and ``state/<name>/<key>``; the rest is metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fused_rmsprop.options import OPTIONS
from fused_rmsprop.param_group import Array
from fused_rmsprop.schedules.plain import as_plain, from_plain, is_lost


def as_content(
    state_dict: Mapping[str, Any], params: Mapping[str, Array], defaults: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and the metadata of a file with all that; `from_content` takes it apart."""
    arrays = {f"params/{name}": array for name, array in params.items()}
    for name, entries in state_dict["state"].items():
        arrays |= {f"state/{name}/{key}": array for key, array in entries.items()}
    return arrays, {
        "state": {name: list(entries) for name, entries in state_dict["state"].items()},
        "param_groups": [
            {
                "params": group["params"],
                "name": group["name"],
                "options": {k: as_plain(group[k]) for k in OPTIONS},
            }
            for group in state_dict["param_groups"]
        ],
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
    """The state_dict, the parameters and the defaults, where ``overrides`` come before options.

    One for an option that some groups have as a function that was not saved is for those alone;
    and ``specs``, the groups that the user gives, may have such functions, too.
    """
    saved_groups, defaults = metadata["param_groups"], metadata["defaults"]
    lost = {
        name for group in saved_groups for name, value in group["options"].items() if is_lost(value)
    }

    def option(i: int, name: str, value: Any) -> Any:
        if is_lost(value) and name in specs[i]:
            return specs[i][name]
        if name in overrides and (name not in lost or is_lost(value)):
            return overrides[name]
        if is_lost(value):
            raise ValueError(
                f"{name} of param_groups[{i}] was saved as a function, and a file cannot hold "
                f"{_function_in(value)}: pass one again, RMSProp.load(path, params, {name}=...), "
                "or in the group"
            )
        return from_plain(value)

    groups = [
        {"params": group["params"], "name": group["name"]}
        | {name: option(i, name, value) for name, value in group["options"].items()}
        for i, group in enumerate(saved_groups)
    ]
    # For groups that are added later; a function that was lost is that of the first group.
    defaults = {
        name: groups[0][name] if is_lost(value) else overrides.get(name, from_plain(value))
        for name, value in defaults.items()
    }
    settings = {k: overrides.get(k, value) for k, value in metadata["settings"].items()}
    state = {
        name: {key: arrays[f"state/{name}/{key}"] for key in keys}
        for name, keys in metadata["state"].items()
    }
    state_dict = {"state": state, "param_groups": groups, "settings": settings}
    state_dict["counters"] = metadata["counters"]
    return state_dict, {name: arrays[f"params/{name}"] for name in state}, defaults


def _function_in(plain: Any) -> str:
    """The repr of the function that was lost, without its address in a process that is over."""
    if isinstance(plain, list):
        return next(_function_in(item) for item in plain if is_lost(item))
    if "function" in plain:
        return re.sub(r" at 0x[0-9a-f]+", "", plain["function"])
    return next(_function_in(value) for value in plain["arguments"].values() if is_lost(value))
