"""The command line, its demo, and the examples in docstrings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fused_rmsprop
from fused_rmsprop.__main__ import main


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    config = fused_rmsprop.show_config("dicts")
    assert fused_rmsprop.__version__ in out
    assert config["compiler"] in out
    assert re.search(rf"in use +{config['instruction_sets']['in_use']}\b", out)
    assert "default threads" in out
    assert re.search(rf"plan +{config['plan']['forced'] or 'measured'}", out)
    for dtype, ns in config["plan"]["nanoseconds"].items():
        shown = ns["refined"] > 0 and "quotient" not in config["plan"]["forced"]
        assert (f"{dtype} in cache" in out) == shown
        assert (ns["refined"] > 0) == (ns["division"] > 0)


def test_show_config_refuses_other_modes() -> None:
    with pytest.raises(ValueError, match="'stdout' or 'dicts', got 'json'"):
        fused_rmsprop.show_config("json")  # type: ignore[call-overload]


@pytest.mark.slow
def test_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    assert main(["demo", "--out", str(picture)]) == 0
    captured = capsys.readouterr()
    match = re.search(r"test accuracy +([\d.]+)%", captured.out)
    assert match
    assert float(match[1]) >= 97
    assert "bit-identical" in captured.out
    assert "parameters         301,066" in captured.out
    assert captured.out.endswith("report             nothing unusual was seen\n")
    assert "loss=" in captured.err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_demo_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    argv = ["demo", "--epochs", "2", "--seed", "3", "--threads", "2", "--out", str(picture)]
    assert main(argv) == 0
    assert "bit-identical" in capsys.readouterr().out
    for bad, message in [
        (["--out", str(tmp_path / "missing" / "demo.png")], "there is no folder"),
        (["--out", "demo.jpeg"], "does not end with .png"),
        (["--epochs", "0"], "not at least 1"),
        (["--threads", "x"], "invalid positive_int value"),
        (["--seed", "-1"], "not from 0"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            main(["demo", *bad])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([])
