"""RMSProp for NumPy arrays: one fused, exact, in-place pass of a SIMD kernel per step."""

from __future__ import annotations

try:
    import fused_rmsprop._core as _compiled
except ModuleNotFoundError as error:
    raise ImportError(
        "the compiled module fused_rmsprop._core is missing; build and install the package "
        "with 'pip install .' in its source folder"
    ) from error

from fused_rmsprop.config import show_config
from fused_rmsprop.functional import rmsprop_step
from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.presets import PRESETS

__all__ = ["PRESETS", "RMSProp", "__version__", "rmsprop_step", "show_config"]

__version__: str = _compiled.config()["version"]
