"""Checkpoints in file objects, and the parameters of a checkpoint alone."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_support import bits, example
from fused_rmsprop import RMSProp
from fused_rmsprop.checkpoint import CheckpointError, load_params, read, write
from reference import same_bits
from support import needs, needs_posix


def trained(**options: Any) -> tuple[dict[str, Any], RMSProp]:
    params = {"W": np.arange(3.0), "b": np.ones(2, np.float32)}
    opt = RMSProp(params, momentum=0.5, **options)
    opt.step({"W": np.ones(3), "b": np.full(2, 0.5, np.float32)})
    return params, opt


@pytest.mark.parametrize("chosen", ["npz", "safetensors", None])
def test_bytes_io(chosen: Any) -> None:
    if chosen == "safetensors":
        needs("safetensors")
    params, opt = trained()
    saved = io.BytesIO()
    opt.save(saved, format=chosen)
    assert saved.getvalue()[:2] == b"PK" or chosen == "safetensors"
    file = io.BytesIO(b"before" + saved.getvalue())
    file.seek(6)
    loaded: dict[str, Any] = {"W": np.zeros(3), "b": np.zeros(2, np.float32)}
    other = RMSProp.load(file, loaded)
    assert pickle.dumps(other.state_dict()) == pickle.dumps(opt.state_dict())
    assert all(same_bits(params[name], loaded[name]) for name in params)
    with pytest.raises(CheckpointError, match=r"BytesIO.*nothing after its position; file\.seek"):
        RMSProp.load(file, loaded)


@pytest.mark.parametrize("chosen", ["npz", "safetensors"])
def test_one_checkpoint_per_file_object(chosen: Any) -> None:
    if chosen == "safetensors":
        needs("safetensors")
    file = io.BytesIO()
    trained()[1].save(file, format=chosen)
    first = file.getvalue()
    for position in (0, len(first)):
        file.seek(position)
        with pytest.raises(ValueError, match=r"BytesIO.* holds \d+ bytes, .*file\.truncate\(\)"):
            trained()[1].save(file, format=chosen)
        assert (file.getvalue(), file.tell()) == (first, position)
    for data in (first + first, first + b"PK\5\6" + bytes(18)):
        with pytest.raises(CheckpointError, match="one checkpoint|differ in size"):
            load_params(io.BytesIO(data))
    file.seek(0)
    file.truncate()
    trained()[1].save(file, format=chosen)
    assert file.getvalue() == first


def test_a_file_with_the_name_of_the_other_format(path: Path) -> None:
    write(path, example(), {})
    other = path.with_suffix(".safetensors" if path.suffix == ".npz" else ".npz")
    assert bits(read(path.rename(other))[0]) == bits(example())


def test_a_header_as_long_as_the_name_of_zip() -> None:
    """A .safetensors file begins with the length of its header."""
    for length in range(19280, 19280 + 2 * 65536, 65536):  # "PK" in its low bytes
        file = io.BytesIO()
        write(file, {"a": np.ones(2)}, {"note": ""}, format="safetensors")
        missing = length - int.from_bytes(file.getvalue()[:8], "little")
        file = io.BytesIO()
        write(file, {"a": np.ones(2)}, {"note": "x" * missing}, format="safetensors")
        assert file.getvalue().startswith(b"PK")
        file.seek(0)
        assert read(file)[1]["note"] == "x" * missing


def test_streams_that_cannot_tell_their_size(tmp_path: Path) -> None:
    packed: Any
    with gzip.open(tmp_path / "x.gz", "wb") as packed:
        write(packed, example(), {})
    with gzip.open(tmp_path / "x.gz", "rb") as packed:
        assert bits(read(packed)[0]) == bits(example())


@needs_posix  # where Python before 3.13 takes pipes for files that can seek
def test_pipes() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as source:
        with open(write_end, "wb") as sink:
            write(sink, example(), {})
        assert bits(read(source)[0]) == bits(example())


@pytest.mark.parametrize("buffering", [-1, 0])
def test_open_files(tmp_path: Path, buffering: int) -> None:
    path = tmp_path / "x.bin"
    with path.open("wb", buffering=buffering) as file:
        write(file, example(), {"k": 1})
    with path.open("rb", buffering=buffering) as file:
        arrays, metadata = read(file)
    assert (bits(arrays), metadata) == (bits(example()), {"k": 1})
    with tempfile.NamedTemporaryFile(dir=tmp_path) as temporary:
        write(temporary, example(), {})
        temporary.seek(0)
        assert bits(read(temporary)[0]) == bits(example())


def test_objects_that_hold_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write(path, example(), {})
    for text in (io.StringIO(), path.with_suffix(".txt").open("w", encoding="utf-8")):
        with text, pytest.raises(TypeError, match=r"open for text; open it with open\(path, 'wb'"):
            write(text, example(), {})  # type: ignore[arg-type]
    for name in ("x.txt", "x.npz"):  # the latter is not UTF-8
        with (
            (tmp_path / name).open(encoding="utf-8") as file,
            pytest.raises(TypeError, match=f"{name}' is open for text; .*'rb'"),
        ):
            read(file)  # type: ignore[arg-type]
    for call in (lambda: read(3), lambda: write(None, {}, {})):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a path or a binary file object, the first argument"):
            call()


def test_damage_in_a_file_object_names_it() -> None:
    file = io.BytesIO()
    write(file, example(), {})
    for data in (b"hello, world", file.getvalue()[:-1], file.getvalue() + b"x", b"\0" * 99):
        with pytest.raises(CheckpointError, match="BytesIO object at .* cannot be read") as caught:
            read(io.BytesIO(data))
        assert "Error:" not in str(caught.value)


def test_the_parameters_alone(path: Path) -> None:
    params, opt = trained(ema_decay=0.5)
    opt.save(path)
    for source in (path, str(path)):
        loaded = load_params(source)
        assert list(loaded) == ["W", "b"]
        assert all(same_bits(loaded[name], params[name]) for name in params)
    averages = load_params(path, averages=True)
    assert all(same_bits(averages[n], opt.state[n]["param_avg"]) for n in params)
    with path.open("rb") as file:
        assert bits(load_params(file)) == bits(loaded)
    trained()[1].save(path)
    with pytest.raises(ValueError, match=r"saved.*there are no averages"):
        load_params(path, averages=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"saved\."):
        load_params(path)


def test_averages_of_one_group(tmp_path: Path) -> None:
    groups = [{"params": {"a": np.ones(2)}, "ema_decay": 0.5}, {"params": {"b": np.ones(2)}}]
    opt = RMSProp(groups)
    opt.step([{"a": np.ones(2)}, {"b": np.ones(2)}])
    opt.save(tmp_path / "x.npz")
    averages = load_params(tmp_path / "x.npz", averages=True)
    assert same_bits(averages["0.a"], opt.state["0.a"]["param_avg"])
    assert same_bits(averages["1.b"], opt.param_groups[1]["params"]["b"])


ERRORS: dict[str, Callable[[Path], object]] = {
    "shape": lambda path: RMSProp.load(path, {"W": np.ones(4), "b": np.ones(2, np.float32)}),
    "option": lambda path: RMSProp.load(path, trained()[0], bias_correction=True),
    "bounds": lambda path: RMSProp.load(path, trained()[0], alpha=2.0),
    "strict": lambda path: RMSProp.load(path, trained()[0], strict=False, rename={"W": "b"}),
}


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_names_the_file(path: Path, error: str) -> None:
    trained()[1].save(path)
    with pytest.raises(ValueError, match="saved") as caught:
        ERRORS[error](path)
    assert repr(str(path)) in str(caught.value)
    assert "state_dict" not in str(caught.value)


def test_all_differences_at_once_and_not_too_many(path: Path) -> None:
    names = [f"p{i:02}" for i in range(30)]
    RMSProp({n: np.ones(2) for n in names}).save(path)
    params: dict[str, Any] = {n: np.zeros(3) for n in names[:6]}
    params |= {n: np.zeros(2) for n in names[8:]} | {"x": np.zeros(1)}
    with pytest.raises(ValueError, match="does not fit") as caught:
        RMSProp.load(path, params)
    text = str(caught.value)
    for part in ("'x' is not in", "'p06' is in", "'p07' is in", "parameter 'p00' is float64"):
        assert part in text
    with pytest.raises(ValueError, match=r"and 10 more$") as caught:
        RMSProp.load(path, {n: np.zeros(3) for n in names})
    assert len(str(caught.value).splitlines()) == 22
    opt = RMSProp({"a": np.ones(2), "b": np.ones(2)})
    saved = opt.state_dict()
    del saved["param_groups"][0]["alpha"], saved["param_groups"][0]["eps"]
    saved["state"]["b"].pop("square_avg")
    with pytest.raises(ValueError, match=r"(?s)lacks alpha, eps.*'b'\]\['square_avg'\] is missing"):
        opt.load_state_dict(saved)
