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

import errno
import json
import os
import re
import secrets
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np

from fused_rmsprop.checkpoint import CheckpointError
from fused_rmsprop.groups.state import Array

Content = tuple[dict[str, Array], dict[str, Any]]

_FORMAT, _VERSION = "fused_rmsprop", 1
_DTYPES = ("float32", "float64", "int64")
_NPZ_HEADER = "checkpoint.json"
#: Readers of safetensors reject larger headers.
_SAFETENSORS_HEADER_BYTES = 100_000_000


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]
) -> None:
    """Write a checkpoint; even after a crash `path` is the complete old file or the complete new.

    A hidden temporary file in the same folder replaces `path` once it is on disk. If the process is
    killed, the next write to `path` on the same host removes its temporary file. A symbolic link
    stays a link. The new file keeps the permissions of the old one (without one, those of
    ``open``) and, where allowed, its owner and group.

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
    guard = {"format": _FORMAT, "version": _VERSION, "crc32": zlib.crc32(body.encode())}
    with _replacing(os.path.realpath(target)) as file:
        write_format(file, stored, f"{json.dumps(guard)}\n{body}")


def read(path: str | os.PathLike[str]) -> Content:
    """Read a checkpoint and verify its checksums; `write` describes the path.

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
    ValueError, ImportError
        As `write`, about the extension.
    OSError
        If the file cannot be opened: `FileNotFoundError`, `IsADirectoryError`, ...
    """
    name = os.fsdecode(path)
    _, read_format = _format_of(name)
    with open(name, "rb") as file:
        try:
            return read_format(file)
        except ImportError:
            raise
        except Exception as error:  # parsers raise almost anything on a damaged file
            own = isinstance(error, CheckpointError)
            reason = error if own else f"it is damaged or foreign ({type(error).__name__}: {error})"
            raise CheckpointError(f"{name!r} cannot be read as a checkpoint: {reason}") from error


def _plain(name: object, array: Array) -> Array:
    """Return the array in C order. `numpy.ascontiguousarray` would add an axis to 0-d arrays."""
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} of an array is not a str")
    plain = np.asarray(array, order="C")
    if plain.dtype not in [np.dtype(dtype) for dtype in _DTYPES]:
        raise TypeError(f"array {name!r} has dtype {plain.dtype}; it must be {', '.join(_DTYPES)}")
    return plain


def _description(array: Array) -> dict[str, Any]:
    checksum = zlib.crc32(np.asarray(array, order="C").data)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "crc32": checksum}


def _keys(names: Mapping[str, Any]) -> list[str]:
    """Return unique keys for safetensors: the names, escaped where the format needs it."""
    keys: dict[str, None] = {}
    for name in names:
        key = name.encode("utf-8", "backslashreplace").decode()
        while key == "__metadata__" or key in keys or (key != name and key in names):
            key += "_"
        keys[key] = None
    return list(keys)


def _unpack(header: str, get: Callable[[int, str], Array]) -> Content:
    """Check the header and the arrays, which ``get`` finds by index and key."""
    first, _, body = header.partition("\n")
    guard = json.loads(first)
    if guard["format"] != _FORMAT:
        raise CheckpointError(f"its format is {guard['format']!r}, not {_FORMAT!r}")
    if guard["version"] != _VERSION:
        raise CheckpointError(
            f"it has version {guard['version']!r} of the format, but this release of "
            f"fused-rmsprop reads version {_VERSION}; a newer release wrote it, or it is damaged"
        )
    if guard["crc32"] != zlib.crc32(body.encode()):
        raise CheckpointError("it is damaged: the checksum of the header is wrong")
    content = json.loads(body)
    arrays = {}
    for i, entry in enumerate(content["arrays"]):
        name, key = entry.pop("name"), entry.pop("key")
        arrays[name] = get(i, key)
        if _description(arrays[name]) != entry:
            raise CheckpointError(f"it is damaged: array {name!r} differs from the one written")
    return arrays, content["metadata"]


def _write_npz(file: IO[bytes], arrays: Mapping[str, Array], header: str) -> None:
    # numpy.savez reserves the names of its own parameters.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(_NPZ_HEADER, "w", force_zip64=True) as member:
            member.write(header.encode())
        for i, array in enumerate(arrays.values()):
            with archive.open(f"{i}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(file: IO[bytes]) -> Content:
    with zipfile.ZipFile(file) as archive:
        if _NPZ_HEADER not in archive.namelist():
            raise CheckpointError(f"it is not from fused-rmsprop: it has no {_NPZ_HEADER!r}")

        def get(index: int, key: str) -> Array:
            with archive.open(f"{index}.npy") as member:
                return np.lib.format.read_array(member, allow_pickle=False)

        return _unpack(archive.read(_NPZ_HEADER).decode(), get)


def _write_safetensors(file: IO[bytes], arrays: Mapping[str, Array], header: str) -> None:
    # save_file would not keep permissions and makes temporary files of its own.
    library = _safetensors()
    too_long = "names and metadata are too long for safetensors; write an .npz file"
    try:
        data = library.numpy.save(dict(arrays), {_FORMAT: header})
    except library.SafetensorError as error:
        raise ValueError(f"{too_long} ({error})") from error
    if int.from_bytes(data[:8], "little") > _SAFETENSORS_HEADER_BYTES:  # some versions do not check
        raise ValueError(too_long)
    file.write(data)


def _read_safetensors(file: IO[bytes]) -> Content:
    with _safetensors().safe_open(file.name, framework="np") as tensors:
        metadata = tensors.metadata() or {}
        if _FORMAT not in metadata:
            raise CheckpointError(f"it is not from fused-rmsprop: its metadata has no {_FORMAT!r}")
        return _unpack(metadata[_FORMAT], lambda index, key: tensors.get_tensor(key))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ImportError(
            "install safetensors for this file format: pip install 'fused-rmsprop[safetensors]'"
        ) from error
    return safetensors


_Format = tuple[Callable[..., None], Callable[[IO[bytes]], Content]]
_FORMATS: dict[str, _Format] = {
    ".npz": (_write_npz, _read_npz),
    ".safetensors": (_write_safetensors, _read_safetensors),
}


def _format_of(name: str) -> _Format:
    suffix = os.path.splitext(name)[1]
    if suffix not in _FORMATS:
        raise ValueError(f"unsupported extension {suffix!r}; use {' or '.join(_FORMATS)}")
    return _FORMATS[suffix]


@contextmanager
def _replacing(target: str) -> Iterator[IO[bytes]]:
    """Open a temporary file; replace the target with it on success, delete it on an exception."""
    old = None
    # Opening it checks write permission. A pipe cannot be opened with a buffer.
    with suppress(FileNotFoundError), open(target, "r+b", buffering=0) as existing:
        old = os.fstat(existing.fileno())
    if old and not stat.S_ISREG(old.st_mode):
        raise OSError(f"{target!r} is not a regular file and will not be replaced")
    directory, name = os.path.split(target)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "the checkpoint's folder does not exist", target)
    host = zlib.crc32(os.uname().nodename.encode())
    prefix = f".{name[:40]}.{host:08x}."  # 40 characters of UTF-8 leave room in a file name
    _remove_leftovers(directory, prefix)
    temporary = os.path.join(directory, f"{prefix}{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if old:
                with suppress(PermissionError):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    with suppress(OSError):  # not every file system can sync a folder; the file is in place
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(directory: str, prefix: str) -> None:
    """Remove the temporary files of writers whose process has ended."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,9})\.[0-9a-f]{8}\.tmp")
    with suppress(OSError):  # cleaning up is optional
        for entry in os.listdir(directory):
            if found := pattern.fullmatch(entry):
                try:
                    os.kill(int(found[1]), 0)
                except ProcessLookupError:
                    os.unlink(os.path.join(directory, entry))
                except PermissionError:
                    pass  # the process runs and belongs to another user
