"""The C and C++ library inside the package: Python and other programs use the same one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import fused_rmsprop
from fused_rmsprop.__main__ import main
from support import ROOT, needs_posix, needs_proc, run_python

OUTPUT = "0.996838\n"  # of tests/cmake_consume/main.cpp


def needs_programs(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def test_places(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, path, file in (
        ("--include", fused_rmsprop.get_include(), "fused_rmsprop/fused_rmsprop.hpp"),
        ("--library", fused_rmsprop.get_library(), "."),
        ("--cmakedir", fused_rmsprop.get_cmake_dir(), "fused_rmsprop-config.cmake"),
        ("--pkgconfigdir", fused_rmsprop.get_pkgconfig_dir(), "fused_rmsprop.pc"),
    ):
        assert (Path(path) / file).exists()
        assert main([flag]) == 0
        assert capsys.readouterr().out == f"{path}\n"
    with pytest.raises(SystemExit, match="2"):
        main(["--include", "--library"])


@needs_proc
def test_the_module_uses_this_library() -> None:
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert os.path.realpath(fused_rmsprop.get_library()) in maps
    assert len({line.split()[-1] for line in maps.splitlines() if "libfused_rmsprop" in line}) == 1


@needs_proc
def test_another_library_on_the_search_path_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "libfused_rmsprop.so").touch()
    run_python("import fused_rmsprop", LD_LIBRARY_PATH=str(tmp_path))


@pytest.mark.slow
@needs_posix
@needs_programs("cmake", "c++")
def test_cmake_finds_the_installed_package(tmp_path: Path) -> None:
    subprocess.run(
        [
            *("cmake", "-S", ROOT / "tests" / "cmake_consume", "-B", tmp_path),
            f"-Dfused_rmsprop_DIR={fused_rmsprop.get_cmake_dir()}",
        ],
        check=True,
    )
    subprocess.run(["cmake", "--build", tmp_path, "--target", "consumer"], check=True)
    assert subprocess.check_output([tmp_path / "consumer"], encoding="utf-8") == OUTPUT


@pytest.mark.slow
@needs_posix
@needs_programs("pkg-config", "c++")
def test_pkg_config_finds_the_installed_package(tmp_path: Path) -> None:
    environment = os.environ | {"PKG_CONFIG_PATH": fused_rmsprop.get_pkgconfig_dir()}
    flags = subprocess.check_output(
        ["pkg-config", "--cflags", "--libs", "fused_rmsprop"], encoding="utf-8", env=environment
    )
    folder = Path(fused_rmsprop.get_library()).parent
    program = tmp_path / "consumer"
    source = ROOT / "tests" / "cmake_consume" / "main.cpp"
    subprocess.run(
        ["c++", "-std=c++20", source, "-o", program, *flags.split(), f"-Wl,-rpath,{folder}"],
        check=True,
    )
    assert subprocess.check_output([program], encoding="utf-8") == OUTPUT
