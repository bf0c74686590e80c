"""The C and C++ library inside the package: Python and other programs use the same one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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


@pytest.mark.slow
@needs_posix
@pytest.mark.skipif(sys.platform == "darwin", reason="its libraries have no namespace in common")
@needs_programs("cmake", "ninja", "nm", "g++")
def test_a_static_cpp_runtime_stays_private(tmp_path: Path) -> None:
    """Exported, it takes the place of other libraries' own, and the process ends."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja"]
    configure += ["-DCMAKE_CXX_COMPILER=g++", "-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    configure += ["-DCMAKE_SHARED_LINKER_FLAGS=-static-libstdc++ -static-libgcc"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True, stdout=subprocess.DEVNULL)
    (library,) = (p for p in tmp_path.rglob("libfused_rmsprop.so*") if not p.is_symlink())
    listed = subprocess.run(
        ["nm", "-D", "-C", "--defined-only", str(library)],
        check=True,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ).stdout
    assert "fused_rmsprop::step" in listed
    assert "std::ios_base" not in listed
    assert "operator new" not in listed
