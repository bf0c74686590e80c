"""Loading by all ranks together: rank 0 reads a file, and every rank gets its part."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, Literal, overload

import numpy as np

from fused_rmsprop.base import called
from fused_rmsprop.checkpoint.content import Content, loading, read_content
from fused_rmsprop.checkpoint.renaming import Rename
from fused_rmsprop.checkpoint.report import LoadReport
from fused_rmsprop.checkpoint.saving import Constructor, S
from fused_rmsprop.checkpoint.state_dict import SETTINGS, Saved
from fused_rmsprop.groups.state import Array
from fused_rmsprop.mpi.ranks import Ranks
from fused_rmsprop.mpi.sharing import SharedState
from fused_rmsprop.mpi.whole import elsewhere, in_memory_order, scatter, send
from fused_rmsprop.options import GROUP_OPTIONS, options_at, unknown_option
from fused_rmsprop.values import as_flag

_LOAD = "where an optimizer was loaded"


class LoadedState(SharedState):
    """An optimizer whose ranks load its state together."""

    #: The rank that has the arrays of what is being loaded; None: each has them all.
    _source: int | None

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
