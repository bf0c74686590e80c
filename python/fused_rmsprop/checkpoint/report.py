"""What a load by name did not take."""

from __future__ import annotations

from typing import NamedTuple


class LoadReport(NamedTuple):
    """The names that ``strict=False`` passed over; three empty lists if everything fitted.

    Attributes
    ----------
    missing : list of str
        Parameters here for which nothing was saved.
    unexpected : list of str
        Saved parameters that there are not here.
    unfitting : list of str
        Parameters whose saved state has another shape.
    """

    missing: list[str]
    unexpected: list[str]
    unfitting: list[str]
