"""Runs a script of the gallery and checks its figure."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from gallery_support import GALLERY, Names, Run, plt


def check_figure(figure: Any, file: Path) -> None:
    """A figure has data in all its axes and fits a page; it can be saved and is not blank."""
    figure.savefig(file)
    assert figure.get_axes()
    assert all(axes.has_data() for axes in figure.get_axes())
    height, width, _ = (image := plt.imread(file)).shape
    assert max(height, width) <= 800
    assert 0.01 < (image[..., :3].min(axis=2) < 0.9).mean() < 0.95, "share of inked pixels"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A function that runs a script, checks its only figure and returns the script's names."""
    monkeypatch.syspath_prepend(GALLERY)  # as for a script that is run by its path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)  # with a display it warns about Agg

    def run_script(name: str) -> Names:
        plt.close("all")
        names = runpy.run_path(str(GALLERY / f"{name}.py"))
        (number,) = plt.get_fignums()
        check_figure(plt.figure(number), tmp_path / "figure.png")
        return names

    return run_script
