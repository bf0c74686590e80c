"""Ten ranks that are killed, stopped or fail; ``kills.py`` attacks as often as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpi_support import launcher
from support import needs_proc, run_script


@pytest.mark.slow
@needs_proc
def test_the_other_ranks_end_and_the_checkpoint_is_whole() -> None:
    launcher()  # or this is skipped
    run_script(Path(__file__).with_name("kills.py"), "--count=10")
