"""Curves of a history as text, drawn with uniplot, in any width and height."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.text import Text
from uniplot import plot_to_string

from fused_rmsprop.monitor.files.tables import latest, number
from fused_rmsprop.monitor.history import PERCENTILES, Array, History, counted
from fused_rmsprop.monitor.rules import report

#: The least size of a panel: a title, the frame and an axis leave two lines for curves.
_LEAST_WIDTH, _LEAST_HEIGHT = 26, 6
#: Logarithmic from this ratio of the largest to the smallest value.
_LOGARITHMIC_FROM = 20
#: A terminal's cells are twice as high as wide; panels of this ratio look like the usual figures.
_WIDTH_TO_HEIGHT = 3.5
_LABEL = 9  # columns, with a space before the next panel
_COLORS = ("cyan", "yellow", "green", "magenta", "red", "blue")


class Panel(NamedTuple):
    """Curves that share axes."""

    title: str
    steps: NDArray[np.int64]
    curves: Sequence[Array]  # each has a value for each step; the first's latest is in the title
    bounds: tuple[float, float] | None = None


def picture(history: History, heading: str, width: int, height: int) -> Text:
    """A heading, as many panels as fit, and the report, in at most so many columns and lines."""
    found = _report_lines(history, width, max(1, height // 4)) if len(history.steps) else []
    shown = [panel for panel in panels(history) if _is_known(panel)]
    if not shown:
        found = ["no step was observed yet"]
    lines = [_fitted(Text(heading, "bold"), width)]
    lines += _grid(shown, width, height - len(lines) - len(found))
    lines += [_fitted(Text(line), width) for line in found]
    return Text("\n").join(lines[:height])


def panels(history: History) -> Iterator[Panel]:
    """The panels of a history, the most telling first."""
    names = sorted(history.logged, key=lambda name: "loss" not in name)  # the losses first
    logged = [
        Panel(name, history.logged[name].steps, [history.logged[name].values]) for name in names
    ]
    yield from logged[:1]
    if "lr" in history.option_names:
        rates = list(history.option("lr").T)
        yield Panel("lr" if len(rates) == 1 else "lr of groups", history.steps, rates)
    yield Panel("gradient rms", history.steps, [history.total("grad_rms")])
    yield Panel("update rms", history.steps, [history.total("update_rms")])
    bands = history.effective_lr()[:, :, -1].T
    bands_shown = [bands[PERCENTILES.index(p)] for p in (50, 5, 95)]
    yield Panel("effective lr", history.steps, bands_shown)
    yield Panel("reversed updates", history.steps, [history.total("reversed")], (0, 1))
    yield from logged[1:]


def _is_known(panel: Panel) -> bool:
    return all(len(_drawable(panel.steps, curve)[0]) for curve in panel.curves)


def _report_lines(history: History, width: int, most: int) -> list[str]:
    """The report, wrapped, in at most so many lines."""
    lines = [
        line
        for finding in _findings(history).splitlines()
        for line in textwrap.wrap(finding, width, subsequent_indent="  ")
    ]
    left = len(lines) - most
    return lines if left <= 0 else [*lines[: most - 1], f"  ... and {left + 1} more lines"]


def _findings(history: History) -> str:
    try:
        return str(report(history))
    except Exception as error:  # a file may tell anything
        return f"- no report ({type(error).__name__}: {error})"


def _grid(shown: list[Panel], width: int, height: int) -> list[Text]:
    """Panels side by side and below each other, and how many more there are."""
    columns, rows = _shape(len(shown), width, height)
    lines: list[Text] = []
    if columns * rows < len(shown):
        height -= 1
        columns, rows = _shape(len(shown), width, height)
        hidden = counted(len(shown) - columns * rows, "more panel")
        lines.append(_fitted(Text(f"({hidden} in a larger terminal)", "dim"), width))
    for row in range(rows):
        panels_of_row = shown[row * columns : (row + 1) * columns]
        cells = [_draw(panel, width // columns, height // rows) for panel in panels_of_row]
        lines += [Text.assemble(*line) for line in zip(*cells, strict=True)]
    return lines


def _shape(count: int, width: int, height: int) -> tuple[int, int]:
    """The columns and rows that show most panels, in the best proportion."""
    most_columns = max(1, width // _LEAST_WIDTH)
    most_rows = height // _LEAST_HEIGHT
    if not count or most_rows < 1:
        return 1, 0

    def quality(shape: tuple[int, int]) -> tuple[int, float]:
        columns, rows = shape
        proportion = (width / columns) / (height / rows) / _WIDTH_TO_HEIGHT
        return min(count, columns * rows), -abs(math.log(proportion))

    columns = range(1, min(count, most_columns) + 1)
    return max(((c, min(-(-count // c), most_rows)) for c in columns), key=quality)


def _draw(panel: Panel, width: int, height: int) -> list[Text]:
    """A panel, in exactly so many columns and lines."""
    now = number(latest(panel.curves[0]))
    lines = [Text.assemble(" ", (panel.title, "bold"), f" {now}")]
    steps, known = zip(*(_drawable(panel.steps, curve) for curve in panel.curves), strict=True)
    labels, curves = _scaled(known, panel.bounds, height - 4)
    inside = max(1, width - 3 - _LABEL)
    first, last = min(one[0] for one in steps), max(one[-1] for one in steps)
    along = [(one - first) / max(1, last - first) for one in steps]
    frame = _plot(along, curves, inside, height - 4).splitlines()
    for line, label in zip(frame, ("", *labels, ""), strict=True):
        lines.append(Text.assemble(Text.from_ansi(line), " ", label))
    ends = f"{first:,}", f"{last:,}"
    lines.append(Text(f" {ends[0]}{ends[1]:>{max(0, inside - len(ends[0]))}}"))
    return [_fitted(line, width) for line in lines]


def _scaled(
    curves: Sequence[Array], bounds: tuple[float, float] | None, height: int
) -> tuple[list[str], list[Array]]:
    """The labels of an axis, from above, and curves from 0, the bottom, to 1, the top."""
    every = np.concatenate(curves)
    low, high = bounds or (float(every.min()), float(every.max()))
    labels = [""] * height
    if low == high:
        labels[height // 2] = number(low)
        return labels, [np.full(len(curve), 0.5) for curve in curves]
    if bounds is None and low > 0 and high / _LOGARITHMIC_FROM >= low:
        labels[height // 2] = number(math.sqrt(low) * math.sqrt(high))
        labels[0], labels[-1] = number(high), number(low)
        low, high, curves = math.log(low), math.log(high), [np.log(curve) for curve in curves]
    else:
        labels[height // 2] = number((low + high) / 2)
        labels[0], labels[-1] = number(high), number(low)
    return labels, [np.clip((curve - low) / (high - low), 0, 1) for curve in curves]


def _plot(along: Sequence[Array], curves: Sequence[Array], width: int, height: int) -> str:
    """Curves from 0 to 1 in a frame."""
    text: str = plot_to_string(
        xs=list(along),
        ys=list(curves),
        lines=True,
        color=[_COLORS[i % len(_COLORS)] for i in range(len(curves))],
        character_set="braille",
        width=width,
        height=height,
        x_labels=False,
        y_labels=False,
        x_gridlines=[],
        y_gridlines=[],
        **dict.fromkeys(("x_min", "y_min"), -0.001),
        **dict.fromkeys(("x_max", "y_max"), 1.001),
    )
    return text


def _drawable(steps: NDArray[np.int64], curve: Array) -> tuple[NDArray[np.int64], Array]:
    """The points of a curve that are numbers, and not so large that axes overflow."""
    known = np.abs(curve) < 1e100
    return steps[known], curve[known]


def _fitted(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis", pad=True)
    return line
