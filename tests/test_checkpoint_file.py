"""A checkpoint is read back bit for bit, or refused; a write is done wholly or not at all."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fused_rmsprop import checkpoint
from fused_rmsprop.checkpoint import CheckpointError, read, write

Array = NDArray[Any]
SUFFIXES = [".npz", ".safetensors"]


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where to write, in a folder of its own, once in each format."""
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / f"saved{request.param}"


def example(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "W": rng.standard_normal((4, 5)).astype(np.float32),
        "b": rng.standard_normal(7),
        "step": np.array(1234 + seed, np.int64),
        "nothing": np.zeros((0, 3)),
    }


def bits(arrays: dict[str, Array]) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    return [(name, a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()]


def files_beside(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


NAMES = [
    *("W", "w", "layer1.W", "layer1/W", "/etc/x", "../../x", "..", ".", "", " ", "a b", "a\nb\0"),
    *("file", "arr_0", "args", "kwds", "allow_pickle", "self", "0", "1.npy", "checkpoint.json"),
    *("größe", "重み", "🙂", "\ud800", "\\ud800", "\ud800_", "__metadata__", "__metadata___"),
    *("fused_rmsprop", "x" * 70_000, "'\"\\"),
]


def test_names_of_any_kind(path: Path) -> None:
    arrays = {name: np.array(i, np.float64) for i, name in enumerate(NAMES)}
    for order in (1, -1):
        given = dict(list(arrays.items())[::order])
        write(path, given, {})
        assert bits(read(path)[0]) == bits(given)
    assert files_beside(path) == [path.name]


def test_safetensors_files_have_the_real_names_where_possible(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    impossible = ["\ud800", "\ud800_", "__metadata__"]
    arrays = {name: np.array(i) for i, name in enumerate(NAMES)}
    write(tmp_path / "x.safetensors", arrays, {})
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="np") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert len(found) == len(NAMES)
    assert all(found[name] == arrays[name] for name in NAMES if name not in impossible)


def test_npz_files_are_for_numpy_load_without_pickle(tmp_path: Path) -> None:
    arrays = example()
    write(tmp_path / "x.npz", arrays, {})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        numbered = {name: file[str(i)] for i, name in enumerate(arrays)}
        assert sorted(file) == ["0", "1", "2", "3", "checkpoint.json"]
    assert bits(numbered) == bits(arrays)


def test_no_arrays_and_no_metadata(path: Path) -> None:
    write(path, {}, {})
    assert read(path) == ({}, {})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (17,), (3, 4), (2, 3, 4, 5)])
def test_every_bit_of_every_layout(path: Path, dtype: type[Any], shape: tuple[int, ...]) -> None:
    # Random bits: NaNs with payloads, subnormal numbers and all else.
    raw = np.random.default_rng(7).bytes(math.prod(shape) * np.dtype(dtype).itemsize)
    array = np.frombuffer(raw, dtype).reshape(shape)
    layouts = {
        "C": array.copy(),
        "F": np.asfortranarray(array).reshape(shape),
        "read-only": array,
        "transposed": array.T,
        "strided": np.repeat(array[..., None], 2, axis=-1)[..., 0],
        "reversed": array[(slice(None, None, -1),) * len(shape)],
    }
    write(path, layouts, {})
    assert bits(read(path)[0]) == bits(layouts)
    assert all(a.flags.writeable and a.flags.aligned for a in read(path)[0].values())


def test_special_values(path: Path) -> None:
    words = np.array([0x7FF0DEADBEEF0001, 0xFFF8000000000000, 1 << 63, 1, 0x7FF << 52], np.uint64)
    write(path, {"a": words.view(np.float64)}, {})
    np.testing.assert_array_equal(read(path)[0]["a"].view(np.uint64), words)


def test_metadata(path: Path) -> None:
    metadata = {
        "lr": 0.1,
        "tiny": 5e-324,
        "inf": [math.inf, -math.inf],
        "big": 2**70,
        "text": "größe \0 \ud800 \u2028\n",
        "": {"nested": [None, True, {}]},
        "end": "\0\0",
    }
    write(path, example(), metadata)
    assert read(path)[1] == metadata
    write(path, example(), {"nan": math.nan, "zero": -0.0})
    found = read(path)[1]
    assert math.isnan(found["nan"])
    assert str(found["zero"]) == "-0.0"


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({"a": np.zeros(2, np.float16)}, {}, "array 'a' has dtype float16; it must be float32, "),
        ({"a": np.zeros(2, object)}, {}, "array 'a' has dtype object"),
        ({"a": np.zeros(2, ">f4")}, {}, "array 'a' has dtype >f4"),
        ({3: np.zeros(2)}, {}, "the name 3 of an array is not a str"),
        ({}, {"key": object()}, "not JSON serializable"),
    ],
)
def test_what_cannot_be_written(path: Path, arrays: Any, metadata: Any, message: str) -> None:
    write(path, example(), {})
    before = path.read_bytes()
    with pytest.raises(TypeError, match=message):
        write(path, arrays, metadata)
    assert path.read_bytes() == before
    assert files_beside(path) == [path.name]


@pytest.mark.parametrize("name", ["x", "x.npy", "x.npz.gz", ".npz", "x.NPZ", ""])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    where = os.path.join(tmp_path, name)
    for call in (lambda: write(where, {}, {}), lambda: read(where)):
        with pytest.raises(ValueError, match="must end in .npz or .safetensors") as caught:
            call()
        assert not isinstance(caught.value, CheckpointError)
    assert os.listdir(tmp_path) == []


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    path = tmp_path / "x.safetensors"
    with pytest.raises(ImportError, match=r"pip install 'fused-rmsprop\[safetensors\]'"):
        write(path, {}, {})
    assert os.listdir(tmp_path) == []
    path.touch()
    with pytest.raises(ImportError, match=r"pip install 'fused-rmsprop\[safetensors\]'"):
        read(path)


def test_headers_too_long_for_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match="too long for safetensors; write an .npz file"):
        write(tmp_path / "x.safetensors", {}, {"text": "x" * 100_000_000})
    assert os.listdir(tmp_path) == []


def test_paths_are_strings_or_path_objects(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    write(path.name, example(), {"k": 1})
    assert bits(read(path)[0]) == bits(example())
    write(Path(path.name), example(1), {"k": 1})
    assert bits(read(path.name)[0]) == bits(example(1))
    long_name = path.with_name("重" * 81 + path.suffix)  # 255 bytes, or nearly
    write(long_name, example(), {})
    assert bits(read(long_name)[0]) == bits(example())


# Damage.


def identical_or_refused(path: Path, data: bytes, expected: Any) -> bool:
    """Whether the damaged file is refused; if it is not, its content must be as it was."""
    path.write_bytes(data)
    try:
        arrays, metadata = read(path)
    except CheckpointError as caught:
        message = str(caught)
    else:
        assert (bits(arrays), metadata) == expected
        return False
    assert message.startswith(f"{str(path)!r} cannot be read as a checkpoint: ")
    return True


@pytest.fixture
def saved(path: Path) -> tuple[Path, bytes, Any]:
    """A file, its bytes and its content."""
    arrays, metadata = example(), {"version": 3, "lr": 0.25, "text": "abc"}
    write(path, arrays, metadata)
    return path, path.read_bytes(), (bits(arrays), metadata)


def test_flipped_bits(saved: tuple[Path, bytes, Any]) -> None:
    path, data, expected = saved
    rng = random.Random(5)
    positions = rng.sample(range(8 * len(data)), 2000)
    refused = 0
    for position in positions:
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        refused += identical_or_refused(path, bytes(damaged), expected)
    assert refused > len(positions) / 2  # the rest: dates, padding and such


def test_overwritten_bytes(saved: tuple[Path, bytes, Any]) -> None:
    path, data, expected = saved
    rng = random.Random(6)
    for _ in range(1000):
        damaged = bytearray(data)
        start = rng.randrange(len(data))
        length = rng.choice((1, 2, 8, 100))
        damaged[start : start + length] = rng.randbytes(len(damaged[start : start + length]))
        identical_or_refused(path, bytes(damaged), expected)


def test_truncated(saved: tuple[Path, bytes, Any]) -> None:
    path, data, expected = saved
    for length in {*range(0, len(data), 5), len(data) - 1}:
        assert identical_or_refused(path, data[:length], expected)


@pytest.mark.parametrize("data", [b"", b"PK", b"hello, world\n" * 9, bytes(1000), b"\x80\x04N."])
def test_not_a_file_of_that_format(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or foreign"):
        read(path)


def test_files_of_others(tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.numpy").save_file
    np.savez(tmp_path / "x.npz", W=np.zeros(3))
    save({"W": np.zeros(3)}, tmp_path / "x.safetensors")
    save({"W": np.zeros(3)}, tmp_path / "y.safetensors", metadata={"format": "np"})
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "z.npz")
    for name in ("x.npz", "x.safetensors", "y.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name}' cannot.* is not of fused-rmsprop"):
            read(tmp_path / name)
    with pytest.raises(CheckpointError, match="z.npz'.*damaged or foreign"):
        read(tmp_path / "z.npz")


@pytest.mark.parametrize(
    ("constant", "value", "message"),
    [("_VERSION", 2, "version 2 of the format and this release"), ("_FORMAT", "other", "other")],
)
def test_newer_and_similar_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, value: Any, message: str
) -> None:
    path = tmp_path / "x.npz"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, constant, value)
        write(path, example(), {})
    with pytest.raises(CheckpointError, match=message):
        read(path)


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a zip file again with other entries, so that its own checksums are right."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            if (changed := change(name, data)) is not None:
                archive.writestr(name, changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: None if name == "0.npy" else data,
        lambda name, data: data.replace(b"(4, 5),", b"(9" + b"9" * 12 + b", 5),"),
        lambda name, data: data.replace(b"(4, 5),", b"(5, 4),"),
        lambda name, data: data.replace(b"(4, 5),", b"(4, 4),"),
        lambda name, data: data.replace(b"'<f4'", b"'<i4'"),
        lambda name, data: data.replace(b"'<f4'", b"'|O' "),
        lambda name, data: data[:-1] + b"?" if name == "1.npy" else data,
        lambda name, data: data.replace(b'"abc"', b'"abd"'),
    ],
    ids=["missing", "huge", "transposed", "smaller", "dtype", "object", "data", "metadata"],
)
def test_damage_that_the_zip_file_does_not_know(
    tmp_path: Path, change: Callable[[str, bytes], bytes | None]
) -> None:
    path = tmp_path / "x.npz"
    write(path, example(), {"text": "abc"})
    rewrite(path, lambda name, data: data)
    assert bits(read(path)[0]) == bits(example())
    rewrite(path, change)
    with pytest.raises(CheckpointError):
        read(path)


def test_header_without_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for header in ("", "{}", "[]", "3", json.dumps({"format": "fused_rmsprop", "version": 1})):
        write(path, {}, {})
        rewrite(path, lambda name, data, header=header: header.encode())  # type: ignore[misc]
        with pytest.raises(CheckpointError):
            read(path)


# Files and folders.


def test_no_such_file_and_folders(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(path)
    with pytest.raises(FileNotFoundError):
        write(path.parent / "none" / path.name, {}, {})
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        read(path)
    with pytest.raises(IsADirectoryError):
        write(path, {}, {})
    assert files_beside(path) == [path.name]


def test_pipes_and_devices_are_not_replaced(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="is not a regular file"):
        write(path, {}, {})
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert files_beside(path) == [path.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do anything")
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner_and_group(path: Path) -> None:
    path.touch()
    os.chown(path, 12, 34)
    write(path, example(), {})
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


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
    assert [call if call == "replace" else call[:2] for call in calls] == [
        (False, new.st_ino),
        "replace",
        (True, folder.st_ino),
    ]
    assert calls[0][2] == new.st_size


# Processes that are killed.


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, args)]
    return subprocess.run(command, check=False, text=True)


def test_leftovers_of_the_killed_are_removed(path: Path) -> None:
    other = path.with_name(f"other{path.suffix}")
    write(path, example(), {})
    killed = run(
        """
        import os, signal, sys
        import numpy as np
        from fused_rmsprop.checkpoint import write
        os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        write(sys.argv[1], {"a": np.zeros(3)}, {})
        """,
        path,
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


def test_killed_at_any_moment(path: Path) -> None:
    rng = random.Random(11)
    write(path, {"i": np.array(0, np.int64)}, {"k": 0})
    saved = kills = leftovers = 0
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SAVER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
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
