"""A monitor as HTML, as notebooks show it: findings, the latest values, and the picture."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator

from fused_rmsprop.introspection.html import block, escaped, or_none, paragraph, table
from fused_rmsprop.monitor.history import QUANTITIES, History
from fused_rmsprop.monitor.pictures.plotting import png
from fused_rmsprop.monitor.report import Report

_DPI = 80.0
_LATEST = ("grad_rms", "update_rms", "update_ratio", "effective_lr_p50", "reversed", "cosine")


def monitor_html(history: History, report: Report | None, active: bool) -> str:
    """The findings, the latest values of all parameters together, and the picture if it can be."""
    steps = history.steps
    facts = [] if active else ["detached"]
    facts.append(f"steps {steps[0]:,} to {steps[-1]:,}" if len(steps) else "nothing observed yet")
    parts = [paragraph("Monitor", *facts)]
    parts += [] if report is None else [_findings(report)]
    rows = [*_latest(history)]
    if rows:
        parts.append(table(("", "latest", "explanation"), rows, len(rows)))
        if (image := or_none(_image, history)) is not None:
            parts.append(image)
    return block(*parts)


def _findings(report: Report) -> str:
    lines = [f"<li>{escaped(finding)}</li>" for finding in report]
    return f"<ul>{''.join(lines)}</ul>" if lines else f"<div>{escaped(report)}</div>"


def _latest(history: History) -> Iterator[tuple[str, str, str]]:
    """Names, the latest numbers and explanations."""
    for name, series in history.logged.items():
        if len(series.values):
            yield name, f"{series.values[-1]:.4g}", "logged"
    for name in _LATEST:
        values = history.total(name)
        known = [value for value in values[-2:].tolist() if not math.isnan(value)]
        if known:  # the last point may wait for its second step
            yield name, f"{known[-1]:.4g}", QUANTITIES[name]


def _image(history: History) -> str:
    data = base64.b64encode(png(history, _DPI)).decode()
    style = "max-width:100%;height:auto"
    return (
        f"<img alt='the training as a figure' style='{style}' src='data:image/png;base64,{data}'>"
    )
