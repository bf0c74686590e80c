"""Pictures of steps over MPI: a measured one, rank by rank, and the model's predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = {
    "send gradients": "C0",
    "wait for gradients": "0.85",
    "add": "C1",
    "update": "C3",
    "send parameters": "C2",
    "wait for parameters": "0.7",
    "write": "C4",
}
MESSAGES = {
    "gradients": ("send gradients", "wait for gradients", "C0"),
    "parameters": ("send parameters", "wait for parameters", "C2"),
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that is written to a file only."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_trace(path: Path, traced: dict[str, Any]) -> None:
    """Draw what each rank did in a step, and which messages were under way."""
    ranks = traced["ranks"]
    figure = new_figure(11, 1.2 + 1.1 * ranks)
    axes = figure.subplots()
    labels = []
    for rank, events in enumerate(traced["events"]):
        top = 4 * rank
        for what, bucket, begin, end in events:
            bar = [(1e3 * begin, 1e3 * (end - begin))]
            axes.broken_barh(bar, (top, 0.9), color=COLOURS[what], linewidth=0)
            if what == "update":
                axes.text(1e3 * begin, top - 0.1, str(bucket), fontsize=6)
        for lane, (sends, waits, colour) in enumerate(MESSAGES.values(), 1):
            begins = {bucket: begin for what, bucket, begin, _ in events if what == sends}
            ends = {bucket: end for what, bucket, _, end in events if what == waits}
            for bucket, begin in begins.items():
                bar = [(1e3 * begin, 1e3 * (ends[bucket] - begin))]
                place = (top + lane + 0.45 * (bucket % 2), 0.4)
                axes.broken_barh(bar, place, color=colour, alpha=0.5, linewidth=0)
        labels += [(top + 0.45, f"rank {rank}: work"), (top + 1.45, "gradients under way")]
        labels += [(top + 2.45, "parameters under way")]
    axes.set_yticks([y for y, _ in labels], [text for _, text in labels], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms since the step began; numbers are those of buckets")
    axes.set_title(f"A step of {traced['elements']:,} elements on {ranks} ranks", fontsize=10)
    for what, colour in COLOURS.items():
        axes.barh([0], [0], color=colour, label=what)
    axes.legend(fontsize=7, ncols=7, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(path, dpi=110)


def draw_predictions(path: Path, predicted: list[dict[str, Any]]) -> None:
    """Draw the time of a step over the number of ranks: a panel for each network and size."""
    networks = list(dict.fromkeys(one["network"] for one in predicted))
    sizes = list(dict.fromkeys(one["elements"] for one in predicted))
    figure = new_figure(5 * len(sizes), 3.6 * len(networks))
    lines = {
        "all-reduce, then every rank steps everything": ("after_all_reduce", "C3", "-"),
        "messages travel in waits only": ("without_overlap", "C0", ":"),
        "default buckets": ("default", "C0", "-"),
        "best buckets": ("best", "C2", "-"),
        "the bytes on the network alone": ("bound", "0.5", "--"),
    }
    grid = figure.subplots(len(networks), len(sizes), squeeze=False)
    for row, network in zip(grid, networks, strict=True):
        for axes, elements in zip(row, sizes, strict=True):
            chosen = [p for p in predicted if (p["network"], p["elements"]) == (network, elements)]
            ranks = [one["ranks"] for one in chosen]
            for label, (key, colour, style) in lines.items():
                seconds = [one[key] for one in chosen]
                axes.plot(
                    [one["ranks"] for one in chosen], seconds, style, color=colour, label=label
                )
            axes.set(xscale="log", ylim=(0, None), xlabel="ranks", ylabel="seconds of a step")
            axes.set_xticks(ranks, [str(n) for n in ranks], fontsize=7)
            axes.minorticks_off()
            axes.set_title(f"{network}, {elements / 1e6:,.0f} million parameters", fontsize=9)
            axes.grid(alpha=0.3, which="both", linewidth=0.5)
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside lower center"
    )
    figure.savefig(path, dpi=110)
