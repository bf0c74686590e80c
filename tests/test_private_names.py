"""Private names of other projects stand in the one file that is for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from support import ROOT

PACKAGE = ROOT / "python" / "fused_rmsprop"
#: The files that may use private names: torch's, and Keras's.
ALLOWED = {PACKAGE / "torch" / "private.py", PACKAGE / "exchange" / "keras.py"}
#: Private by their underscore, but documented: a named tuple's fields.
PUBLIC = {"_fields"}

#: Whose names may stand where in C++: a pattern, and the files' path without the ending.
CPP_RULES = [
    (r"aoti_torch_|_ZN\w|_cdata\b|\bTensorImpl\b", "cpp/bindings/torch/private"),
    (r"\bdlsym\b|\bdlopen\b|\bGetProcAddress\b", "cpp/bindings/loaded_symbol"),
    (r"\bma_keys\b|\bob_[a-z]\w*|\b_Py\w+|\bPy_BUILD_CORE\w*", None),
]
PRIVATE = re.compile(r"_(?!_)\w+")
PRIVATE_STRING = re.compile(r"_[a-z]\w+")  # "_C" may be any text


@cache
def trees() -> dict[Path, ast.Module]:
    """The package's files."""
    paths = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def defined(tree: ast.Module) -> Iterator[str]:
    """The names that a file defines: functions, classes, variables, attributes that it sets."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__slots__" for target in node.targets
        ):
            yield from ast.literal_eval(node.value)


def used(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The lines and the private names in a file, also in strings as for `getattr`."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if PRIVATE_STRING.fullmatch(node.value) else []
        line = getattr(node, "lineno", 0)
        yield from ((line, name) for name in names if PRIVATE.fullmatch(name))


def foreign(tree: ast.Module, own: set[str]) -> list[tuple[int, str]]:
    """The private names in a file that are not the package's own."""
    return sorted({(line, name) for line, name in used(tree) if name not in own | PUBLIC})


def own_names() -> set[str]:
    """All private names that the package defines, its compiled module's among them."""
    modules = {path.name.split(".")[0] for path in trees()}
    names = {name for tree in trees().values() for name in defined(tree)} | modules
    return {name for name in names if PRIVATE.fullmatch(name)}


def cpp_findings(path: str, text: str) -> list[str]:
    """The private names in a C++ file that are not for it."""
    return [
        found
        for pattern, place in CPP_RULES
        if place is None or not path.startswith(place + ".")
        for found in re.findall(pattern, text)
    ]


def test_python_uses_private_names_in_their_files_alone() -> None:
    own = own_names()
    found = {path: foreign(tree, own) for path, tree in trees().items()}
    for path in ALLOWED:
        assert found.pop(path), f"{path} uses none, and may go"
    assert {str(path): names for path, names in found.items() if names} == {}


def test_cpp_uses_private_names_in_their_files_alone() -> None:
    paths = [p for p in (ROOT / "cpp").rglob("*") if p.suffix in (".cpp", ".hpp", ".inl")]
    assert paths
    found = {
        str(p): cpp_findings(p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8"))
        for p in paths
    }
    assert {path: names for path, names in found.items() if names} == {}
    private = (ROOT / "cpp/bindings/torch/private.cpp").read_text(encoding="utf-8")
    assert cpp_findings("cpp/bindings/other.cpp", private)


@pytest.mark.parametrize(
    "planted",
    [
        "x = torch._C",
        "from torch._C import _profiler_enabled",
        "from torch.optim.optimizer import _params_doc",
        "import torch._dynamo",
        'getattr(opt, "_optimizer_step_pre_hooks")',
        "opt._velocities",
        "opt._velocities = []",
        'hasattr(tensor, "_cdata")',
        "with torch.autograd._force_original_view_tracking(True): pass",
    ],
)
def test_a_planted_private_name_is_found(planted: str) -> None:
    assert foreign(ast.parse(planted), own_names())


def test_own_and_public_names_are_not_found() -> None:
    text = "class A:\n    def _mine(self): self._other = 1\nA()._mine(); A()._other; node._fields"
    tree = ast.parse(text + "; A().__class__; '_Not a name'; a.b_c")
    assert foreign(tree, {*defined(tree)}) == []


@pytest.mark.parametrize(
    "planted",
    [
        "aoti_torch_get_dim(h, &n);",
        'load("_ZNK3c1010TensorImpl4gradEv");',
        'tensor.attr("_cdata")',
        "dlsym(library, name)",
        "dlopen(0, 0)",
        "c10::TensorImpl *impl;",
        "((PyDictObject *)d)->ma_keys",
        "object->ob_refcnt",
        "_PyDict_GetItem_KnownHash(d)",
        "#define Py_BUILD_CORE 1",
    ],
)
def test_a_planted_private_name_is_found_in_cpp(planted: str) -> None:
    assert cpp_findings("cpp/bindings/torch/stepper.cpp", planted)
