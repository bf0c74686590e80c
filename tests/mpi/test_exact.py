"""Training over MPI has the bits of one process, for any number of ranks and all options."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpi_support import mpiexec

PROGRAM = Path(__file__).with_name("exact_program.py")


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "section",
    [
        "limits",
        "mixed_dtypes",
        "accumulation",
        "another_call",
        "sizes",
        "presets",
        "shares",
        "fast",
    ],
)
@pytest.mark.slow
def test_the_bits_are_those_of_one_process(section: str, ranks: int) -> None:
    assert len(mpiexec(ranks, PROGRAM, section).stdout.splitlines()) == ranks


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.slow
def test_all_combinations_of_options(ranks: int) -> None:
    assert mpiexec(ranks, PROGRAM, "combinations", timeout=600).stdout.count("1440") == ranks
