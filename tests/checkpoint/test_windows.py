"""Files are written on Windows too: there are no locks, and nothing open can be replaced."""

from __future__ import annotations

import os
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from checkpoint_support import bits, files_beside
from fused_rmsprop.checkpoint import read, write
from support import needs_proc, run_python

#: Takes away what Python's os has on POSIX only; keeps open files in place, as Windows does.
LIKE_WINDOWS = """
import os, sys
import numpy as np  # which asks os.uname on Linux
sys.modules["fcntl"] = None
for name in ("fchown", "fchmod", "uname", "O_NOFOLLOW", "O_NONBLOCK", "register_at_fork", "fork"):
    delattr(os, name)

def refusing_open_files(function):
    def refusing(path, *args):
        opened = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
        if opened & {os.path.realpath(each) for each in (path, *args)}:
            raise PermissionError(13, "The process cannot access the file", path)
        return function(path, *args)
    return refusing

os.replace, os.unlink = map(refusing_open_files, (os.replace, os.unlink))

from fused_rmsprop.checkpoint import replacing, write
"""

REPLACES = """
for value in (0, 1):
    write(sys.argv[1], {"a": np.full(3, value)}, {})
"""

FAILS_HALF_WAY = """
try:
    with replacing.replacing(sys.argv[1]) as file:
        file.write(b"half")
        raise KeyError
except KeyError:
    pass
"""


@needs_proc
def test_replaced_and_removed_when_closed(path: Path) -> None:
    run_python(LIKE_WINDOWS + REPLACES + FAILS_HALF_WAY, path)
    assert read(path)[0]["a"].tolist() == np.full(3, 1).tolist()
    assert files_beside(path) == [path.name]


def test_names_with_backslashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, `zipfile` makes them slashes."""
    windows = types.SimpleNamespace(**{**vars(os), "sep": "\\"})
    monkeypatch.setattr(zipfile, "os", windows)
    arrays = {name: np.ones(2) for name in ("a\\b", "a/b", "a\0b")}
    write(tmp_path / "x.npz", arrays, {})
    assert bits(read(tmp_path / "x.npz")[0]) == bits(arrays)
