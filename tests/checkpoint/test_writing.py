"""A write is done wholly or not at all."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_support import bits, example, files_beside
from fused_rmsprop.checkpoint import read, write
from support import needs_fork, needs_posix, run_python

USER = os.geteuid() if hasattr(os, "geteuid") else None
#: What is raised when a folder is opened; the latter on Windows.
FOLDER_ERRORS = (IsADirectoryError, PermissionError)


def test_no_such_file_and_folders(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(path)
    with pytest.raises(FileNotFoundError):
        write(path.parent / "none" / path.name, {}, {})
    path.mkdir()
    with pytest.raises(FOLDER_ERRORS):
        read(path)
    with pytest.raises(FOLDER_ERRORS):
        write(path, {}, {})
    assert files_beside(path) == [path.name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_not_replaced(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="is not a regular file"):
        write(path, {}, {})
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert files_beside(path) == [path.name]


@pytest.mark.skipif(USER in (0, None), reason="root may do anything, and Windows differs")
def test_permission_errors(path: Path) -> None:
    write(path, example(), {})
    before = path.read_bytes()
    path.chmod(0o444)
    with pytest.raises(PermissionError):
        write(path, example(1), {})
    assert path.read_bytes() == before
    path.chmod(0)
    with pytest.raises(PermissionError):
        read(path)
    path.chmod(0o644)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            write(path, example(1), {})
    finally:
        path.parent.chmod(0o755)
    assert path.read_bytes() == before


@needs_posix
def test_permission_bits(path: Path) -> None:
    for mask in (0o022, 0o027, 0o077):
        previous = os.umask(mask)
        try:
            write(path, example(), {})
        finally:
            os.umask(previous)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        path.unlink()
    for mode in (0o600, 0o664, 0o604, 0o755):
        path.touch()
        path.chmod(mode)
        write(path, example(), {})
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert bits(read(path)[0]) == bits(example())


@pytest.mark.skipif(USER != 0, reason="only root may give files away")
def test_owner_and_group(path: Path) -> None:
    path.touch()
    os.chown(path, 12, 34)
    write(path, example(), {})
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


@needs_posix
def test_symbolic_links_are_written_through(path: Path) -> None:
    real = path.parent / "sub" / f"real{path.suffix}"
    real.parent.mkdir()
    path.symlink_to(os.path.join("sub", real.name))
    for seed in (0, 1):  # at first the target is not there
        write(path, example(seed), {})
        assert path.is_symlink()
        assert not real.is_symlink()
        assert bits(read(real)[0]) == bits(read(path)[0]) == bits(example(seed))
    assert files_beside(path) == [path.name, "sub"]
    assert files_beside(real) == [real.name]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_exception_half_way(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exists: bool,
    function: str,
    error: type[BaseException],
) -> None:
    if exists:
        write(path, example(), {"k": 0})
    before = [(entry.name, entry.read_bytes(), entry.stat()) for entry in path.parent.iterdir()]

    def fail(*args: object) -> None:
        raise error("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(error, match="the disk is gone"):
            write(path, example(1), {"k": 1})
    after = [(entry.name, entry.read_bytes(), entry.stat()) for entry in path.parent.iterdir()]
    assert [a[:2] for a in after] == [b[:2] for b in before]
    assert [a[2].st_ino for a in after] == [b[2].st_ino for b in before]


def test_full_disk(path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs limits of file sizes")
    write(path, example(), {})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(path, {"large": np.ones(1_000_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert files_beside(path) == [path.name]


def test_on_the_disk_before_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append((stat.S_ISDIR(status.st_mode), status.st_ino, status.st_size))
        fsync(descriptor)

    def spy_replace(source: str, target: str) -> None:
        assert os.path.dirname(source) == str(path.parent)
        assert os.path.basename(source).startswith(f".{path.name}.")
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write(path, example(), {})
    new, folder = path.stat(), path.parent.stat()
    wanted = [(False, new.st_ino), "replace", (True, folder.st_ino)]
    if sys.platform == "win32":  # which opens no folders
        del wanted[2]
    assert [call if call == "replace" else call[:2] for call in calls] == wanted
    assert calls[0][2] == new.st_size


# Processes that are killed.


@needs_fork
def test_leftovers_of_the_killed_are_removed(path: Path) -> None:
    other = path.with_name(f"other{path.suffix}")
    write(path, example(), {})
    killed = run_python(
        """
        import os, signal, sys
        import numpy as np
        from fused_rmsprop.checkpoint import write
        os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        write(sys.argv[1], {"a": np.zeros(3)}, {})
        """,
        path,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(files_beside(path)) == 2
    assert bits(read(path)[0]) == bits(example())
    write(other, example(), {})
    assert len(files_beside(path)) == 3  # those of another path are not its business
    write(path, example(1), {})
    assert files_beside(path) == [other.name, path.name]


def test_temporary_files_of_the_living_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def write_another(*args: str) -> None:
        monkeypatch.setattr(os, "replace", replace)
        write(path, example(1), {})
        replace(*args)

    monkeypatch.setattr(os, "replace", write_another)
    write(path, example(2), {})
    assert bits(read(path)[0]) == bits(example(2))
    assert files_beside(path) == [path.name]


SAVER = """
import os, sys
import numpy as np
from fused_rmsprop.checkpoint import write

def save_for_ever(path, k):
    while True:
        arrays = {"f": np.full(100_000, k, np.float32), "d": np.full((50, 1000), k, np.float64)}
        arrays["i"] = np.array(k, np.int64)
        write(path, arrays, {"k": k})
        k += 1

for line in sys.stdin:  # a fork is quicker than to start and import anew
    child = os.fork()
    if child == 0:
        save_for_ever(sys.argv[1], int(line))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


SAVES, KILLS = 200, 40


@pytest.mark.slow
@needs_fork
def test_killed_at_any_moment(path: Path) -> None:
    rng = random.Random(11)
    write(path, {"i": np.array(0, np.int64)}, {"k": 0})
    saved = kills = leftovers = 0
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SAVER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    ) as saver:
        assert saver.stdin is not None
        assert saver.stdout is not None
        while saved < SAVES or kills < KILLS:
            print(saved + 1, file=saver.stdin, flush=True)
            child = int(saver.stdout.readline())
            time.sleep(rng.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            kills += 1
            assert saver.stdout.readline() == "gone\n"
            leftovers += len(files_beside(path)) - 1
            arrays, metadata = read(path)
            assert metadata["k"] >= saved
            saved = metadata["k"]
            assert all((array == saved).all() for array in arrays.values())
        saver.stdin.close()
    assert leftovers > 0  # else no kill came in the midst of a save
    write(path, {}, {})
    assert files_beside(path) == [path.name]
