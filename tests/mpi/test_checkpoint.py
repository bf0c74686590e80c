"""A training that was saved by some ranks, or by one process, goes on with others, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpi_support import mpiexec

PROGRAM = Path(__file__).with_name("checkpoint_program.py")


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 4), (3, 2), (4, 1), (2, 2)])
@pytest.mark.slow
def test_another_number_of_ranks_goes_on(tmp_path: Path, before: int, after: int) -> None:
    path = tmp_path / "run.npz"
    mpiexec(before, PROGRAM, "save", path)
    assert mpiexec(after, PROGRAM, "go on", path).stdout.count("done") == after
    mpiexec(1, PROGRAM, "go on in one", path)
    mpiexec(after, PROGRAM, "partly", path)


@pytest.mark.slow
def test_the_file_is_that_of_one_process(tmp_path: Path) -> None:
    mpiexec(3, PROGRAM, "save", tmp_path / "ranks.npz")
    mpiexec(1, PROGRAM, "save in one", tmp_path / "one.npz")
    assert (tmp_path / "ranks.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()
    assert mpiexec(3, PROGRAM, "go on", tmp_path / "one.npz").stdout.count("done") == 3


@pytest.mark.slow
def test_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs safetensors")
    mpiexec(2, PROGRAM, "save", tmp_path / "run.safetensors")
    assert mpiexec(3, PROGRAM, "go on", tmp_path / "run.safetensors").stdout.count("done") == 3
