"""RMSProp for NumPy arrays: one fused, exact, in-place pass of a SIMD kernel per step."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    import fused_rmsprop._core as _compiled
except ModuleNotFoundError as error:
    raise ImportError(
        "the compiled module fused_rmsprop._core is missing; build and install the package "
        "with 'pip install .' in its source folder"
    ) from error

from fused_rmsprop.config import (
    get_cmake_dir,
    get_include,
    get_library,
    get_pkgconfig_dir,
    show_config,
)
from fused_rmsprop.functional import rmsprop_step
from fused_rmsprop.groups.param_group import ParamGroup
from fused_rmsprop.groups.views import ParamState, State
from fused_rmsprop.introspection import unquote
from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.presets import PRESETS

__all__ = [
    "PRESETS",
    "RMSProp",
    "__version__",
    "get_cmake_dir",
    "get_include",
    "get_library",
    "get_pkgconfig_dir",
    "rmsprop_step",
    "show_config",
]

__version__: str = _compiled.config()["version"]

unquote(RMSProp, rmsprop_step, show_config, ParamGroup, ParamState, State)

#: Public modules that need only NumPy: an attribute imports them.
_MODULES = ("checkpoint", "exchange", "monitor", "schedules")
#: Public modules that other packages come with: an attribute once they were imported.
_EXTRAS = ("autograd", "mpi", "scipy", "torch")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, *(name for name in _EXTRAS if name in globals())])


if not TYPE_CHECKING:  # it would allow any name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
