"""Runs programs by mpiexec, with several ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: Open MPI refuses to run as root, and more ranks than cores, unless it is told to.
_OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


def launcher() -> str:
    """The path of mpiexec; the test is skipped where there is none, or no mpi4py."""
    pytest.importorskip("mpi4py", reason="needs mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")  # as PyPI's mpich installs it
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("needs mpiexec")
    return found


def mpiexec(
    ranks: int, *arguments: object, timeout: float = 120, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a Python program with its arguments in so many ranks; with `check`, fail if it fails."""
    done = subprocess.run(
        [launcher(), "-n", str(ranks), sys.executable, *map(str, arguments)],
        env=os.environ | _OPEN_MPI | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done
