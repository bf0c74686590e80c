"""The documentation's site: the check of the built pages finds faults, links that leave docs/ work.

`tools/build_site.sh` builds the site and runs that check.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from support import ROOT


def load(file: str) -> ModuleType:
    """A module that is not part of a package."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_site = load("tools/check_site.py")
gallery_order = load("docs/_ext/gallery_order.py")
repository = load("docs/_ext/repository.py")

SITE = {
    "index.html": '<a href="a/b.html#here">b</a> <a href="https://numpy.org">NumPy</a>'
    '<link rel="stylesheet" href="style.css?digest=1"> <img src="a/p%20q.png">',
    "a/b.html": '<h1 id="here">B</h1> <a href="../index.html">up</a> <a href="#here">here</a>',
    "a/p q.png": "",
    "style.css": "body { background: url(data:image/png;base64,AA) }",
    "search.html": "",
}


def faults_of(folder: Path, changed: dict[str, str]) -> list[str]:
    for name, text in (SITE | changed).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return list(check_site.faults(folder))


def test_a_site_without_faults_has_none(tmp_path: Path) -> None:
    assert faults_of(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ('<a href="c.html">', "a/b.html: there is no c.html"),
        ('<a href="../index.html#x">', "a/b.html: there is no place ../index.html#x"),
        ('<a href="#x">', "a/b.html: there is no place #x"),
        ('<img src="no.png">', "a/b.html: there is no no.png"),
        ('<script src="https://cdn.org/a.js">', "a/b.html loads https://cdn.org/a.js"),
        ('<script src="//cdn.org/a.js">', "a/b.html loads //cdn.org/a.js"),
        ('<img src="https://img.org/a.png">', "a/b.html loads https://img.org/a.png"),
        ('<link rel="preload" href="http://f.org/f">', "a/b.html loads http://f.org/f"),
        ('<style>@import "https://f.org/f.css";</style>', "a/b.html loads https://f.org/f.css"),
        ('<p style="background: url(http://i.org)">', "a/b.html loads http://i.org"),
    ],
)
def test_a_fault_of_a_page_is_found(tmp_path: Path, more: str, fault: str) -> None:
    assert faults_of(tmp_path, {"a/b.html": SITE["a/b.html"] + more}) == [fault]


def test_a_style_sheet_that_loads_from_the_net_is_found(tmp_path: Path) -> None:
    sheet = "@font-face { src: url('https://f.org/f.woff2') }"
    assert faults_of(tmp_path, {"style.css": sheet}) == ["style.css loads https://f.org/f.woff2"]


def test_a_page_that_no_page_leads_to_is_found(tmp_path: Path) -> None:
    page = '<a href="lost.html">this page</a>'
    assert faults_of(tmp_path, {"lost.html": page}) == ["lost.html: no page leads there"]


@pytest.mark.parametrize(
    ("link", "file", "page", "expected"),
    [
        ("options.md", "docs/cpp.md", "cpp.md", "options.md"),
        (
            "../training.md#monitoring",
            "docs/start/cpp.md",
            "start/cpp.md",
            "../training.md#monitoring",
        ),
        ("../SECURITY.md", "docs/cpp.md", "cpp.md", "project/security.md"),
        ("../README.md", "bench/README.md", "project/benchmarks.md", "../index.md"),
        ("docs/c.md#c", "CHANGELOG.md", "project/changelog.md", "../c.md#c"),
        ("SECURITY.md", "CHANGELOG.md", "project/changelog.md", "security.md"),
        ("../docs/demo.png", "bench/README.md", "project/benchmarks.md", "../demo.png"),
        (
            "results/golden_cove/sizes.png",
            "bench/README.md",
            "project/benchmarks.md",
            "../../bench/results/golden_cove/sizes.png",
        ),
        ("../tests", "docs/cpp.md", "cpp.md", f"{repository.GITHUB}/tree/main/tests"),
        ("../LICENSE#L1", "docs/cpp.md", "cpp.md", f"{repository.GITHUB}/blob/main/LICENSE#L1"),
        ("https://numpy.org", "docs/cpp.md", "cpp.md", "https://numpy.org"),
        ("#arguments", "docs/cpp.md", "cpp.md", "#arguments"),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(
    link: str, file: str, page: str, expected: str
) -> None:
    assert repository.rewrite(f"a [b]({link}) c", file, page) == f"a [b]({expected}) c"


def test_code_is_not_rewritten() -> None:
    code = "```cpp\nreturn [](../README.md)\n```"
    nested = "````\n```\n[a](../README.md)\n```\n````"
    for text in (code, nested):
        assert repository.rewrite(text, "docs/cpp.md", "cpp.md") == text


def test_all_pages_of_the_site_are_there() -> None:
    for file in (*repository.PAGES, *repository.INDEX):
        assert (ROOT / file).exists(), file


def test_scripts_without_a_place_in_the_gallery_come_last() -> None:
    names = ["other.py", "schedule.py", "from_scratch.py", "another.py"]
    ordered = ["from_scratch.py", "schedule.py", "another.py", "other.py"]
    assert sorted(names, key=gallery_order.position) == ordered


def build_site(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script from the folder ``caller``, with a Python that prints and fails."""
    tools, caller = tmp_path / "repository/tools", tmp_path / "caller"
    tools.mkdir(parents=True)
    caller.mkdir(exist_ok=True)
    shutil.copy(ROOT / "tools/build_site.sh", tools)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    python.chmod(0o755)
    command = ["bash", str(tools / "build_site.sh"), *arguments]
    env = {**os.environ, "PYTHON": str(python)}
    return subprocess.run(command, cwd=caller, env=env, capture_output=True, text=True, check=False)


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@needs_bash
@pytest.mark.parametrize(
    ("arguments", "folder"), [(["out"], "caller/out"), ([], "build/site"), (["{}/x"], "x")]
)
def test_the_site_goes_into_the_folder_that_the_caller_names(
    tmp_path: Path, arguments: list[str], folder: str
) -> None:
    done = build_site(tmp_path, *(argument.format(tmp_path) for argument in arguments))
    expected = str(tmp_path / folder) if arguments else folder
    assert done.returncode == 3
    assert done.stdout.split()[-1] == expected


@needs_bash
def test_a_folder_that_is_no_site_is_not_removed(tmp_path: Path) -> None:
    mine = tmp_path / "caller/mine/file"
    mine.parent.mkdir(parents=True)
    mine.touch()
    done = build_site(tmp_path, "mine")
    assert done.returncode == 1
    assert "mine exists, and is no site" in done.stderr
    assert mine.exists()
    (mine.parent / ".doctrees").mkdir()
    shutil.rmtree(tmp_path / "repository")
    assert build_site(tmp_path, "mine").returncode == 3
    assert not mine.exists()
