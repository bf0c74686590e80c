"""How public names show themselves in `help` and in editors: annotations without quotes."""

from __future__ import annotations

import inspect
from typing import Any


class _Annotation(str):
    """The text of an annotation, which `inspect.signature` prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def unquote(*public: Any) -> None:
    """Let `help` print the annotations of functions, and of the methods of classes, as written.

    They stay strings, so nothing is evaluated or imported, and `typing.get_type_hints` works.
    """
    for one in public:
        classes = [c for c in one.__mro__ if c is not object] if inspect.isclass(one) else []
        members = [member for c in classes for member in vars(c).values()]
        for member in members or [one]:
            for function in (getattr(member, "__func__", member), getattr(member, "fget", None)):
                if inspect.isfunction(function):
                    annotations = function.__annotations__
                    for name, text in annotations.items():
                        if type(text) is str:
                            annotations[name] = _Annotation(text)
