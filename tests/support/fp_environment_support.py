"""A floating-point environment of the caller's that is set and watched."""

from __future__ import annotations

import gc
import platform

import pytest

from reference import LIBC

needs_fenv = pytest.mark.skipif(
    platform.machine() != "x86_64" or not hasattr(LIBC, "feenableexcept"),
    reason="the constants of fenv.h are glibc's for x86-64; the C++ tests cover others",
)

MODES = {"nearest": 0, "down": 0x400, "up": 0x800, "to zero": 0xC00}
ALL_EXCEPTIONS = 0x3D


class Environment:
    """Inside a ``with``, that rounding mode, no flags, and perhaps all exceptions unmasked.

    No garbage is collected there: that runs the code of others in this environment, such as
    Hypothesis' callback, which measures the time with floats.
    """

    def __init__(self, mode: int, trapping: bool) -> None:
        self.wanted = mode, ALL_EXCEPTIONS if trapping else 0

    def __enter__(self) -> None:
        mode, traps = self.wanted
        gc.disable()
        LIBC.feclearexcept(ALL_EXCEPTIONS)
        LIBC.fesetround(mode)
        LIBC.feenableexcept(traps)

    def __exit__(self, *_: object) -> None:
        left = LIBC.fegetround(), LIBC.fegetexcept(), LIBC.fetestexcept(ALL_EXCEPTIONS)
        LIBC.fedisableexcept(ALL_EXCEPTIONS)
        LIBC.fesetround(0)
        LIBC.feclearexcept(ALL_EXCEPTIONS)
        gc.enable()
        assert left == (*self.wanted, 0)
