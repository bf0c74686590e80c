"""The command that shows a training in the terminal."""

from __future__ import annotations

import dataclasses
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fused_rmsprop.__main__ import main
from fused_rmsprop.monitor.files.run_file import write
from fused_rmsprop.monitor.files.streams import FileStream
from fused_rmsprop.monitor.rules import report
from history_support import healthy, with_loss
from runs_support import a_point, a_run, a_store
from support import needs_posix, run_python

pytest.importorskip("rich")
pytest.importorskip("uniplot")


@pytest.fixture(autouse=True)
def size(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def set_size(columns: int, lines: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))

    set_size(80, 24)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return set_size


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (160, 48), (30, 12), (200, 15)])
def test_curves_fit_the_terminal(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    size: Callable[[int, int], None],
    columns: int,
    lines: int,
) -> None:
    size(columns, lines)
    path = tmp_path / "run.jsonl"
    write(a_run(steps=200), path)
    assert main(["watch", "--once", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out  # plain
    shown = out.splitlines()
    assert len(shown) <= lines - 1
    assert max(map(len, shown)) <= columns
    assert "loss 0.00500" in out
    if columns >= 80:
        for title in ("lr 0.", "gradient rms", "update rms", "effective lr", "reversed"):
            assert title in out
    if columns == 160:
        assert len(shown) >= 44  # all of the screen
        assert shown[0].startswith("step 200, closed, 2 leaves, 24 elements, ")


def test_a_file_without_points_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.jsonl"
    FileStream(a_store(), path)
    assert main(["watch", "--once", str(path)]) == 0
    assert "no step was observed yet" in capsys.readouterr().out


def test_it_waits_for_a_file_and_follows_it_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = tmp_path / "run.jsonl", a_store()

    def train() -> None:
        time.sleep(0.1)
        stream = FileStream(store, path)
        for step in (1, 11, 21):
            stream.point(a_point(store, step))
            stream.log(step, {"loss": 1 / step})
            time.sleep(0.05)
        stream.close()

    training = threading.Thread(target=train)
    training.start()
    assert main(["watch", "--seconds", "0.01", str(path)]) == 0
    training.join()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"waiting for {path}")
    assert "step 1: loss=1.00, lr=" in "\n".join(out)
    assert out[-1].startswith("step 21: loss=0.0476, lr=")


def test_an_interrupt_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> NoReturn:
        raise KeyboardInterrupt

    FileStream(a_store(), tmp_path / "run.jsonl").log(1, {"loss": 0.5})
    monkeypatch.setattr(time, "sleep", interrupted)
    assert main(["watch", str(tmp_path / "run.jsonl")]) == 0
    assert capsys.readouterr().out == "step 1: loss=0.500\n"


def a_terminal() -> tuple[int, int]:
    """Both ends of a pseudo-terminal."""
    import pty  # not on Windows

    try:
        return pty.openpty()
    except OSError as error:
        pytest.skip(f"there are no pseudo-terminals here: {error}")


@needs_posix
def test_in_a_terminal_it_fills_the_screen_and_leaves_the_last_curves(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(a_run(), path)
    outer, inner = a_terminal()
    command = [sys.executable, "-m", "fused_rmsprop", "watch", str(path)]
    with subprocess.Popen(
        command,
        stdout=inner,
        stderr=inner,
        env=os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
    ) as process:
        os.close(inner)
        out = b""
        while True:
            try:
                chunk = os.read(outer, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not chunk:
                break
            out += chunk
    os.close(outer)
    assert process.returncode == 0
    screen, left = out.decode().split("\x1b[?1049l")  # the end of the alternate screen
    assert "\x1b[?1049h" in screen
    assert "effective lr" in screen
    assert "effective lr" in left


@needs_posix
def test_the_screen_is_cleared_when_its_size_changes(tmp_path: Path) -> None:
    import fcntl
    import struct
    import termios

    path = tmp_path / "run.jsonl"
    FileStream(a_store(), path).log(1, {"loss": 1.0})
    outer, inner = a_terminal()

    def set_size(columns: int, lines: int) -> None:
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    set_size(80, 24)
    command = [sys.executable, "-m", "fused_rmsprop", "watch", "--seconds", "0.05", str(path)]
    env = os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    for name in ("COLUMNS", "LINES"):
        env.pop(name, None)
    with interruptible(command, inner, env) as process:
        out = read_until(outer, r"1\.00")
        assert "\x1b[2J" not in out
        set_size(60, 20)
        read_until(outer, re.escape("\x1b[2J"))
        read_until(outer, re.escape("\x1b[?1049l"), lambda: process.send_signal(signal.SIGINT))
    os.close(inner)
    os.close(outer)


@contextmanager
def interruptible(
    command: list[str], terminal: int, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a terminal, which SIGINT ends even where the tests ignore it; killed at last."""
    process = subprocess.Popen(
        command,
        stdout=terminal,
        stderr=terminal,
        stdin=terminal,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def read_until(descriptor: int, pattern: str, ask: Callable[[], None] | None = None) -> str:
    """Read from a terminal until a text has appeared, which is asked for every five seconds.

    (Python drops a KeyboardInterrupt that comes in the middle of a finalizer.)
    """
    out = b""
    started = asked = time.monotonic()
    if ask is not None:
        ask()
    while not re.search(pattern, text := out.decode(errors="replace")):
        now = time.monotonic()
        assert now - started < 60, text
        if ask is not None and now - asked > 5:
            ask()
            asked = now
        if select.select([descriptor], [], [], 1)[0]:
            out += os.read(descriptor, 65536)
    return text


def test_errors_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.jsonl"
    assert main(["watch", "--once", str(path)]) == 1
    assert "watch: [Errno 2] No such file or directory" in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "missing" / "run.jsonl")]) == 1
    assert "watch: there is no folder" in capsys.readouterr().err
    path.write_text("hello\n", encoding="utf-8")
    assert main(["watch", str(path)]) == 1
    assert "run.jsonl', line 1: this is not JSON" in capsys.readouterr().err
    for seconds in ("0", "-1", "nan", "inf", "x"):
        with pytest.raises(SystemExit, match="2"):
            main(["watch", "--seconds", seconds, str(path)])


@pytest.mark.parametrize("module", ["rich", "uniplot"])
def test_without_the_extra_it_says_what_to_install(module: str) -> None:
    done = run_python(
        f"""
        import sys
        sys.modules[{module!r}] = None
        from fused_rmsprop.__main__ import main
        sys.exit(main(["watch", "--once", "run.jsonl"]))
        """,
        check=False,
    )
    assert done.returncode == 1
    install = r"; run pip install 'fused-rmsprop\[watch\]'\n"
    assert re.fullmatch(rf"watch needs the module {module}[.\w]*{install}", done.stderr)


@given(
    values=st.lists(st.floats() | st.sampled_from([0.0, 1.0, 1e308, 5e-324]), max_size=9),
    width=st.integers(10, 200),
    height=st.integers(1, 60),
)
@example(values=[1e308, -1e308], width=80, height=24)
def test_any_numbers_can_be_drawn_in_any_size(values: list[float], width: int, height: int) -> None:
    from fused_rmsprop.monitor.terminal.screen import picture

    history = healthy(points=len(values), every=1)
    wild = np.array(values).reshape(-1, 1, 1)
    history = dataclasses.replace(
        with_loss(history, values),
        rows=np.broadcast_to(wild, history.rows.shape),
        option_values=np.broadcast_to(wild, history.option_values.shape),
    )
    lines = picture(history, "heading", width, height).plain.split("\n")
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("heading")


def test_panels_without_numbers_are_left_out(tmp_path: Path) -> None:
    from fused_rmsprop.monitor.terminal.screen import picture

    history = dataclasses.replace(a_run(), rows=np.full_like(a_run().rows, np.nan))
    text = picture(history, "", 160, 48).plain
    assert "loss" in text
    assert "gradient" not in text


def test_panels_that_do_not_fit_are_counted() -> None:
    from fused_rmsprop.monitor.terminal.screen import picture

    history = a_run(steps=200)
    titles = ("loss 0", "lr 0", "gradient rms", "update rms", "effective lr", "reversed")
    for width, height in ((50, 20), (80, 24), (30, 12), (200, 15), (20, 5), (160, 48)):
        lines = picture(history, "", width, height).plain.split("\n")
        missing = sum(not any(title in line for line in lines) for title in titles)
        counts = re.findall(r"\((\d+) more panels?", "\n".join(lines))
        assert counts == [str(missing)] * (missing > 0)
        assert len(lines) <= height
    assert missing == 0


def test_the_report_stands_below_the_curves() -> None:
    from fused_rmsprop.monitor.terminal.screen import picture

    history = with_loss(healthy(), np.nan)
    (finding,) = report(history)
    for width, height in ((160, 48), (40, 30)):
        lines = [line.rstrip() for line in picture(history, "", width, height).plain.split("\n")]
        below = next(i for i, line in enumerate(lines) if line.startswith("- "))
        shown = " ".join(line.strip() for line in lines[below:])
        assert shown == f"- {finding}"
        assert len(lines) <= height


def test_a_long_report_leaves_room_for_curves() -> None:
    from fused_rmsprop.monitor.terminal.screen import picture

    history = with_loss(healthy(), np.nan)
    lines = picture(history, "", 26, 12).plain.split("\n")
    assert sum(line.startswith("  ... and ") for line in lines) == 1
    assert any("─" in line for line in lines)


def test_curves_are_shown_without_a_report_if_that_fails() -> None:
    from fused_rmsprop.monitor.terminal.screen import picture

    history = dataclasses.replace(healthy(), constants={})  # of a damaged file
    history = dataclasses.replace(history, option_names=("a", "b", "c", "d"))
    text = picture(history, "", 160, 48).plain
    assert "- no report (" in text
    assert "gradient rms 0.0100" in text
