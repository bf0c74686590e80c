"""Helpers that several test files share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fused_rmsprop import RMSProp, show_config

Array = NDArray[Any]
ROOT = Path(__file__).parents[2]
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}  # where rounding differs from a framework's
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
needs_posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows differs")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
fork_and_spawn = pytest.mark.parametrize(
    "method", [pytest.param("fork", marks=needs_fork), "spawn"]
)

_rng = np.random.default_rng(11)


def restart_draws() -> None:
    """Let `draw` begin anew, so that no test depends on the tests before it."""
    global _rng
    _rng = np.random.default_rng(11)


def draw(*shape: int, dtype: type[Any] = np.float32) -> Array:
    """Normally distributed values."""
    return np.asarray(_rng.standard_normal(shape), dtype)


def read_only(array: Array) -> Array:
    """A copy that cannot be written to."""
    array = array.copy()
    array.flags.writeable = False
    return array


def halved(step: int) -> float:
    """A learning rate as a function of the step."""
    return 0.1 * 0.5**step


def values(schedule: Callable[[int], float], steps: int) -> NDArray[np.float64]:
    """The values of a schedule at its first steps."""
    return np.array([schedule(step) for step in range(steps)])


def threaded(opt: RMSProp) -> RMSProp:
    """The optimizer, which now splits even the smallest step among its threads."""
    opt._stepper.serial_below_bytes = 0
    return opt


def team(threads: int) -> int:
    """How many threads a step with so many uses: a build without OpenMP has one."""
    return 1 if show_config("dicts")["openmp"] == "none" else threads


def run_python(
    code: str, *args: object, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter; with `check`, fail the test if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


def run_script(script: Path, *arguments: object) -> str:
    """Run a file in a fresh interpreter and return what it prints; fail the test if it fails."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(name: str, reason: str | None = None) -> Any:
    """An optional module; without it, the test or the whole file is skipped."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():  # frameworks warn about each other's coming releases
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return pytest.importorskip(name, reason=reason or f"needs {name}")


def needs_torch() -> Any:
    """The module torch; without it, the test or the whole file is skipped."""
    needs("torch.optim", reason="needs torch")  # the folder tests/torch has no such module
    return needs("torch")
