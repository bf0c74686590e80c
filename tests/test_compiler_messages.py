"""A build that lacks a compiler or Python's headers ends with what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import ROOT, needs_posix

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")


def errors_of(script: str, tmp_path: Path) -> str:
    (tmp_path / "script.cmake").write_text(
        f'include("{ROOT.as_posix()}/cpp/cmake/compiler.cmake")\n{script}\n', encoding="utf-8"
    )
    command = ["cmake", "-P", str(tmp_path / "script.cmake")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return " ".join(done.stderr.split())


@needs_posix
def test_without_a_compiler(tmp_path: Path) -> None:
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Unix Makefiles"]
    variables = {"CXX": str(tmp_path / "none")}
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=os.environ | variables, check=False
    )
    assert "apt install g++ python3-dev" in " ".join(done.stderr.split())


def test_without_python_headers(tmp_path: Path) -> None:
    assert "apt install g++ python3-dev" in errors_of("fused_rmsprop_check_python()", tmp_path)
    assert not errors_of("set(Python_FOUND TRUE)\nfused_rmsprop_check_python()", tmp_path)


def test_cl_is_refused(tmp_path: Path) -> None:
    script = "set(CMAKE_CXX_COMPILER_ID {})\nfused_rmsprop_check_compiler()"
    assert "Use clang-cl" in errors_of(script.format("MSVC"), tmp_path)
    assert not errors_of(script.format("Clang"), tmp_path)
