"""The place of the gallery's scripts, and Matplotlib without a screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support import ROOT, needs

matplotlib = needs("matplotlib", reason="the gallery draws with matplotlib")
matplotlib.use("Agg")
plt = needs("matplotlib.pyplot")

GALLERY = ROOT / "examples/gallery"
Names = dict[str, Any]
Run = Callable[[str], Names]
