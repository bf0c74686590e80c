"""Histories as tables, and their latest values in short."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest

from fused_rmsprop.monitor.files.tables import number, postfix, to_csv, to_pandas
from fused_rmsprop.monitor.history import QUANTITIES, Point, Store
from runs_support import a_point, a_run, a_store


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_csv_file_has_a_row_for_each_step_and_a_column_for_each_number(tmp_path: Path) -> None:
    store = a_store(groups=("body", "head"))
    points = [a_point(store, 1), a_point(store, 11)]
    points[1].rows[0, 1] = math.nan
    store.add(points)
    store.log(1, {"loss": 0.1 + 0.2})
    store.log(5, {"loss": math.nan})
    store.log(5, {"loss": math.inf, "acc,uracy": 0.5})
    to_csv(store.history(), tmp_path / "run.csv")
    rows = table(tmp_path / "run.csv")
    assert [row["step"] for row in rows] == ["1", "5", "11"]
    assert list(rows[0])[:9] == [
        *("step", "loss", "acc,uracy", "lr/body", "lr/head", "alpha/body", "alpha/head"),
        *("grad_rms/layer1.W", "grad_rms/layer1.b"),
    ]
    assert len(rows[0]) == 7 + 3 * len(QUANTITIES)
    assert float(rows[0]["loss"]) == 0.1 + 0.2  # as exactly as that
    assert float(rows[0]["grad_rms/all"]) == points[0].rows[0, 2]
    assert float(rows[2]["lr/head"]) == points[1].options[0, 1]
    assert (rows[1]["loss"], rows[1]["acc,uracy"]) == ("inf", "0.5")  # the later value
    assert rows[1]["grad_rms/all"] == rows[1]["lr/body"] == rows[2]["loss"] == ""
    assert rows[2]["grad_rms/layer1.b"] == ""  # not measured


def test_a_logged_nan_is_in_the_csv_file(tmp_path: Path) -> None:
    store = a_store()
    store.log(1, {"loss": math.nan})
    to_csv(store.history(), tmp_path / "run.csv")
    assert table(tmp_path / "run.csv")[0]["loss"] == "nan"


def test_csv_files_of_empty_and_odd_histories(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    to_csv(a_store().history(), path)
    assert table(path) == []
    to_csv(a_run(a_store(("all", '\ud800\n"é'))), path)
    names = list(table(path)[0])
    assert {"grad_rms/all", "grad_rms/all leaves"} < set(names)
    assert os.listdir(tmp_path) == ["run.csv"]


def test_a_data_frame_draws_curves() -> None:
    pd = pytest.importorskip("pandas")
    history = a_run(steps=25)
    frame = to_pandas(history)
    assert isinstance(frame, pd.DataFrame)
    assert frame.index.name == "step"
    assert frame.index.tolist() == [1, 11, 21, 25]
    assert list(frame["grad_rms"]) == ["layer1.W", "layer1.b", "all"]
    np.testing.assert_array_equal(frame["grad_rms"]["layer1.b"][:3], history["grad_rms"][:, 1])
    np.testing.assert_array_equal(frame["lr"]["0"][:3], history.option("lr")[:, 0])
    assert np.isnan(frame["grad_rms"].loc[25]).all()
    losses = 1 / np.arange(1, 26)
    means = [losses[0], losses[1:11].mean(), losses[11:21].mean(), losses[21:].mean()]
    np.testing.assert_allclose(frame["loss"], means, rtol=1e-14)


def test_curves_of_a_data_frame_have_no_gaps() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib").use("agg")
    axes = to_pandas(a_run(steps=25))["grad_rms"].plot()
    assert len(axes.lines) == 3
    for line in axes.lines:
        assert np.isfinite(np.ma.filled(line.get_ydata()[:3], np.nan)).all()


def test_data_frames_without_points_or_values() -> None:
    pytest.importorskip("pandas")
    store = a_store()
    assert to_pandas(store.history()).shape == (0, 2 + 3 * len(QUANTITIES))
    store.log(7, {"loss": 1.0})
    assert to_pandas(store.history())["loss"].to_dict() == {7: 1.0}
    store = a_store()
    store.add([a_point(store, 1), a_point(store, 11), a_point(store, 1)])  # the later one counts
    assert to_pandas(store.history()).index.tolist() == [1, 11]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        to_pandas(a_run())


def with_values(store: Store, lr: list[float], ratio: float, reversed_: float) -> Point:
    point = a_point(store, 1)
    point.options[0] = lr
    point.rows[list(QUANTITIES).index("update_ratio"), -1] = ratio
    point.rows[list(QUANTITIES).index("reversed"), -1] = reversed_
    return point


def test_a_progress_bar_shows_the_latest_values() -> None:
    store = a_store(groups=("a", "b"))
    assert postfix(store.history()) == {}
    store.log(1, {"loss": 0.123456})
    assert postfix(store.history()) == {"loss": "0.123"}
    store.add([with_values(store, [0.01, 0.01], 1.234e-5, 0.126)])
    assert postfix(store.history()) == {
        "loss": "0.123", "lr": "0.0100", "update/param": "1.23e-05", "reversed": "13%"
    }  # fmt: skip
    store.add([with_values(store, [0.01, 0.1], math.nan, math.nan)])  # no next step yet
    assert postfix(store.history()) == {
        "loss": "0.123", "lr": "0.0100..0.100", "update/param": "1.23e-05", "reversed": "13%"
    }  # fmt: skip


def test_numbers_in_short() -> None:
    short = [number(x) for x in (0, 1, 0.99999, 123, 999.6, 12345, 1e-4, 1e-5, -2.5, 1e300)]
    assert short == [
        *("0", "1.00", "1.00", "123", "1.00e+03", "1.23e+04", "0.000100", "1.00e-05", "-2.50"),
        "1.00e+300",
    ]
    assert [number(x) for x in (math.nan, math.inf, -math.inf)] == ["nan", "inf", "-inf"]
