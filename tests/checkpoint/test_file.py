"""A checkpoint file is read back bit for bit."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_support import bits, example, files_beside
from fused_rmsprop.checkpoint import CheckpointError, read, write
from support import needs

NAMES = [
    *("W", "w", "layer1.W", "layer1/W", "/etc/x", "../../x", "..", ".", "", " ", "a b", "a\nb\0"),
    *("file", "arr_0", "args", "kwds", "allow_pickle", "self", "0", "1.npy", "checkpoint.json"),
    *("größe", "重み", "🙂", "\ud800", "\\ud800", "\ud800_", "__metadata__", "__metadata___"),
    *("fused_rmsprop", "x" * 70_000, "'\"\\"),
]


def test_names_of_any_kind(path: Path) -> None:
    arrays = {name: np.array(i, np.float64) for i, name in enumerate(NAMES)}
    for order in (1, -1):
        given = dict(list(arrays.items())[::order])
        write(path, given, {})
        assert bits(read(path)[0]) == bits(given)
    assert files_beside(path) == [path.name]


def test_safetensors_files_have_the_real_names_where_possible(tmp_path: Path) -> None:
    safetensors = needs("safetensors")
    impossible = ["\ud800", "\ud800_", "__metadata__"]
    arrays = {name: np.array(i, np.int64) for i, name in enumerate(NAMES)}
    write(tmp_path / "x.safetensors", arrays, {})
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="np") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert len(found) == len(NAMES)
    assert all(found[name] == arrays[name] for name in NAMES if name not in impossible)


def test_npz_files_are_for_numpy_load_without_pickle(tmp_path: Path) -> None:
    arrays = example()
    write(tmp_path / "x.npz", arrays, {})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        found = {name: file[name] for name in arrays}
        assert sorted(file) == sorted([*arrays, "checkpoint.json"])
    assert bits(found) == bits(arrays)


def test_npz_files_have_the_real_names_where_possible(tmp_path: Path) -> None:
    impossible = ["a\nb\0", "\ud800", "\ud800_", "1.npy", "checkpoint.json", "x" * 70_000]
    if os.sep == "\\":  # numpy.load gives other names then
        impossible += [name for name in NAMES if "\\" in name]
    arrays = {name: np.array(i, np.int64) for i, name in enumerate([*NAMES, "1"])}
    write(tmp_path / "x.npz", arrays, {})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert len(file.files) == len(arrays) + 1
        assert all(file[name] == arrays[name] for name in arrays if name not in impossible)
        assert sorted(int(file[n]) for n in file.files if n != "checkpoint.json") == sorted(
            map(int, arrays.values())
        )
    long = {"x" * 2000 + str(i): np.array(i, np.int64) for i in range(20)}
    write(tmp_path / "x.npz", long, {})
    assert bits(read(tmp_path / "x.npz")[0]) == bits(long)


def test_no_arrays_and_no_metadata(path: Path) -> None:
    write(path, {}, {})
    assert read(path) == ({}, {})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (17,), (3, 4), (2, 3, 4, 5)])
def test_every_bit_of_every_layout(path: Path, dtype: type[Any], shape: tuple[int, ...]) -> None:
    # Random bits: NaNs with payloads, subnormal numbers and all else.
    raw = np.random.default_rng(7).bytes(math.prod(shape) * np.dtype(dtype).itemsize)
    array = np.frombuffer(raw, dtype).reshape(shape)
    layouts = {
        "C": array.copy(),
        "F": np.asfortranarray(array).reshape(shape),
        "read-only": array,
        "transposed": array.T,
        "strided": np.repeat(array[..., None], 2, axis=-1)[..., 0],
        "reversed": array[(slice(None, None, -1),) * len(shape)],
    }
    write(path, layouts, {})
    assert bits(read(path)[0]) == bits(layouts)
    assert all(a.flags.writeable and a.flags.aligned for a in read(path)[0].values())


def test_special_values(path: Path) -> None:
    words = np.array([0x7FF0DEADBEEF0001, 0xFFF8000000000000, 1 << 63, 1, 0x7FF << 52], np.uint64)
    write(path, {"a": words.view(np.float64)}, {})
    np.testing.assert_array_equal(read(path)[0]["a"].view(np.uint64), words)


def test_metadata(path: Path) -> None:
    metadata = {
        "lr": 0.1,
        "tiny": 5e-324,
        "inf": [math.inf, -math.inf],
        "big": 2**70,
        "text": "größe \0 \ud800 \u2028\n",
        "": {"nested": [None, True, {}]},
        "end": "\0\0",
    }
    write(path, example(), metadata)
    assert read(path)[1] == metadata
    write(path, example(), {"nan": math.nan, "zero": -0.0})
    found = read(path)[1]
    assert math.isnan(found["nan"])
    assert str(found["zero"]) == "-0.0"


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({"a": np.zeros(2, np.float16)}, {}, "array 'a' has dtype float16; it must be float32, "),
        ({"a": np.zeros(2, object)}, {}, "array 'a' has dtype object"),
        ({"a": np.zeros(2, ">f4")}, {}, "array 'a' has dtype >f4"),
        ({3: np.zeros(2)}, {}, "the name 3 of an array is not a str"),
        ({}, {"key": object()}, "not JSON serializable"),
    ],
)
def test_what_cannot_be_written(path: Path, arrays: Any, metadata: Any, message: str) -> None:
    write(path, example(), {})
    before = path.read_bytes()
    with pytest.raises(TypeError, match=message):
        write(path, arrays, metadata)
    assert path.read_bytes() == before
    assert files_beside(path) == [path.name]


@pytest.mark.parametrize("name", ["x", "x.npy", "x.npz.gz", ".npz", ""])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    where = os.path.join(tmp_path, name)
    with pytest.raises(ValueError, match="use .npz or .safetensors, or pass format=") as caught:
        write(where, {}, {})
    assert repr(where) in str(caught.value)
    assert not isinstance(caught.value, CheckpointError)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("chosen", ["npz", "safetensors"])
@pytest.mark.parametrize("name", ["x.ckpt", "x", "x.NPZ", "x.SafeTensors"])
def test_a_format_for_any_name(tmp_path: Path, name: str, chosen: str) -> None:
    needs("safetensors")
    path = tmp_path / name
    if "." in name and path.suffix.lower() not in (".ckpt", f".{chosen}"):
        with pytest.raises(ValueError, match=f"ends in .*, but format is '{chosen}'"):
            write(path, example(), {}, format=chosen)
        return
    write(path, example(), {}, format=chosen)
    assert bits(read(path)[0]) == bits(example())
    assert path.read_bytes().startswith(b"PK") == (chosen == "npz")
    with pytest.raises(ValueError, match="format must be 'npz' or 'safetensors', got 'zip'"):
        write(path, example(), {}, format="zip")


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    path = tmp_path / "x.safetensors"
    with pytest.raises(ImportError, match=r"pip install 'fused-rmsprop\[safetensors\]'"):
        write(path, {}, {})
    assert os.listdir(tmp_path) == []


def test_safetensors_files_are_read_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("safetensors")
    path = tmp_path / "x.safetensors"
    write(path, example(), {"k": 1})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert bits(read(path)[0]) == bits(example())


def test_headers_too_long_for_safetensors(tmp_path: Path) -> None:
    needs("safetensors")
    with pytest.raises(ValueError, match="too long for safetensors; write an .npz file"):
        write(tmp_path / "x.safetensors", {}, {"text": "x" * 100_000_000})
    assert os.listdir(tmp_path) == []


def test_paths_are_strings_or_path_objects(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    write(path.name, example(), {"k": 1})
    assert bits(read(path)[0]) == bits(example())
    write(Path(path.name), example(1), {"k": 1})
    assert bits(read(path.name)[0]) == bits(example(1))
    long_name = path.with_name("重" * 81 + path.suffix)  # 255 bytes, or nearly
    write(long_name, example(), {})
    assert bits(read(long_name)[0]) == bits(example())
