"""A damaged or foreign file is refused."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_support import bits, example
from fused_rmsprop.checkpoint import CheckpointError, read, write
from fused_rmsprop.checkpoint import file as file_layer
from support import needs


def identical_or_refused(path: Path, data: bytes, expected: Any) -> bool:
    """Whether the damaged file is refused; if it is not, its content must be as it was."""
    path.write_bytes(data)
    try:
        arrays, metadata = read(path)
    except CheckpointError as caught:
        message = str(caught)
    else:
        assert (bits(arrays), metadata) == expected
        return False
    assert message.startswith(f"{str(path)!r} cannot be read as a checkpoint: ")
    return True


@pytest.fixture
def saved(path: Path) -> tuple[Path, bytes, Any]:
    """A file, its bytes and its content."""
    arrays, metadata = example(), {"version": 3, "lr": 0.25, "text": "abc"}
    write(path, arrays, metadata)
    return path, path.read_bytes(), (bits(arrays), metadata)


def test_flipped_bits(saved: tuple[Path, bytes, Any]) -> None:
    path, data, expected = saved
    rng = random.Random(5)
    positions = rng.sample(range(8 * len(data)), 2000)
    refused = 0
    for position in positions:
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        refused += identical_or_refused(path, bytes(damaged), expected)
    assert refused > len(positions) / 2  # the rest: dates, padding and such


def test_overwritten_bytes(saved: tuple[Path, bytes, Any]) -> None:
    path, data, expected = saved
    rng = random.Random(6)
    for _ in range(1000):
        damaged = bytearray(data)
        start = rng.randrange(len(data))
        length = rng.choice((1, 2, 8, 100))
        damaged[start : start + length] = rng.randbytes(len(damaged[start : start + length]))
        identical_or_refused(path, bytes(damaged), expected)


def test_truncated(saved: tuple[Path, bytes, Any]) -> None:
    path, data, expected = saved
    for length in {*range(0, len(data), 5), len(data) - 1}:
        assert identical_or_refused(path, data[:length], expected)


@pytest.mark.parametrize("data", [b"", b"PK", b"hello, world\n" * 9, bytes(1000), b"\x80\x04N."])
def test_not_a_file_of_that_format(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or foreign"):
        read(path)


def test_files_of_others(tmp_path: Path) -> None:
    save = needs("safetensors.numpy").save_file
    np.savez(tmp_path / "x.npz", W=np.zeros(3))
    save({"W": np.zeros(3)}, tmp_path / "x.safetensors")
    save({"W": np.zeros(3)}, tmp_path / "y.safetensors", metadata={"format": "np"})
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "z.npz")
    for name in ("x.npz", "x.safetensors", "y.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name}' cannot.* is not from fused-rmsprop"):
            read(tmp_path / name)
    with pytest.raises(CheckpointError, match="z.npz'.*damaged or foreign"):
        read(tmp_path / "z.npz")


@pytest.mark.parametrize(
    ("constant", "value", "message"),
    [("_VERSION", 1, "version 2 of the format, but this"), ("FORMAT", "other", "other")],
)
def test_newer_and_similar_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, value: Any, message: str
) -> None:
    path = tmp_path / "x.npz"
    with monkeypatch.context() as patch:
        if constant == "FORMAT":
            patch.setattr(file_layer, constant, value)
        write(path, example(), {})
    if constant == "_VERSION":  # an older release
        monkeypatch.setattr(file_layer, constant, value)
    with pytest.raises(CheckpointError, match=message):
        read(path)


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a zip file again with other entries, so that its own checksums are right."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            if (changed := change(name, data)) is not None:
                archive.writestr(name, changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: None if name == "W.npy" else data,
        lambda name, data: data.replace(b"(4, 5),", b"(9" + b"9" * 12 + b", 5),"),
        lambda name, data: data.replace(b"(4, 5),", b"(5, 4),"),
        lambda name, data: data.replace(b"(4, 5),", b"(4, 4),"),
        lambda name, data: data.replace(b"'<f4'", b"'<i4'"),
        lambda name, data: data.replace(b"'<f4'", b"'|O' "),
        lambda name, data: data[:-1] + b"?" if name == "b.npy" else data,
        lambda name, data: data.replace(b'"abc"', b'"abd"'),
    ],
    ids=["missing", "huge", "transposed", "smaller", "dtype", "object", "data", "metadata"],
)
def test_damage_that_the_zip_file_does_not_know(
    tmp_path: Path, change: Callable[[str, bytes], bytes | None]
) -> None:
    path = tmp_path / "x.npz"
    write(path, example(), {"text": "abc"})
    rewrite(path, lambda name, data: data)
    assert bits(read(path)[0]) == bits(example())
    rewrite(path, change)
    with pytest.raises(CheckpointError):
        read(path)


def test_header_without_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for header in ("", "{}", "[]", "3", json.dumps({"format": "fused_rmsprop", "version": 1})):
        write(path, {}, {})
        rewrite(path, lambda name, data, header=header: header.encode())  # type: ignore[misc]
        with pytest.raises(CheckpointError):
            read(path)
