"""What a load by name did not take."""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from typing import NamedTuple

from fused_rmsprop.base import warn_the_caller


class LoadReport(NamedTuple):
    """The names that ``strict=False`` passed over; three empty lists if everything fitted.

    Attributes
    ----------
    missing : list of str
        Parameters here for which nothing was saved.
    unexpected : list of str
        Saved parameters that there are not here.
    unfitting : list of str
        Parameters whose saved state has another shape, dtype or meaning.
    """

    missing: list[str]
    unexpected: list[str]
    unfitting: list[str]


def warn_if_nothing(report: LoadReport, here: Collection[str], saved: Collection[str]) -> None:
    """Warn if no parameter takes anything: most often the names differ."""
    if len(report.missing) + len(report.unfitting) == len(here) > 0:
        maps = "rename={saved name: name here} maps names"
        warn_the_caller(
            f"no parameter took a saved state: {len(report.missing)} of {len(here)} have other "
            f"names than the saved ones, {len(report.unfitting)} have other shapes, dtypes or "
            f"options. Saved: {reprlib.repr([*saved])}, here: {reprlib.repr([*here])}. "
            f"{maps if report.missing else 'strict=True tells the differences'}"
        )
