"""The temporary files of killed writers are removed, and those of living ones are not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_support import bits, example, files_beside
from fused_rmsprop.checkpoint import read, replacing, write
from support import run_python

fcntl: Any = pytest.importorskip("fcntl", reason="needs locks, without which leftovers stay")

KILLED_IN_MID_SAVE = """
import os, signal, sys
import numpy as np
from fused_rmsprop.checkpoint import write
os.replace = lambda *args: signal.raise_signal(signal.SIGKILL)
write(sys.argv[1], {"a": np.zeros(3)}, {})
"""

SAVES = """
import sys
import numpy as np
from fused_rmsprop.checkpoint import write
sys.stdin.readline()
for k in range(100):
    write(sys.argv[1], {"a": np.full(10_000, k)}, {"k": k})
"""


def leave_behind(path: Path) -> None:
    """Kill a process in the midst of a save."""
    killed = run_python(KILLED_IN_MID_SAVE, path, check=False)
    assert killed.returncode == -signal.SIGKILL


def save_at_the_same_time(commands: list[list[object]]) -> None:
    """Start processes, let all go when all are there, and expect that none raises."""
    processes = [
        subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        for command in commands
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), errors


def containers() -> list[list[object]]:
    """The starts of commands that run them in PID namespaces of their own, with other ids."""
    unshare: list[object] = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*map(str, unshare), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no PID namespaces here: {error}")
    # The writer is process 2 or process 5 of its namespace.
    befores = ("", "/bin/true; /bin/true; /bin/true;")
    return [[*unshare, "sh", "-c", f'{before} "$@"; exit $?', "sh"] for before in befores]


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["aa", "ab"], ids=["same file", "names that begin alike"])
def test_two_containers_and_one_folder(path: Path, ends: str) -> None:
    names = [path.with_name("x" * 40 + end + path.suffix) for end in ends]
    save_at_the_same_time(
        [
            [*container, sys.executable, "-c", SAVES, name]
            for container, name in zip(containers(), names, strict=True)
        ]
    )
    assert files_beside(path) == sorted({name.name for name in names})
    assert all((read(name)[0]["a"] == 99).all() for name in names)


@pytest.mark.slow
def test_several_processes_and_one_folder(path: Path) -> None:
    names = [path.with_name("x" * 40 + end + path.suffix) for end in "aabb"]
    save_at_the_same_time([[sys.executable, "-c", SAVES, name] for name in names])
    assert files_beside(path) == sorted({name.name for name in names})


def test_leftovers_of_names_that_begin_alike_stay(path: Path) -> None:
    first, second = (path.with_name("x" * 40 + end + path.suffix) for end in "ab")
    leave_behind(first)
    write(second, example(), {})
    assert len(files_beside(path)) == 2
    write(first, example(), {})
    assert files_beside(path) == [first.name, second.name]


def test_a_process_id_that_is_taken_again(path: Path) -> None:
    # In a container, the writer that was killed and the next one often have the same.
    code = f"import os\nos.getpid = lambda: {os.getpid()}\n{KILLED_IN_MID_SAVE}"
    assert run_python(code, path, check=False).returncode == -signal.SIGKILL
    assert len(files_beside(path)) == 1
    write(path, example(), {})
    assert files_beside(path) == [path.name]


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_nothing_is_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def flock(*args: object) -> None:
        raise OSError(error, "no locks")

    leave_behind(path)
    (leftover,) = files_beside(path)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        for seed in (0, 1):
            write(path, example(seed), {})
            assert bits(read(path)[0]) == bits(example(seed))
        assert files_beside(path) == [leftover, path.name]
        # A writer without a lock is safe from others that can have one, after a remount, say.
        with replacing.replacing(str(path)) as file:
            patch.undo()
            write(path, example(2), {})
            assert os.path.exists(file.name)
    assert files_beside(path) == [path.name]


def test_a_file_taken_for_a_leftover_before_it_was_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    made: list[list[str]] = []

    def removed_first(descriptor: int, operation: int) -> None:
        """Another writer comes between the creation of the first two files and their locks."""
        if len(made) < 2:
            made.append([name for name in files_beside(path) if name.endswith(".tmp")])
            removed = path.parent / made[-1][-1]
            removed.unlink()
            if len(made) == 2:  # it has still locked it
                raise BlockingIOError
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    write(path, example(), {})
    assert [len(names) for names in made] == [1, 1]
    assert bits(read(path)[0]) == bits(example())
    assert files_beside(path) == [path.name]


def test_what_only_looks_like_a_leftover_stays(path: Path) -> None:
    write(path, example(), {})
    leave_behind(path)
    (name,) = [name for name in files_beside(path) if name.endswith(".tmp")]
    (path.parent / name).unlink()
    valuable = path.with_name("valuable")
    valuable.write_bytes(b"data")
    (path.parent / name).symlink_to(valuable)
    (path.parent / f"{name}.orig").touch()
    (path.parent / name.replace(".tmp", "x.tmp")).mkdir()
    before = files_beside(path)
    write(path, example(1), {})
    assert files_beside(path) == before
    assert valuable.read_bytes() == b"data"


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "raise KeyboardInterrupt", "pass"])
def test_a_child_forked_in_mid_save(path: Path, end: str) -> None:
    # Whatever the child does, the parent's file becomes whole, and a child holds no lock.
    done = run_python(
        f"""
        import os, sys
        import numpy as np
        from fused_rmsprop.checkpoint import read, write

        path = sys.argv[1]
        arrays = {{"a": np.arange(100_000.0)}}
        fsync, forked = os.fsync, []

        def fork_in_mid_save(descriptor):
            if not forked:
                forked.append(os.fork())
                if forked[0] == 0:
                    {end}
                else:
                    os.waitpid(forked[0], 0)
            fsync(descriptor)

        os.fsync = fork_in_mid_save
        write(path, arrays, {{}})
        assert forked[0] != 0, "the child has written the file"
        found, _ = read(path)
        assert (found["a"] == arrays["a"]).all()
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
        print("whole", end="")
        """,
        path,
        OPENBLAS_NUM_THREADS="1",
    )
    assert done.stdout == "whole"


def test_a_child_that_lives_on_holds_no_lock(path: Path) -> None:
    code = """
    import os, signal, sys, time
    import numpy as np
    from fused_rmsprop.checkpoint import write

    def fork_and_die(*args):
        if os.fork() == 0:
            os.close(1), os.close(2)
            time.sleep(30)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = fork_and_die
    write(sys.argv[1], {"a": np.zeros(3)}, {})
    """
    assert run_python(code, path, check=False).returncode == -signal.SIGKILL
    assert len(files_beside(path)) == 1
    write(path, example(), {})
    assert files_beside(path) == [path.name]


def test_a_temporary_file_that_is_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, example(), {})
    fsync = os.fsync

    def remove(descriptor: int) -> None:
        for name in files_beside(path):
            if name.endswith(".tmp"):
                (path.parent / name).unlink()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", remove)
    with pytest.raises(OSError, match="was removed, or the process forked in mid-write"):
        write(path, {"a": np.ones(3)}, {})
    assert bits(read(path)[0]) == bits(example())
    assert files_beside(path) == [path.name]


def test_the_lock_is_held_until_the_file_is_in_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, locked = os.replace, []

    def spy(source: Any, target: Any) -> None:
        with open(source, "rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked.append(True)
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write(path, example(), {})
    assert locked == [True]
