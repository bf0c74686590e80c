"""The state of all ranks together: gathered, saved, loaded; averages shown on all of them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.base import called, helps_with_options
from fused_rmsprop.checkpoint.content import Content, as_content, loading, read_content
from fused_rmsprop.checkpoint.file import write
from fused_rmsprop.checkpoint.renaming import Rename
from fused_rmsprop.checkpoint.report import LoadReport
from fused_rmsprop.checkpoint.saving import Constructor, S
from fused_rmsprop.checkpoint.state_dict import SETTINGS, Saved, state_dict_of
from fused_rmsprop.groups.state import Array
from fused_rmsprop.mpi.parts import Parts
from fused_rmsprop.mpi.ranks import RankError, Ranks
from fused_rmsprop.mpi.traffic import Traffic
from fused_rmsprop.mpi.whole import elsewhere, gather, in_memory_order, scatter, send
from fused_rmsprop.optimizer import RMSProp as OneProcess
from fused_rmsprop.options import GROUP_OPTIONS, options_at, unknown_option
from fused_rmsprop.values import as_flag

_SAVE = "where the optimizer was saved"
_LOAD = "where an optimizer was loaded"
_AVERAGES = "where averages were shown"
_LEFT = "at the end of use_ema()"


class SharedState(OneProcess):
    """An optimizer whose state is split among processes, which make these calls together."""

    _ranks: Ranks
    _traffic: Traffic
    #: The rank that has the arrays of what is being loaded; None: each has them all.
    _source: int | None

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

    @overload
    @classmethod
    def load(
        cls: type[S],
        path: str | os.PathLike[str] | IO[bytes],
        params: Any,
        *,
        comm: Any = None,
        reduction: str = "ordered",
        bucket_bytes: int | None = None,
        timeout: float | None = 1800.0,
        abort: bool = False,
        threads: int | None = None,
        grads: object = None,
        strict: Literal[True] = True,
        rename: Rename | None = None,
        **options: Any,
    ) -> S: ...

    @overload
    @classmethod
    def load(
        cls: type[S],
        path: str | os.PathLike[str] | IO[bytes],
        params: Any,
        *,
        comm: Any = None,
        reduction: str = "ordered",
        bucket_bytes: int | None = None,
        timeout: float | None = 1800.0,
        abort: bool = False,
        threads: int | None = None,
        grads: object = None,
        strict: Literal[False],
        rename: Rename | None = None,
        **options: Any,
    ) -> tuple[S, LoadReport]: ...

    @classmethod
    @called("RMSProp.load")
    def load(
        cls: type[S],
        path: str | os.PathLike[str] | IO[bytes],
        params: Any,
        *,
        comm: Any = None,
        reduction: str = "ordered",
        bucket_bytes: int | None = None,
        timeout: float | None = 1800.0,
        abort: bool = False,
        threads: int | None = None,
        grads: object = None,
        strict: bool = True,
        rename: Rename | None = None,
        **options: Any,
    ) -> S | tuple[S, LoadReport]:
        """An optimizer that goes on from a file of `save`, bit for bit.

        All ranks call it together. Rank 0 reads the file, and sends each rank its part. The file
        may come from another number of ranks, or from one process.

        Parameters
        ----------
        path : str, os.PathLike or binary file object
            The file, on rank 0; other ranks ignore it.
        params : like `params` of the class
            Arrays that take over the saved values, on all ranks.
        comm, reduction, bucket_bytes, timeout, abort
            As for the class.
        threads, grads, strict, rename, **options
            As for `fused_rmsprop.RMSProp.load`.

        Returns
        -------
        RMSProp, and with ``strict=False`` a LoadReport
            As there.

        Raises
        ------
        ValueError, TypeError, OSError
            As there.
        RankError
            If another rank has raised one of these, or does not answer in time.
        """
        opt: Any = cls.__new__(cls)
        opt._connect(comm, reduction, bucket_bytes, timeout, abort)

        def check() -> None:
            as_flag("strict", strict)
            known = ("threads", "grads", "strict", "rename", *GROUP_OPTIONS, *SETTINGS)
            if unknown := options.keys() - {*known}:
                raise TypeError(unknown_option(min(unknown), f"{cls.__name__}.load", known))

        opt._ranks.together(_LOAD, check)
        content = _read_together(opt._ranks, path)

        def load() -> LoadReport | None:
            with loading(content.where):
                saved = opt._build_for(content, params, options, threads)
                if grads is not None:
                    opt.bind_grads(grads)
                found: LoadReport | None = opt._load(saved, strict, rename)
                return found

        opt._source = 0
        report = opt._ranks.together(_LOAD, load)
        opt._source = None
        return opt if report is None else (opt, report)

    if not TYPE_CHECKING:
        load = Constructor(load.__func__)

    @called("RMSProp.load_state_dict")
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, rename: Rename | None = None
    ) -> LoadReport | None:
        """Go on from a state of `state_dict`, which every rank has; all call it together.

        Parameters
        ----------
        state_dict, strict, rename
            As for `fused_rmsprop.RMSProp.load_state_dict`, the same on all ranks.

        Returns
        -------
        LoadReport or None
            As there.

        Raises
        ------
        ValueError
            As there. Nothing has changed in any rank then.
        RankError
            If another rank has raised one, or has another state.
        """
        load = super().load_state_dict
        return self._ranks.together(_LOAD, lambda: load(state_dict, strict, rename))

    def _own(self, saved: Saved) -> Saved:
        """Saved state with this rank's parts of its arrays."""
        ranks, root = self._ranks, self._source
        found: dict[str, object] = {}
        error: Exception | None = None
        own = saved
        try:
            found = _described(saved)
            own = self._room_for(saved) if root is not None else self._cut_out(saved)
        except Exception as raised:
            error = raised
        ranks.agree(_LOAD, found, lambda: found, error, goes_on=True)
        if root is not None:
            for name, param, cuts in self._leaves():
                for key, part in own.state[name].items():
                    if key != "step":
                        flat = None
                        if ranks.rank == root:
                            flat = in_memory_order(saved.state[name][key], param)
                        scatter(ranks, flat, cuts, part, root)
                if own.params is not None:
                    send(ranks, own.params[name], root)
        ranks.complete()
        return own

    def _cut_out(self, saved: Saved) -> Saved:
        """The parts of arrays that this rank has."""
        state = {}
        for name, param, cuts in self._leaves():
            begin, end = cuts[self._ranks.rank], cuts[self._ranks.rank + 1]
            state[name] = {
                key: array if key == "step" else in_memory_order(array, param)[begin:end]
                for key, array in saved.state[name].items()
            }
        return replace(saved, state=state)

    def _room_for(self, saved: Saved) -> Saved:
        """Room for the parts, and for parameters, which rank 0 has itself."""
        state: dict[str, Any] = {}
        params: dict[str, Any] = {}
        for name, param, cuts in self._leaves():
            count = int(cuts[self._ranks.rank + 1] - cuts[self._ranks.rank])
            state[name] = {
                key: array if key == "step" else np.empty(count, param.dtype)
                for key, array in saved.state[name].items()
            }
            if saved.params is not None:
                here = self._ranks.rank == self._source
                whole = saved.params[name]
                params[name] = (
                    np.array(whole, order="C") if here else np.empty_like(param, order="C")
                )
        return replace(saved, state=state, params=None if saved.params is None else params)

    @contextmanager
    def _averages(self) -> Iterator[None]:
        own = self._stepper.averages()
        averaged = self._parts_of(
            bytes(bool(g.options["ema_decay"]) for g in self._groups for _ in g.core.names)
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
        raise NotImplementedError


def _described(saved: Saved) -> dict[str, object]:
    """What must be the same on all ranks of a saved state that fits, by names."""
    step = saved.counters["step_count"]
    found: dict[str, object] = {**saved.counters, **saved.settings}
    for i, group in enumerate(saved.groups):
        found[f"frozen of group {i} of {saved.source}"] = group.get("frozen", [])
        values = options_at({name: group[name] for name in GROUP_OPTIONS}, step)
        found |= {f"{name} of group {i} of {saved.source}": v for name, v in values.items()}
        for name in group["params"]:
            kinds, count = sorted(saved.state[name]), int(np.asarray(saved.state[name]["step"]))
            found[f"the state of {name!r} in {saved.source}"] = (*kinds, count)
    return found


def _read_together(ranks: Ranks, path: Any) -> Content:
    """A checkpoint of which rank 0 has the arrays; the others know their shapes and dtypes."""
    content = ranks.together(
        _LOAD, lambda: read_content(path) if ranks.rank == 0 else None, goes_on=True
    )
    packed = b""
    if content is not None:
        steps = {key: array for key, array in content.arrays.items() if array.dtype == np.int64}
        shapes = {
            key: (array.shape, array.dtype.str)
            for key, array in content.arrays.items()
            if key not in steps
        }
        packed = pickle.dumps((content.where, steps, shapes, content.metadata))
    told = ranks.allgather_bytes(packed, _LOAD)[0]
    ranks.complete()
    if content is not None:
        return content
    where, steps, shapes, metadata = pickle.loads(told)
    arrays: Mapping[str, Array] = {
        **steps,
        **{key: elsewhere(*shape) for key, shape in shapes.items()},
    }
    return Content(where, arrays, metadata)
