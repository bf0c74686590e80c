"""One picture of a training: chooses and places the panels. Reads a `History`, and nothing else."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fused_rmsprop.monitor.history import History, Series
from fused_rmsprop.monitor.pictures.heat_maps import draw_legend, draw_maps, heat_maps, legend
from fused_rmsprop.monitor.pictures.panels import (
    Draw,
    effective_lr,
    logged_values,
    oscillation,
    sizes_of_one,
    varying_options,
)

_WIDTH = 11.0  # of a new figure and its parts, in inches
_TITLE_HEIGHT = 0.35
_LINES_HEIGHT = 2.2
_LEGEND_HEIGHT = 0.3
_ROW_HEIGHT = 0.14  # of a parameter with a readable name
_MAP_MARGINS = 0.95  # title, colour bar and ticks
_MAP_HEIGHTS = (0.5, 5.6)  # without the margins
_MOST_POINTS = 1000  # more than a panel has pixels


class _Row(NamedTuple):
    """Panels side by side."""

    height: float  # in inches, in a figure of the usual width
    draw: Callable[[Any, Any], None]  # into a place of a figure's grid


def plot(history: History, figure: Any = None) -> Any:
    """Draw a training as one figure; see `Monitor.plot`."""
    if figure is not None:
        if not hasattr(figure, "add_gridspec"):
            raise TypeError(_no_figure(figure))
        figure.clear()
        if getattr(figure, "get_layout_engine", lambda: True)() is None:
            figure.set_layout_engine("constrained")
        return _draw(history, lambda **_: figure)
    return _draw(history, _figures().pyplot_figure)


def _no_figure(given: Any) -> str:
    """What to write instead."""
    if isinstance(given, (str, os.PathLike)):
        instead = f"to save it: monitor.plot().savefig({os.fspath(given)!r})"
    elif hasattr(given, "get_figure"):
        instead = "it has several panels, so pass a figure or a subfigure, not axes"
    else:
        instead = "None makes a new one"
    return f"plot draws into a Matplotlib figure, got {reprlib.repr(given)}; {instead}"


def png(history: History, dpi: float = 100.0) -> bytes:
    """Draw a training into a PNG file of ``11 * dpi`` pixels' width; it leaves no figure behind."""
    figures = _figures()
    return bytes(figures.png(_draw(history, figures.NotebookFigure), dpi))


def _figures() -> Any:
    try:
        from fused_rmsprop.monitor.pictures import figure
    except ImportError as error:
        raise ImportError(
            "a picture of a training needs Matplotlib: pip install 'fused-rmsprop[monitor]'"
        ) from error
    return figure


def _draw(history: History, make: Callable[..., Any]) -> Any:
    history = _drawn(history)
    rows = _rows(history)
    height = max(_TITLE_HEIGHT + sum(row.height for row in rows), _TITLE_HEIGHT + _LINES_HEIGHT)
    figure = make(figsize=(_WIDTH, height), layout="constrained")
    figure.suptitle(_title(history), fontsize=10)
    if rows:
        grid = figure.add_gridspec(len(rows), 1, height_ratios=[row.height for row in rows])
        for place, row in zip(grid, rows, strict=True):
            row.draw(figure, place)
    return figure


def _drawn(history: History) -> History:
    """The part of a history that is drawn: steps that were not undone, at most 1000 points."""
    kept = _kept(history.steps)
    logged = {name: _drawn_series(series) for name, series in history.logged.items()}
    return History(
        history.leaves,
        history.groups,
        history.steps[kept],
        history.rows[kept],
        history.option_names,
        history.option_values[kept],
        logged,
        history.constants,
    )


def _drawn_series(series: Series) -> Series:
    kept = _kept(series.steps)
    return Series(series.steps[kept], series.values[kept])


def _kept(steps: Any) -> Any:
    """The indices of points before all later ones, at most as many as are drawn."""
    if len(steps) == 0:
        return np.arange(0)
    least_after = np.minimum.accumulate(steps[::-1])[::-1]
    kept = np.flatnonzero(np.append(steps[:-1] < least_after[1:], True))
    if len(kept) <= _MOST_POINTS:
        return kept
    return kept[np.linspace(0, len(kept) - 1, _MOST_POINTS).astype(np.int64)]


def _rows(history: History) -> list[_Row]:
    """The panels that have data, from top to bottom."""
    if len(history.steps) == 0 and not history.logged:
        return []
    candidates = (logged_values, varying_options, effective_lr, oscillation, sizes_of_one)
    small = [draw for panel in candidates if (draw := panel(history)) is not None]
    across = 2 if len(small) in (2, 4) else 3
    groups = [small[i : i + across] for i in range(0, len(small), across)]
    rows = [_Row(_LINES_HEIGHT, partial(_side_by_side, group)) for group in groups]
    maps = heat_maps(history) if len(history.leaves) > 1 else []
    if maps:
        cells = min(max(_ROW_HEIGHT * len(history.leaves), _MAP_HEIGHTS[0]), _MAP_HEIGHTS[1])
        draw = partial(draw_maps, history, maps, cells)
        rows.append(_Row(cells + _MAP_MARGINS, draw))
        if entries := legend(maps):
            rows.append(_Row(_LEGEND_HEIGHT, partial(draw_legend, entries)))
    return rows


def _side_by_side(draws: Sequence[Draw], figure: Any, place: Any) -> None:
    for draw, part in zip(draws, place.subgridspec(1, len(draws)), strict=True):
        draw(figure.add_subplot(part))


def _title(history: History) -> str:
    """The steps, the number of parameters and the main options in a line."""
    steps = history.steps
    if len(steps) == 0:
        return "nothing observed yet: a monitor records the steps that its optimizer makes"
    parts = [f"steps {steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else f"step {steps[0]:,}"]
    count = len(history.leaves)
    parts.append(f"{count} parameter{'' if count == 1 else 's'}")
    for name in history.option_names:
        values = np.unique(history.option(name))
        values = values[np.isfinite(values)]
        if len(values) and (name in ("lr", "alpha") or values.any()):
            last = f" to {values[-1]:.4g}" if len(values) > 1 else ""
            parts.append(f"{name} {values[0]:.4g}{last}")
    return "  ·  ".join(parts)
