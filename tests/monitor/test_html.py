"""What notebooks show of optimizers, their state and monitors: short, escaped, never an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, schedules
from fused_rmsprop.monitor import Finding, Monitor, Report
from fused_rmsprop.monitor.pictures.html import monitor_html
from pictures_support import history

HOSTILE = "<script>alert('1')</script>&amp;"


class Reader(HTMLParser):
    """Reads the cells of tables, and checks that each tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, _: Any) -> None:
        self.tags.add(tag)
        if tag == "img":
            return
        self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def read(shown: Any) -> Reader:
    text = shown._repr_html_()
    assert isinstance(text, str)
    reader = Reader(text)
    assert reader.tags <= {"div", "strong", "table", "tr", "th", "td", "ul", "li", "img"}
    # A theme has the colours.
    assert not re.search(r"#[0-9a-f]{3}|rgb|background", text.split("base64")[0])
    return reader


def an_optimizer() -> RMSProp:
    params = {"layer1": {"W": np.ones((300, 40)), "b": np.ones(40)}, HOSTILE: np.ones(3, "f4")}
    lr = schedules.Cosine(0.1, transition_steps=500)
    opt = RMSProp(params, lr=lr, momentum=0.5, max_grad_norm=1.0)
    opt.step({"layer1": {"W": np.ones((300, 40)), "b": None}, HOSTILE: np.ones(3, "f4")})
    opt.freeze("layer1.b")
    return opt


def test_an_optimizer_shows_its_options_arrays_and_steps() -> None:
    opt = an_optimizer()
    reader = read(opt)
    assert reader.text.startswith("RMSProp · 1 step · 192,664 bytes of state · max_grad_norm=1.0")
    (header, group), state = reader.tables
    assert header == ["options", "arrays", "elements", "frozen"]
    cosine = f"lr={opt.param_groups[0]['lr']!r}"
    assert group == [f"{cosine}, alpha=0.99, eps=1e-08, momentum=0.5", "3", "12,043", "1"]
    assert state == [
        ["name", "shape", "dtype", "state", "bytes", "step", "frozen"],
        ["layer1.W", "(300, 40)", "float64", "square_avg, momentum_buffer", "192,000", "1", ""],
        ["layer1.b", "(40,)", "float64", "square_avg, momentum_buffer", "640", "0", "frozen"],
        [HOSTILE, "(3,)", "float32", "square_avg, momentum_buffer", "24", "1", ""],
    ]


def test_parts_of_an_optimizer_look_the_same() -> None:
    opt = an_optimizer()
    whole = read(opt).tables
    group = read(opt.param_groups[0])
    assert group.tables == whole
    assert group.text.startswith("ParamGroup · 192,664 bytes of state")
    state = read(opt.state)
    assert state.text.startswith("state of 3 parameters")
    assert state.tables == [[row[:-1] for row in whole[1]]]
    one = read(opt.state["layer1.W"])
    assert one.text.startswith("state of 'layer1.W' · 1 step")
    assert one.tables[0][1:] == [
        ["square_avg", "(300, 40)", "float64", "96,000"],
        ["momentum_buffer", "(300, 40)", "float64", "96,000"],
    ]


def test_groups_have_names_and_long_tables_an_end() -> None:
    trunk = {"params": {f"p{i}": np.ones(2) for i in range(500)}, "name": "trunk", "lr": 1e-4}
    opt = RMSProp([trunk, {"params": [np.zeros(3)], "centered": True}])
    groups, state = read(opt).tables
    assert [row[0] for row in groups] == ["group", "trunk", "1"]
    assert groups[1][1] == "lr=0.0001, alpha=0.99, eps=1e-08"
    assert len(state) == 22
    assert state[-1] == ["... and 481 more"]
    assert len(opt._repr_html_() or "") < 20_000
    assert read(opt.param_groups[0]).text.startswith("ParamGroup 'trunk'")
    many = RMSProp([{"params": np.ones(1)} for _ in range(100)])
    assert read(many).tables[0][-1] == ["... and 80 more"]


def test_an_empty_state_can_be_shown() -> None:
    opt = RMSProp([{"params": [np.ones(1)]}, {"params": {}}])
    assert read(opt.param_groups[1])
    assert read(opt.param_groups[1].state).text.startswith("state of 0 parameters")


def test_an_error_leaves_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise ZeroDivisionError

    opt, monitor = an_optimizer(), Monitor(an_optimizer())
    monkeypatch.setattr("fused_rmsprop.introspection.html.escaped", fail)
    monkeypatch.setattr("fused_rmsprop.monitor.pictures.html.paragraph", fail)
    for one in (opt, opt.param_groups[0], opt.state, opt.state["layer1.W"], monitor):
        assert one._repr_html_() is None
        assert len(repr(one)) > 20


def test_an_optimizer_in_use_can_be_shown() -> None:
    opt = RMSProp(np.ones(3), ema_decay=0.9)
    opt.step(np.ones(3))
    with opt.use_ema():
        assert read(opt).tables
    with opt.leafwise():
        assert opt._repr_html_() is None or read(opt).tables


def test_an_optimizer_of_torch_looks_the_same() -> None:
    torch = pytest.importorskip("torch")
    from fused_rmsprop.torch import RMSprop

    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 1))
    model[0].bias.requires_grad = False
    groups = [
        {"params": [*model[0].named_parameters()]},
        {"params": [(HOSTILE, model[1].weight), ("b", model[1].bias)], "lr": torch.tensor(0.5)},
    ]
    opt = RMSprop(groups, momentum=0.9, max_grad_norm=1)
    model(torch.ones(4, 8)).sum().backward()
    opt.step()
    reader = read(opt)
    assert reader.text.startswith("RMSprop · 1,160 bytes of state · max_grad_norm=1.0")
    first, second = reader.tables
    assert first[1:] == [
        ["0", "lr=0.01, momentum=0.9, alpha=0.99, eps=1e-08", "2", "144"],
        ["1", "lr=0.5, momentum=0.9, alpha=0.99, eps=1e-08", "2", "17"],
    ]
    assert [row[0] for row in second[1:]] == ["weight", "bias", HOSTILE, "b"]
    assert second[1][1:] == [
        *("(16, 8)", "torch.float32", "cpu", "square_avg, momentum_buffer", "1,024", "1", ""),
    ]
    assert second[2][1:] == ["(16,)", "torch.float32", "cpu", "", "", "", "frozen"]
    assert [repr(opt)] == [f"{opt}"]


def test_a_lazy_or_nameless_parameter_of_torch_can_be_shown() -> None:
    torch = pytest.importorskip("torch")
    from fused_rmsprop.torch import RMSprop

    opt = RMSprop([torch.nn.UninitializedParameter(), torch.zeros(2, requires_grad=True)])
    rows = read(opt).tables[1]
    assert [row[:2] for row in rows[1:]] == [
        ["param_groups[0]['params'][0]", "lazy"],
        ["param_groups[0]['params'][1]", "(2,)"],
    ]


def test_a_monitor_shows_findings_the_latest_values_and_the_picture() -> None:
    pytest.importorskip("matplotlib")
    recorded = history(log=("loss", HOSTILE))
    report = Report([Finding("rule", HOSTILE, "its gradient < 1e-9 vanishes")])
    text = monitor_html(recorded, report, True)
    reader = Reader(text)
    assert "script" not in reader.tags
    assert reader.text.startswith("Monitor · steps 1 to 291")
    assert f"{HOSTILE}: its gradient < 1e-9 vanishes" in reader.text
    rows = {row[0]: row[1] for row in reader.tables[0]}
    assert rows["loss"] == f"{recorded.logged['loss'].values[-1]:.4g}"
    assert rows["grad_rms"] == f"{recorded.total('grad_rms')[-1]:.4g}"
    assert "src='data:image/png;base64,iVBOR" in text
    assert "nothing unusual" in Reader(monitor_html(recorded, Report(), True)).text


def test_a_monitor_can_be_shown_from_the_first_moment_to_the_last() -> None:
    p = np.ones(3)
    opt = RMSProp(p)
    monitor = Monitor(opt, every=2)
    assert "nothing observed yet" in read(monitor).text
    for _ in range(4):
        opt.step(p.copy())
        assert "Monitor · steps 1" in read(monitor).text or len(monitor.history.steps) < 1
    monitor.detach()
    assert "Monitor · detached · steps 1 to 3" in read(monitor).text


def test_without_matplotlib_a_monitor_is_shown_without_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> bytes:
        raise ImportError

    monkeypatch.setattr("fused_rmsprop.monitor.pictures.html.png", fail)
    text = monitor_html(history(), None, True)
    assert "img" not in Reader(text).tags
    assert "update_rms" in text


def test_a_notebook_takes_the_html() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    show: Callable[[object], str | None] = formatters.HTMLFormatter()
    assert "layer1.W" in (show(an_optimizer()) or "")
