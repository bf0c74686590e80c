"""The examples in the docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import fused_rmsprop
from support import needs

PACKAGE = Path(str(fused_rmsprop.__file__)).parent
WITH_EXAMPLES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): text.count(">>> ")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in (text := path.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_docstrings_print_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("keras", "mpi", "optax", "scipy", "torch"):
        if package in name.split("."):
            needs("mpi4py" if package == "mpi" else package)
    module = importlib.import_module(f"fused_rmsprop.{name}")
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    assert sum(len(test.examples) for test in found) == WITH_EXAMPLES[name]
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test)
    assert runner.failures == 0
