"""The file of a training: JSON lines, which a training appends to and a reader follows.

The first line is a header; then each point, each call of `Monitor.log` and the end has a line::

    {"format": "fused-rmsprop run", "version": 1, "step": 0, "leaves": [{"name": "layer1.W",
     "shape": [64, 128], "dtype": "float32", "group": 0}, ...], "groups": [...],
     "quantities": [...], "options": ["lr", ...], "constants": {...}}
    {"step": 1, "quantities": {"grad_rms": [0.1, ..., 0.2], ...}, "options": {"lr": [0.01], ...}}
    {"step": 1, "logged": {"loss": 2.3}}
    {"end": true}

A list of a quantity has a number for each leaf and one for all together; a list of an option has
one for each group. NaN and the infinities, which JSON lacks, are the strings "NaN", "Infinity" and
"-Infinity"; all other numbers are read again exactly.

A later header goes on with the run from its ``step``, which a resumed training has loaded:
readers leave out all that the lines before it say of later steps. A last line without a newline is
one that a process was writing, or was killed in: readers leave it out.
"""

from __future__ import annotations

import heapq
import json
import operator
import os
import sys
from collections.abc import Iterator
from itertools import repeat
from typing import TypeAlias

from fused_rmsprop.checkpoint.replacing import replacing
from fused_rmsprop.monitor.files.lines import (
    END,
    Described,
    Header,
    end_line,
    fields_of,
    header_line,
    header_of,
    log_line,
    logged_of,
    point_line,
    point_of,
)
from fused_rmsprop.monitor.history import History, Store

Path: TypeAlias = str | os.PathLike[str]


def write(history: History, path: Path) -> None:
    """Write a history to a file, whole or not at all; an older file is replaced.

    Parameters
    ----------
    history : History
        `read` gives an equal one.
    path : str or path-like
        Where to; the name ends with ``.jsonl``, usually.

    Raises
    ------
    OSError
        If it cannot be written. An older file is as before.
    TypeError
        If a constant is not a plain value.
    """
    with replacing(os.path.realpath(os.fspath(path))) as file:
        file.write(header_line(history))
        file.writelines(_lines(history))
        file.write(end_line())


def read(path: Path) -> History:
    """Read the file of a training that has ended, runs, or was killed.

    Parameters
    ----------
    path : str or path-like
        A file by `write` or by a monitor with ``path=``.

    Returns
    -------
    History
        All that the file tells, but for a last line that is not complete.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no such file, is damaged, or was written by a later version: it names the file,
        the line and the problem.
    """
    reader = Reader(path)
    reader.poll()
    if reader.history is None:
        raise ValueError(f"{os.fspath(path)!r} has no complete line, so it is no file of a run")
    return reader.history


class Reader:
    """Reads a file and follows what a training appends to it.

    Parameters
    ----------
    path : str or path-like
        The file.
    max_points : int or None
        As of a `Store`; None: all.

    Attributes
    ----------
    ended : bool
        Whether the last line says that the monitor was closed.
    size : int
        How many bytes of complete lines were read.
    """

    def __init__(self, path: Path, max_points: int | None = None) -> None:
        self._path, self._most = os.fspath(path), max_points or sys.maxsize
        self._start()

    def _start(self) -> None:
        self._store: Store | None = None
        self._identity, self._count = (0, 0), 0
        self.ended, self.size = False, 0

    @property
    def history(self) -> History | None:
        """A copy of what was read; None before there is a header."""
        return None if self._store is None else self._store.history()

    def poll(self) -> bool:
        """Read the lines that are new and complete; whether there were any.

        A file that was replaced or has become shorter is read from the beginning.

        Raises
        ------
        OSError, ValueError
            As `read`.
        """
        with open(self._path, "rb") as file:
            now = os.fstat(file.fileno())
            identity = (now.st_dev, now.st_ino)
            if identity != self._identity or now.st_size < self.size:
                self._start()
                self._identity = identity
            before = self._count
            file.seek(self.size)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    self._take(line)
                except (ValueError, RecursionError) as error:
                    where = f"{self._path!r}, line {self._count + 1}"
                    raise ValueError(f"{where}: {_problem(error)}") from None
                self._count += 1
                self.size += len(line)
        return self._count > before

    def _take(self, line: bytes) -> None:
        fields = fields_of(line)
        if "format" in fields or self._store is None:
            self._begin(header_of(fields))
        elif self.ended:
            raise ValueError("after the end, only a header can follow")
        elif "quantities" in fields:
            self._store.add([point_of(fields, self._header)])
        elif "logged" in fields:
            self._store.log(*logged_of(fields))
        elif fields == END:
            self.ended = True
        else:
            raise ValueError("this is no header, no point, no logged values and no end")

    def _begin(self, header: Header) -> None:
        """Begin the run, or go on with it from the header's step."""
        old = self._store
        if old and (difference := different(old, header)):
            raise ValueError(f"the run goes on with other {difference}")
        described = (header.leaves, header.groups, header.option_names, header.constants)
        self._store, self._header, self.ended = Store(*described, self._most), header, False
        if old:
            self._store.take(old.history(), header.step)


def different(one: Described, other: Described) -> str | None:
    """What differs, so that one cannot go on as the other: leaves, groups or options."""
    if one.leaves != other.leaves:
        return "leaves"
    if one.groups != other.groups:
        return "groups"
    return None if one.option_names == other.option_names else "options"


def _lines(history: History) -> Iterator[bytes]:
    """The lines of points and logged values by their steps; names logged together share lines."""
    observed = ((point.step, point_line(point, history.option_names)) for point in history.points())
    streams: list[Iterator[tuple[int, bytes]]] = [observed]
    together: dict[bytes, list[str]] = {}
    for name, series in history.logged.items():
        together.setdefault(series.steps.tobytes(), []).append(name)
    for names in together.values():
        steps = history.logged[names[0]].steps.tolist()
        rows = zip(*(history.logged[name].values.tolist() for name in names), strict=True)
        streams.append(map(_logged_entry, repeat(names), steps, rows))
    return (line for _, line in heapq.merge(*streams, key=operator.itemgetter(0)))


def _logged_entry(names: list[str], step: int, values: tuple[float, ...]) -> tuple[int, bytes]:
    return step, log_line(step, dict(zip(names, values, strict=True)))


def _problem(error: Exception) -> str:
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)):
        return f"this is not JSON ({getattr(error, 'msg', error)})"
    return str(error)
