"""What of an optimizer lies in a file, and the way from a state_dict to it and back.

Arrays are called ``params/<name>`` and ``state/<name>/<key>``; the rest is metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    arrays: Mapping[str, Array], metadata: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Array], dict[str, Any]]:
    """The state_dict, the parameters and the defaults, where ``overrides`` come before options.

    One for an option that some groups have as a function that was not saved is for those alone.
    """
    saved_groups, defaults = metadata["param_groups"], metadata["defaults"]
    lost = {
        name
        for options in (defaults, *(group["options"] for group in saved_groups))
        for name, value in options.items()
        if is_lost(value)
    }

    def options_of(saved: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: overrides[name]
            if name in overrides and (name not in lost or is_lost(value))
            else _option_from_plain(name, value)
            for name, value in saved.items()
        }

    names = ("params", "name")
    groups = [{k: g[k] for k in names} | options_of(g["options"]) for g in saved_groups]
    settings = {k: overrides.get(k, value) for k, value in metadata["settings"].items()}
    state = {
        name: {key: arrays[f"state/{name}/{key}"] for key in keys}
        for name, keys in metadata["state"].items()
    }
    state_dict = {"state": state, "param_groups": groups, "settings": settings}
    state_dict["counters"] = metadata["counters"]
    return state_dict, {name: arrays[f"params/{name}"] for name in state}, options_of(defaults)


def _option_from_plain(option: str, value: Any) -> Any:
    try:
        return from_plain(value)
    except ValueError as error:
        raise ValueError(
            f"{option} was saved as a function: {error}; pass it again, "
            f"RMSProp.load(path, params, {option}=...)"
        ) from None
