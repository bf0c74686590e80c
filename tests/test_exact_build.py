"""Builds refuse compiler options under which arithmetic is not exact."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("kernels/kernels", "checks", "gradients", "step")
SEEN_BY_ALL = ("-ffast-math", "-Ofast", "-ffinite-math-only")
SEEN_BY_GCC = (
    *SEEN_BY_ALL,
    "-funsafe-math-optimizations",
    "-fassociative-math -fno-signed-zeros -fno-trapping-math",
    "-freciprocal-math",
    "-fno-signed-zeros",
)
REFUSED = (
    *(flag.split()[0] for flag in SEEN_BY_GCC),
    "-fno-honor-nans",
    "-fapprox-func",
    "-ffp-model=fast",
    "-fsingle-precision-constant",
    "-mdaz-ftz",
    "/fp:fast",
    "/clang:-ffast-math",
)

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")


def compiler(name: str) -> str:
    found = shutil.which(name) or shutil.which(os.environ.get("CLANGXX", "clang++-14"))
    if found is None or (name == "g++") != found.endswith("g++"):
        pytest.skip(f"needs {name}")
    if name == "g++" and sys.platform == "darwin":
        pytest.skip("macOS' g++ is Clang")
    return found


def errors_of(*command: str | Path, **environment: str) -> str:
    """The error messages of a command; empty if it succeeds."""
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=os.environ | environment, check=False
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("name", "flags"),
    [*(("g++", flags) for flags in SEEN_BY_GCC), *(("clang++", flags) for flags in SEEN_BY_ALL)],
)
def test_sources_refuse_the_options_that_have_macros(name: str, flags: str, source: str) -> None:
    command = [compiler(name), "-std=c++20", "-E", f"-I{ROOT}/cpp/include", "-o", os.devnull]
    file = f"{ROOT}/cpp/src/{source}.cpp"
    assert "exact numbers" in errors_of(*command, *flags.split(), file)
    assert not errors_of(*command, "-O3", file)


@needs_cmake
@pytest.mark.parametrize(
    "flag", [REFUSED[0], *(pytest.param(flag, marks=pytest.mark.slow) for flag in REFUSED[1:])]
)
def test_cmake_refuses_them_all(flag: str, tmp_path: Path) -> None:
    script = tmp_path / "script.cmake"
    for options in (flag, f"-O3 {flag} -g", f"-O3;{flag}", f"-Wl,-z,now {flag}"):
        script.write_text(
            f'include("{ROOT.as_posix()}/cpp/cmake/exact_math.cmake")\n'
            f'fused_rmsprop_refuse_inexact_math(CMAKE_CXX_FLAGS "{options}")\n',
            encoding="utf-8",
        )
        errors = " ".join(errors_of("cmake", "-P", script).split())
        assert "remove it from CMAKE_CXX_FLAGS" in errors


@needs_cmake
@pytest.mark.parametrize("options", ["-O3 -fno-fast-math", "-ffp-contract=off", "-DX=-Ofastest"])
def test_cmake_takes_other_options(options: str, tmp_path: Path) -> None:
    script = tmp_path / "script.cmake"
    script.write_text(
        f'include("{ROOT.as_posix()}/cpp/cmake/exact_math.cmake")\n'
        f'fused_rmsprop_refuse_inexact_math(CMAKE_CXX_FLAGS "{options}")\n',
        encoding="utf-8",
    )
    assert not errors_of("cmake", "-P", script)


@needs_cmake
@pytest.mark.slow
@pytest.mark.parametrize("way", ["environment", "flags", "config", "linker", "parent"])
def test_a_build_refuses_them_wherever_they_come_from(way: str, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(parent LANGUAGES CXX)\n"
        f'add_compile_options(-freciprocal-math)\nadd_subdirectory("{ROOT.as_posix()}" fused)\n',
        encoding="utf-8",
    )
    given = {
        "flags": ["-DCMAKE_CXX_FLAGS=-freciprocal-math"],
        "config": ["-DCMAKE_CXX_FLAGS_RELEASE=-O2 -freciprocal-math"],
        "linker": ["-DCMAKE_SHARED_LINKER_FLAGS=-freciprocal-math"],
    }.get(way, [])
    environment = {"CXXFLAGS": "-freciprocal-math"} if way == "environment" else {}
    source = parent if way == "parent" else ROOT
    errors = errors_of("cmake", "-S", source, "-B", tmp_path / "build", *given, **environment)
    assert "-freciprocal-math" in errors
    assert "promises exact numbers" in " ".join(errors.split())


@needs_cmake
@pytest.mark.slow
def test_a_project_without_cxx_is_told_to_enable_it(tmp_path: Path) -> None:
    config = (ROOT / "cpp/fused_rmsprop-config.cmake.in").read_text(encoding="utf-8")
    (tmp_path / "fused_rmsprop-config.cmake").write_text(
        config.replace("@PACKAGE_INIT@", "").replace("@library_type@", "STATIC"), encoding="utf-8"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(consumer LANGUAGES C)\n"
        f'find_package(fused_rmsprop CONFIG REQUIRED PATHS "{tmp_path.as_posix()}")\n',
        encoding="utf-8",
    )
    errors = errors_of("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    assert "enable_language(CXX)" in errors
