"""Move optimizer state between `RMSProp` and torch, Keras 3 or optax.

Only state moves: running averages, momentum buffers and step counts. Parameter values and options
stay; make both sides with equivalent options, as `RMSProp.from_preset` does. A mismatch raises
before anything changes. Each function imports its framework when called.
"""

from __future__ import annotations

from fused_rmsprop.exchange.keras import from_keras, to_keras
from fused_rmsprop.exchange.optax import from_optax, to_optax
from fused_rmsprop.exchange.torch import from_torch, to_torch
from fused_rmsprop.introspection import show_public

__all__ = ["from_keras", "from_optax", "from_torch", "to_keras", "to_optax", "to_torch"]

show_public(__name__)
