"""Streams get each point and each logged value at once, and never stop a training."""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop.monitor.files.run_file import Reader, read
from fused_rmsprop.monitor.files.streams import FileStream, ScalarStream, Streams, writer_stream
from fused_rmsprop.monitor.history import QUANTITIES, Point
from runs_support import a_point, a_run, a_store, assert_same


def test_a_callback_gets_points_and_logged_values_by_their_tags() -> None:
    store, calls = a_store(groups=("a", "b")), []
    stream = ScalarStream(store, lambda step, values: calls.append((step, values)))
    point = a_point(store, 11)
    point.rows[0, 0] = math.nan
    stream.point(point)
    stream.log(12, {"val/loss": math.nan})
    stream.close()
    (step, values), logged = calls
    assert step == 11
    assert list(values)[:4] == ["lr/a", "lr/b", "alpha/a", "alpha/b"]
    assert values["lr/b"] == point.options[0, 1]
    assert values["grad_rms/layer1.b"] == point.rows[0, 1]
    assert values["effective_lr_p95/all"] == point.rows[-1, -1]
    assert "grad_rms/layer1.W" not in values  # not measured
    assert len(values) == 4 + 3 * len(QUANTITIES) - 1
    assert all(type(value) is float for value in values.values())
    assert logged[0] == 12
    assert math.isnan(logged[1]["val/loss"])


def test_tensorboard_reads_what_was_sent(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages among each other
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        tensorboard = pytest.importorskip("torch.utils.tensorboard")
        store = a_store()
        with tensorboard.SummaryWriter(str(tmp_path)) as writer:
            stream = writer_stream(store, writer)
            points = [a_point(store, 1), a_point(store, 11)]
            for point in points:
                stream.point(point)
            stream.log(11, {"loss": 0.5})
        events = EventAccumulator(str(tmp_path), {"scalars": 0})
        events.Reload()
        found = events.Scalars("grad_rms/layer1.W")
        assert [event.step for event in found] == [1, 11]
        expected = [np.float32(point.rows[0, 0]) for point in points]
        assert [event.value for event in found] == expected
        assert [(e.step, e.value) for e in events.Scalars("loss")] == [(11, 0.5)]
        assert len(events.Tags()["scalars"]) == 1 + 2 + 3 * len(QUANTITIES)


class Failing:
    """A stream that raises at the third call; its methods count the calls."""

    def __init__(self, error: BaseException) -> None:
        self.calls, self._error = 0, error

    def __str__(self) -> str:
        return "writer=Failing"

    def point(self, point: Point) -> None:
        self.calls += 1
        if self.calls == 3:
            raise self._error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.point(a_point(a_store(), step))

    def close(self) -> None:
        self.point(a_point(a_store(), 1))


def test_a_stream_that_fails_is_dropped_with_a_warning() -> None:
    store, calls = a_store(), list[int]()
    failing = Failing(OSError("disk full"))
    streams = Streams([failing, ScalarStream(store, lambda step, values: calls.append(step))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        streams.point(a_point(store, 1))
        streams.log(1, {"loss": 1.0})
    with pytest.warns(RuntimeWarning) as caught:
        streams.point(a_point(store, 2))
    assert [str(one.message) for one in caught] == [
        "writer=Failing failed (OSError: disk full): the monitor sends it nothing more, and goes "
        "on without it"
    ]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        streams.log(3, {"loss": 1.0})
        assert len(streams) == 1
        streams.close()
    assert calls == [1, 1, 2, 3]
    assert failing.calls == 3
    assert len(streams) == 0


def test_a_warning_that_is_an_error_comes_when_all_have_been_served() -> None:
    store, calls = a_store(), list[int]()
    last = ScalarStream(store, lambda step, values: calls.append(step))
    streams = Streams([ScalarStream(store, lambda step, values: 1 / 0), last])
    with pytest.raises(RuntimeWarning, match="callback=.*lambda.* failed .ZeroDivisionError"):
        streams.point(a_point(store, 1))
    streams.point(a_point(store, 2))
    assert calls == [1, 2]


def test_an_interrupt_passes_and_drops_nothing() -> None:
    failing = Failing(KeyboardInterrupt())
    streams = Streams([failing])
    streams.log(1, {})
    streams.log(2, {})
    with pytest.raises(KeyboardInterrupt):
        streams.log(3, {})
    streams.log(4, {})
    assert failing.calls == 4


def test_a_stream_that_fails_to_close_warns() -> None:
    failing = Failing(ValueError("late"))
    failing.calls = 2
    with pytest.warns(RuntimeWarning, match="ValueError: late"):
        Streams([failing]).close()


def test_a_file_has_each_line_at_once(tmp_path: Path) -> None:
    path, store = tmp_path / "run.jsonl", a_store()
    stream = FileStream(store, path)
    assert not read(path).logged
    store.add([a_point(store, 1)])
    stream.point(a_point(store, 1))
    assert_same(read(path), store.history())
    store.log(2, {"loss": math.nan, "bound": -math.inf})
    stream.log(2, {"loss": math.nan, "bound": -math.inf})
    assert_same(read(path), store.history())
    stream.close()
    reader = Reader(path)
    reader.poll()
    assert reader.ended


def test_a_file_is_replaced_only_if_that_is_wanted(tmp_path: Path) -> None:
    path, store = tmp_path / "run.jsonl", a_store()
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(FileExistsError, match="mode='a' goes on in it, mode='w' replaces it"):
        FileStream(store, path)
    with pytest.raises(ValueError, match="run.jsonl' has no complete line"):
        FileStream(store, path, "a")
    path.write_text("precious\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: this is not JSON"):
        FileStream(store, path, "a", step=3)
    assert path.read_text(encoding="utf-8") == "precious\n"
    FileStream(store, path, "w").point(a_point(store, 1))
    assert read(path).steps.tolist() == [1]
    FileStream(store, tmp_path / "new.jsonl", "a").close()
    assert len(read(tmp_path / "new.jsonl").steps) == 0
    path.write_bytes(b"")
    FileStream(store, path, "a", step=3)
    assert len(read(path).steps) == 0
    with pytest.raises(FileNotFoundError):
        FileStream(store, tmp_path / "missing" / "run.jsonl")


def test_a_line_that_a_killed_training_left_incomplete_is_cut_off(tmp_path: Path) -> None:
    path, store = tmp_path / "run.jsonl", a_store()
    stream = FileStream(store, path)
    stream.log(1, {"loss": 1.0})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 2, "logg')
    FileStream(store, path, "a", step=1).log(2, {"loss": 2.0})
    assert path.read_bytes().startswith(whole + b'{"format"')
    assert read(path).logged["loss"].values.tolist() == [1, 2]


def test_a_file_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    path, store = tmp_path / "run.jsonl", a_store()
    streams = Streams([FileStream(store, path)])
    path.unlink()
    with pytest.warns(RuntimeWarning, match="path=.*run.jsonl' failed .FileNotFoundError"):
        streams.log(1, {"loss": 1.0})
    assert not path.exists()


def test_a_stream_drops_a_file_that_another_one_appends_to(tmp_path: Path) -> None:
    path, store = tmp_path / "run.jsonl", a_store()
    first = Streams([FileStream(store, path)])
    first.log(1, {"loss": 1.0})
    second = FileStream(store, path, "a", step=1)
    with pytest.warns(RuntimeWarning, match=r"ValueError: another monitor or program writes to"):
        first.log(2, {"loss": 2.0})
    assert len(first) == 0
    second.log(2, {"loss": 3.0})
    second.close()
    assert read(path).logged["loss"].values.tolist() == [1, 3]


def test_an_interrupted_line_does_not_end_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.FileIO):
        def write(self, line: Any, /) -> int:
            super().write(line)
            raise KeyboardInterrupt

    path = tmp_path / "run.jsonl"
    stream = FileStream(a_store(), path)
    with monkeypatch.context() as patched:
        patched.setattr("fused_rmsprop.monitor.files.streams.open", Interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            stream.log(1, {"loss": 1.0})
    stream.log(2, {"loss": 2.0})
    assert read(path).logged["loss"].steps.tolist() == [1, 2]


def test_threads_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    stream = FileStream(a_store(), path)

    def log(name: str) -> None:
        for step in range(1, 101):
            stream.log(step, {name: 1.0})

    threads = [threading.Thread(target=log, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(read(path).logged[name].steps) for name in "abc"] == [100] * 3


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for mode in ("x", "a", "w"):
        with pytest.raises(
            IsADirectoryError, match=r"is a folder: name a file in it, such as .*run"
        ):
            FileStream(a_store(), tmp_path, mode)
    assert not list(tmp_path.iterdir())


def test_a_stream_keeps_its_file_when_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    stream = FileStream(a_store(), "run.jsonl")
    monkeypatch.chdir(tmp_path / "other")
    stream.log(1, {"loss": 1.0})
    assert list(read(tmp_path / "run.jsonl").logged) == ["loss"]


def test_a_saved_history_goes_on_as_a_stream(tmp_path: Path) -> None:
    from fused_rmsprop.monitor.files.run_file import write

    path, store = tmp_path / "run.jsonl", a_store()
    write(a_run(store), path)
    stream = FileStream(store, path, "a", step=30)
    stream.point(a_point(store, 31))
    assert read(path).steps.tolist() == [1, 11, 21, 31]


def test_constants_are_plain_values(tmp_path: Path) -> None:
    values: dict[str, Any] = {"a": [np.float32(0.5), None, True], "b": {"c": np.arange(2)}}
    store = a_store()
    store.constants = values | {"d": (1, "x", math.inf)}
    FileStream(store, tmp_path / "run.jsonl")
    assert read(tmp_path / "run.jsonl").constants == {
        "a": [0.5, None, True], "b": {"c": [0, 1]}, "d": [1, "x", math.inf]
    }  # fmt: skip
    store.constants = {"a": object()}
    with pytest.raises(TypeError, match="plain values"):
        FileStream(store, tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()
