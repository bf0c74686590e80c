"""A floating-point environment of the caller's that is set and watched."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import platform

import pytest

needs_fenv = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux",
    reason="the constants of fenv.h are glibc's for x86-64; the C++ tests cover others",
)

MODES = {"nearest": 0, "down": 0x400, "up": 0x800, "to zero": 0xC00}
ALL_EXCEPTIONS = 0x3D
_libm = ctypes.CDLL(ctypes.util.find_library("m"))


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
        _libm.feclearexcept(ALL_EXCEPTIONS)
        _libm.fesetround(mode)
        _libm.feenableexcept(traps)

    def __exit__(self, *_: object) -> None:
        left = _libm.fegetround(), _libm.fegetexcept(), _libm.fetestexcept(ALL_EXCEPTIONS)
        _libm.fedisableexcept(ALL_EXCEPTIONS)
        _libm.fesetround(0)
        _libm.feclearexcept(ALL_EXCEPTIONS)
        gc.enable()
        assert left == (*self.wanted, 0)
