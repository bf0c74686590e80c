"""Facts that are stated in several places agree: the version, its checkpoints, the interpreters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import ROOT


def found(file: str, pattern: str) -> list[str]:
    return re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


VERSION = found("pyproject.toml", r'^version = "(.+)"$')[0]
RELEASES = {VERSION, *found("CHANGELOG.md", r"^## (\d+\.\d+\.\d+)")}


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("CITATION.cff", r"^version: (.+)$"), ("conda/recipe.yaml", r'^  version: "(.+)"$')],
)
def test_the_version_is_that_of_pyproject(file: str, pattern: str) -> None:
    assert found(file, pattern) == [VERSION]


def test_each_release_has_a_checkpoint_of_each_format() -> None:
    names = {path.name for path in (ROOT / "tests/checkpoint/data").glob("release_*")}
    stems = [f"release_{release.replace('.', '_')}" for release in RELEASES]
    assert names == {stem + suffix for stem in stems for suffix in (".npz", ".safetensors")}


def test_each_release_of_the_changelog_has_a_date() -> None:
    headings = found("CHANGELOG.md", r"^## (.+)$")
    assert headings
    for heading in headings:
        assert re.fullmatch(r"Unreleased|\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", heading), heading


def test_classifiers_wheels_and_ci_name_the_same_interpreters() -> None:
    classified = found("pyproject.toml", r'^    "Programming Language :: Python :: 3\.(\d+)",$')
    (built,) = found("pyproject.toml", r'^build = "cp3\{([\d,]+)\}-\* cp314t-\*"$')
    (tested,) = found(".github/workflows/tests.yml", r"^ +python: \[(.+)\]$")
    assert classified == built.split(",") == re.findall(r"3\.(\d+)\"", tested)


def test_actions_are_pinned_by_commit() -> None:
    for path in Path(ROOT / ".github/workflows").glob("*.yml"):
        for action in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", action), action
