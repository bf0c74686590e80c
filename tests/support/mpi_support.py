"""Programs of several processes, which `mpiexec` starts."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import needs


def mpiexec(
    ranks: int, *arguments: object, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in so many processes; skip the test without MPI."""
    needs("mpi4py", reason="needs mpi4py: pip install '.[mpi]'")
    launcher = find_launcher()
    if launcher is None:
        pytest.skip("needs mpiexec: pip install '.[mpi]' installs MPICH's")
    oversubscribe = ["--oversubscribe"] if is_open_mpi(launcher) else []
    command = [launcher, *oversubscribe, "-n", str(ranks), sys.executable, *map(str, arguments)]
    root = dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | root,
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
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def find_launcher() -> str | None:
    """The path of mpiexec: beside the interpreter, where pip installs MPICH's, or on the PATH."""
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    return beside or shutil.which("mpiexec")


@functools.cache
def is_open_mpi(launcher: str) -> bool:
    """Whether it is Open MPI's, which starts more ranks than cores only if it is told to."""
    version = subprocess.run([launcher, "--version"], capture_output=True, encoding="utf-8")
    return "Open MPI" in version.stdout or "OpenRTE" in version.stdout
