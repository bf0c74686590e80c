"""Run Python code in the floating-point environment in which the library computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fused_rmsprop._core import FpEnvironment

P = ParamSpec("P")
R = TypeVar("R")


def in_fp_environment(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that it rounds to nearest and traps nothing.

    Its caller's environment, flags included, stays as it was. Python's conversions between numbers
    and text need this, too.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with FpEnvironment():
            return function(*args, **kwargs)

    return guarded
