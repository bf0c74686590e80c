"""Mistaken files and arguments: the error names the file, what it is and what to do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.checkpoint import CheckpointError, load_params, read, write
from support import needs, needs_torch


def save_model(path: Path) -> None:
    torch = needs_torch()
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)


def save_legacy_model(path: Path) -> None:
    torch = needs_torch()
    torch.save({"W": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def save_state_dict(path: Path) -> None:
    np.savez(path, **RMSProp(np.ones(2)).state_dict())


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text.npz": (lambda path: path.write_bytes(b"hello\n" * 9), "as RMSProp.save writes"),
    "text.safetensors": (lambda path: path.write_bytes(b"hello\n" * 9), "as RMSProp.save writes"),
    "text": (lambda path: path.write_bytes(b"hello\n" * 9), "as RMSProp.save writes"),
    "empty.npz": (lambda path: path.write_bytes(b""), "it is empty"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "model.pt": (save_model, "torch.load reads.*exchange.from_torch"),
    "model.npz": (save_model, "torch.load reads.*exchange.from_torch"),
    "old.pt": (save_legacy_model, "pickle, which torch.load"),
    "opt.pkl": (lambda path: path.write_bytes(pickle.dumps(RMSProp(np.ones(2)))), "pickle.load"),
    "state_dict.npz": (save_state_dict, "numpy.load reads.*RMSProp.save writes"),
    "arrays.npz": (lambda path: np.savez(path, W=np.ones(2)), "numpy.load reads"),
    "packed.npz": (lambda path: np.savez_compressed(path, W=np.ones(2)), "numpy.load reads"),
    "array.npy": (lambda path: np.save(path, np.ones(2)), "numpy.load reads"),
    "W.safetensors": (
        lambda path: needs("safetensors.numpy").save_file({"W": np.ones(2)}, path),
        "not from fused-rmsprop.*RMSProp.save writes",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs(tmp_path: Path, name: str) -> None:
    make, words = FILES[name]
    make(tmp_path / name)
    params = {"W": np.ones(2)}
    for load in (lambda path: RMSProp.load(path, params), load_params, read):
        with pytest.raises(CheckpointError, match=words) as caught:
            load(tmp_path / name)
        assert str(caught.value).startswith(repr(str(tmp_path / name)))
    assert (params["W"] == 1).all()


Mistake = Callable[[Any, dict[str, Any]], Any]

MISTAKES: list[tuple[Mistake, type[Exception], str]] = [
    (lambda opt, p: opt.save("x.npz", p), ValueError, "as well: opt.save(path)"),
    (lambda opt, p: opt.save(p, "x.npz"), ValueError, "as well: opt.save(path)"),
    (lambda opt, p: opt.save(p), TypeError, "to a path or a binary file object, the first arg"),
    (lambda opt, p: opt.save(), TypeError, "RMSProp.save() missing 1"),
    (lambda opt, p: opt.save(filename="x.npz"), TypeError, "The options are path, format"),
    (lambda opt, p: opt.load("run.npz"), AttributeError, "opt = RMSProp.load(path, params)"),
    (lambda opt, p: opt.load("run.npz", p), AttributeError, "opt = RMSProp.load(path, params)"),
    (lambda opt, p: RMSProp.load("run.npz"), TypeError, "RMSProp.load() missing 1"),  # type: ignore[call-overload]
    (lambda opt, p: RMSProp.load(p, "run.npz"), TypeError, "file object, the first arg"),  # type: ignore[call-overload]
    (lambda opt, p: RMSProp.load("run.npz", p, stric=False), TypeError, "is strict meant?"),
    (lambda opt, p: RMSProp.load("run.npz", p, renames={}), TypeError, "is rename meant?"),
    (lambda opt, p: RMSProp.load("run.npz", p, True), TypeError, "RMSProp.load() takes 3"),  # type: ignore[call-overload]
    (lambda opt, p: RMSProp.load(content(), p), TypeError, "pass io.BytesIO(data)"),  # type: ignore[call-overload]
    (lambda opt, p: load_params(content()), TypeError, "pass io.BytesIO(data)"),  # type: ignore[arg-type]
    (lambda opt, p: read(bytearray(content())), TypeError, "pass io.BytesIO(data)"),  # type: ignore[arg-type]
    (lambda opt, p: load_params("run.npz", average=True), TypeError, "is averages meant?"),  # type: ignore[call-arg]
    (lambda opt, p: read(filename="run.npz"), TypeError, "The options are path"),  # type: ignore[call-arg]
    (lambda opt, p: write("x.npz", p, {}, fromat="npz"), TypeError, "is format meant?"),  # type: ignore[call-arg]
    (lambda opt, p: opt.state_dict(p), TypeError, "RMSProp.state_dict() takes 1"),
    (lambda opt, p: opt.load_state_dict({}, stric=False), TypeError, "is strict meant?"),
    (lambda opt, p: opt.load_state_dict(), TypeError, "RMSProp.load_state_dict() missing"),
    (lambda opt, p: opt.load_state_dict("run.npz"), ValueError, "RMSProp.load(path, params)"),
    (lambda opt, p: opt.load_state_dict(opt), ValueError, "other.state_dict()"),
    (
        lambda opt, p: opt.load_state_dict({"state": {}, "param_groups": []}),
        ValueError,
        "fused_rmsprop.exchange.from_torch(opt, optimizer)",
    ),
]


def content() -> bytes:
    return Path("run.npz").read_bytes()


@pytest.mark.parametrize(("mistake", "error", "words"), MISTAKES)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Mistake,
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    params = {"W": np.ones(2)}
    opt = RMSProp(params)
    RMSProp({"W": np.zeros(2)}).save("run.npz")
    with pytest.raises(error) as caught:
        mistake(opt, params)
    assert words in str(caught.value)
    assert "Saving" not in str(caught.value)
    assert (params["W"] == 1).all()
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]
    assert isinstance(RMSProp.load("run.npz", params), RMSProp)
