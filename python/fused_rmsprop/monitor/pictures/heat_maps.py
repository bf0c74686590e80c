"""Heat maps with a row for each parameter, a column for each point, and logarithmic colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fused_rmsprop.monitor.history import Array, History
from fused_rmsprop.monitor.pictures.panels import finish_steps, positive, shortened

_MOST_DECADES = 12  # that the colours span
_BAR_HEIGHT = 0.12  # in inches
_LONGEST_NAME = 32
_MISSING = "no value: no gradient, or a parameter of zeros"
#: The colours of cells without a logarithm, beside those of viridis in grey as in colour: white
#: lies beside its dark end, black beside its bright one.
SPECIAL = {"zero": "#ffffff", "NaN or infinite": "#000000", _MISSING: "#bdbdbd"}
#: An update of a thousandth of the parameter is a rule of thumb for weights of networks.
_USUAL_RATIO = 1e-3
_MARK = "1e-3: usual for weights"


class HeatMap(NamedTuple):
    """The cells of a heat map, (points, leaves)."""

    title: str
    values: Array  # NaN where there is no positive number
    special: dict[str, Any]  # booleans for each kind of `SPECIAL`
    marked: float | None = None  # a value to mark in the colour bar


def heat_maps(history: History) -> list[HeatMap]:
    """The heat maps that have data."""
    wrong = history["nonfinite_grad"] > 0
    maps = [
        _map("gradient (rms)", history["grad_rms"], wrong),
        _map("update (rms)", history["update_rms"], wrong),
        _map("update / parameter", _ratio(history), wrong, _USUAL_RATIO),
    ]
    return [one for one in maps if not one.special[_MISSING].all()]


def legend(maps: Sequence[HeatMap]) -> dict[str, str]:
    """The colours of special cells that there are, and the mark of a colour bar, by their texts."""
    cells = {
        kind: color for kind, color in SPECIAL.items() if any(m.special[kind].any() for m in maps)
    }
    return cells | ({_MARK: ""} if any(map(_is_marked, maps)) else {})


def draw_maps(
    history: History, maps: Sequence[HeatMap], height: float, figure: Any, place: Any
) -> None:
    """Draw maps side by side, each under its colour bar; the first has the names of the rows."""
    from fused_rmsprop.monitor.pictures.figure import name_rows

    grid = place.subgridspec(2, len(maps), height_ratios=[_BAR_HEIGHT, height])
    for i, one in enumerate(maps):
        axes = figure.add_subplot(grid[1, i])
        image = _draw_cells(axes, history, one)
        names = [shortened(name, _LONGEST_NAME) for name in history.names]
        name_rows(axes, names if i == 0 else ())
        finish_steps(axes, history)
        _draw_bar(figure.add_subplot(grid[0, i]), image, one)


def _ratio(history: History) -> Array:
    """The ratio of the update to the parameter, without those to parameters of zero."""
    ratio = history["update_ratio"]
    return np.where(history["param_rms"] > 0, ratio, np.nan)


def _map(title: str, values: Array, wrong: Any, marked: float | None = None) -> HeatMap:
    nonfinite = np.isinf(values) | (np.isnan(values) & wrong)
    special = {
        "zero": values == 0,
        "NaN or infinite": nonfinite,
        _MISSING: np.isnan(values) & ~nonfinite,
    }
    return HeatMap(title, positive(values), special, marked)


def _draw_cells(axes: Any, history: History, one: HeatMap) -> Any:
    """Draw the cells of a map, and return their image."""
    from matplotlib.colors import ListedColormap, LogNorm

    low, high = _limits(one.values)
    borders = _edges(history), np.arange(len(history.leaves) + 1.0)
    cells = np.ma.masked_invalid(one.values.T)
    image = axes.pcolorfast(*borders, cells, norm=LogNorm(low, high), cmap="viridis")
    kinds = np.full(cells.shape, np.nan)
    for i, kind in enumerate(SPECIAL):
        kinds[one.special[kind].T] = i
    colors = ListedColormap(list(SPECIAL.values()))
    axes.pcolorfast(*borders, np.ma.masked_invalid(kinds), cmap=colors, vmin=0, vmax=len(SPECIAL))
    axes.invert_yaxis()
    return image


def _draw_bar(axes: Any, image: Any, one: HeatMap) -> None:
    """Draw a colour bar under the title of its map."""
    axes.figure.colorbar(image, cax=axes, orientation="horizontal")
    axes.set_title(one.title, loc="left", fontsize=9, fontweight="bold", pad=5)
    ticks = _ticks(*image.get_clim())
    axes.xaxis.set_ticks_position("top")
    axes.set_xticks(ticks)
    axes.set_xticklabels([_short_number(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.tick_params(labelsize=7, pad=0, length=2)
    if one.marked is not None and _is_marked(one):
        axes.axvline(one.marked, color="white", linewidth=4)
        axes.axvline(one.marked, color="black", linewidth=1.5)


def _is_marked(one: HeatMap) -> bool:
    low, high = _limits(one.values)
    return one.marked is not None and low <= one.marked <= high


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, at most seven; with only one or two of them, also those times 2 and 5."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    digits = (1, 2, 5) if last - first <= 2 else (1,)
    every = -(-(last - first) // 7)
    ticks = [float(f"{d}e{power}") for power in range(first, last + 1, every) for d in digits]
    return [tick for tick in ticks if 0.999 * low <= tick <= 1.001 * high]


def _short_number(value: float) -> str:
    """1e-3 rather than 1e-03."""
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}e{int(power)}"


def _limits(values: Array) -> tuple[float, float]:
    """The values of the first and last colour: a decade or more, and not too many."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.1, 1.0
    low, high = np.log10(known.min()), np.log10(known.max())
    low = max(low, high - _MOST_DECADES)
    room = max(0.0, 1.0 - (high - low)) / 2
    return 10.0 ** (low - room), 10.0 ** (high + room)


def _edges(history: History) -> Array:
    """The borders of the columns: halfway between neighbours."""
    steps = history.steps.astype(np.float64)
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    half = np.diff(steps) / 2
    return np.concatenate([[steps[0] - half[0]], steps[:-1] + half, [steps[-1] + half[-1]]])


def draw_legend(entries: Mapping[str, str], figure: Any, place: Any) -> None:
    """Draw the entries of `legend`."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    axes = figure.add_subplot(place)
    axes.set_axis_off()
    handles = [
        Patch(facecolor=color, edgecolor="0.5", label=text)
        if color
        else Line2D([], [], color="black", linestyle="", marker="|", label=text)
        for text, color in entries.items()
    ]
    axes.legend(handles=handles, loc="center", ncol=len(handles), fontsize=8, frameon=False)
