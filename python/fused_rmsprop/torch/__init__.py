"""`torch.optim.RMSprop` with the fused kernel, for parameters that live on the CPU.

Needs torch, which ``import fused_rmsprop`` does not import.
"""

from __future__ import annotations

from fused_rmsprop.introspection import show_public
from fused_rmsprop.torch.optimizer import RMSprop

__all__ = ["RMSprop"]

show_public(__name__)
