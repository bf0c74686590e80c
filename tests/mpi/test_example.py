"""The example gives the same bits with any number of ranks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from mpi_support import mpiexec
from support import ROOT, needs

EXAMPLE = ROOT / "examples/mpi_digits.py"
RUN = f"import runpy; runpy.run_path({str(EXAMPLE)!r})['main'](epochs=2, path={{!r}})"


def result(ranks: int, path: Path) -> str:
    """What the example prints."""
    done = mpiexec(ranks, "-c", RUN.format(str(path)))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_one_two_and_three_ranks_print_the_same_and_save_the_same_file(tmp_path: Path) -> None:
    needs("sklearn", reason="the digits are scikit-learn's")
    paths = [tmp_path / f"{ranks}.npz" for ranks in (1, 2, 3)]
    printed = [result(ranks, path) for ranks, path in enumerate(paths, 1)]
    assert re.search(r"epoch  2: loss 0\.\d+\naccuracy .*, parameters [0-9a-f]{8}\n$", printed[0])
    assert printed == printed[:1] * 3
    assert len({path.read_bytes() for path in paths}) == 1
    shapes = {"W1": (64, 64), "b1": (64,), "W2": (64, 10), "b2": (10,)}
    params = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    assert RMSProp.load(paths[0], params).step_count == 40


@pytest.mark.slow
def test_a_number_of_ranks_that_does_not_divide_the_batch_is_refused() -> None:
    needs("sklearn", reason="the digits are scikit-learn's")
    done = mpiexec(5, EXAMPLE, check=False)
    assert done.returncode == 1
    assert "5 ranks cannot share 12 micro-batches evenly" in done.stderr
