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
import os
import sys
import time
from pathlib import Path
import numpy as np
from mpi4py import MPI
from fused_rmsprop.mpi import RankError, RMSProp
folder, rank = Path(sys.argv[1]), MPI.COMM_WORLD.Get_rank()
log = os.open(folder / f"said by {{rank}}", os.O_WRONLY | os.O_CREAT)
os.dup2(log, 1)  # mpiexec may end before it has passed on the last words
os.dup2(log, 2)
def wait_for(name):
    for _ in range(6000):
        if (folder / name).exists():
            return
        time.sleep(0.01)
{before}
p = np.ones(10_000)
opt = RMSProp(p, timeout=1, abort={abort}, threads=1)
{after}
for call in (lambda: opt.step(np.ones(10_000)), opt.state_dict):
    try:
        call()
    except RankError as error:
        print(error, flush=True)
(folder / f"told to {{rank}}").touch()
wait_for(f"told to {{1 - rank}}")  # mpiexec ends all ranks with the first
"""
TOGETHER = "MPI.COMM_WORLD.Barrier()"  # however long one has taken to import what it needs


def said(folder: Path, rank: int) -> str:
    return (folder / f"said by {rank}").read_text(encoding="utf-8")


def test_a_late_rank_lets_all_raise_and_go_on(tmp_path: Path) -> None:
    late = "rank == 1 and wait_for('told to 0')"
    mpiexec(2, "-c", LATE.format(before=TOGETHER, abort=False, after=late), tmp_path, check=False)
    for rank in (0, 1):
        lines = said(tmp_path, rank).splitlines()
        assert len(lines) == 2, lines  # the second call is refused at once
        for line in lines:
            assert f"rank {rank} of 2: another rank did not answer within 1 s" in line
            assert "Start all ranks again" in line


def test_a_rank_that_makes_no_optimizer_lets_the_others_raise(tmp_path: Path) -> None:
    code = LATE.format(before="rank == 1 and exit()", abort=False, after="")
    mpiexec(2, "-c", code, tmp_path, check=False)
    assert "RankError: rank 0 of 2: another rank did not answer within 1 s" in said(tmp_path, 0)
    assert "where an optimizer was made" in said(tmp_path, 0)


@pytest.mark.parametrize("made", [True, False])
def test_abort_ends_all_ranks(tmp_path: Path, made: bool) -> None:
    absent = "rank == 1 and wait_for('the end')"  # for a minute
    before, after = (TOGETHER, absent) if made else (absent, "")
    code = LATE.format(before=before, abort=True, after=after)
    assert mpiexec(2, "-c", code, tmp_path, check=False, timeout=50).returncode != 0
    assert "rank 0 of 2: another rank did not answer within 1 s" in said(tmp_path, 0)
