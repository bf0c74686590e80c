"""The options of other RMSProp implementations, for `RMSProp.from_preset`.

docs/presets.md has formulas, sources and measured agreement. TensorFlow 1 and optax have no default
for ``lr``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_TENSORFLOW: dict[str, Any] = {"eps_inside_sqrt": True, "lr_in_momentum": True}
_KERAS = {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, "decoupled_weight_decay": True}
_TENSORFLOW1 = {"lr": 1e-3, "alpha": 0.9, "eps": 1e-10, "initial_square_avg": 1.0}
_DQN = {"lr": 2.5e-4, "alpha": 0.95, "eps": 0.01, "centered": True, "eps_inside_sqrt": True}
_OPTIONS = {
    "torch": {},
    "keras": _TENSORFLOW | _KERAS,
    "tensorflow1": _TENSORFLOW | _TENSORFLOW1,
    "optax": _TENSORFLOW | {"lr": 1e-3, "alpha": 0.9},
    "timm": _TENSORFLOW | {"alpha": 0.9, "eps": 1e-10, "initial_square_avg": 1.0},
    "stable_baselines3": {"eps_inside_sqrt": True, "initial_square_avg": 1.0},
    "dqn": _DQN,
    "a3c": {"lr": 7e-4, "eps": 0.1, "eps_inside_sqrt": True},
}
#: By implementation, the options that differ from the defaults of `RMSProp`.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: MappingProxyType(options) for name, options in _OPTIONS.items()}
)


def preset(name: str) -> Mapping[str, Any]:
    """Return the options of a preset, or raise a `ValueError` that lists the names."""
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a preset must be a str, got a {type(name).__name__}: call "
            "from_preset(name, params)"
        )
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower(), PRESETS, 1)
        hint = f"; is {near[0]!r} meant?" if near else ";"
        raise ValueError(f"there is no preset {name!r}{hint} There are {', '.join(PRESETS)}")
    return PRESETS[name]
