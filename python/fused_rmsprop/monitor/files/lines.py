"""The lines of a run's file, as values and as bytes; `run_file` says what they mean."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np

from fused_rmsprop.monitor.history import QUANTITIES, Array, Leaf, Point

FORMAT = "fused-rmsprop run"
VERSION = 1
END = {"end": True}

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Described(Protocol):
    """What a header tells: a `Store` or a `History`."""

    @property
    def leaves(self) -> tuple[Leaf, ...]: ...  # noqa: D102
    @property
    def groups(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def option_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def constants(self) -> Mapping[str, Any]: ...  # noqa: D102


# Lines from values


def header_line(described: Described, step: int = 0) -> bytes:
    """A header, of a run that has done so many steps before."""
    return _line(
        {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "leaves": [dict(zip(Leaf._fields, leaf, strict=True)) for leaf in described.leaves],
            "groups": described.groups,
            "quantities": list(QUANTITIES),
            "options": described.option_names,
            "constants": {name: _spelt(value) for name, value in described.constants.items()},
        }
    )


def point_line(point: Point, option_names: tuple[str, ...]) -> bytes:
    """The line of a point."""
    return _line(
        {
            "step": point.step,
            "quantities": dict(zip(QUANTITIES, _lists(point.rows), strict=True)),
            "options": dict(zip(option_names, _lists(point.options), strict=True)),
        }
    )


def log_line(step: int, values: Mapping[str, float]) -> bytes:
    """The line of a call of `Monitor.log`."""
    logged = {name: _spelt(float(value)) for name, value in values.items()}
    return _line({"step": step, "logged": logged})


def end_line() -> bytes:
    """The line that a closed monitor ends with."""
    return _line(END)


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


def _lists(array: Array) -> Any:
    """An array as lists, with strings for numbers that are not finite."""
    finite = np.isfinite(array)
    if finite.all():
        return array.tolist()
    plain = array.astype(object)
    plain[~finite] = [_spelt(value) for value in array[~finite].tolist()]
    return plain.tolist()


def _spelt(value: Any) -> Any:
    """A plain value as JSON has it."""
    if hasattr(value, "tolist"):  # NumPy's and torch's
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (list, tuple)):
        return [_spelt(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _spelt(one) for name, one in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a history's constants are plain values, not {value!r}")


# Values from lines; each raises `ValueError`


class Header(NamedTuple):
    """A header that was read; a `Described`."""

    leaves: tuple[Leaf, ...]
    groups: tuple[str, ...]
    option_names: tuple[str, ...]
    constants: Mapping[str, Any]
    quantities: tuple[str, ...]
    step: int


def fields_of(line: bytes) -> dict[str, Any]:
    """The fields of any line."""
    fields = json.loads(line.decode(), parse_constant=_no_constant, object_pairs_hook=_unique)
    if not isinstance(fields, dict):
        raise ValueError("a line must be a JSON object")
    return fields


def header_of(fields: dict[str, Any]) -> Header:
    """The header in a line."""
    if fields.get("format") != FORMAT:
        raise ValueError(f'this is no file of a run: its "format" is not "{FORMAT}"')
    version = _count(fields, "version")
    if version > VERSION:
        raise ValueError(
            f"the file has version {version}, and this release reads versions up to {VERSION}: "
            "pip install --upgrade fused-rmsprop"
        )
    keys = ("leaves", "groups", "quantities", "options", "constants")
    _check_keys(fields, ("format", "version", "step", *keys))
    groups, quantities, options = (_names(fields, key) for key in keys[1:4])
    if not isinstance(fields["leaves"], list):
        raise ValueError('"leaves" must be a list')
    leaves = tuple(_leaf(leaf, len(groups)) for leaf in fields["leaves"])
    constants = {name: _read(value) for name, value in _object(fields, "constants").items()}
    return Header(leaves, groups, options, constants, quantities, _count(fields, "step"))


def point_of(fields: dict[str, Any], header: Header) -> Point:
    """The point in a line; NaN stands for quantities that the file does not have."""
    _check_keys(fields, ("step", "quantities", "options"))
    columns = len(header.leaves) + 1
    lists = _table(_object(fields, "quantities"), header.quantities, columns)
    missing = np.full(columns, math.nan)
    rows = np.array([lists.get(quantity, missing) for quantity in QUANTITIES], np.float64)
    groups = len(header.groups)
    options = _table(_object(fields, "options"), header.option_names, groups)
    values = np.array([options[name] for name in header.option_names], np.float64)
    return Point(_count(fields, "step"), rows, values.reshape(len(options), groups))


def logged_of(fields: dict[str, Any]) -> tuple[int, dict[str, float]]:
    """The step and the values that were logged, in a line."""
    _check_keys(fields, ("step", "logged"))
    values = _object(fields, "logged")
    return _count(fields, "step"), {name: _number(v, name) for name, v in values.items()}


def _leaf(fields: Any, groups: int) -> Leaf:
    if not isinstance(fields, dict):
        raise ValueError("a leaf must be an object")
    _check_keys(fields, Leaf._fields)
    name, shape, dtype = fields["name"], fields["shape"], fields["dtype"]
    if not isinstance(name, str) or not isinstance(dtype, str):
        raise ValueError('"name" and "dtype" of a leaf must be strings')
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        raise ValueError(f"the shape of leaf {name!r} must be a list of sizes")
    if not _is_count(math.prod(shape)):
        raise ValueError(f"leaf {name!r} is too large")
    group = _count(fields, "group")
    if group >= groups:
        raise ValueError(f"leaf {name!r} is in group {group}, and there are {groups} groups")
    return Leaf(name, tuple(shape), dtype, group)


def _table(lists: dict[str, Any], names: tuple[str, ...], length: int) -> dict[str, list[float]]:
    """Lists of numbers, one for each name."""
    _check_keys(lists, names)
    for name in names:
        if not isinstance(lists[name], list) or len(lists[name]) != length:
            raise ValueError(f"{json.dumps(name)} must be a list of length {length}")
    return {name: [_number(value, name) for value in lists[name]] for name in names}


def _number(value: Any, name: str) -> float:
    if type(value) is float:
        return value
    if isinstance(value, str) and value in _NONFINITE:
        return _NONFINITE[value]
    if type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    raise ValueError(f"{json.dumps(name)} has a value that is no number")


def _read(value: Any) -> Any:
    """A constant."""
    if isinstance(value, str):
        return _NONFINITE.get(value, value)
    if isinstance(value, list):
        return [_read(one) for one in value]
    if isinstance(value, dict):
        return {name: _read(one) for name, one in value.items()}
    return value


def _check_keys(fields: dict[str, Any], known: tuple[str, ...]) -> None:
    if missing := [key for key in known if key not in fields]:
        raise ValueError(f'"{missing[0]}" is missing')
    if unknown := [key for key in fields if key not in known]:
        raise ValueError(f"{json.dumps(unknown[0])} is not known here")


def _object(fields: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(value := fields[key], dict):
        raise ValueError(f'"{key}" must be an object')
    return value


def _names(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    names = fields[key]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'"{key}" must be a list of strings')
    return tuple(names)


def _count(fields: dict[str, Any], key: str) -> int:
    if not _is_count(value := fields.get(key)):
        raise ValueError(f'"{key}" must be an integer of at least 0')
    assert isinstance(value, int)
    return value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key appears twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
