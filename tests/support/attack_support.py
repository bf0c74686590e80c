"""What the attacks share: the image of an optimizer in bytes, and forked workers that may die."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

#: All that an attack compares, by the path to it; values are bytes, numbers and names.
Image = dict[str, object]


def image_of(**parts: object) -> Image:
    """Nested containers of arrays, tensors, numbers and functions, as a flat dict of bytes."""
    image: Image = {}
    for name, part in parts.items():
        _flatten(name, part, image)
    return image


def _flatten(path: str, value: Any, image: Image) -> None:
    kind = type(value)
    if kind is np.ndarray:  # the commonest first: an attack takes millions of images
        image[path] = (value.dtype.str, value.shape, value.tobytes())
    elif kind in (float, int, str, bool, NoneType):
        image[path] = repr(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{path}/{key}", item, image)
    elif isinstance(value, (list, tuple)):
        image[f"{path}/#"] = len(value)
        for i, item in enumerate(value):
            _flatten(f"{path}/{i}", item, image)
    elif hasattr(value, "detach"):
        _flatten(path, value.detach().numpy(), image)
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        image[path] = (array.dtype.str, array.shape, array.tobytes())
    elif callable(value):
        image[path] = getattr(value, "__qualname__", type(value).__qualname__)
    else:
        image[path] = repr(value)


def differences(a: Image, b: Image) -> list[str]:
    """The paths at which two images differ."""
    paths = sorted(a.keys() | b.keys())
    return [path for path in paths if a.get(path) != b.get(path)]


def in_child(work: Callable[[], Any], seconds: int = 600) -> tuple[Any, str]:
    """Do work in a forked child: its result (as JSON has it), and "" or how the child ended."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            answer = json.dumps(work()).encode()
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if not select.select([pipe], [], [], seconds)[0]:
            os.kill(child, signal.SIGABRT)  # faulthandler, where it is on, tells where it hung
        answer = pipe.read()
    _, raw = os.waitpid(child, 0)
    return (json.loads(answer) if answer else None), how_it_ended(raw)


def how_it_ended(status: int) -> str:
    """The end of a process in words; "" if it was good."""
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code else ""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder in memory where there is one, so that a save does not wait for a disk."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="attack", dir=parent) as folder:
        yield Path(folder)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns, the first to the left and the others to the right."""
    cells = [list(map(str, row)) for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        first = row[0].ljust(widths[0])
        print(first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)), sep="  ")
    sys.stdout.flush()


def memory_now() -> int:
    """The resident memory of this process in bytes, without what the C library keeps for later."""
    with suppress(AttributeError):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
