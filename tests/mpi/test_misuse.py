"""Faults of one rank, over two and three ranks: all or nothing, and the bits of one process after.

The cases are in ``misuse_gradients.py``, ``misuse_calls.py``, ``misuse_building.py`` and
``misuse_good.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mpi_support import mpiexec

PROGRAM = Path(__file__).with_name("misuse_program.py")
CASES = 225  # a case that is lost is a failure


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_fault_of_one_rank_raises_on_all_and_changes_nothing(ranks: int) -> None:
    lines = mpiexec(ranks, PROGRAM).stdout.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert lines[-1] == f"{CASES} of {CASES} cases are good"


def test_a_gradient_that_does_not_fit_raises_on_all_ranks() -> None:
    lines = mpiexec(2, PROGRAM, "of a gradient").stdout.splitlines()
    assert lines[-1] == "30 of 30 cases are good", lines
