"""The pages are true: their examples run and print what they say, their links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.monitor import Monitor

ROOT = Path(__file__).parent.parent
DOCS = [page for folder in ("docs", "docs/start") for page in sorted((ROOT / folder).glob("*.md"))]
PAGES = [*DOCS, *(ROOT.glob("*.md")), ROOT / "bench/README.md", ROOT / "examples/README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_examples_run_and_print_what_they_say(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in blocks(page, "python"):
        for module in ("cffi", "mpi4py", "numba", "scipy", "torch"):
            if re.search(rf"^(import|from) {module}\b", example, re.MULTILINE):
                pytest.importorskip(module)
        exec(example, names)
        said = re.findall(r"^\s*print\(.*\)  # (.+)$", example, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == said


def test_the_page_on_monitoring_shows_the_report_that_its_example_prints() -> None:
    page = ROOT / "docs/monitoring.md"
    names: dict[str, object] = {}
    exec(blocks(page, "python")[0], names)
    assert blocks(page, "text")[0] == f"{names['report']}\n"


def test_the_page_on_files_shows_the_lines_of_a_run(tmp_path: Path) -> None:
    text = blocks(ROOT / "docs/monitoring-files.md", "text")[0]
    text = text.replace(", ...", "").replace("\n ", " ")
    shown = [json.loads(line) for line in text.splitlines()]
    params = {"W": np.zeros((64, 10), np.float32), "b": np.zeros(10, np.float32)}
    opt = RMSProp(params, lr=0.01)
    with Monitor(opt, path=tmp_path / "run.jsonl") as monitor:
        for loss in 2.3, 2.2:
            opt.step({name: np.ones_like(value) for name, value in params.items()})
            monitor.log(loss=loss)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [list(line) for line in shown] == [list(line) for line in lines]
    for line, real in zip(shown, lines, strict=True):
        if "quantities" not in line:
            assert line == real
    assert shown[0]["leaves"] == lines[0]["leaves"]
    assert shown[0]["constants"].items() <= lines[0]["constants"].items()
    sizes = [len(line["quantities"]["grad_rms"]) for line in (shown[2], lines[2])]
    assert sizes == [len(params) + 1] * 2


def test_the_cpp_examples_are_those_that_ctest_builds() -> None:
    built = [
        path.read_text(encoding="utf-8") for path in (ROOT / "tests/cmake_consume").glob("*.cpp")
    ]
    shown = [block for page in DOCS for block in blocks(page, "cpp")]
    assert sorted(shown) == sorted(built)


def test_the_examples_of_the_c_interface_are_those_that_the_tests_build() -> None:
    page = ROOT / "docs/c.md"
    shown = [block for language in ("c", "cython", "rust") for block in blocks(page, language)]
    built = [
        path.read_text(encoding="utf-8")
        for path in (ROOT / "tests/c").iterdir()
        if path.suffix != ".txt"
    ]
    assert sorted(shown) == sorted(built)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "@@" not in text
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        if target.startswith("http"):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), f"{target}#{anchor}"


def anchors(page: Path) -> list[str]:
    """What GitHub calls the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
