"""Write named arrays and metadata to a checkpoint file, atomically, and read them back.

The extension of the path selects the format. Both formats have a header of two lines of JSON. The
first, ``{"format": "fused_rmsprop", "version": 1, "crc32": ...}``, guards the second, which lists
the name, key, dtype, shape and checksum of each array and contains the metadata.

``.npz``
    Uncompressed; `numpy.load` opens it without pickle. The arrays are numbered ("0", "1", ...),
    because some names are not valid file names. The header is the entry ``checkpoint.json``.
``.safetensors``
    Arrays have their own names. Only names that the format cannot store are escaped:
    ``__metadata__`` and those with lone surrogates. The header is in the file's metadata, under
    ``fused_rmsprop``.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fused_rmsprop.checkpoint import CheckpointError, formats
from fused_rmsprop.checkpoint.formats import DTYPES, FORMAT, Contents, Entry
from fused_rmsprop.checkpoint.replacing import replacing
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.groups.state import Array

_VERSION = 1
_MOST_AXES = 64  # of an array of NumPy

_FORMATS: dict[str, tuple[Callable[..., None], Callable[..., Contents]]] = {
    ".npz": (formats.write_npz, formats.read_npz),
    ".safetensors": (formats.write_safetensors, formats.read_safetensors),
}


@in_fp_environment
def write(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]
) -> None:
    """Write a checkpoint; even after a crash `path` is the complete old file or the complete new.

    A hidden temporary file in the same folder replaces `path` once it is on disk. If the process is
    killed, the next write to `path` on the same host removes its temporary file, provided that the
    file system has locks. A symbolic link stays a link. The new file keeps the permissions of the
    old one (without one, those of ``open``) and, where allowed, its owner and group.

    Parameters
    ----------
    path : str or os.PathLike
        Ends in ``.npz`` or ``.safetensors``.
    arrays : mapping of str to array
        float32, float64 or int64, of any shape. They must not change during the call.
    metadata : mapping
        Anything that `json` can write, including NaN and infinities. As usual in JSON, tuples
        become lists and keys become strings.

    Raises
    ------
    ValueError, TypeError
        If the extension is unsupported, names and metadata are too long for safetensors, a name is
        not a string, an array has another dtype, or JSON cannot hold the metadata.
    ImportError
        If the path ends in ``.safetensors`` and the package is not installed.
    OSError
        If the file cannot be written. An existing file stays unchanged.
    """
    target = os.fsdecode(path)
    write_format, _ = _format_of(target)
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    stored = dict(zip(_keys(plain), plain.values(), strict=True))
    entries = [
        {"name": name, "key": key, **_description(stored[key])}
        for name, key in zip(plain, stored, strict=True)
    ]
    body = json.dumps({"arrays": entries, "metadata": dict(metadata)})
    guard = {"format": FORMAT, "version": _VERSION, "crc32": zlib.crc32(body.encode())}
    with replacing(os.path.realpath(target)) as file:
        write_format(file, stored, f"{json.dumps(guard)}\n{body}")


@in_fp_environment
def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read a checkpoint and verify its checksums; `write` describes the path.

    No file can run code. Reading needs memory for the arrays that the file really contains, and up
    to 40 times the length of the header, which is JSON.

    Returns
    -------
    arrays : dict of str to array
        The arrays as written, bit for bit and in the same order.
    metadata : dict
        As `json` reads it.

    Raises
    ------
    CheckpointError
        If the file is truncated, damaged, from a newer release or not a checkpoint.
    ValueError
        If the extension is unsupported.
    OSError
        If the file cannot be opened or read: `FileNotFoundError`, `IsADirectoryError`, ...
    """
    name = os.fsdecode(path)
    _, read_format = _format_of(name)
    with open(name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            contents = read_format(file, size, lambda header: _parse(header, size))
            for entry in contents.entries:
                if zlib.crc32(entry.array.data) != entry.crc32:
                    raise CheckpointError(f"it is damaged: the data of array {entry.name!r} differ")
        except (OSError, MemoryError):  # not the file's fault
            raise
        except Exception as error:  # parsers raise almost anything on a damaged file
            own = isinstance(error, CheckpointError)
            reason = error if own else f"it is damaged or foreign ({type(error).__name__}: {error})"
            raise CheckpointError(f"{name!r} cannot be read as a checkpoint: {reason}") from error
    return {entry.name: entry.array for entry in contents.entries}, contents.metadata


def _format_of(name: str) -> tuple[Callable[..., None], Callable[..., Contents]]:
    suffix = os.path.splitext(name)[1]
    if suffix not in _FORMATS:
        raise ValueError(f"unsupported extension {suffix!r}; use {' or '.join(_FORMATS)}")
    return _FORMATS[suffix]


def _plain(name: object, array: Array) -> Array:
    """Return the array in C order. `numpy.ascontiguousarray` would add an axis to 0-d arrays."""
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} of an array is not a str")
    plain = np.asarray(array, order="C")
    if plain.dtype not in [np.dtype(dtype) for dtype in DTYPES]:
        raise TypeError(f"array {name!r} has dtype {plain.dtype}; it must be {', '.join(DTYPES)}")
    return plain


def _description(array: Array) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape), "crc32": zlib.crc32(array.data)}


def _keys(names: Mapping[str, Any]) -> list[str]:
    """Return unique keys for safetensors: the names, escaped where the format needs it."""
    keys: dict[str, None] = {}
    for name in names:
        key = name.encode("utf-8", "backslashreplace").decode()
        while key == "__metadata__" or key in keys or (key != name and key in names):
            key += "_"
        keys[key] = None
    return list(keys)


def _parse(header: str, size: int) -> Contents:
    """Check the header of a file of ``size`` bytes, and allocate the arrays that it announces."""
    first, _, body = header.partition("\n")
    guard = json.loads(first)
    if guard["format"] != FORMAT:
        raise CheckpointError(f"its format is {guard['format']!r}, not {FORMAT!r}")
    if guard["version"] != _VERSION:
        raise CheckpointError(
            f"it has version {guard['version']!r} of the format, but this release of "
            f"fused-rmsprop reads version {_VERSION}; a newer release wrote it, or it is damaged"
        )
    if guard["crc32"] != zlib.crc32(body.encode()):
        raise CheckpointError("it is damaged: the checksum of the header is wrong")
    content = json.loads(body)
    announced, metadata = content["arrays"], content["metadata"]
    if not isinstance(announced, list) or not isinstance(metadata, dict):
        raise CheckpointError("its header is not a list of arrays and an object")
    if len({entry["name"] for entry in announced}) != len(announced):
        raise CheckpointError("two of its arrays have the same name")
    if sum(map(_nbytes, announced)) > size:
        raise CheckpointError("it is damaged: its arrays would be larger than the file")
    entries = [
        Entry(entry["name"], entry["key"], np.empty(entry["shape"], entry["dtype"]), entry["crc32"])
        for entry in announced
    ]
    return Contents(entries, metadata)


def _nbytes(entry: Any) -> int:
    """Return the size of an array that a header announces, after a check of the entry's types."""
    name, key, dtype, shape = (entry[k] for k in ("name", "key", "dtype", "shape"))
    if not isinstance(name, str) or not isinstance(key, str) or type(entry["crc32"]) is not int:
        raise CheckpointError("an array is announced without its name, key or checksum")
    if dtype not in DTYPES:
        raise CheckpointError(f"array {name!r} has dtype {dtype!r}; it must be {', '.join(DTYPES)}")
    if len(shape) > _MOST_AXES or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise CheckpointError(f"array {name!r} has no possible shape")
    return int(math.prod(shape) * np.dtype(dtype).itemsize)
