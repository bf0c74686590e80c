"""Fifty faults of each kind, on both front ends; ``faults.py`` injects as many as wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import needs_torch

COMMAND = Path(__file__).with_name("faults.py")


def lost(kind: str, front_end: str, count: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, COMMAND, f"--kind={kind}", f"--front-end={front_end}", f"--count={count}"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "interrupt", "kill", "fork", "memory", "disk"])
def test_nothing_is_lost(kind: str) -> None:
    status, said = lost(kind, "numpy", 50)
    assert status == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "interrupt", "fork", "memory"])
def test_nothing_is_lost_in_torch(kind: str) -> None:
    needs_torch()
    status, said = lost(kind, "torch", 50)
    assert status == 0, said
