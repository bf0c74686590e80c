"""A short soak of both front ends; ``soak.py`` makes the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import needs_proc, needs_torch, run_script

COMMAND = Path(__file__).with_name("soak.py")


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("front_end", ["numpy", "torch"])
def test_many_steps_keep_memory_and_bits(front_end: str) -> None:
    if front_end == "torch":
        needs_torch()
    run_script(COMMAND, f"--front-end={front_end}", "--steps=100000", "--real=500")
