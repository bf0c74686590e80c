"""Helpers of the tests of checkpoint files."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fused_rmsprop.checkpoint import formats
from support import Array


def example(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "W": rng.standard_normal((4, 5)).astype(np.float32),
        "b": rng.standard_normal(7),
        "step": np.array(1234 + seed, np.int64),
        "nothing": np.zeros((0, 3)),
    }


def bits(arrays: dict[str, Array]) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    return [(name, a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()]


def files_beside(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def sealed(body: str) -> str:
    """A header with the right checksum, whatever it says."""
    guard = {"format": "fused_rmsprop", "version": 2, "crc32": zlib.crc32(body.encode())}
    return f"{json.dumps(guard)}\n{body}"


def announced(arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    """The entries of a header for arrays whose keys are their names."""
    return [
        {
            "name": name,
            "key": name,
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "crc32": zlib.crc32(array.tobytes()),
        }
        for name, array in arrays.items()
    ]


def forge(path: Path, arrays: Mapping[str, Array], header: str) -> None:
    """Write a file of the right format with any header."""
    writers = {".npz": formats.write_npz, ".safetensors": formats.write_safetensors}
    with path.open("wb") as file:
        writers[path.suffix](file, arrays, header)
