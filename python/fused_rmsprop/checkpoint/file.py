"""Write named arrays and metadata to a checkpoint file, atomically, and read them back.

Both formats have a header of two lines of JSON. The first,
``{"format": "fused_rmsprop", "version": 2, "crc32": ...}``, guards the second, which lists the
name, key, dtype, shape and checksum of each array and contains the metadata. An array is stored
under its key: its name, escaped only where the format cannot store that.

``.npz``
    Uncompressed; `numpy.load` opens it without pickle. The header is the entry
    ``checkpoint.json``. Names with NULs or lone surrogates, long ones, those that end in ``.npy``
    and that of the header are escaped. In version 1 the arrays were numbered ("0", "1", ...).
``.safetensors``
    The header is in the file's metadata, under ``fused_rmsprop``. ``__metadata__`` and names with
    lone surrogates are escaped. Still version 1.
"""

from __future__ import annotations

import io
import json
import math
import os
import reprlib
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple, TypeGuard

import numpy as np

from fused_rmsprop.base import helps_with_options
from fused_rmsprop.checkpoint import CheckpointError, formats
from fused_rmsprop.checkpoint.formats import DTYPES, FORMAT, Contents, Entry
from fused_rmsprop.checkpoint.replacing import replacing
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.groups.state import Array

_VERSION = 2
_MOST_AXES = 64  # of an array of NumPy
#: What other files start with.
_OTHERS = {
    b"\x93NUMPY": "it starts like an array of numpy.save, which numpy.load reads",
    b"\x80": "it starts like a pickle, which torch.load or pickle.load reads",
}
_LONGEST_KEY = 1000  # characters; the name of an entry of a zip file has up to 65535 bytes


class _Format(NamedTuple):
    write: Callable[..., None]
    read: Callable[..., Contents]
    escape: Callable[[str], str]  # a name to a key
    reserved: Callable[[str], bool]  # the keys that no array can have
    version: int


@helps_with_options
@in_fp_environment
def write(
    path: str | os.PathLike[str] | IO[bytes],
    arrays: Mapping[str, Array],
    metadata: Mapping[str, Any],
    *,
    format: str | None = None,  # noqa: A002
) -> None:
    """Write a checkpoint; even after a crash `path` is the complete old file or the complete new.

    A hidden temporary file in the same folder replaces `path` once it is on disk. If the process is
    killed, the next write to `path` on the same host removes its temporary file, provided that the
    file system has locks. A symbolic link stays a link. The new file keeps the permissions of the
    old one (without one, those of ``open``) and, where allowed, its owner and group.

    Parameters
    ----------
    path : str, os.PathLike or binary file object
        Without `format` it ends in ``.npz`` or ``.safetensors``, in upper or lower case. A file
        object holds one checkpoint and must be empty. It is written in one piece and not
        atomically: an error or a crash can leave a part. This takes memory for another copy of the
        arrays.
    arrays : mapping of str to array
        float32, float64 or int64, of any shape. They must not change during the call.
    metadata : mapping
        Anything that `json` can write, including NaN and infinities. As usual in JSON, tuples
        become lists and keys become strings.
    format : {"npz", "safetensors"}, optional
        By default that of the extension; for a file object ``"npz"``.

    Raises
    ------
    ValueError, TypeError
        If the extension is unsupported or is not that of `format`, the file object is open for
        text or not empty, names and metadata are too long for safetensors, a name is not a string,
        an array has another dtype, or JSON cannot hold the metadata.
    ImportError
        If the format is safetensors and the package is not installed.
    OSError
        If the file cannot be written. An existing file stays unchanged.
    """
    chosen = _format_to_write(path, format)
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    stored = dict(zip(_keys(plain, chosen), plain.values(), strict=True))
    entries = [
        {"name": name, "key": key, **_description(stored[key])}
        for name, key in zip(plain, stored, strict=True)
    ]
    body = json.dumps({"arrays": entries, "metadata": dict(metadata)})
    guard = {"format": FORMAT, "version": chosen.version, "crc32": zlib.crc32(body.encode())}
    header = f"{json.dumps(guard)}\n{body}"
    if _is_path(path):
        with replacing(os.path.realpath(os.fsdecode(path))) as file:
            chosen.write(file, stored, header)
    else:
        buffer = io.BytesIO()
        chosen.write(buffer, stored, header)
        _write_all(path, buffer.getbuffer())


@helps_with_options
@in_fp_environment
def read(
    path: str | os.PathLike[str] | IO[bytes],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read a checkpoint and verify its checksums.

    No file can run code. Reading needs memory for the arrays that the file really contains, and up
    to 40 times the length of the header, which is JSON.

    Parameters
    ----------
    path : str, os.PathLike or binary file object
        The first bytes tell the format. A file object is read from its
        position to its end, and nothing may follow the checkpoint there. This takes memory for
        another copy of the file.

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
    TypeError
        If `path` is neither a path nor a file object that is open for reading bytes.
    OSError
        If the file cannot be opened or read: `FileNotFoundError`, `IsADirectoryError`, ...
    """
    if isinstance(path, (bytes, bytearray, memoryview)) and b"\0" in bytes(path):
        raise TypeError(
            f"a path is expected, got {len(path)} bytes, as a file contains: pass io.BytesIO(data)"
        )
    if _is_path(path):
        with open(os.fsdecode(path), "rb") as file:
            contents = _read(file, os.fstat(file.fileno()).st_size, path)
    else:
        data = _read_all(path)
        contents = _read(io.BytesIO(data), len(data), path)
    return {entry.name: entry.array for entry in contents.entries}, contents.metadata


def name_of(path: object) -> str:
    """How errors call a file: its quoted name, or what a file object without a name shows."""
    name = path if _is_path(path) else getattr(path, "name", None)
    return repr(os.fsdecode(name)) if _is_path(name) else repr(path)


def _read(file: Any, size: int, path: object) -> Contents:
    try:
        chosen = _format_to_read(file)
        contents = chosen.read(file, size, lambda header: _parse(header, size))
        for entry in contents.entries:
            if zlib.crc32(entry.array.data) != entry.crc32:
                raise CheckpointError(f"it is damaged: the data of array {entry.name!r} differ")
    except (OSError, MemoryError):  # not the file's fault
        raise
    except Exception as error:  # parsers raise almost anything on a damaged file
        reason = error if isinstance(error, CheckpointError) else "it is damaged or foreign"
        raise CheckpointError(
            f"{name_of(path)} cannot be read as a checkpoint: {reason}"
        ) from error
    return contents


def _is_path(path: object) -> TypeGuard[str | bytes | os.PathLike[str]]:
    return isinstance(path, (str, bytes, os.PathLike))


def _suffix(path: object) -> str:
    return os.path.splitext(os.fsdecode(path))[1].lower() if _is_path(path) else ""


def _format_to_write(path: object, given: str | None) -> _Format:
    """Return the format that is asked for, or that of the extension."""
    if given is not None and f".{given}" not in _FORMATS:
        raise ValueError(
            f"format must be 'npz' or 'safetensors', got {reprlib.repr(given)}; an optimizer saves "
            "its parameters as well: opt.save(path)"
        )
    suffix = _suffix(path)
    if not _is_path(path):
        _check_writable(path)
        _check_empty(path)
        return _FORMATS[f".{given or 'npz'}"]
    if given is None and suffix not in _FORMATS:
        raise ValueError(
            f"{name_of(path)} has the unsupported extension {suffix!r}; use "
            f"{' or '.join(_FORMATS)}, or pass format='npz'"
        )
    if given is not None and suffix in _FORMATS and suffix != f".{given}":
        raise ValueError(f"{name_of(path)} ends in {suffix}, but format is {given!r}: omit format")
    return _FORMATS[f".{given}" if given else suffix]


def _format_to_read(file: IO[bytes]) -> _Format:
    """Return the format that the first bytes tell."""
    start = file.read(9)
    file.seek(0)
    if start.startswith(b"PK\3\4"):
        return _FORMATS[".npz"]
    if start[8:] == b"{":  # after the length of a JSON object; 64 MB of it for the other start
        return _FORMATS[".safetensors"]
    neither = (
        "it starts neither like an .npz file nor like a .safetensors file, as RMSProp.save writes"
    )
    known = (what for magic, what in _OTHERS.items() if start.startswith(magic))
    raise CheckpointError(
        f"it is damaged or foreign: {next(known, neither) if start else 'it is empty'}"
    )


def _read_all(file: Any) -> bytes:
    """Read a file object to its end."""
    if not hasattr(file, "read"):
        raise TypeError(
            "a checkpoint is read from a path or a binary file object, the first argument, got "
            f"{type(file).__name__}"
        )
    try:
        data = file.read()
    except UnicodeDecodeError:
        data = ""
    if isinstance(data, str):
        raise TypeError(f"{name_of(file)} is open for text; open it with open(path, 'rb')")
    if not data:
        raise CheckpointError(
            f"{name_of(file)} cannot be read as a checkpoint: there is nothing after its position; "
            "file.seek(0) goes back to its start"
        )
    return bytes(data)


def _check_empty(file: Any) -> None:
    """Raise a `ValueError` if there is something in a file object that can tell."""
    try:
        position = file.tell()
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(position)
    except (AttributeError, OSError, ValueError):  # a pipe, a compressed stream
        return
    if size:
        raise ValueError(
            f"{name_of(file)} holds {size} bytes, but a file object takes one checkpoint and must "
            "be empty: use a new one, or file.seek(0) and file.truncate()"
        )


def _write_all(file: Any, data: memoryview) -> None:
    """Write to a file object; one without a buffer may take it in parts."""
    while data:
        written = file.write(data)
        data = data[written:] if isinstance(written, int) and written > 0 else data[:0]


def _check_writable(file: Any) -> None:
    """Raise a `TypeError` unless bytes can be written to a file object."""
    if not hasattr(file, "write"):
        raise TypeError(
            "a checkpoint is written to a path or a binary file object, the first argument, got "
            f"{type(file).__name__}"
        )
    try:
        file.write(b"")
    except TypeError as error:
        raise TypeError(
            f"{name_of(file)} is open for text; open it with open(path, 'wb')"
        ) from error


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


def _key_in_npz(name: str) -> str:
    return name.replace("\0", "\\0")[:_LONGEST_KEY]


def _reserved_in_npz(key: str) -> bool:
    return key == formats.NPZ_HEADER or key.endswith(".npy")  # to numpy.load "a.npy" may be "a"


def _keys(names: Mapping[str, Any], chosen: _Format) -> list[str]:
    """Return unique keys: the names, escaped where a format needs it."""
    keys: dict[str, None] = {}
    for name in names:
        key = chosen.escape(name).encode("utf-8", "backslashreplace").decode()
        while chosen.reserved(key) or key in keys or (key != name and key in names):
            key += "_"
        keys[key] = None
    return list(keys)


def _parse(header: str, size: int) -> Contents:
    """Check the header of a file of ``size`` bytes, and allocate the arrays that it announces."""
    first, _, body = header.partition("\n")
    guard = json.loads(first)
    if guard["format"] != FORMAT:
        raise CheckpointError(f"its format is {guard['format']!r}, not {FORMAT!r}")
    if type(version := guard["version"]) is not int or not 1 <= version <= _VERSION:
        raise CheckpointError(
            f"it has version {version!r} of the format, but this release of fused-rmsprop reads "
            f"versions up to {_VERSION}; a newer release wrote it, or it is damaged"
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
    return Contents(entries, metadata, version)


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


_FORMATS = {
    ".npz": _Format(formats.write_npz, formats.read_npz, _key_in_npz, _reserved_in_npz, _VERSION),
    ".safetensors": _Format(
        formats.write_safetensors, formats.read_safetensors, str, "__metadata__".__eq__, 1
    ),
}
