"""Plot the results of compare.py: time per element over size, and bars for the other groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from measure import CaseResult
from peers import BASELINE
from report import BYTES_PER_ELEMENT, TITLES, peers_of, threads_of, with_sign, with_unit

OURS = "black"


def save_plots(folder: Path, environment: dict[str, Any], results: list[CaseResult]) -> list[Path]:
    """Save one PNG per group in a folder and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    subtitle = f"{environment['cpu']}, {threads_of(environment)}, {environment['dtype']}"
    colours = {
        peer: OURS if peer.startswith(BASELINE) else f"C{i % 10}"
        for i, peer in enumerate(peers_of(results))
    }
    paths = []
    for group, title in TITLES.items():
        of_group = [result for result in results if result.group == group]
        if of_group:
            draw = _lines if group == "sizes" else _bars
            figure = draw(of_group, colours)
            figure.suptitle(f"{title}\n{subtitle}", fontsize=10)
            paths.append(folder / f"{group}.png")
            figure.savefig(paths[-1], dpi=110)
    return paths


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bandwidth(ns: Any) -> Any:
    """Convert ns per element to GB/s or back. Matplotlib also passes 0."""
    return BYTES_PER_ELEMENT / np.maximum(ns, 1e-9)


def _lines(results: list[CaseResult], colours: dict[str, str]) -> Figure:
    """Plot time per element over size, with quartiles as bands."""
    figure = _new_figure(8, 5.5)
    axes = figure.subplots()
    for peer in peers_of(results):
        points = [
            (result.elements, *(1e9 * s / result.elements for s in (t.low, t.median, t.high)))
            for result in results
            for t in result.timings
            if t.peer == peer
        ]
        sizes, low, median, high = zip(*points, strict=True)
        colour, width = colours[peer], 2.5 if peer == BASELINE else 1.2
        axes.plot(sizes, median, "o-", color=colour, markersize=3, linewidth=width, label=peer)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="ns per element and step")
    right = axes.secondary_yaxis("right", functions=(_bandwidth, _bandwidth))
    right.set_ylabel(f"GB/s, at {BYTES_PER_ELEMENT} bytes per element")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(fontsize=8)
    return figure


def _bars(results: list[CaseResult], colours: dict[str, str]) -> Figure:
    """Plot one panel per case and variant; each peer has a bar with its time and ratio."""
    panels = [
        (f"{result.name} {variant}".strip(), [t for t in result.timings if t.variant == variant])
        for result in results
        for variant in dict.fromkeys(t.variant for t in result.timings)
    ]
    rows = (len(panels) + 1) // 2
    bars = max(len(timings) for _, timings in panels)
    figure = _new_figure(11, rows * (0.9 + 0.24 * bars) + 0.6)
    for axes, (title, timings) in zip(
        figure.subplots(rows, 2, squeeze=False).flat, panels, strict=False
    ):
        names = [t.peer for t in timings]
        medians = [t.median for t in timings]
        axes.barh(names, medians, color=[colours[name] for name in names], alpha=0.8)
        for i, t in enumerate(timings):
            label = f" {with_unit(t.median)}  {with_sign(t.ratio)}"
            axes.text(t.median, i, label, va="center", fontsize=8)
        axes.invert_yaxis()
        # Leave room for labels, and start the bars below the fastest time.
        axes.set(xscale="log", xlim=(min(medians) / 3, max(medians) * 8))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(f"seconds; ratios are to {BASELINE}", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3, axis="x")
    if len(panels) % 2:
        figure.axes[-1].set_visible(False)
    return figure
