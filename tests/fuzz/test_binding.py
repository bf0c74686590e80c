"""A few hundred inputs of the fuzzer of the binding; ``binding.py`` makes as many as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import needs_fork, needs_torch, run_script

COMMAND = Path(__file__).with_name("binding.py")


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("front_end", ["numpy", "torch"])
def test_hostile_values_are_refused(front_end: str) -> None:
    if front_end == "torch":
        needs_torch()
    run_script(COMMAND, f"--front-end={front_end}", "--inputs=500", "--seed=7")
