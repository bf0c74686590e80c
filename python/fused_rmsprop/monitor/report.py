"""Findings in words, as `Monitor.report` returns them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that a practitioner would say about a training."""

    rule: str  # the name of the rule that found it
    where: str  # the names of parameters, shortened if they are many; "" for all
    text: str  # what was seen, and what to do about it
    names: tuple[str, ...] = ()  # all that `where` is short for; none for all

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class Report(tuple[Finding, ...]):
    """Findings, the most urgent first; its text has one line for each."""

    __slots__ = ()

    def __new__(cls, findings: Iterable[Finding] = ()) -> Report:  # noqa: D102
        return super().__new__(cls, findings)

    def __str__(self) -> str:
        return "\n".join(f"- {finding}" for finding in self) or "nothing unusual was seen"

    __repr__ = __str__
