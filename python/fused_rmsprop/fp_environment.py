"""Runs Python code in the floating-point environment in which the library computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fused_rmsprop._core import FpEnvironment

P = ParamSpec("P")
R = TypeVar("R")


def in_fp_environment(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function round to nearest and trap nothing, and leave its caller's environment alone.

    Also Python's conversions of numbers to and from text need that.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with FpEnvironment():
            return function(*args, **kwargs)

    return guarded
