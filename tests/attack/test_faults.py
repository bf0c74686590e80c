"""Fifty faults of each kind, on both front ends; ``faults.py`` injects as many as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import needs_proc, needs_torch, run_script

COMMAND = Path(__file__).with_name("faults.py")


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("kind", ["none", "interrupt", "kill", "fork", "memory", "disk"])
def test_nothing_is_lost(kind: str) -> None:
    run_script(COMMAND, f"--kind={kind}", "--front-end=numpy", "--count=50")


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("kind", ["none", "interrupt", "fork", "memory"])
def test_nothing_is_lost_in_torch(kind: str) -> None:
    needs_torch()
    run_script(COMMAND, f"--kind={kind}", "--front-end=torch", "--count=50")
