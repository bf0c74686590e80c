"""A figure in a notebook that follows a training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fused_rmsprop.base import warn_the_caller
from fused_rmsprop.monitor.history import History
from fused_rmsprop.monitor.pictures.plotting import png

#: Drawing takes at most one part in so many of the time.
_SHARE = 10


class Live:
    """A figure below the cell of a notebook that made it, drawn anew while a training goes on.

    `Monitor.live` makes it. It ends with `close`, or with the monitor.

    Parameters
    ----------
    read : callable
        Returns the `History` to draw.
    seconds : float
        The least time between two drawings. It is longer where that would take more than a tenth
        of the time.

    Raises
    ------
    RuntimeError
        Outside of a notebook.
    ImportError
        Without Matplotlib.
    """

    def __init__(self, read: Callable[[], History], seconds: float = 2.0) -> None:
        if not seconds >= 0:
            raise ValueError(f"seconds must be >= 0, got {seconds!r}")
        self._read = read
        self._seconds = float(seconds)
        self._lock = threading.Lock()
        display = _notebook_display()
        began = time.monotonic()
        self._handle: Any = display(_image(read()), display_id=True)
        self._set_next(began)

    @property
    def closed(self) -> bool:
        """Whether the figure stays as it is."""
        return self._handle is None

    def update(self) -> None:
        """Draw the figure anew, if it is time; a failure ends it with a warning."""
        if self._handle is None or time.monotonic() < self._next:
            return
        if self._lock.acquire(blocking=False):  # or another thread draws it now
            try:
                self._draw()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Draw the figure for the last time."""
        with self._lock:
            self._draw()
            self._handle = None

    def _draw(self) -> None:
        if self._handle is None:
            return
        began = time.monotonic()
        try:
            self._handle.update(_image(self._read()))
        except Exception as error:  # a training is worth more than its picture
            self._handle = None
            warn_the_caller(f"the live figure ends, because it could not be drawn: {error!r}")
            return
        self._set_next(began)

    def _set_next(self, began: float) -> None:
        now = time.monotonic()
        self._next = now + max(self._seconds, (_SHARE - 1) * (now - began))

    def __repr__(self) -> str:
        return f"<live figure, {'closed' if self.closed else f'every {self._seconds:g} s'}>"


def _notebook_display() -> Any:
    """IPython's `display`, or an error if there is no notebook to display in."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        shell = None
    else:
        shell = get_ipython()
    if shell is None or type(shell).__name__ == "TerminalInteractiveShell":
        where = "in a terminal" if shell is not None else "outside of IPython"
        raise RuntimeError(
            f"a live figure needs a notebook, and cannot be shown {where}; "
            "m.plot().savefig('training.png') draws the training into a file"
        )
    return display


def _image(history: History) -> Any:
    from IPython.display import Image

    return Image(data=png(history), format="png")
