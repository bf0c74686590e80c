"""A file cannot make its reader take much more memory than the file has bytes."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_support import announced, forge, sealed
from fused_rmsprop import RMSProp
from fused_rmsprop.checkpoint import CheckpointError, read, write
from support import Array, needs

MIB = 2**20
CONSTANT = 16 * MIB


def header(entries: Any, metadata: str = "{}") -> str:
    return sealed(f'{{"arrays": {json.dumps(entries)}, "metadata": {metadata}}}')


def peak_of_reading(path: Path) -> tuple[int, str]:
    """The most memory that was in use at once, and the error."""
    message = ""
    tracemalloc.start()
    try:
        read(path)
    except CheckpointError as error:
        message = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert "MemoryError" not in message
    return peak, message


def assert_bounded(path: Path, *, refused: bool = True) -> None:
    peak, message = peak_of_reading(path)
    assert peak < 2 * path.stat().st_size + CONSTANT, message
    assert bool(message) == refused


def npy(array_header: dict[str, Any], data: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, array_header)
    return file.getvalue() + data


@pytest.mark.parametrize("announced_size", [32 * MIB, 2**40, 2**60])
def test_arrays_that_are_announced_only(path: Path, announced_size: int) -> None:
    (entry,) = announced({"a": np.zeros(1)})
    forge(path, {"a": np.zeros(1)}, header([entry | {"shape": [announced_size // 8]}]))
    assert_bounded(path)


def test_many_arrays_at_one_place(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    array = np.zeros(32_000)
    names = [f"{i}" for i in range(1000)]
    (entry,) = announced({"a": array})
    entries = [entry | {"name": name, "key": name} for name in names]
    place = {"dtype": "F64", "shape": [32_000], "data_offsets": [0, array.nbytes]}
    index = {"__metadata__": {"fused_rmsprop": header(entries)}} | dict.fromkeys(names, place)
    data = json.dumps(index).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data + array.tobytes())
    assert_bounded(path)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 99_999_999])
def test_a_header_that_is_longer_than_the_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + bytes(300_000))
    assert_bounded(path)


def zip_of(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_compressed_members(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    array = np.zeros(128 * MIB // 8)
    valid_header = header(announced({"a": array})).encode()
    data = npy(np.lib.format.header_data_from_array_1_0(array), array.tobytes())
    zip_of(path, {"checkpoint.json": valid_header, "0.npy": data})
    assert path.stat().st_size < 300_000
    assert_bounded(path)
    stored = zipfile.ZipInfo("checkpoint.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(stored, valid_header)
        archive.writestr("0.npy", data, zipfile.ZIP_DEFLATED)
    assert_bounded(path)
    zip_of(path, {"checkpoint.json": b" " * (128 * MIB)})
    assert_bounded(path)


def test_an_array_header_that_claims_more_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    claim: dict[str, Any] = {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
    (entry,) = announced({"a": np.zeros(1)})
    for shape in ([1], [2**40]):
        members = {
            "checkpoint.json": header([entry | {"shape": shape}]).encode(),
            "0.npy": npy(claim, bytes(300_000)),
        }
        zip_of(path, members, zipfile.ZIP_STORED)
        assert_bounded(path)


def test_members_that_claim_other_sizes(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write(path, {"a": np.zeros(3)}, {})
    whole = path.read_bytes()
    at = whole.index(b"a.npy")
    for size in (0, 10, 2**31, 2**62, 2**64 - 1):  # in the local header's Zip64 field
        sizes = struct.pack("<2Q", size, size)
        start = whole[: at - 12] + b"\xff" * 8 + whole[at - 4 : at + 9]  # the sizes are there
        path.write_bytes(start + sizes + whole[at + 25 :])
        assert_bounded(path)
    path.write_bytes(whole)
    assert_bounded(path, refused=False)


def test_duplicate_and_surplus_members(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    array = np.zeros(3)
    member = npy(np.lib.format.header_data_from_array_1_0(array), array.tobytes())
    for names in (["checkpoint.json"], ["a.npy"], [f"x{i}" for i in range(3000)]):
        write(path, {"a": array}, {})
        with zipfile.ZipFile(path, "a") as archive:
            for name in names:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # zipfile sees the duplicates
                    archive.writestr(name, member if name == "a.npy" else b"")
        assert_bounded(path)


METADATA = {
    "deep lists": "[" * 300_000,
    "deep objects": '{"a":' * 50_000,
    "lists": "[" + "[]," * 100_000 + "[]]",
    "objects": "[" + "{}," * 100_000 + "{}]",
    "pairs": "[" + '{"a":1},' * 35_000 + "{}]",
    "numbers": "[" + "1e5," * 75_000 + "1]",
    "digits": "9" * 300_000,
    "text": f'{{"a": "{"x" * 300_000}"}}',
    "spaces": " " * 300_000 + "{}",
    "keys": "{" + ",".join(f'"{i}":0' for i in range(30_000)) + "}",
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_of_all_kinds(path: Path, metadata: str) -> None:
    forge(path, {}, header([], metadata))
    peak, _ = peak_of_reading(path)
    assert peak < 2 * path.stat().st_size + CONSTANT
    with pytest.raises(CheckpointError):
        RMSProp.load(path, np.ones(3))


def test_many_empty_arrays(path: Path) -> None:
    arrays = {str(i): np.zeros(0) for i in range(1500)}
    write(path, arrays, {})
    assert_bounded(path, refused=False)


def test_a_whole_file(path: Path) -> None:
    arrays: dict[str, Array] = {str(i): np.ones(MIB) for i in range(4)}
    write(path, arrays, {"k": 1})
    assert_bounded(path, refused=False)
    peak, _ = peak_of_reading(path)
    assert peak < 33 * MIB  # each array once


def test_foreign_index_of_safetensors(tmp_path: Path) -> None:
    needs("safetensors")
    path = tmp_path / "x.safetensors"
    for index in ("[" * 300_000, '{"a":' * 60_000, "[]", "3", "null", '{"__metadata__": 3}',
                  '{"__metadata__": {"fused_rmsprop": 3}}', '{"__metadata__": ["fused_rmsprop"]}',
                  json.dumps({"__metadata__": {"fused_rmsprop": header([])}, "a": 3}),
                  "9" * 300_000):  # fmt: skip
        path.write_bytes(struct.pack("<Q", len(index)) + index.encode())
        assert_bounded(path)
    (entry,) = announced({"a": np.zeros(1)})
    stored: Any
    for stored in (3, [], {}, {"data_offsets": []}, {"data_offsets": [0.0, 8.0]},
                   {"data_offsets": ["0", "8"]}, {"data_offsets": {"0": 0}}):  # fmt: skip
        index = json.dumps({"__metadata__": {"fused_rmsprop": header([entry])}, "a": stored})
        path.write_bytes(struct.pack("<Q", len(index)) + index.encode() + bytes(8))
        assert_bounded(path)
