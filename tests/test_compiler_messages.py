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


def configure(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Unix Makefiles"]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env=environment, check=False
    )


@needs_posix
def test_without_a_compiler(tmp_path: Path) -> None:
    find = "unset(ENV{CXX})\nfused_rmsprop_find_compiler()"
    assert "apt install g++ python3-dev" in errors_of(f'set(ENV{{PATH}} "")\n{find}', tmp_path)
    (tmp_path / "g++").touch(mode=0o755)
    assert not errors_of(f'set(ENV{{PATH}} "{tmp_path}")\n{find}', tmp_path)


@pytest.mark.slow
@needs_posix
@pytest.mark.skipif(None in map(shutil.which, ("c++", "make")), reason="needs c++ and make")
def test_a_compiler_with_arguments_is_used_and_a_broken_one_named(tmp_path: Path) -> None:
    done = configure(tmp_path / "good", os.environ | {"CXX": "env c++ -m64"})
    assert done.returncode == 0, done.stderr
    assert "-m64" in (tmp_path / "good/CMakeCache.txt").read_text(encoding="utf-8")
    done = configure(tmp_path / "bad", os.environ | {"CXXFLAGS": "--no-such-option"})
    assert "--no-such-option" in done.stderr
    assert "apt install" not in done.stderr


def test_without_python_headers(tmp_path: Path) -> None:
    assert "apt install g++ python3-dev" in errors_of("fused_rmsprop_check_python()", tmp_path)
    assert not errors_of("set(Python_FOUND TRUE)\nfused_rmsprop_check_python()", tmp_path)


def test_cl_is_refused(tmp_path: Path) -> None:
    script = "set(CMAKE_CXX_COMPILER_ID {})\nfused_rmsprop_check_compiler()"
    assert "Use clang-cl" in errors_of(script.format("MSVC"), tmp_path)
    assert not errors_of(script.format("Clang"), tmp_path)
