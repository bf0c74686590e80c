"""What a training logs: numbers with names, from any thread."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.monitor import Monitor


def test_what_is_logged_are_numbers() -> None:
    opt = RMSProp(np.ones(3))
    monitor = Monitor(opt)
    monitor.log(loss=1.0)
    opt.step(np.ones(3))
    monitor.log({"val/loss": np.float32(2.0)}, loss=np.array([0.5]))
    for bad in ("0.5", None, np.ones(2), np.ones(0), 1j):
        with pytest.raises(TypeError, match="loss must be a number"):
            monitor.log(accuracy=1.0, loss=bad)
    logged = monitor.history.logged
    assert list(logged) == ["loss", "val/loss"]
    assert logged["loss"].steps.tolist() == [0, 1]
    assert logged["loss"].values.tolist() == [1.0, 0.5]
    with pytest.raises(TypeError, match="names of logged values are str"):
        monitor.log({1: 2.0})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"values need names: log\(loss=1.0\), got 2.0"):
        monitor.log(2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got 6 of them: log loss\.mean\(\), say"):
        monitor.log(loss=np.ones((2, 3)))
    monitor.detach()
    with pytest.raises(RuntimeError, match="the monitor is detached"):
        monitor.log(loss=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a logged value needs a name"),
        ("step", "leave step out: the monitor knows how many steps"),
        ("lr", "'lr' cannot be logged: the monitor records lr itself; take another name"),
        ("lr/0", "the monitor records lr itself"),
        ("momentum", "the monitor records momentum itself"),
        ("grad_rms/W", "the monitor records grad_rms itself"),
        ("reversed", "the monitor records reversed itself"),
    ],
)
def test_names_of_the_monitor_cannot_be_logged(name: str, message: str) -> None:
    monitor = Monitor(RMSProp(np.ones(3)))
    with pytest.raises(ValueError, match=message):
        monitor.log({"loss": 1.0, name: 1.0})
    assert not monitor.history.logged
    monitor.log({"lr_of_body": 1.0, "val/lr": 1.0, "steps": 1.0})
    assert list(monitor.history.logged) == ["lr_of_body", "val/lr", "steps"]


def test_threads_log_while_another_reads() -> None:
    monitor, done = Monitor(RMSProp(np.ones(3)), max_points=10_000), threading.Event()
    errors = list[BaseException]()

    def log(first: int) -> None:
        try:
            for value in range(first, first + 2000):
                monitor.log(loss=float(value))
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        while not done.is_set():
            assert len(monitor.history.logged) <= 1

    writers = [threading.Thread(target=log, args=(2000 * i,)) for i in range(4)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not errors
    assert sorted(monitor.history.logged["loss"].values) == [*range(8000)]


def test_many_values_may_be_logged_at_once() -> None:
    monitor = Monitor(RMSProp(np.ones(3)))
    for _ in range(2):
        monitor.log({f"of_{i}": float(i) for i in range(3000)})
    logged = monitor.history.logged
    assert len(logged) == 3000
    assert logged["of_2999"].values.tolist() == [2999.0, 2999.0]


def test_names_are_known_by_what_they_are() -> None:
    monitor = Monitor(RMSProp(np.ones(3)))
    for value in range(3000):  # each name is a new object, and not all numbers are floats
        monitor.log({"".join(["val", "/loss"]): value}, **{"".join(["lo", "ss"]): float(value)})
    logged = monitor.history.logged
    assert list(logged) == ["val/loss", "loss"]
    for series in logged.values():
        assert series.steps.tolist() == [0] * 750
        assert series.values.tolist() == [4 * i + 1.5 for i in range(750)]  # means of four
