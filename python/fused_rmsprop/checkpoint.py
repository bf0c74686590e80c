"""The file layer of checkpoints: named arrays and metadata in one file, written all or not at all.

The suffix of the path chooses the format. Both keep a header of two lines of JSON; the first,
``{"format": "fused_rmsprop", "version": 1, "crc32": ...}``, guards the second, which lists name,
key, dtype, shape and checksum of each array, and holds the metadata.

``.npz``
    What `numpy.load` opens without pickle, not compressed. The arrays are numbered ("0", "1",
    ...), as not every name can be that of a file; the header is the entry ``checkpoint.json``.
``.safetensors``
    Arrays under their own names. Only a name that the format lacks, ``__metadata__`` or one with
    lone surrogates, is escaped. The header is in the file's metadata, under ``fused_rmsprop``.
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
from numpy.typing import NDArray

Array = NDArray[Any]
Content = tuple[dict[str, Array], dict[str, Any]]

_FORMAT, _VERSION = "fused_rmsprop", 1
_DTYPES = ("float32", "float64", "int64")
_NPZ_HEADER = "checkpoint.json"
#: Readers of safetensors refuse files with more than that.
_SAFETENSORS_HEADER_BYTES = 100_000_000


class CheckpointError(ValueError):
    """A file is no checkpoint, or a damaged one, or one of a newer release."""


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]
) -> None:
    """Write a checkpoint; whatever happens, `path` is then the old file or the new one, whole.

    Written is a hidden temporary file beside it, which replaces it once it is on the disk. A
    process that is killed leaves that file behind; the next write to `path` on the same host
    removes it. A symbolic link stays one. Permissions are those of the file replaced, and so are
    owner and group where that is allowed; a new file has those that ``open`` gives.

    Parameters
    ----------
    path : str or os.PathLike
        Ends in ``.npz`` or ``.safetensors``, which is the format.
    arrays : mapping of str to array
        float32, float64 or int64, of any shape. Nothing may write to them meanwhile.
    metadata : mapping
        What `json` can write; NaN and infinities included. It makes lists of tuples, and strings
        of keys.

    Raises
    ------
    ValueError
        If the suffix is another, or names and metadata are too long for safetensors.
    TypeError
        If a name is not a string, an array of another dtype, or the metadata not for JSON.
    ImportError
        If safetensors is asked for and not installed.
    OSError
        If the file cannot be written. A file that was there is then as it was.
    """
    name = os.fsdecode(path)
    write_format, _ = _format_of(name)
    plain = {key: _plain(key, array) for key, array in arrays.items()}
    keys = _keys(plain)
    body = json.dumps(
        {
            "arrays": [
                {"name": name, "key": key, **_description(plain[name])}
                for name, key in zip(plain, keys, strict=True)
            ],
            "metadata": dict(metadata),
        }
    )
    guard = {"format": _FORMAT, "version": _VERSION, "crc32": zlib.crc32(body.encode())}
    with _replacing(os.path.realpath(name)) as file:
        stored = dict(zip(keys, plain.values(), strict=True))
        write_format(file, stored, f"{json.dumps(guard)}\n{body}")


def read(path: str | os.PathLike[str]) -> Content:
    """Read a checkpoint back, and check that it is what was written.

    Parameters
    ----------
    path : str or os.PathLike
        As for `write`.

    Returns
    -------
    arrays : dict of str to array
        With the bits, shapes and dtypes that were written, in the same order of names.
    metadata : dict
        As `json` reads it.

    Raises
    ------
    CheckpointError
        If the file is truncated, damaged, of a newer release or no checkpoint at all.
    ValueError
        If the suffix is neither ``.npz`` nor ``.safetensors``.
    ImportError
        If safetensors is asked for and not installed.
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
        except Exception as error:  # the parsers raise nearly anything if the file is damaged
            own = isinstance(error, CheckpointError)
            reason = error if own else f"it is damaged or foreign ({type(error).__name__}: {error})"
            raise CheckpointError(f"{name!r} cannot be read as a checkpoint: {reason}") from error


def _plain(name: object, array: Array) -> Array:
    """The array in C order; not by `numpy.ascontiguousarray`, which gives 0-d arrays an axis."""
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
    """What safetensors calls each array: its name, if the format can hold that."""
    keys: dict[str, None] = {}
    for name in names:
        key = name.encode("utf-8", "backslashreplace").decode()
        while key == "__metadata__" or key in keys or (key != name and key in names):
            key += "_"
        keys[key] = None
    return list(keys)


def _unpack(header: str, get: Callable[[int, str], Array]) -> Content:
    """Check the header, and the arrays that ``get`` finds by index and key."""
    first, _, body = header.partition("\n")
    guard = json.loads(first)
    if guard["format"] != _FORMAT:
        raise CheckpointError(f"its format is {guard['format']!r}, not {_FORMAT!r}")
    if guard["version"] != _VERSION:
        raise CheckpointError(
            f"it has version {guard['version']!r} of the format and this release of "
            f"fused-rmsprop reads version {_VERSION}; a newer release wrote it, or it is damaged"
        )
    if guard["crc32"] != zlib.crc32(body.encode()):
        raise CheckpointError("it is damaged: the header does not have its checksum")
    content = json.loads(body)
    arrays = {}
    for i, entry in enumerate(content["arrays"]):
        name, key = entry.pop("name"), entry.pop("key")
        arrays[name] = get(i, key)
        if _description(arrays[name]) != entry:
            raise CheckpointError(f"it is damaged: array {name!r} is not the one written")
    return arrays, content["metadata"]


def _write_npz(file: IO[bytes], arrays: Mapping[str, Array], header: str) -> None:
    # Not numpy.savez, whose own parameters are names that no array can have.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(_NPZ_HEADER, "w", force_zip64=True) as member:
            member.write(header.encode())
        for i, array in enumerate(arrays.values()):
            with archive.open(f"{i}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(file: IO[bytes]) -> Content:
    with zipfile.ZipFile(file) as archive:
        if _NPZ_HEADER not in archive.namelist():
            raise CheckpointError(f"it is not of fused-rmsprop: it has no {_NPZ_HEADER!r}")

        def get(index: int, key: str) -> Array:
            with archive.open(f"{index}.npy") as member:
                array: Array = np.lib.format.read_array(member, allow_pickle=False)
            return array

        return _unpack(archive.read(_NPZ_HEADER).decode(), get)


def _write_safetensors(file: IO[bytes], arrays: Mapping[str, Array], header: str) -> None:
    # Not its save_file, which keeps no permissions and has temporary files of its own.
    library = _safetensors()
    too_long = "names and metadata are too long for safetensors; write an .npz file"
    try:
        data = library.numpy.save(dict(arrays), metadata={_FORMAT: header})
    except library.SafetensorError as error:
        raise ValueError(f"{too_long} ({error})") from error
    if int.from_bytes(data[:8], "little") > _SAFETENSORS_HEADER_BYTES:  # not every version looks
        raise ValueError(too_long)
    file.write(data)


def _read_safetensors(file: IO[bytes]) -> Content:
    with _safetensors().safe_open(file.name, framework="np") as tensors:
        metadata = tensors.metadata() or {}
        if _FORMAT not in metadata:
            raise CheckpointError(f"it is not of fused-rmsprop: its metadata has no {_FORMAT!r}")
        return _unpack(metadata[_FORMAT], lambda index, key: tensors.get_tensor(key))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ImportError(
            ".safetensors files need the package safetensors: "
            "pip install 'fused-rmsprop[safetensors]'"
        ) from error
    return safetensors


Write = Callable[[IO[bytes], Mapping[str, Array], str], None]
Read = Callable[[IO[bytes]], Content]
_FORMATS: dict[str, tuple[Write, Read]] = {
    ".npz": (_write_npz, _read_npz),
    ".safetensors": (_write_safetensors, _read_safetensors),
}


def _format_of(name: str) -> tuple[Write, Read]:
    suffix = os.path.splitext(name)[1]
    if suffix not in _FORMATS:
        raise ValueError(f"{name!r} must end in {' or '.join(_FORMATS)}, which is the format")
    return _FORMATS[suffix]


@contextmanager
def _replacing(target: str) -> Iterator[IO[bytes]]:
    """A new file that takes the place of the target, or, after an exception, of nothing."""
    old = None
    # Opened to see whether it may be written; without a buffer, which a pipe could not have.
    with suppress(FileNotFoundError), open(target, "r+b", buffering=0) as existing:
        old = os.fstat(existing.fileno())
    if old and not stat.S_ISREG(old.st_mode):
        raise OSError(f"{target!r} is not a regular file, and would be replaced by one")
    directory, name = os.path.split(target)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "the folder of the checkpoint does not exist", target)
    host = zlib.crc32(os.uname().nodename.encode())
    prefix = f".{name[:40]}.{host:08x}."  # 40 characters of UTF-8 leave room for the rest
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
    with suppress(OSError):  # some file systems cannot; the new file is in place all the same
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(directory: str, prefix: str) -> None:
    """Remove the temporary files of writers that were killed: their process is no more."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,9})\.[0-9a-f]{8}\.tmp")
    with suppress(OSError):  # it is only tidying
        for entry in os.listdir(directory):
            if found := pattern.fullmatch(entry):
                try:
                    os.kill(int(found[1]), 0)
                except ProcessLookupError:
                    os.unlink(os.path.join(directory, entry))
                except PermissionError:
                    pass  # somebody else's process, which runs
