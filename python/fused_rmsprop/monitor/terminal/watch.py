"""The command ``python -m fused_rmsprop watch``: shows the file of a training in the terminal."""

from __future__ import annotations

import os
import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fused_rmsprop.monitor.files.run_file import Reader
from fused_rmsprop.monitor.files.tables import postfix
from fused_rmsprop.monitor.history import counted
from fused_rmsprop.monitor.terminal.screen import picture

#: More points than that are not to be told apart in a terminal.
_MAX_POINTS = 1000


def run(path: str, once: bool, seconds: float) -> int:
    """Show a file, until it says that the monitor was closed, or once.

    In a terminal, the curves fill the screen and follow the training; the last ones stay when it
    ends, or at Ctrl-C. Elsewhere, each poll that finds something prints a line of the latest
    values. The command waits for a file that does not exist yet. The effective learning rate has
    three curves: the median and the percentiles 5 and 95.

    Parameters
    ----------
    path : str
        The file.
    once : bool
        Print the curves once, and end.
    seconds : float
        How long to wait between two looks at the file.

    Returns
    -------
    int
        The exit status, 0.

    Raises
    ------
    OSError
        If the file cannot be read. If it does not exist: with `once`, or if its folder does not
        exist.
    ValueError
        If it is not the file of a run.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # encodings without frames and curves
    console = Console(highlight=False, soft_wrap=True)
    shown = _Shown(path)
    if once:
        shown.reader.poll()
        console.print(shown.picture(console.width, console.height - 1))
        return 0
    if not os.path.isdir(folder := os.path.dirname(os.path.abspath(path))):
        raise FileNotFoundError(f"there is no folder {folder!r}")
    try:
        if console.is_terminal:
            _fill_screen(console, shown, seconds)
        else:
            _print_lines(console, shown, seconds)
    except KeyboardInterrupt:
        pass
    if console.is_terminal:
        console.print(shown.picture(console.width, console.height - 1))
    return 0


class _Shown:
    """A file that may not exist yet, and how it looks."""

    def __init__(self, path: str) -> None:
        self.reader = Reader(path, _MAX_POINTS)
        self._path = path
        self._waiting = f"waiting for {path} (Ctrl-C ends)"

    def poll(self) -> bool:
        """Whether the file has something new."""
        try:
            return self.reader.poll()
        except FileNotFoundError:
            return False

    def picture(self, width: int, height: int) -> Text:
        """All of it, in so many columns and lines."""
        history = self.reader.history
        if history is None:
            return Text(self._waiting)
        size = sum(leaf.size for leaf in history.leaves)
        leaves = counted(len(history.leaves), "leaf", "leaves")
        of = f"{leaves}, {counted(size, 'element')}, {self._path}"
        heading = f"step {history.last_step:,}, {self._state()}, {of}"
        return picture(history, heading, width, height)

    def _state(self) -> str:
        if self.reader.ended:
            return "closed"
        try:
            age = max(0.0, time.time() - os.stat(self._path).st_mtime)
        except OSError:
            return "removed"
        return f"last line {age:.0f} s ago"

    def line(self) -> str:
        """The latest values."""
        history = self.reader.history
        if history is None:
            return self._waiting
        values = ", ".join(f"{name}={value}" for name, value in postfix(history).items())
        return f"step {history.last_step}: {values}"


def _fill_screen(console: Console, shown: _Shown, seconds: float) -> None:
    size = console.size
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            if size != (size := console.size):
                console.clear()  # some terminals keep lines of the old size
            shown.poll()
            live.update(shown.picture(*console.size), refresh=True)
            if shown.reader.ended:
                return
            time.sleep(seconds)


def _print_lines(console: Console, shown: _Shown, seconds: float) -> None:
    shown.poll()
    console.print(shown.line())
    while not shown.reader.ended:
        time.sleep(seconds)
        if shown.poll():
            console.print(shown.line())
