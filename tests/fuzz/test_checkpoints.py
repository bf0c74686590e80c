"""A few thousand inputs of the fuzzer of checkpoints; its command runs more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import needs


@pytest.mark.slow
def test_mutated_checkpoints() -> None:
    needs("safetensors")
    fuzzer = Path(__file__).with_name("checkpoints.py")
    done = subprocess.run(
        [sys.executable, fuzzer, "--inputs", "3000", "--seed", "0"],
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "3,000  inputs" in done.stdout
    for outcome in ("loaded", "refused as a file", "refused as a checkpoint"):
        assert f"header_values: {outcome}\n" in done.stdout
