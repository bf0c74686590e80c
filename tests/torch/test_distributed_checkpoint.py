"""Checkpoints of torch.distributed, loaded by other numbers of processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import run_script
from torch_support import torch  # noqa: F401


@pytest.mark.slow
def test_a_training_goes_on_with_any_number_of_processes(tmp_path: Path) -> None:
    script = Path(__file__).parent / "checkpointed.py"
    assert run_script(script, 2, tmp_path, "save") == "done\n"
    for count in (4, 2, 0):
        assert run_script(script, count, tmp_path, "load") == "done\n"
