"""Launches programs by mpiexec; a test that needs it is skipped where there is none."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: For OpenMPI, which refuses to run as root, and more processes than cores.
_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONIOENCODING": "utf-8",
}


def mpiexec(
    ranks: int, *arguments: object, timeout: float = 120, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with these arguments in so many processes, and return what they print.

    With `check`, fail the test if one of them fails.
    """
    command = launch(ranks, *arguments)
    with subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # ends the ranks, which kill() would leave running
            out, err = process.communicate(timeout=10)
            pytest.fail(f"{ranks} ranks did not end within {timeout} s\n{out}{err}")
    assert process.returncode == 0 or not check, out + err
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def launch(ranks: int, *arguments: object) -> list[str]:
    """The command of `mpiexec`."""
    return [launcher(), "-n", str(ranks), sys.executable, *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment of the processes."""
    return os.environ | _ENVIRONMENT


@functools.cache
def launcher() -> str:
    """The path of mpiexec, that of this interpreter first; without it, the test is skipped."""
    pytest.importorskip("mpi4py", reason="needs mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("needs mpiexec: pip install mpich")
    return found


@functools.cache
def is_hydra() -> bool:
    """Whether mpiexec is that of MPICH, whose clean-up after a failed process can be turned off."""
    told = subprocess.run([launcher(), "--version"], capture_output=True, encoding="utf-8")
    return "HYDRA" in told.stdout
