"""How public names show themselves in `help`, `dir` and editors: alone, annotations unquoted."""

from __future__ import annotations

import inspect
import sys
from typing import Any


class _Annotation(str):
    """The text of an annotation, which `inspect.signature` prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def show_public(module: str) -> None:
    """Let `dir` list only ``__all__`` of a module, and `help` print annotations as written."""
    names = vars(sys.modules[module])
    names["__dir__"] = lambda: sorted(names["__all__"])
    unquote(*(names[name] for name in names["__all__"] if name in names))


def unquote(*public: Any) -> None:
    """Let `help` print the annotations of functions, and of the methods of classes, as written.

    They stay strings, so nothing is evaluated or imported, and `typing.get_type_hints` works.
    """
    for one in public:
        bases = one.__mro__ if inspect.isclass(one) else ()
        classes = [c for c in bases if c.__module__.startswith("fused_rmsprop")]
        members = [member for c in classes for member in vars(c).values()]
        for member in members or [one]:
            for function in (getattr(member, "__func__", member), getattr(member, "fget", None)):
                if inspect.isfunction(function):
                    annotations = inspect.unwrap(function).__annotations__
                    for name, text in annotations.items():
                        if type(text) is str:
                            annotations[name] = _Annotation(text)
