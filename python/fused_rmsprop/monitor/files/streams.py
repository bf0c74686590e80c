"""Send each point and each logged value on at once: to a file, TensorBoard, or any function.

A stream that fails is dropped with a warning: it never stops a training.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol, TypeAlias

from fused_rmsprop.base import warn_the_caller
from fused_rmsprop.checkpoint.replacing import replacing
from fused_rmsprop.monitor.files.lines import Described, end_line, header_line, log_line, point_line
from fused_rmsprop.monitor.files.run_file import Path, Reader, different
from fused_rmsprop.monitor.files.tables import option_names, quantity_names, tag
from fused_rmsprop.monitor.history import Point

Callback: TypeAlias = Callable[[int, dict[str, float]], object]


class Writer(Protocol):
    """What TensorBoard's ``SummaryWriter`` can do."""

    def add_scalar(self, tag: str, value: float, step: int, /) -> object: ...  # noqa: D102


class Stream(Protocol):
    """What receives points and logged values. Its text names it in warnings."""

    def point(self, point: Point) -> None: ...  # noqa: D102
    def log(self, step: int, values: Mapping[str, float]) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Streams:
    """Any number of streams. One that raises an `Exception` is dropped, with a `RuntimeWarning`."""

    def __init__(self, streams: Iterable[Stream] = ()) -> None:
        self._streams = list(streams)

    def __len__(self) -> int:
        return len(self._streams)

    def point(self, point: Point) -> None:
        """Send a point."""
        self._each(lambda stream: stream.point(point))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send logged values."""
        self._each(lambda stream: stream.log(step, values))

    def close(self) -> None:
        """End all of them; later calls do nothing."""
        self._each(lambda stream: stream.close())
        self._streams.clear()

    def _each(self, send: Callable[[Stream], None]) -> None:
        failed = []
        for stream in list(self._streams):
            try:
                send(stream)
            except Exception as error:
                failed.append(f"{stream} failed ({type(error).__name__}: {error})")
                with suppress(ValueError):  # another thread has dropped it
                    self._streams.remove(stream)
        for what in failed:  # when all have been served, as the warning may be an error
            warn_the_caller(
                f"{what}: the monitor sends it nothing more, and goes on without it",
                RuntimeWarning,
            )


class ScalarStream:
    """Sends numbers with tags to a function.

    The tags are ``"grad_rms/layer1.W"`` for a leaf, ``"grad_rms/all"`` for all together,
    ``"lr/<group>"``, and the names of logged values as they are. A quantity that could not be
    measured, NaN, is left out; a logged NaN is sent.

    Parameters
    ----------
    described : Described
        Leaves, groups and options.
    callback : callable
        ``callback(step, values)`` with a dict from tags to numbers, at once for each point and
        each call of `Monitor.log`.
    name : str
        Its name in warnings.
    """

    def __init__(self, described: Described, callback: Callback, name: str = "") -> None:
        self._quantities = [tag(*name) for name in quantity_names(described)]
        self._options = [tag(*name) for name in option_names(described)]
        self._callback = callback
        self._name = name or f"callback={_name(callback)}"

    def __str__(self) -> str:
        return self._name

    def point(self, point: Point) -> None:
        """Send the values of a point."""
        values = dict(zip(self._options, point.options.ravel().tolist(), strict=True))
        measured = zip(self._quantities, point.rows.ravel().tolist(), strict=True)
        values.update((tag, value) for tag, value in measured if value == value)
        self._callback(point.step, values)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send logged values."""
        self._callback(step, dict(values))

    def close(self) -> None:
        """Nothing: its owner closes it."""


def writer_stream(described: Described, writer: Writer) -> ScalarStream:
    """A stream to TensorBoard's ``SummaryWriter``, or to anything with ``add_scalar``."""

    def send(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return ScalarStream(described, send, f"writer={_name(writer)}")


class FileStream:
    """Appends lines to a file, for `Monitor.load` and ``python -m fused_rmsprop watch``.

    Each line is in the file when the call returns; the file is open only while a line is written.
    A point takes about 300 bytes for each leaf. Only one stream can append to a file: the others
    raise an error when they find lines that are not their own.

    Parameters
    ----------
    described : Described
        What the header tells.
    path : str or path-like
        The file.
    mode : {"x", "a", "w"}
        As of `open`. "x": the file must not exist. "a": go on in an existing file, as a training
        does that loaded a checkpoint: readers leave out what the file tells of later steps than
        `step`. "w": replace an existing file.
    step : int
        How many steps the training has done before.

    Raises
    ------
    FileExistsError
        If the mode is "x" and the file exists.
    OSError
        If the file cannot be written; an `IsADirectoryError` if it is a folder.
    TypeError
        If a constant is not a plain value.
    ValueError
        With "a", if the file is not one of a run, is damaged, tells of other leaves, groups or
        options, or of any steps although `step` is 0. The file is as before.
    """

    def __init__(
        self,
        described: Described,
        path: Path,
        mode: Literal["x", "a", "w"] = "x",
        step: int = 0,
    ) -> None:
        self._path = os.path.abspath(os.fspath(path))
        if os.path.isdir(self._path):
            raise IsADirectoryError(
                f"{self._path!r} is a folder: name a file in it, such as "
                f"{os.path.join(self._path, 'run.jsonl')!r}"
            )
        self._options = described.option_names
        self._lock = threading.Lock()
        self._end: int | None = None  # of the last line, if it is known
        header = header_line(described, step)
        if mode == "a" and os.path.exists(self._path):
            _prepare(self._path, described, step)
            self._append(header)
            return
        if mode == "w":
            with replacing(os.path.realpath(self._path)) as file:
                file.write(header)
        else:
            _create(self._path, header)
        self._end = len(header)

    def __str__(self) -> str:
        return f"path={self._path!r}"

    def point(self, point: Point) -> None:
        """Append a point."""
        self._append(point_line(point, self._options))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append logged values."""
        self._append(log_line(step, values))

    def close(self) -> None:
        """Append the end, which tells followers that nothing comes."""
        self._append(end_line())

    def _append(self, line: bytes) -> None:
        with self._lock, open(self._path, "ab", opener=_existing) as file:
            end, self._end = self._end, None  # unknown after an interrupt
            if end is not None and file.tell() != end:
                raise ValueError("another monitor or program writes to the file")
            file.write(line)
            file.flush()
            self._end = file.tell()


def _create(path: str, header: bytes) -> None:
    try:
        with open(path, "xb") as file:
            file.write(header)
    except FileExistsError:
        raise FileExistsError(
            f"{path!r} exists: mode='a' goes on in it, mode='w' replaces it"
        ) from None


def _existing(path: str, flags: int) -> int:
    """Open a file; do not make one without a header in the place of one that was removed."""
    return os.open(path, flags & ~os.O_CREAT)


def _prepare(path: str, described: Described, step: int) -> None:
    """Check that a run can go on in a file, and cut off a last line that is not complete."""
    reader = Reader(path, max_points=1)
    reader.poll()
    size = os.path.getsize(path)
    if reader.history is None:
        if size:
            raise ValueError(f"{path!r} has no complete line; mode='w' replaces it")
    elif difference := different(reader.history, described):
        raise ValueError(
            f"{path!r} is of a run with other {difference}: take another path, or mode='w' to "
            "replace the file"
        )
    elif step == 0 and (last := reader.history.last_step) > 0:
        raise ValueError(
            f"{path!r} tells of {last:,} steps, and the optimizer has made none: load a "
            "checkpoint before you make the monitor, take another path, or mode='w' to replace "
            "the file"
        )
    if reader.size < size:
        os.truncate(path, reader.size)


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def streams_to(
    described: Described,
    path: Path | None,
    mode: Literal["x", "a", "w"],
    step: int,
    writer: Writer | None,
    callback: Callback | None,
) -> Streams:
    """The streams of a monitor, as its arguments name them.

    Raises
    ------
    TypeError
        If the writer or the callback is none.
    OSError, ValueError
        As `FileStream`; a `ValueError` for a mode without a path.
    """
    if mode not in ("x", "a", "w"):
        raise ValueError(f"mode must be 'x', 'a' or 'w', got {mode!r}")
    if path is None and mode != "x":
        raise ValueError(f"mode={mode!r} needs a file: path='run.jsonl', mode={mode!r}")
    streams: list[Stream] = []
    if callback is not None:
        if not callable(callback):
            raise TypeError(f"callback must be a function of a step and a dict, got {callback!r}")
        streams.append(ScalarStream(described, callback))
    if writer is not None:
        if not hasattr(writer, "add_scalar"):
            raise TypeError(f"writer must have add_scalar(tag, value, step), got {writer!r}")
        streams.append(writer_stream(described, writer))
    if path is not None:  # last, because it makes a file
        streams.append(FileStream(described, path, mode, step))
    return Streams(streams)
