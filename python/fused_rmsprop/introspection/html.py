"""Tables of HTML for notebooks: without scripts, and in the colours of the notebook's theme."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import ParamSpec

P = ParamSpec("P")

#: How many rows a table lists.
LISTED = 20
_TABLE = "border-collapse:collapse;margin:0.4em 0;color:inherit"
_CELL = "text-align:left;vertical-align:top;padding:0.2em 0.8em 0.2em 0"


def escaped(text: object) -> str:
    """A text in which HTML sees no tags."""
    return html.escape(str(text))


def paragraph(title: str, *facts: str) -> str:
    """A title in bold, and facts behind it."""
    rest = "".join(f" · {escaped(fact)}" for fact in facts if fact)
    return f'<div style="margin:0.4em 0"><strong>{escaped(title)}</strong>{rest}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[object]], count: int) -> str:
    """A table of the first rows, and how many follow.

    Parameters
    ----------
    header : sequence of str
        The titles of the columns. Columns without any text are left out.
    rows : iterable of sequences
        The cells of each row, of which 20 are read.
    count : int
        The number of rows.
    """
    shown = [[str(cell) for cell in row] for row in islice(rows, LISTED)]
    columns = [i for i in range(len(header)) if any(row[i] for row in shown)]
    lines = [_row("th", [header[i] for i in columns])]
    lines += [_row("td", [row[i] for i in columns]) for row in shown]
    if count > len(shown):
        more = f"... and {count - len(shown):,} more"
        lines.append(f'<tr><td colspan="{len(columns)}" style="{_CELL}">{more}</td></tr>')
    return f'<table style="{_TABLE}">{"".join(lines)}</table>'


def _row(tag: str, cells: Sequence[str]) -> str:
    inner = (f"<{tag} style='{_CELL}'>{escaped(cell)}</{tag}>" for cell in cells)
    return f"<tr>{''.join(inner)}</tr>"


def block(*parts: str) -> str:
    """Parts below each other, of which wide ones can be scrolled."""
    return f'<div style="overflow-x:auto">{"".join(parts)}</div>'


def counted(count: int, noun: str) -> str:
    """1 step, 2 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def or_none(function: Callable[P, str], *args: P.args, **kwargs: P.kwargs) -> str | None:
    """The HTML, or None after an error, so that a notebook falls back on the text."""
    try:
        return function(*args, **kwargs)
    except Exception:
        return None
