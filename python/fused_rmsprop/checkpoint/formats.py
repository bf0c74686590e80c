"""The two containers of arrays and a header: ``.npz`` and ``.safetensors``.

Reading accepts only what `write_npz` and `write_safetensors` write: uncompressed arrays one after
the other, and nothing else. It evaluates no text of the file, and allocates no array
before `Parse` has compared the sizes of all arrays with the size of the file.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import IO, Any, NamedTuple

import numpy as np

from fused_rmsprop.checkpoint import CheckpointError
from fused_rmsprop.groups.state import Array

FORMAT = "fused_rmsprop"
#: The entry of an `.npz` file with the header.
NPZ_HEADER = "checkpoint.json"
#: Readers of safetensors reject larger headers.
_SAFETENSORS_HEADER_BYTES = 100_000_000
#: The dtypes that a checkpoint can hold, and their names in safetensors.
DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}

# The start of a zip file's local header, without signature: version, flags, method, time, date,
# crc32, sizes in the file and unpacked, lengths of the name and of the extra field.
_LOCAL = struct.Struct("<5H3L2H")
_ZIP64 = struct.Struct("<2H2Q")
_IN_ZIP64 = 0xFFFFFFFF
_UTF_8 = 0x800  # the flag of a name that is not ASCII
_END = 22  # bytes of the record at the end of a zip file
_END_ZIP64 = 76  # bytes of the records before it if the file is large


class Entry(NamedTuple):
    """An array that a header announces; a reader fills it."""

    name: str
    key: str
    array: Array
    crc32: int


class Contents(NamedTuple):
    """What a header announces."""

    entries: list[Entry]
    metadata: dict[str, Any]
    version: int


Parse = Callable[[str], Contents]


def write_npz(file: IO[bytes], arrays: Mapping[str, Array], header: str) -> None:
    """Write the header, and the arrays under their keys."""
    # numpy.savez reserves the names of its own parameters.
    archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
    try:
        with archive.open(NPZ_HEADER, "w", force_zip64=True) as member:
            member.write(header.encode())
        for key, array in arrays.items():
            info = zipfile.ZipInfo(f"{key}.npy")
            info.filename = info.orig_filename  # on Windows it has slashes instead of backslashes
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    except BaseException:
        # Not by a `with`: where a member is still open, its error would hide a KeyboardInterrupt.
        with suppress(ValueError, OSError):
            archive.close()
        raise
    archive.close()


def read_npz(file: io.BufferedReader, size: int, parse: Parse) -> Contents:
    """Read member after member, in the order in which `write_npz` wrote them."""
    name, length, checksum = _next_member(file, size)
    if name != NPZ_HEADER:
        raise CheckpointError(
            f"it is not from fused-rmsprop: {NPZ_HEADER!r} is not its first entry{_reader(name)}"
        )
    header = file.read(length)
    if zlib.crc32(header) != checksum:
        raise CheckpointError("it is damaged: the checksum of the header is wrong")
    contents = parse(header.decode())
    for i, entry in enumerate(contents.entries):
        name, length, _ = _next_member(file, size)
        start = file.tell()
        expected = f"{i if contents.version == 1 else entry.key}.npy"  # version 1 numbers them
        if name != expected or not _has_npy_header(file, entry.array):
            raise CheckpointError(f"it is damaged: {expected!r} is not array {entry.name!r}")
        _fill(file, entry.array)
        if file.tell() - start != length:
            raise CheckpointError(f"it is damaged: the entry {expected!r} has another length")
    # Other readers need the directory that follows; here it only shows that the file is whole.
    start = file.tell()
    directory = file.read(4)
    file.seek(-_END, os.SEEK_END)
    end = file.read(_END)
    if directory != b"PK\1\2" or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
        raise CheckpointError("it is damaged: it has more entries than arrays, or its end is lost")
    if size - start - int.from_bytes(end[12:16], "little") not in (_END, _END + _END_ZIP64):
        raise CheckpointError(
            "more follows than one checkpoint: a file or file object holds one checkpoint"
        )
    return contents


def _next_member(file: io.BufferedReader, size: int) -> tuple[str, int, int]:
    """Read the local header of a zip file's next member: its name, length and checksum."""
    if file.read(4) != b"PK\3\4":
        raise CheckpointError("it is damaged or foreign: an entry of the zip file is missing")
    fields = _LOCAL.unpack(file.read(_LOCAL.size))
    _, flags, method, _, _, checksum, packed, length, name_length, extra_length = fields
    name = file.read(name_length).decode()
    extra = file.read(extra_length)
    if packed == length == _IN_ZIP64:
        _, _, length, packed = _ZIP64.unpack(extra)
    stored = method == zipfile.ZIP_STORED and packed == length and flags in (0, _UTF_8)
    if not stored or length > size - file.tell():
        raise CheckpointError(
            f"it is damaged or foreign: {name!r} is compressed, encrypted, streamed or longer than "
            f"the file{_reader(name)}"
        )
    return name, length, checksum


def _reader(name: str) -> str:
    """Say who reads a file with an entry of this name, if it is not a checkpoint."""
    if name.endswith("/data.pkl"):
        return (
            "; torch.load reads files of torch.save, and fused_rmsprop.exchange.from_torch takes "
            "over the state of an optimizer of torch"
        )
    if name.endswith(".npy"):
        return "; numpy.load reads files of numpy.savez, and RMSProp.save writes checkpoints"
    return ""


def _has_npy_header(file: io.BufferedReader, array: Array) -> bool:
    """Whether the next header of an ``.npy`` file is that of ``array``, apart from padding."""
    expected = io.BytesIO()
    np.lib.format.write_array_header_1_0(expected, np.lib.format.header_data_from_array_1_0(array))
    magic = file.read(8)
    text = file.read(int.from_bytes(file.read(2), "little"))
    return magic + text.rstrip() == expected.getvalue()[:8] + expected.getvalue()[10:].rstrip()


def write_safetensors(file: IO[bytes], arrays: Mapping[str, Array], header: str) -> None:
    """Write the arrays under their names, and the header into the file's metadata."""
    # save_file would not keep permissions and makes temporary files of its own.
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ImportError(
            "install safetensors for this file format: pip install 'fused-rmsprop[safetensors]'"
        ) from error
    too_long = "names and metadata are too long for safetensors; write an .npz file"
    try:
        data = safetensors.numpy.save(dict(arrays), {FORMAT: header})
    except safetensors.SafetensorError as error:
        raise ValueError(f"{too_long} ({error})") from error
    if int.from_bytes(data[:8], "little") > _SAFETENSORS_HEADER_BYTES:  # some versions do not check
        raise ValueError(too_long)
    file.write(data)


def read_safetensors(file: io.BufferedReader, size: int, parse: Parse) -> Contents:
    """Read the arrays by their keys; the package safetensors is not needed."""
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if length > _SAFETENSORS_HEADER_BYTES or start > size:
        raise CheckpointError(
            "it is damaged or foreign: its header is longer than the file, or than the format "
            "allows"
        )
    index = json.loads(file.read(length).decode())
    metadata = index.pop("__metadata__", {})
    if FORMAT not in metadata:
        raise CheckpointError(
            f"it is not from fused-rmsprop: its metadata has no {FORMAT!r}; RMSProp.save writes "
            "checkpoints"
        )
    contents = parse(metadata[FORMAT])
    if sum(entry.array.nbytes for entry in contents.entries) != size - start:
        raise CheckpointError("it is damaged: the arrays and the file differ in size")
    ranges: list[tuple[int, int]] = []
    for _, key, array, _ in contents.entries:
        stored = index.pop(key, None)
        begin = stored["data_offsets"][0] if stored else -1
        if not 0 <= begin <= size - start or stored != {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, begin + array.nbytes],
        }:
            raise CheckpointError(f"it is damaged: the array under the key {key!r} is another")
        ranges.append((begin, begin + array.nbytes))
        file.seek(start + begin)
        _fill(file, array)
    ranges.sort()
    if any(before[1] != after[0] for before, after in pairwise(ranges)):
        raise CheckpointError("it is damaged: arrays overlap")
    if index:
        raise CheckpointError(
            f"it is damaged: the array under the key {next(iter(index))!r} is new"
        )
    return contents


def _fill(file: io.BufferedReader, array: Array) -> None:
    if array.nbytes and file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise CheckpointError("it is damaged or foreign: it ends in the midst of an array")
