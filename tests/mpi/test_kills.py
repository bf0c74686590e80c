"""Ranks that are killed, stopped, fail or are late; ``kills.py`` attacks as often as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpi_support import launcher, mpiexec
from support import needs_proc, run_script


@pytest.mark.slow
@needs_proc
def test_the_other_ranks_end_and_the_checkpoint_is_whole() -> None:
    launcher()  # or this is skipped
    run_script(Path(__file__).with_name("kills.py"), "--count=10")


LATE = """
import time
import numpy as np
from mpi4py import MPI
from fused_rmsprop.mpi import RankError, RMSProp
p, rank = np.ones(10_000), MPI.COMM_WORLD.Get_rank()
{made}
opt = RMSProp(p, timeout=0.3, abort={abort}, threads=1)
if {late} and rank == 1:
    time.sleep({seconds})
for call in (lambda: opt.step(np.ones(10_000)), opt.state_dict):
    try:
        call()
    except RankError as error:
        print(rank, str(error).partition("another rank ")[2], flush=True)
"""


def test_a_late_rank_lets_all_raise_and_go_on() -> None:
    code = LATE.format(made="", abort=False, late=True, seconds=0.8)
    lines = mpiexec(2, "-c", code, check=False).stdout.splitlines()
    told = "did not answer within 0.3 s"
    assert len(lines) == 4, lines  # each rank refuses the second call at once
    assert all(told in line and "Start all ranks again" in line for line in lines)
    assert sorted(line[0] for line in lines) == ["0", "0", "1", "1"]


def test_a_rank_that_makes_no_optimizer_lets_the_others_raise() -> None:
    code = LATE.format(made="rank == 1 and exit()", abort=False, late=False, seconds=0)
    said = mpiexec(2, "-c", code, check=False, timeout=30).stderr
    assert "RankError: rank 0 of 2: another rank did not answer within 0.3 s" in said
    assert "where an optimizer was made" in said


@pytest.mark.parametrize("late", [True, False])
def test_abort_ends_all_ranks(late: bool) -> None:
    made = "" if late else "rank == 1 and time.sleep(60)"
    code = LATE.format(made=made, abort=True, late=late, seconds=60)
    done = mpiexec(2, "-c", code, check=False, timeout=30)  # less than the late rank sleeps
    assert done.returncode != 0
    assert "rank 0 of 2: another rank did not answer within 0.3 s" in done.stderr
