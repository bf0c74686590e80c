"""Convert a state_dict to the content of a checkpoint and back.

Arrays are named ``params/<name>`` and ``state/<name>/<key>``; everything else is metadata. The
tables of options and of state kinds say what a file may hold. Whatever else it holds is refused.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np

from fused_rmsprop.base import NO_AVERAGES, helps_with_options
from fused_rmsprop.checkpoint import CheckpointError
from fused_rmsprop.checkpoint.file import name_of, read
from fused_rmsprop.checkpoint.state_dict import COUNTERS, LATER_SETTINGS, SETTINGS
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.groups.state import GRAD_SUM, KINDS, Array
from fused_rmsprop.options import GROUP_OPTIONS, OPTIMIZER_OPTIONS, Option
from fused_rmsprop.schedules.plain import as_plain, from_plain, lost_functions
from fused_rmsprop.values import LARGEST_STEP_COUNT

# The keys of each JSON object, and the types of their values.
_Keys = Mapping[str, type]
_PARTS: _Keys = {
    "state": dict, "param_groups": list, "settings": dict, "counters": dict, "defaults": dict,
}  # fmt: skip
_GROUP: dict[str, type] = {"params": list, "name": str, "options": dict}
_OPTIONS: _Keys = dict.fromkeys(GROUP_OPTIONS, object)  # their own functions read them
_SETTINGS: _Keys = dict.fromkeys(SETTINGS, object)
_COUNTERS: _Keys = dict.fromkeys(COUNTERS, int)
_AVERAGE = next(kind.name for kind in KINDS if kind.start == "param")
_STATE = {"step", *(k.name for k in KINDS), *(k.name_if_centered for k in KINDS), GRAD_SUM} - {""}


class Content(NamedTuple):
    """A file whose arrays and metadata belong together."""

    where: str  # the file's name in errors
    arrays: Mapping[str, Array]
    metadata: Mapping[str, Any]


def as_content(
    state_dict: Mapping[str, Any], params: Mapping[str, Array], defaults: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and the metadata of a checkpoint; `from_content` is the inverse."""
    arrays = {f"params/{name}": array for name, array in params.items()}
    for name, entries in state_dict["state"].items():
        arrays |= {f"state/{name}/{key}": array for key, array in entries.items()}
    groups = [
        {key: group[key] for key in ("params", "name", "frozen") if key in group}
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


def read_content(path: str | os.PathLike[str] | IO[bytes]) -> Content:
    """Read a checkpoint of an optimizer; a `CheckpointError` tells what is wrong with it.

    The values of options are left to `from_content`, because others may be given in their place.
    """
    content = Content(name_of(path), *read(path))
    with _naming(content.where):
        if isinstance(saved := content.metadata.get("settings"), dict):
            for name in LATER_SETTINGS:
                saved.setdefault(name, OPTIMIZER_OPTIONS[name].default)
        _check_metadata(content.metadata)
        _check_arrays(content.arrays, content.metadata)
    return content


def from_content(
    content: Content, overrides: Mapping[str, Any], specs: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Array], dict[str, Any]]:
    """Return the state_dict, the parameters and the defaults of a checkpoint.

    ``overrides`` replace saved options in all groups; if the option was an unsaved function in some
    groups, only in those. ``specs``, the groups given by the user, can also supply such functions.
    """
    where, arrays, metadata = content
    saved = [group["options"] for group in metadata["param_groups"]]
    lost = {name for options in saved for name in options if lost_functions(options[name])}
    others = {name: value for name, value in overrides.items() if name not in lost}
    with _naming(where):
        groups = []
        for i, group in enumerate(metadata["param_groups"]):
            functions = _functions(saved[i], {**overrides, **specs[i]}, f"param_groups[{i}]")
            options = _values(GROUP_OPTIONS, saved[i], others | functions, f"param_groups[{i}]")
            beside = {key: value for key, value in group.items() if key != "options"}
            groups.append(beside | options)
        # Groups added later use the defaults; an unsaved function becomes that of the first group.
        functions = {n: groups[0][n] for n, v in metadata["defaults"].items() if lost_functions(v)}
        defaults = _values(
            GROUP_OPTIONS, metadata["defaults"], {**overrides, **functions}, "defaults"
        )
        settings = _values(OPTIMIZER_OPTIONS, metadata["settings"], overrides, "settings")
    state = {
        name: {key: arrays[f"state/{name}/{key}"] for key in keys}
        for name, keys in metadata["state"].items()
    }
    state_dict = {
        "state": state,
        "param_groups": groups,
        "settings": settings,
        "counters": metadata["counters"],
    }
    return state_dict, {name: arrays[f"params/{name}"] for name in state}, defaults


def _functions(saved: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what was given in the place of a group's unsaved functions."""
    found = {name: lost_functions(value) for name, value in saved.items()}
    for name, functions in found.items():
        if functions and name not in given:
            raise ValueError(
                f"{name} of {where} was a function, and a file cannot hold {functions[0]}: "
                f"pass it again, as RMSProp.load(path, params, {name}=...) or in the group"
            )
    return {name: given[name] for name, functions in found.items() if functions}


def _values(
    table: Mapping[str, Option], saved: Mapping[str, Any], given: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the given values and, as the table of options reads them, the other saved ones."""
    values = {}
    for name, plain in saved.items():
        try:
            values[name] = (
                given[name] if name in given else table[name].read(name, from_plain(plain))
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}[{name!r}]: {error}") from error
    return values


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{where} is not a checkpoint of RMSProp: {error}") from error


@contextmanager
def loading(where: str) -> Iterator[None]:
    """Name the file in errors that come while its content is loaded."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError) or where in str(error):
            raise
        raise type(error)(f"cannot load {where}: {error}") from error


@helps_with_options
@in_fp_environment
def load_params(
    path: str | os.PathLike[str] | IO[bytes], *, averages: bool = False
) -> dict[str, Array]:
    """The parameters of a checkpoint alone, for inference.

    Parameters
    ----------
    path : str, os.PathLike or binary file object
        A file of `RMSProp.save`.
    averages : bool
        Return running averages in the place of the parameters that have one.

    Returns
    -------
    dict of str to array
        New arrays by the names in `RMSProp.state`.

    Raises
    ------
    CheckpointError
        If the file is damaged or not a checkpoint.
    ValueError
        If averages are asked for, and there are none.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from fused_rmsprop import RMSProp
    >>> from fused_rmsprop.checkpoint import load_params
    >>> file = io.BytesIO()
    >>> RMSProp({"W": np.ones(2)}).save(file)
    >>> _ = file.seek(0)
    >>> print(load_params(file))
    {'W': array([1., 1.])}
    """
    content = read_content(path)
    arrays, names = content.arrays, content.metadata["state"]
    if not averages:
        return {name: arrays[f"params/{name}"] for name in names}
    if not any(_AVERAGE in keys for keys in names.values()):
        raise ValueError(f"cannot load averages from {content.where}: {NO_AVERAGES}")
    return {
        name: arrays[f"state/{name}/{_AVERAGE}" if _AVERAGE in keys else f"params/{name}"]
        for name, keys in names.items()
    }


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    """Check all keys, names and counters."""
    _check_object("its metadata", metadata, _PARTS)
    names: list[Any] = []
    for i, group in enumerate(metadata["param_groups"]):
        where = f"param_groups[{i}]"
        frozen = {"frozen": list} if isinstance(group, dict) and "frozen" in group else {}
        _check_object(where, group, _GROUP | frozen)
        _check_object(f"{where}['options']", group["options"], _OPTIONS)
        names += group["params"]
        if frozen:
            _check_names(f"{where}['frozen']", group["frozen"])
            _check_same(f"{where}['frozen']", {*group["frozen"], *group["params"]}, group["params"])
    _check_names("the names of the parameters", names)
    _check_object("settings", metadata["settings"], _SETTINGS)
    _check_object("defaults", metadata["defaults"], _OPTIONS)
    _check_object("counters", metadata["counters"], _COUNTERS)
    for name, count in metadata["counters"].items():
        _check_count(name, count)
    _check_object("state", metadata["state"], dict.fromkeys(names, list))
    for name, keys in metadata["state"].items():
        _check_names(f"state[{name!r}]", keys)
        _check_same(f"state[{name!r}]", {*keys} | _STATE, _STATE)


def _check_arrays(arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Check that all arrays are there, no others, and that the state suits the parameters."""
    of_state = {
        f"state/{name}/{key}": name for name, keys in metadata["state"].items() for key in keys
    }
    of_params = {f"params/{name}": name for name in metadata["state"]}
    _check_same("its list of arrays", arrays.keys(), of_state.keys() | of_params.keys())
    for where, name in {**of_params, **of_state}.items():
        array, param = arrays[where], arrays[f"params/{name}"]
        if where == f"state/{name}/step":
            if array.dtype != np.int64 or array.shape != ():
                raise CheckpointError(f"{where!r} is not one int64")
            _check_count(where, int(array))
        elif (array.dtype, array.shape) != (param.dtype, param.shape) or array.dtype == np.int64:
            raise CheckpointError(f"{where!r} is {array.dtype} of shape {array.shape}")


def _check_object(where: str, value: object, keys: _Keys) -> None:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is {reprlib.repr(value)}, not an object")
    _check_same(where, value.keys(), keys.keys())
    for key, kind in keys.items():
        if kind is not object and type(value[key]) is not kind:
            got = reprlib.repr(value[key])
            raise CheckpointError(f"{where}[{key!r}] is {got}, not of type {kind.__name__}")


def _check_same(where: str, found: Collection[str], expected: Collection[str]) -> None:
    for text, names in (
        ("lacks", {*expected} - {*found}),
        ("has an unknown", {*found} - {*expected}),
    ):
        if names:
            raise CheckpointError(f"{where} {text} {min(names)!r}")


def _check_names(where: str, names: Sequence[Any]) -> None:
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{where} are not all strings")
    if len({*names}) != len(names):
        raise CheckpointError(f"{where} has a name twice")


def _check_count(name: str, count: int) -> None:
    if not 0 <= count <= LARGEST_STEP_COUNT:
        raise CheckpointError(f"{name} is {count}, but must be >= 0 and <= 2**53")
