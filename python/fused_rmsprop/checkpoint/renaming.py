"""The names here of saved parameters, as the users of both optimizers give them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

#: The name here of a saved name; a function may return None to leave it out.
Rename: TypeAlias = Mapping[str, str] | Callable[[str], str | None]


def own_names(saved: Collection[str], rename: Rename | None, hint: str = "") -> dict[str, str]:
    """Return the names here by the saved ones, without those that are left out.

    Parameters
    ----------
    saved : collection of str
        All saved names.
    rename : mapping, function or None
        As the user gave it.
    hint : str
        Ends the error for a name that is not saved.

    Raises
    ------
    TypeError, ValueError
        If ``rename`` is neither, gives something else than a str or None, renames a name that is
        not saved, or gives one name to two.
    """
    if rename is None:
        return {name: name for name in saved}
    if not (callable(rename) or isinstance(rename, Mapping)):
        raise TypeError(
            "rename must be a mapping of saved names to names here, or a function of a saved "
            f"name, got {type(rename).__name__}"
        )
    if isinstance(rename, Mapping) and (unknown := [name for name in rename if name not in saved]):
        raise ValueError(
            f"rename has {unknown[0]!r}, which no saved parameter is called: they are called "
            f"{reprlib.repr([*saved])}{hint}"
        )
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for old in saved:
        new = rename.get(old, old) if isinstance(rename, Mapping) else rename(old)
        if new is None:
            continue
        if not isinstance(new, str):
            raise TypeError(
                f"rename must give a str, or None to leave {old!r} out, got {type(new).__name__}"
            )
        if new in taken:
            raise ValueError(f"rename gives {taken[new]!r} and {old!r} the same name {new!r}")
        names[old], taken[new] = new, old
    return names
