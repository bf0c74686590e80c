"""A Matplotlib figure that notebooks show, with or without pyplot. Imports Matplotlib at once."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator

_NAME_HEIGHT = 0.125  # in inches, of a name in letters of 7 points


class NotebookFigure(Figure):
    """A figure that IPython shows also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        return png(self)


def pyplot_figure(**options: Any) -> Any:
    """Make a figure that ``plt.show()`` shows, if the program uses pyplot.

    Not in notebooks with inline figures: they would show it twice, as the result of the cell and
    because it is open.
    """
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or "inline" in matplotlib.get_backend().lower():
        return NotebookFigure(**options)
    return pyplot.figure(FigureClass=NotebookFigure, **options)


def png(figure: Any, dpi: Any = "figure") -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


class _Rows(Locator):
    """Ticks in the middle of rows of height 1: of all that have room, evenly spaced."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self) -> Any:
        axis: Any = self.axis
        axes = axis.axes
        height = axes.bbox.height / axes.figure.dpi
        shown = abs(np.diff(axes.get_ylim())[0])  # fewer, if a user zooms
        every = max(1, int(np.ceil(shown * _NAME_HEIGHT / max(height, _NAME_HEIGHT))))
        return np.arange(0, self._count, every) + 0.5


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """Name as many rows of a heat map as have room; without names, remove the ticks."""
    if not names:
        axes.set_yticks([])
        return
    axes.yaxis.set_major_locator(_Rows(len(names)))
    axes.yaxis.set_major_formatter(FuncFormatter(partial(_name, names)))
    axes.tick_params(axis="y", labelsize=7, length=2)


def _name(names: Sequence[str], row: float, _: object) -> str:
    return names[int(row)] if 0 <= row < len(names) else ""
