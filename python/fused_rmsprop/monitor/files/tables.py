"""A history as a table, and its latest values in short: CSV, pandas, a progress bar."""

from __future__ import annotations

import csv
import io
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.checkpoint.replacing import replacing
from fused_rmsprop.monitor.files.lines import Described
from fused_rmsprop.monitor.files.run_file import Path
from fused_rmsprop.monitor.history import QUANTITIES, Array, History

Names = list[tuple[str, str]]


def quantity_names(described: Described) -> Names:
    """The quantity and the leaf, or "all", of each number in a point's rows."""
    leaves = [leaf.name for leaf in described.leaves]
    every = "all" if "all" not in leaves else "all leaves"
    return [(quantity, name) for quantity in QUANTITIES for name in (*leaves, every)]


def option_names(described: Described) -> Names:
    """The option and the group of each number in a point's options."""
    return [(option, group) for option in described.option_names for group in described.groups]


def tag(quantity: str, name: str) -> str:
    """The name of a column or of a curve: "grad_rms/layer1.W", "lr/0", "loss"."""
    return f"{quantity}/{name}" if name else quantity


def to_csv(history: History, path: Path) -> None:
    """Write a table with a row for each step that was observed or logged.

    The first column is ``step``. The others are the logged values (``loss``), the options of each
    group (``lr/<group>``), and each quantity of each leaf and of all (``grad_rms/layer1.W``,
    ``grad_rms/all``). A cell is empty where there is nothing. If a step occurs twice, the later
    values count. The numbers can be read again exactly; NaN and infinities are ``nan``, ``inf``
    and ``-inf``.

    Parameters
    ----------
    history : History
        What to write.
    path : str or path-like
        Where to, whole or not at all; an older file is replaced.

    Raises
    ------
    OSError
        If it cannot be written. An older file is as before.
    """
    steps = _steps(history.steps, *(series.steps for series in history.logged.values()))
    names = [*((name, "") for name in history.logged), *option_names(history)]
    names += quantity_names(history)
    cells = np.full((len(steps), len(names)), "", dtype=object)
    for column, series in enumerate(history.logged.values()):
        cells[np.searchsorted(steps, series.steps), column] = series.values
    points = _point_values(history).astype(object)
    points[points != points] = ""  # NaN: nothing was measured
    cells[np.searchsorted(steps, history.steps), len(history.logged) :] = points
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["step", *(tag(*name) for name in names)])
    table.writerows([step, *row] for step, row in zip(steps.tolist(), cells, strict=True))
    with replacing(os.path.realpath(os.fspath(path))) as file:
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))


def to_pandas(history: History) -> Any:
    """A table with a row for each observed step, to plot and to correlate.

    ``df["grad_rms"]`` has a column for each leaf and ``"all"``, ``df["lr"]`` one for each group,
    ``df["loss"]`` is a Series. A logged value stands in the row of the next observed step, as the
    mean of those since the row before, so that curves have no gaps; `to_csv` and
    ``history.logged`` have each of them. Values that were logged after the last observed step
    have a last row of their own.

    Parameters
    ----------
    history : History
        What to show.

    Returns
    -------
    pandas.DataFrame
        The index is ``step``; the columns are a MultiIndex of ``quantity`` and ``name``, which is
        empty for logged values. If a step was observed twice, the later values count.

    Raises
    ------
    ImportError
        Without pandas.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas") from error
    steps = _steps(history.steps)
    logged = _steps(steps[:0], *(series.steps for series in history.logged.values()))
    if not len(steps):
        steps = logged
    elif len(logged) and logged[-1] > steps[-1]:
        steps = np.append(steps, logged[-1])
    points = _point_values(history)
    values = np.full((len(steps), points.shape[1]), math.nan)
    values[np.searchsorted(steps, history.steps)] = points
    means = [_means(steps, series.steps, series.values) for series in history.logged.values()]
    names = [*((name, "") for name in history.logged), *option_names(history)]
    columns = pd.MultiIndex.from_tuples(names + quantity_names(history), names=("quantity", "name"))
    index = pd.Index(steps, name="step")
    return pd.DataFrame(np.column_stack([*means, values]), index=index, columns=columns)


def postfix(history: History) -> dict[str, str]:
    """The latest values in short, for a progress bar: ``bar.set_postfix(postfix(history))``.

    Parameters
    ----------
    history : History
        What to show.

    Returns
    -------
    dict of str
        See `Monitor.postfix`.
    """
    short = {name: number(series.values[-1]) for name, series in history.logged.items()}
    if len(history.steps) and "lr" in history.option_names:
        rates = history.option("lr")[-1]
        ends = dict.fromkeys([number(rates.min()), number(rates.max())]) if len(rates) else {}
        short["lr"] = "..".join(ends)
    if not math.isnan(ratio := latest(history.total("update_ratio"))):
        short["update/param"] = number(ratio)
    if not math.isnan(reversed_ := latest(history.total("reversed"))):
        short["reversed"] = f"{reversed_:.0%}"
    return short


def number(value: float) -> str:
    """A number in short, such as 0.312, 12.0 and 1.10e-05."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:#.3g}".removesuffix(".") if 1e-4 <= abs(value) < 999.5 else f"{value:.2e}"


def latest(values: Array) -> float:
    """The last value that is not NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else math.nan


def _steps(*arrays: NDArray[np.int64]) -> NDArray[np.int64]:
    """All steps, each once, in order."""
    return np.unique(np.concatenate(arrays))


def _point_values(history: History) -> Array:
    """The numbers of options and quantities; shape (points, columns)."""
    points = len(history.steps)
    options, rows = history.option_values, history.rows
    return np.hstack([a.reshape(points, math.prod(a.shape[1:])) for a in (options, rows)])


def _means(steps: NDArray[np.int64], at: NDArray[np.int64], values: Array) -> Array:
    """The means of values between two steps, at the later one; NaN where there is none."""
    rows = np.searchsorted(steps, at)
    counts = np.bincount(rows, minlength=len(steps))
    sums = np.bincount(rows, values, minlength=len(steps))
    means = np.full(len(steps), math.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
