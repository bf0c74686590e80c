"""The limits of size that keep the code readable: files, classes, functions, flat modules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

from support import ROOT

PACKAGE = ROOT / "python/fused_rmsprop"
SOURCES = {
    path: path.read_text(encoding="utf-8")
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "cpp").rglob("*.[chi][pn][pl]"))
}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def lines_of_code(node: Definition) -> int:
    """The lines of a definition without its docstrings and those of what it contains."""
    assert node.end_lineno is not None
    total = node.end_lineno - node.lineno + 1
    for inner in ast.walk(node):
        if isinstance(inner, Definition) and ast.get_docstring(inner):
            assert inner.body[0].end_lineno is not None
            total -= inner.body[0].end_lineno - inner.body[0].lineno + 1
    return total


def definitions(text: str) -> Iterator[Definition]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, Definition))


def test_files_classes_and_functions_are_short() -> None:
    assert len(SOURCES) > 80
    long = [f"{p.name}: file" for p, text in SOURCES.items() if len(text.splitlines()) > 400]
    for path in PACKAGE.rglob("*.py"):
        for node in definitions(SOURCES[path]):
            most = 300 if isinstance(node, ast.ClassDef) else 50
            if lines_of_code(node) > most:
                long.append(f"{path.name}: {node.name} has {lines_of_code(node)} lines")
    assert not long


def test_few_modules_are_flat() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_one_option_is_named_in_few_files() -> None:
    named = [path.name for path, text in SOURCES.items() if "ema_decay" in text]
    assert len(named) <= 12, named


def test_the_module_file_only_wires() -> None:
    module = ROOT / "cpp/bindings/module.cpp"
    assert len(SOURCES[module].splitlines()) < 40


def test_openmp_is_known_in_one_file() -> None:
    users = [p.name for p, text in SOURCES.items() if "omp.h" in text or "#pragma omp" in text]
    assert users == ["team.cpp"]


def test_every_test_can_be_imported_on_windows() -> None:
    """`pytest.importorskip` skips those that need more; an import at the top is an error there."""
    posix = re.compile(r"^(import|from) (fcntl|grp|pty|pwd|resource|termios)\b", re.MULTILINE)
    tests = (ROOT / "tests").rglob("*.py")
    found = [p.name for p in tests if posix.search(p.read_text(encoding="utf-8"))]
    assert found == ["faults_support.py"]  # of a command for Linux


def test_the_page_of_options_is_that_of_the_table() -> None:
    subprocess.run([sys.executable, ROOT / "tools/write_options_doc.py", "--check"], check=True)
