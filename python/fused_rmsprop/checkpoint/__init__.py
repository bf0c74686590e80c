"""Checkpoints: the state of an optimizer, its representation as arrays and metadata, files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fused_rmsprop.introspection import show_public, unquote

if TYPE_CHECKING:
    from fused_rmsprop.checkpoint.content import load_params
    from fused_rmsprop.checkpoint.file import read, write
    from fused_rmsprop.checkpoint.report import LoadReport

__all__ = ["CheckpointError", "LoadReport", "load_params", "read", "write"]

_MODULES = {"LoadReport": "report", "load_params": "content", "read": "file", "write": "file"}


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or comes from a newer release."""


def __getattr__(name: str) -> Any:
    """Import the file layer on first use: ``import fused_rmsprop`` does without it."""
    if name in _MODULES:
        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        unquote(found)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


show_public(__name__)
