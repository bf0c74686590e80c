"""The live figure of a notebook: shown once, updated in place, seldom, and never in the way."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.monitor import History, Monitor
from fused_rmsprop.monitor.pictures.live import Live
from pictures_support import history
from support import run_python

pytest.importorskip("matplotlib")
interactiveshell = pytest.importorskip("IPython.core.interactiveshell")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a notebook gets, in a shell without a terminal."""
    from IPython.core.displaypub import CapturingDisplayPublisher

    shell = interactiveshell.InteractiveShell.instance()
    publisher = CapturingDisplayPublisher()
    monkeypatch.setattr(shell, "display_pub", publisher)
    yield publisher.outputs
    interactiveshell.InteractiveShell.clear_instance()


class Clock:
    """A clock that only a test moves, and drawings if they take time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, drawing: float = 0.0) -> None:
        self.now, self.drawing = 100.0, drawing
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def read(self) -> History:
        self.now += self.drawing
        return history(3, 3)


def test_the_figure_is_shown_once_and_updated_in_place(
    shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    live = Live(clock.read, 2.0)
    for _ in range(10):
        clock.now += 0.5
        live.update()
    live.close()
    assert live.closed
    live.close()
    live.update()
    assert [one["update"] for one in shown] == [False, True, True, True]
    assert len({one["transient"]["display_id"] for one in shown}) == 1
    assert all(one["data"]["image/png"].startswith("iVBOR") for one in shown)


def test_drawing_takes_a_tenth_of_the_time_at_most(
    shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fused_rmsprop.monitor.pictures.live._image", repr)
    clock = Clock(monkeypatch, drawing=3.0)
    live = Live(clock.read, 2.0)
    for _ in range(100):
        clock.now += 1.0
        live.update()
    assert 3 <= len(shown) <= 5


def test_a_monitor_updates_it_until_it_is_detached(shown: list[dict[str, Any]]) -> None:
    p = np.ones(3)
    opt = RMSProp(p, lr=0.1)
    with Monitor(opt, every=2) as monitor:
        live = monitor.live(seconds=0)
        assert "image/png" in shown[0]["data"]  # before the first step
        monitor._live._next = 0.0  # type: ignore[union-attr]
        for _ in range(4):
            opt.step(p.copy())
        assert len(shown) >= 2
        before = len(shown)
        assert not live.closed
    assert live.closed
    assert len(shown) == before + 1
    opt.step(p.copy())
    assert len(shown) == before + 1
    with pytest.raises(RuntimeError, match="detached"):
        monitor.live()


def test_another_live_figure_ends_the_first(shown: list[dict[str, Any]]) -> None:
    monitor = Monitor(RMSProp(np.ones(3)))
    first = monitor.live()
    second = monitor.live()
    assert first.closed
    assert not second.closed
    second.close()
    monitor.live().close()


def test_a_copy_of_a_monitor_has_no_live_figure(shown: list[dict[str, Any]]) -> None:
    monitor = Monitor(RMSProp(np.ones(3)))
    monitor.live()
    copied = pickle.loads(pickle.dumps(monitor))
    before = len(shown)
    copied.detach()
    assert len(shown) == before


def test_a_figure_that_cannot_be_drawn_ends_with_a_warning(
    shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    p = np.ones(3)
    opt = RMSProp(p, lr=0.1)
    monitor = Monitor(opt, every=2)
    live = monitor.live(seconds=0)
    live._next = 0.0

    def fail(_: object) -> None:
        raise ZeroDivisionError("no picture")

    monkeypatch.setattr("fused_rmsprop.monitor.pictures.live._image", fail)
    opt.step(p.copy())
    with pytest.warns(UserWarning, match="the live figure ends.*no picture"):
        opt.step(p.copy())
    assert live.closed
    before = p.copy()
    for _ in range(2):
        opt.step(p.copy())
    assert (p != before).all()
    assert len(monitor.history.steps) == 2


@pytest.mark.parametrize("seconds", [-1, float("nan"), "2"])
def test_seconds_are_checked(shown: list[dict[str, Any]], seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seconds"):
        Monitor(RMSProp(np.ones(3))).live(seconds)
    assert not shown


def test_outside_of_a_notebook_the_error_says_what_to_do() -> None:
    run_python(
        """
        import numpy as np
        from fused_rmsprop import RMSProp
        from fused_rmsprop.monitor import Monitor
        monitor = Monitor(RMSProp(np.ones(3)))
        for terminal in (False, True):
            if terminal:
                from IPython.terminal.interactiveshell import TerminalInteractiveShell
                TerminalInteractiveShell.instance()
            try:
                monitor.live()
            except RuntimeError as error:
                assert ("terminal" in str(error)) == terminal, error
                assert ".plot().savefig(" in str(error), error
            else:
                raise AssertionError
        """
    )
