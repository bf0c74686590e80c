"""Checkpoints: the state of an optimizer, its representation as arrays and metadata, files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fused_rmsprop.checkpoint.file import read, write

__all__ = ["CheckpointError", "read", "write"]


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or comes from a newer release."""


def __getattr__(name: str) -> Any:
    """Import the file layer on first use: ``import fused_rmsprop`` does without it."""
    if name in ("read", "write"):
        from fused_rmsprop.checkpoint import file

        return getattr(file, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
