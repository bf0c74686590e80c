"""A monitor's files, tables and streams, of a real training from its first step to its last."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.monitor import Monitor
from runs_support import assert_same
from support import needs


def train(monitor: Monitor, opt: RMSProp, steps: int) -> None:
    for step in range(steps):
        opt.step({"W": np.full((4, 3), 1.0 + step), "b": np.array([1.0, 0.0])})
        monitor.log(loss=1 / (1 + step))


def made() -> RMSProp:
    return RMSProp({"W": np.ones((4, 3)), "b": np.ones(2)}, lr=0.01, alpha=0.9)


def test_a_saved_monitor_comes_back(tmp_path: Path) -> None:
    opt = made()
    monitor = Monitor(opt, every=2)
    train(monitor, opt, 7)
    monitor.save(tmp_path / "run.jsonl")
    loaded = Monitor.load(tmp_path / "run.jsonl")
    assert_same(loaded.history, monitor.history)
    assert not loaded.is_observing
    assert "detached" in repr(loaded)
    assert str(loaded.report()) == str(monitor.report())
    monitor.to_csv(tmp_path / "run.csv")
    with pytest.raises(ValueError, match=r"run\.csv"):
        Monitor.load(tmp_path / "run.csv")


def test_tables_have_every_value(tmp_path: Path) -> None:
    opt = made()
    with Monitor(opt, every=2) as monitor:
        train(monitor, opt, 5)
    monitor.to_csv(tmp_path / "run.csv")
    with open(tmp_path / "run.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [float(row["grad_rms/W"]) for row in rows[::2]] == [1.0, 3.0, 5.0]
    assert rows[1]["grad_rms/W"] == ""
    assert [float(row["loss"]) for row in rows] == [1 / (1 + k) for k in range(5)]
    pandas = pytest.importorskip("pandas")
    frame = monitor.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["grad_rms"]["W"].tolist() == [1.0, 3.0, 5.0]
    assert monitor.postfix()["loss"] == "0.200"


class Writer:
    """A `SummaryWriter` that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.seen.append((tag, value, step))


def test_streams_get_each_number_at_once_and_in_order(tmp_path: Path) -> None:
    opt, writer = made(), Writer()
    seen: list[tuple[int, dict[str, float]]] = []
    path = tmp_path / "run.jsonl"

    def callback(step: int, values: dict[str, float]) -> None:
        seen.append((step, values))
        assert len(monitor.history.steps) > 0 or "loss" in values  # it may read

    monitor = Monitor(opt, every=2, path=path, writer=writer, callback=callback)
    train(monitor, opt, 6)
    assert [step for step, values in seen if "loss" in values] == [1, 2, 3, 4, 5, 6]
    assert [step for step, values in seen if "lr/0" in values] == [1, 3, 5]
    assert ("grad_rms/W", 3.0, 3) in writer.seen
    assert ("loss", 0.25, 4) in writer.seen
    following = Monitor.load(path)
    monitor.detach()
    assert_same(Monitor.load(path).history, monitor.history)
    np.testing.assert_array_equal(following.history.steps, [1, 3, 5])
    with pytest.raises(FileExistsError, match="mode='a' goes on in it"):
        Monitor(opt, path=path)
    assert not monitor.is_observing
    assert not opt._stepper.samplers


def test_a_resumed_training_goes_on_in_its_file(tmp_path: Path) -> None:
    path, opt = tmp_path / "run.jsonl", made()
    first = Monitor(opt, every=1, path=path)
    train(first, opt, 3)
    saved = opt.state_dict()
    train(first, opt, 4)
    again = made()
    again.load_state_dict(saved)
    with Monitor(again, every=1, path=path, mode="a") as second:
        train(second, again, 2)
    assert Monitor.load(path).history.steps.tolist() == [1, 2, 3, 4, 5]


def test_streams_that_are_none_are_refused_and_nothing_is_observed(tmp_path: Path) -> None:
    opt = made()
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"callback": 3}, TypeError, "callback must be a function of a step and a dict, got 3"),
        ({"writer": print}, TypeError, r"writer must have add_scalar\(tag, value, step\)"),
        ({"path": tmp_path / "no" / "run.jsonl"}, OSError, "run.jsonl"),
        ({"path": tmp_path / "run.jsonl", "mode": "r"}, ValueError, "mode must be 'x', 'a' or 'w'"),
        ({"mode": "r"}, ValueError, "mode must be 'x', 'a' or 'w'"),
        ({"mode": "a"}, ValueError, "mode='a' needs a file: path='run.jsonl', mode='a'"),
        ({"mode": "w"}, ValueError, "mode='w' needs a file"),
        ({"path": tmp_path}, OSError, "is a folder"),
    ]
    for arguments, error, message in bad:
        with pytest.raises(error, match=message):
            Monitor(opt, **arguments)
        assert not opt._stepper.samplers
    assert not list(tmp_path.iterdir())


def test_a_stream_that_fails_ends_and_nothing_else_does(tmp_path: Path) -> None:
    opt = made()

    def failing(step: int, values: dict[str, float]) -> None:
        if step == 3:
            raise ConnectionError("offline")

    monitor = Monitor(opt, every=1, callback=failing, path=tmp_path / "run.jsonl")
    with pytest.warns(RuntimeWarning, match=r"failing failed \(ConnectionError: offline\)") as seen:
        train(monitor, opt, 6)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert opt.step_count == 6
    monitor.detach()
    assert Monitor.load(tmp_path / "run.jsonl").history.steps.tolist() == [1, 2, 3, 4, 5, 6]


def test_another_thread_saves_while_the_training_goes_on(tmp_path: Path) -> None:
    opt, errors, done = made(), list[BaseException](), threading.Event()
    monitor = Monitor(opt, every=1, path=tmp_path / "stream.jsonl")

    def save() -> None:
        try:
            while not done.is_set():
                monitor.save(tmp_path / "run.jsonl")
                saved = Monitor.load(tmp_path / "run.jsonl").history
                assert (np.diff(saved.steps) > 0).all()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    train(monitor, opt, 200)
    done.set()
    thread.join()
    monitor.detach()
    assert not errors
    assert Monitor.load(tmp_path / "stream.jsonl").history.steps.tolist() == [*range(1, 201)]


def test_a_figure_is_drawn() -> None:
    needs("matplotlib")
    opt = made()
    with Monitor(opt, every=2) as monitor:
        train(monitor, opt, 7)
    titles = {axes.get_title(loc="left") for axes in monitor.plot().axes}
    assert {"logged values", "effective learning rate", "successive updates"} <= titles
