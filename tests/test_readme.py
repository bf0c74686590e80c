"""The README is true: its examples are those that are run, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    params = names["params"]
    assert isinstance(params, dict)
    assert abs(params["w"] - names["true_w"]).max() < 0.05
    for example in blocks("python")[1:]:
        exec(example, names)


def test_the_cpp_example_is_the_one_that_ctest_builds() -> None:
    assert blocks("cpp") == [(ROOT / "tests/cmake_consume/main.cpp").read_text()]


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        assert "@@" not in text
        for target in re.findall(r"\]\(([^)#]+)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
