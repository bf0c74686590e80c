"""The options of other implementations of RMSProp: what `RMSProp.from_preset` takes.

docs/presets.md has their formulas, sources, and the measured agreement. TensorFlow 1 and optax have
no default for ``lr``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_TENSORFLOW: dict[str, Any] = {"eps_inside_sqrt": True, "lr_in_momentum": True}

#: The options that differ from `RMSProp`'s own defaults, by the name of the implementation.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        name: MappingProxyType(options)
        for name, options in {
            "torch": {},
            "keras": {
                **_TENSORFLOW,
                **{"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, "decoupled_weight_decay": True},
            },
            "tensorflow1": {
                **_TENSORFLOW,
                **{"lr": 1e-3, "alpha": 0.9, "eps": 1e-10, "initial_square_avg": 1.0},
            },
            "optax": {**_TENSORFLOW, "lr": 1e-3, "alpha": 0.9},
            "timm": {**_TENSORFLOW, "alpha": 0.9, "eps": 1e-10, "initial_square_avg": 1.0},
            "stable_baselines3": {"eps_inside_sqrt": True, "initial_square_avg": 1.0},
            "dqn": {
                **{"lr": 2.5e-4, "alpha": 0.95, "eps": 0.01},
                **{"centered": True, "eps_inside_sqrt": True},
            },
            "a3c": {"lr": 7e-4, "eps": 0.1, "eps_inside_sqrt": True},
        }.items()
    }
)


def preset(name: str) -> Mapping[str, Any]:
    """The options of a preset, or a `ValueError` with the names that there are."""
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a preset is a str, not a {type(name).__name__}: from_preset(name, params)"
        )
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower(), PRESETS, 1)
        hint = f"; is {near[0]!r} meant?" if near else ";"
        raise ValueError(f"there is no preset {name!r}{hint} There are {', '.join(PRESETS)}")
    return PRESETS[name]
