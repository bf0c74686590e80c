"""Fixtures of the checkpoint tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import needs


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where to write, in a folder of its own, once in each format."""
    if request.param == ".safetensors":
        needs("safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / f"saved{request.param}"
