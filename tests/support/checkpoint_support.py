"""Helpers of the tests of checkpoint files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

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
