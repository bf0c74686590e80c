"""Ranks that are killed, stopped, fail or are late; ``kills.py`` attacks as often as wanted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mpi_alone_support import MPI, RankError, Ranks
from mpi_support import launcher, mpiexec
from support import needs_proc, run_script


@pytest.mark.slow
@needs_proc
def test_the_other_ranks_end_and_the_checkpoint_is_whole() -> None:
    launcher()  # or this is skipped
    run_script(Path(__file__).with_name("kills.py"), "--count=10")


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_launcher_gets_time_to_pass_on_the_last_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: bool
) -> None:
    done: list[str] = []
    said: list[str] = []

    def sleep(seconds: float) -> None:
        if seconds >= 0.1:  # and not a nap in the wait
            done.append("a pause")
            said.append(capsys.readouterr().err)
            if interrupted:
                raise KeyboardInterrupt

    monkeypatch.setattr("fused_rmsprop.mpi.ranks._limits", [])  # or the tests' end would have one
    monkeypatch.setattr("time.sleep", sleep)
    ranks = Ranks(MPI.COMM_SELF.Dup(), 0.02, True)
    comm, ranks.comm = ranks.comm, SimpleNamespace(Abort=lambda code: done.append(f"Abort({code})"))
    buffer = np.empty(1)
    request = comm.Irecv(buffer, source=0)  # from itself, which sends nothing
    with pytest.raises(KeyboardInterrupt if interrupted else RankError):
        ranks.wait([request], "at a test")
    assert done == ["a pause", "Abort(1)"]
    assert "rank 0 of 1: another rank did not answer within 0.02 s at a test" in said[0]
    comm.Send(np.ones(1), dest=0)
    request.Wait()


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
p = np.ones(10_000)
{made}
opt._ranks.timeout = 1
{after}
for call in (lambda: opt.step(np.ones(10_000)), opt.state_dict):
    try:
        call()
    except RankError as error:
        print("refused:", error, flush=True)
(folder / f"{{rank}} is done").touch()
wait_for(f"{{1 - rank}} is done")  # mpiexec may end all ranks as soon as one ends
"""
# However long a rank has taken to import and to begin.
TOGETHER = """
opt = RMSProp(p, abort={abort}, threads=1)
MPI.COMM_WORLD.Barrier()
"""
MISSING = """
rank == 1 and {leave}
opt = RMSProp(p, abort={abort}, timeout=1, threads=1)
"""
NEVER = "wait_for('the end')"  # for a minute
STEP = "rank 0 of 2: another rank did not answer within 1 s at the beginning of a step"
MAKING = "rank 0 of 2: another rank did not answer within 1 s where an optimizer was made"


def said(folder: Path, rank: int) -> str:
    return (folder / f"said by {rank}").read_text(encoding="utf-8")


def test_a_late_rank_lets_all_raise_and_go_on(tmp_path: Path) -> None:
    made, late = TOGETHER.format(abort=False), "rank == 1 and wait_for('0 is done')"
    mpiexec(2, "-c", LATE.format(made=made, after=late), tmp_path, check=False)
    for rank in (0, 1):
        text = said(tmp_path, rank)
        lines = [line for line in text.splitlines() if line.startswith("refused: ")]
        assert len(lines) == 2, text
        assert lines[0] == lines[1]  # the second call is refused at once
        assert f"rank {rank} of 2: another rank did not answer within 1 s" in lines[0]
        assert "Start all ranks again" in lines[0]


def test_a_rank_that_makes_no_optimizer_lets_the_others_raise(tmp_path: Path) -> None:
    made = MISSING.format(leave="exit()", abort=False)
    mpiexec(2, "-c", LATE.format(made=made, after=""), tmp_path, check=False)
    assert f"RankError: {MAKING}" in said(tmp_path, 0)


@pytest.mark.parametrize(
    ("made", "after", "told"),
    [
        (TOGETHER.format(abort=True), f"rank == 1 and {NEVER}", STEP),
        (MISSING.format(leave=NEVER, abort=True), "", MAKING),
    ],
    ids=["in a step", "where it is made"],
)
def test_abort_ends_all_ranks(tmp_path: Path, made: str, after: str, told: str) -> None:
    code = LATE.format(made=made, after=after)
    done = mpiexec(2, "-c", code, tmp_path, check=False, timeout=50)
    assert done.returncode != 0
    text = said(tmp_path, 0)
    assert told in text
    assert "MPI_ABORT" in (text + done.stderr).upper()  # as MPICH and Open MPI tell
