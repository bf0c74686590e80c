"""The panels with lines: each function returns one that draws into axes, or None without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fused_rmsprop.monitor.history import PERCENTILES, Array, History

#: Draws one panel into Matplotlib axes.
Draw = Callable[[Any], None]

#: Okabe and Ito's colours, which colour-blind people tell apart; styles tell them apart in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MOST_LINES = 8
_MOST_CROSSES = 30  # of a line that is not finite
_MOST = 1e200  # Matplotlib's arithmetic overflows near the largest numbers


class Line(NamedTuple):
    """A line of a panel."""

    label: str
    steps: Any  # (points,)
    values: Array  # (points,)


def logged_values(history: History) -> Draw | None:
    """The loss and other values that were logged: those unlike the loss have the right axis."""
    lines = [Line(name, *series) for name, series in history.logged.items() if len(series.steps)]
    if not lines:
        return None
    losses = ["loss" in line.label.lower() for line in lines]

    def draw(axes: Any) -> None:
        _two_scales(axes, history, "logged values", lines, losses)

    return draw


def varying_options(history: History) -> Draw | None:
    """The options that are not constant; those other than lr have the right axis."""
    lines: list[Line] = []
    for name in history.option_names:
        values = history.option(name)
        varying = [i for i in range(values.shape[1]) if _varies(values[:, i])]
        alike = all(np.array_equal(values[:, i], values[:, 0]) for i in range(values.shape[1]))
        for i in varying[:1] if alike else varying:
            label = name if alike else f"{name} of {history.groups[i] or i}"
            lines.append(Line(label, history.steps, values[:, i]))
    if _varies(factor := history.total("clip_factor")):
        lines.append(Line("clip factor", history.steps, factor))
    if not lines:
        return None
    rates = [line.label.split(" ")[0] == "lr" for line in lines]

    def draw(axes: Any) -> None:
        _two_scales(axes, history, "options", lines, rates)

    return draw


def effective_lr(history: History) -> Draw | None:
    """Percentiles of the effective learning rate of all elements, as bands."""
    values = history.effective_lr()[:, :, -1]
    values = positive(values)
    if not np.isfinite(values).any():
        return None

    def draw(axes: Any) -> None:
        color, middle = COLORS[2], len(PERCENTILES) // 2
        handles: list[Any] = []
        for i in range(middle):
            label = f"{PERCENTILES[i]} to {PERCENTILES[-1 - i]} %"
            low, high = values[:, i], values[:, -1 - i]
            alpha = 0.2 + 0.2 * i
            band = {"color": color, "alpha": alpha, "linewidth": 0, "label": label}
            handles.append(axes.fill_between(history.steps, low, high, **band))
            if len(history.steps) == 1:  # which has no width
                axes.vlines(history.steps, low, high, color, alpha=alpha, linewidth=8)
        median = Line("median", history.steps, values[:, middle])
        handles.append(_draw_line(axes, median, color, "-"))
        axes.set_yscale("log")
        _finish(axes, history, "effective learning rate", handles)

    return draw


def oscillation(history: History) -> Draw | None:
    """The share of updates that are reversed, and the cosine between successive ones."""
    cosine, reversed_ = history.total("cosine"), history.total("reversed")
    unknown = np.isnan(cosine) & (reversed_ == 0)  # of updates that are NaN, none are reversed
    lines = [
        Line("cosine", history.steps, cosine),
        Line("share reversed", history.steps, np.where(unknown, np.nan, reversed_)),
    ]
    lines = [line for line in lines if np.isfinite(line.values).any()]
    if not lines:
        return None

    def draw(axes: Any) -> None:
        axes.axhline(0, color="0.5", linewidth=0.8)
        styles = zip(lines, COLORS, _STYLES, strict=False)
        handles = [_draw_line(axes, *line_color_style) for line_color_style in styles]
        axes.set_ylim(-1.05, 1.05)
        _finish(axes, history, "successive updates", handles)

    return draw


def sizes_of_one(history: History) -> Draw | None:
    """The sizes of a single parameter, its gradient and update: a heat map would have one row."""
    if len(history.leaves) != 1:
        return None
    names = {"gradient": "grad_rms", "update": "update_rms", "parameter": "param_rms"}
    values = {label: history[name][:, 0] for label, name in names.items()}
    lines = [
        Line(label, history.steps, positive(of_one))
        for label, of_one in values.items()
        if (of_one > 0).any()
    ]
    if not lines:
        return None

    def draw(axes: Any) -> None:
        styles = zip(lines, COLORS, _STYLES, strict=False)
        handles = [_draw_line(axes, *line_color_style) for line_color_style in styles]
        axes.set_yscale("log")
        _finish(axes, history, "root mean squares", handles)

    return draw


def _two_scales(
    axes: Any, history: History, title: str, lines: Sequence[Line], main: Sequence[bool]
) -> None:
    """Draw the main lines on the left axis, the others on a right one, the main ones first."""
    main = main if any(main) else [i == 0 for i in range(len(lines))]
    left = [line for line, is_main in zip(lines, main, strict=True) if is_main]
    right = [line for line, is_main in zip(lines, main, strict=True) if not is_main]
    hidden = max(0, len(lines) - _MOST_LINES)
    left, right = left[:_MOST_LINES], right[: max(0, _MOST_LINES - len(left))]
    handles: list[Any] = []
    crosses: list[Any] = []
    for part, on in ((left, axes), (right, axes.twinx() if right else axes)):
        for line in part:
            i = len(handles)
            color, style = COLORS[i % len(COLORS)], _STYLES[i % len(_STYLES)]
            handles.append(_draw_line(on, line, color, style))
            crosses += _cross_nonfinite(on, line, color, 0.04 + 0.05 * i)
        if part:
            _scale(on, part)
        if right:
            label = ", ".join(line.label for line in part)
            on.set_ylabel(shortened(label, 30), fontsize=8)
            on.tick_params(labelsize=8)
    title = f"{title} ({hidden} more are not shown)" if hidden else title
    _finish(axes, history, title, [*handles, *crosses[:1]])


def _scale(axes: Any, lines: Sequence[Line]) -> None:
    """Choose a logarithmic axis if half of the values would lie in an eighth of a linear one."""
    values = np.concatenate([line.values[_is_drawn(line.values)] for line in lines])
    if len(values) and values.min() > 0 and np.median(values) < values.max() / 8:
        axes.set_yscale("log")


def _draw_line(axes: Any, line: Line, color: str, style: str) -> Any:
    """Draw the finite values; points where there is no line between two."""
    values = np.where(_is_drawn(line.values), line.values, np.nan)
    marker = "." if np.isfinite(values).sum() < 3 else None
    label = shortened(line.label, 24)
    (handle,) = axes.plot(
        line.steps, values, color=color, linestyle=style, linewidth=1.3, marker=marker, label=label
    )
    return handle


def _cross_nonfinite(axes: Any, line: Line, color: str, height: float) -> list[Any]:
    """Draw crosses above the lower edge where values are NaN, infinite or nearly so."""
    steps = line.steps[~_is_drawn(line.values)]
    if not len(steps):
        return []
    whole = max(1, line.steps[-1] - line.steps[0])
    places = _MOST_CROSSES * (steps - line.steps[0]) // whole
    steps = steps[np.unique(places, return_index=True)[1]]  # all of them would be a bar
    at = np.full(len(steps), height)
    edge = axes.get_xaxis_transform()
    style = {"marker": "x", "markersize": 4, "linestyle": "", "label": "NaN or infinite"}
    return list(axes.plot(steps, at, transform=edge, color=color, **style))


def _finish(axes: Any, history: History, title: str, handles: Sequence[Any]) -> None:
    """Add a title, a legend between it and the axes, and ticks."""
    columns = 3 if max(len(handle.get_label()) for handle in handles) < 14 else 2
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncol=columns,
        fontsize=7.5,
        frameon=False,
        borderaxespad=0.1,
        columnspacing=1.2,
        handlelength=2.2,
    )
    lines = -(-len(handles) // columns)
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold", pad=4 + 12 * lines)
    axes.grid(alpha=0.3)
    finish_steps(axes, history)


def finish_steps(axes: Any, history: History) -> None:
    """Give the axis of steps the limits of all panels, and ticks like 10k."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    steps = np.concatenate([history.steps, *(line.steps for line in history.logged.values())])
    margin = max(0.5, 0.01 * (steps.max() - steps.min()))
    axes.set_xlim(steps.min() - margin, steps.max() + margin)
    axes.set_xlabel("step", fontsize=8, labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(_short_count))
    axes.tick_params(labelsize=8)


def _short_count(step: float, _: object = None) -> str:
    """10k for 10,000 and 2M for 2,000,000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:.4g}{letter}"
    return f"{step:.0f}"


def positive(values: Array) -> Array:
    """The numbers that have a logarithm, within what an axis can show, and NaN for the others."""
    kept = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    return np.clip(kept, 1 / _MOST, _MOST)


def _is_drawn(values: Array) -> Any:
    return np.abs(values) <= _MOST  # not NaN


def shortened(text: str, most: int) -> str:
    """A text without its middle, if it is longer than that: its end tells more than its start."""
    if len(text) <= most:
        return text
    start = most // 3
    return f"{text[:start]}…{text[len(text) - most + start + 1 :]}"


def _varies(values: Array) -> bool:
    """Whether there are two different numbers."""
    return len(np.unique(values[np.isfinite(values)])) > 1
