"""The state of all ranks together: gathered, saved, loaded; averages shown on all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.base import called, helps_with_options
from fused_rmsprop.checkpoint.content import as_content
from fused_rmsprop.checkpoint.file import write
from fused_rmsprop.checkpoint.state_dict import state_dict_of
from fused_rmsprop.groups.state import Array
from fused_rmsprop.mpi.parts import Parts
from fused_rmsprop.mpi.ranks import RankError, Ranks
from fused_rmsprop.mpi.traffic import Traffic
from fused_rmsprop.mpi.whole import gather
from fused_rmsprop.optimizer import RMSProp as OneProcess

_SAVE = "where the optimizer was saved"
_LOAD = "where an optimizer was loaded"
_AVERAGES = "where averages were shown"
_LEFT = "at the end of use_ema()"


class SharedState(OneProcess):
    """An optimizer whose state is split among processes, which make these calls together."""

    _ranks: Ranks
    _traffic: Traffic
    _bucket_bytes: int
    _parts: dict[bytes, Parts]  # by the leaves that take part

    def gather_state(self, root: int | None = None) -> dict[str, dict[str, Array]] | None:
        """The whole state of each parameter, from the parts in `state` of all ranks.

        All ranks call it together.

        Parameters
        ----------
        root : int or None
            The rank that gets it; None: all get it, and need the memory for it.

        Returns
        -------
        dict or None
            Name to the arrays that one process would have in `state`, copied; None on other ranks.

        Raises
        ------
        RuntimeError, ValueError
            If another thread is in the middle of a step, inside `use_ema`, or there is no rank
            `root`.
        RankError
            If another rank has raised that, does not answer, or made another call.
        """
        found = self._gathered(root, "where state was gathered")
        state: dict[str, dict[str, Array]] | None = None if found is None else found["state"]
        return state

    @called("RMSProp.state_dict")
    def state_dict(self) -> dict[str, Any]:
        """A copy of the whole state and the options, on every rank; all call it together.

        See `fused_rmsprop.RMSProp.state_dict`, which it does not differ from: one process can load
        it, and so can any number of ranks.

        Returns
        -------
        dict
            As there.
        """
        found = self._gathered(None, "where a state_dict was made")
        assert found is not None
        return found

    def _gathered(self, root: int | None, doing: str) -> dict[str, Any] | None:
        ranks = self._ranks
        gets_it = root in (None, ranks.rank)

        def prepared() -> tuple[dict[str, Any], dict[tuple[str, str], Array]]:
            """The parts of this rank, and room for the whole arrays."""
            if root is not None and (type(root) is not int or not 0 <= root < ranks.size):
                raise ValueError(f"root is a rank from 0 to {ranks.size - 1} or None, got {root!r}")
            found = state_dict_of(self._stepper, self._groups)
            return found, {
                (name, key): _core.zeros_in_order_of(param)
                for name, param, _ in self._leaves()
                for key in found["state"][name]
                if gets_it and key != "step"
            }

        found, room = ranks.together(doing, prepared)
        kept = {name: list(arrays) for name, arrays in found["state"].items()}
        call = (root, kept, found["counters"])
        ranks.agree(doing, call, lambda: {"state": kept, "root": root}, goes_on=True)
        for name, _, cuts in self._leaves():
            parts = {k: part for k, part in found["state"][name].items() if k != "step"}
            whole = {key: room.get((name, key)) for key in parts}
            requests = [gather(ranks, parts[key], cuts, whole[key], root) for key in parts]
            ranks.wait(requests, doing)
            found["state"][name] |= whole
        ranks.complete()
        return found if gets_it else None

    @helps_with_options
    @called("RMSProp.save")
    def save(
        self,
        path: str | os.PathLike[str] | IO[bytes],
        format: str | None = None,  # noqa: A002
    ) -> None:
        """Write the parameters and all that `load` needs into one file, which rank 0 writes.

        All ranks call it together, and return when the file is complete. Any number of ranks can
        load it, and `fused_rmsprop.RMSProp.load` in one process. Rank 0 needs memory for the whole
        state once.

        Parameters
        ----------
        path, format
            As for `fused_rmsprop.RMSProp.save`, on rank 0; other ranks ignore them.

        Raises
        ------
        ValueError, ImportError, OSError, RuntimeError
            As there, on rank 0; the other ranks raise a `RankError` then.
        """
        self._ranks.together(_SAVE, self._check_unchanged)
        found = self._gathered(0, _SAVE)

        def written() -> None:
            if found is not None:
                params = {name: array for name, array, _ in self._leaves()}
                write(path, *as_content(found, params, self.defaults), format=format)

        self._ranks.together(_SAVE, written)

    def _leaves(self) -> Iterator[tuple[str, Array, NDArray[np.int64]]]:
        """The name of each parameter, its array, and where the parts of the ranks begin in it."""
        for group in self._groups:
            yield from zip(group.core.names, group.core.arrays, group.cuts, strict=True)

    def _check_unchanged(self) -> None:
        for group in self._groups:
            group.core.check_unchanged()

    @contextmanager
    def _averages(self) -> Iterator[None]:
        own = self._stepper.averages()
        averaged = self._parts_of(
            bytes(group.has_averages for group in self._groups for _ in group.core.names)
        )
        try:
            self._ranks.together(_AVERAGES, own.__enter__, goes_on=True)
        except BaseException:
            own.__exit__()  # this rank may have entered, and another not
            raise
        try:
            self._traffic.gather(averaged)
            yield
        finally:
            self._leave(own, averaged)

    def _leave(self, own: _core.Averages, averaged: Parts) -> None:
        """Let all ranks have the trained values again, even if one made another call meanwhile."""
        error: Exception | None = None
        try:
            own.__exit__()
        except ValueError as raised:
            error = raised
        while True:
            try:
                self._ranks.agree(_LEFT, goes_on=True)
                break
            except RankError as raised:  # that rank raises likewise, and comes here next
                self._ranks.check()
                error = error or raised
        self._traffic.gather(averaged)
        self._ranks.agree(_LEFT, error=error)

    def _parts_of(self, active: bytes) -> Parts:
        """The parts of the leaves that take part in a step; those of the last ones are kept."""
        if active not in self._parts:
            if len(self._parts) > 4:  # leaves come and go
                self._parts.clear()
            self._parts[active] = Parts(
                self._stepper,
                np.concatenate([group.cuts for group in self._groups]),
                [array.dtype for group in self._groups for array in group.core.arrays],
                active,
                self._bucket_bytes,
            )
        return self._parts[active]
