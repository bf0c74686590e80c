"""Saved state by other names, or as much of it as fits the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fused_rmsprop.checkpoint.renaming import Rename, own_names
from fused_rmsprop.checkpoint.report import LoadReport
from fused_rmsprop.checkpoint.state_dict import Saved, reasons, saved_options
from fused_rmsprop.groups.group import Group
from fused_rmsprop.groups.state import KINDS, Array, check_fixed, needed_kinds, new_arrays


def renamed(saved: Saved, rename: Rename | None) -> Saved:
    """Saved state with the names of parameters here; without those that are left out."""
    if rename is None:
        return saved
    names = own_names([name for group in saved.groups for name in group["params"]], rename)
    groups: list[dict[str, Any]] = []
    for group in saved.groups:
        lists = {key: group[key] for key in ("params", "frozen") if key in group}
        own = {
            key: [names[old] for old in old_names if old in names]
            for key, old_names in lists.items()
        }
        groups.append({**group, **own})
    state = {new: saved.state[old] for old, new in names.items() if old in saved.state}
    params = saved.params
    if params is not None:
        params = {new: params[old] for old, new in names.items() if old in params}
    return replace(saved, state=state, groups=groups, params=params)


def fitted(saved: Saved, groups: Sequence[Group]) -> tuple[Saved, LoadReport]:
    """What fits of saved state, with new state for the other parameters, and the names of those.

    If there are as many groups, each takes the options of the saved one that has its parameters, of
    several that of the first. Others keep theirs.
    """
    report = LoadReport([], [], [])
    options_of: dict[str, dict[str, Any]] = {}
    sources = [
        saved_options(group, f"param_groups[{i}] of {saved.source}")
        for i, group in enumerate(saved.groups)
    ]
    for group, source in zip(saved.groups, sources, strict=True):
        options_of |= dict.fromkeys(group["params"], source)
    saved_frozen = {name for group in saved.groups for name in group.get("frozen", ())}
    same = len(groups) == len(saved.groups)
    index_of = {name: i for i, group in enumerate(saved.groups) for name in group["params"]}
    state: dict[str, Any] = {}
    params: dict[str, Any] = {}
    parts = []
    for ours in groups:
        found = [index_of[name] for name in ours.core.names if name in index_of]
        options = sources[found[0]] if same and found else ours.options
        fits = {
            name
            for name, array in zip(ours.core.names, ours.core.arrays, strict=True)
            if _fits(name, array, saved, options_of, options, report)
        }
        kinds = needed_kinds(options)
        kinds += [
            kind
            for kind in KINDS
            if kind.kept and kind not in kinds and any(kind.name in saved.state[n] for n in fits)
        ]
        for name, array in zip(ours.core.names, ours.core.arrays, strict=True):
            state[name] = {"step": 0}
            state[name] |= {k.key(options): new_arrays(k, options, [array])[0] for k in kinds}
            if name in fits:
                state[name] |= saved.state[name]
            params[name] = saved.params[name] if name in fits and saved.params else array.copy("K")
        frozen = [n for n in ours.core.names if n in (saved_frozen if n in fits else ours.frozen)]
        parts.append({**options, "params": ours.core.names, "name": ours.name, "frozen": frozen})
    report.unexpected.extend(name for name in options_of if name not in state)
    values = None if saved.params is None else params
    return replace(saved, state=state, groups=parts, params=values), report


def _fits(
    name: str,
    array: Array,
    saved: Saved,
    options_of: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
    report: LoadReport,
) -> bool:
    """Whether the saved values and state of a parameter suit it and the options of its group."""
    if name not in options_of:
        report.missing.append(name)
        return False
    try:
        good = not reasons(name, array, saved, options)
        if good and options is not options_of[name]:
            check_fixed(options_of[name], options, [saved.state[name]], name)
    except ValueError:  # the state has another meaning with these options
        good = False
    if not good:
        report.unfitting.append(name)
    return good
