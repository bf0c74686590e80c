"""A short soak of both front ends; ``soak.py`` makes the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import needs_torch

COMMAND = Path(__file__).with_name("soak.py")


@pytest.mark.slow
@pytest.mark.parametrize("front_end", ["numpy", "torch"])
def test_many_steps_keep_memory_and_bits(front_end: str) -> None:
    if front_end == "torch":
        needs_torch()
    done = subprocess.run(
        [sys.executable, COMMAND, f"--front-end={front_end}", "--steps=100000", "--real=500"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
