"""Saving and loading, as methods of `RMSProp`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, overload

from fused_rmsprop.base import called, helps_with_options
from fused_rmsprop.checkpoint.partial import fitted, renamed
from fused_rmsprop.checkpoint.renaming import Rename
from fused_rmsprop.checkpoint.report import LoadReport, warn_if_nothing
from fused_rmsprop.checkpoint.state_dict import (
    SETTINGS,
    Saved,
    parts_of,
    prepare_loading,
    snapshot_of,
    state_dict_of,
)
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.groups.grouped import GroupedOptimizer
from fused_rmsprop.groups.specs import is_list_of_groups
from fused_rmsprop.groups.state import check_fixed
from fused_rmsprop.options import GROUP_OPTIONS, parse_options, unknown_option
from fused_rmsprop.values import as_flag

if TYPE_CHECKING:
    from fused_rmsprop.checkpoint.content import Content

S = TypeVar("S", bound="Saving")


class Constructor(classmethod):  # type: ignore[type-arg]
    """A class method that an instance does not have, because it would not change."""

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is not None:
            raise AttributeError(
                "load is of the class: it returns a new optimizer, opt = RMSProp.load(path, "
                "params); opt.load_state_dict changes this one"
            )
        return super().__get__(instance, owner)


class Saving(GroupedOptimizer):
    """An optimizer of parameter groups that can be saved, loaded and pickled."""

    #: The attributes that a pickle rebuilds; the rest belong to a subclass or a user.
    _REBUILT: frozenset[str]

    @abstractmethod
    def _build(
        self,
        specs: Sequence[Mapping[str, Any]],
        grouped: bool,
        defaults: dict[str, Any],
        settings: dict[str, Any],
        step_count: int = 0,
        from_pickle: bool = False,
    ) -> None: ...

    @abstractmethod
    def bind_grads(self, grads: object) -> None:
        """Bind gradients."""

    @called("RMSProp.state_dict")
    def state_dict(self) -> dict[str, Any]:
        """A copy of the state and the options, for `load_state_dict`.

        Returns
        -------
        dict
            ``"state"``: name to copies of the arrays; ``"param_groups"``: the options of each
            group, and its names as ``"params"``; ``"settings"``, of the optimizer; ``"counters"``.

        Raises
        ------
        RuntimeError
            If another thread is in the middle of a step, or inside `use_ema` or `leafwise`.
        """
        return state_dict_of(self._stepper, self._groups)

    @helps_with_options
    @called("RMSProp.load_state_dict")
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, rename: Rename | None = None
    ) -> LoadReport | None:
        """Go on from a saved state: bit for bit as if there had been no break.

        Parameters
        ----------
        state_dict : dict
            From `state_dict` of an optimizer whose parameters have the same names, shapes and
            dtypes. It does not hold the parameters: load those as well, or use `save` and `load`.
        strict : bool, default True
            If False, each parameter takes the state that is saved under its name, provided that
            shape, dtype and options suit it; the others start anew. The saved options of groups
            are taken if there are as many groups, settings and counters always. Accumulated
            gradients are kept where state is taken.
        rename : mapping, or function of str, optional
            The name here of a saved parameter; a function may return None to leave one out.
            Names that a mapping lacks stay.

        Returns
        -------
        LoadReport or None
            With ``strict=False``, the names that are missing in the state, unexpected, and
            unfitting (another shape or dtype, or not the state that the options need); else None.

        Raises
        ------
        ValueError
            If it does not fit, with all differences, or if `rename` gives a name twice. Nothing has
            changed then.

        Warns
        -----
        UserWarning
            With ``strict=False``, if no parameter took a saved state: most often the names differ.

        Examples
        --------
        >>> import numpy as np
        >>> from fused_rmsprop import RMSProp
        >>> saved = RMSProp({"W": np.ones(3)}).state_dict()
        >>> opt = RMSProp({"weight": np.ones(3), "b": np.ones(2)})
        >>> opt.load_state_dict(saved, strict=False, rename={"W": "weight"}).missing
        ['b']
        """
        return self._load(parts_of(state_dict), strict, rename)

    def _load(self, saved: Saved, strict: bool, rename: Rename | None) -> LoadReport | None:
        saved = renamed(saved, rename)
        report = None
        with self._stepper.change() as change:
            if not as_flag("strict", strict):
                names = [name for group in saved.groups for name in group["params"]]
                saved, report = fitted(saved, self._groups)
                warn_if_nothing(report, [n for g in self._groups for n in g.core.names], names)
            prepare_loading(change, self._groups, saved, self._own)
            change.commit()
        return report

    def _own(self, saved: Saved) -> Saved:
        """Saved state with the parts of its arrays that this process steps: all, here."""
        return saved

    @helps_with_options
    @called("RMSProp.save")
    def save(
        self,
        path: str | os.PathLike[str] | IO[bytes],
        format: str | None = None,  # noqa: A002
    ) -> None:
        """Write the parameters and all that `load` needs into one file.

        The new file replaces an old one at once: a crash, at any moment, leaves the old file or
        the new one, whole.

        Parameters
        ----------
        path : str, os.PathLike or binary file object
            Ends in ``.npz``, which `numpy.load` opens and holds no pickle, or in
            ``.safetensors`` (``pip install 'fused-rmsprop[safetensors]'``). It holds parameters
            as ``params/<name>`` and their state as ``state/<name>/<key>``. A file object, such as
            `io.BytesIO`, holds one checkpoint: it must be empty. It is written in one piece, and
            not atomically.
        format : {"npz", "safetensors"}, optional
            By default that of the path; for a file object ``"npz"``.

        Raises
        ------
        ValueError, ImportError, OSError
            If the suffix is another, safetensors is not installed, the file cannot be written, a
            file object is not empty, or an array was reshaped, resized or replaced since the
            optimizer was made.
        RuntimeError
            If another thread is in the middle of a step, or inside `use_ema` or `leafwise`.

        Notes
        -----
        The arrays are copied first; while the file is written, other threads may step. A schedule
        of `fused_rmsprop.schedules` is saved. Any other function is not; `load` asks for it. Bound
        gradients and `threads` are not saved.
        """
        # Imported when needed: together they take longer than the rest of the package.
        from fused_rmsprop.checkpoint.content import as_content
        from fused_rmsprop.checkpoint.file import write

        state_dict, params = snapshot_of(self._stepper, self._groups)
        write(path, *as_content(state_dict, params, self.defaults), format=format)

    @overload
    @classmethod
    def load(
        cls: type[S],
        path: str | os.PathLike[str] | IO[bytes],
        params: Any,
        *,
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
        threads: int | None = None,
        grads: object = None,
        strict: Literal[False],
        rename: Rename | None = None,
        **options: Any,
    ) -> tuple[S, LoadReport]: ...

    @classmethod
    @in_fp_environment
    @called("RMSProp.load")
    def load(
        cls: type[S],
        path: str | os.PathLike[str] | IO[bytes],
        params: Any,
        *,
        threads: int | None = None,
        grads: object = None,
        strict: bool = True,
        rename: Rename | None = None,
        **options: Any,
    ) -> S | tuple[S, LoadReport]:
        """An optimizer that goes on from a file of `save`, bit for bit.

        Parameters
        ----------
        path : str, os.PathLike or binary file object
            The file. A file object is read from its position to its end, and holds one checkpoint.
        params : like `params` of the class
            Arrays with the names, shapes and dtypes of the saved ones, in the same groups. They
            take over the saved values. Options in the groups are ignored, except functions that
            replace unsaved ones.
        threads, grads
            As for the class; they are not saved.
        strict, rename
            As for `load_state_dict`. With ``strict=False``, the other parameters keep the values
            that they have; groups keep the options given here if the file has another number.
        **options
            Options of the class that override the saved ones. Overrides apply to all groups; if
            the option was an unsaved function in some groups, only to those. An option that needs
            state which was not saved is set afterwards:
            ``opt.param_groups[0]["momentum"] = 0.9``.

        Returns
        -------
        RMSProp
            With the saved state, options, settings and counters.
        LoadReport
            With ``strict=False``, the second of two: names that were not loaded.

        Raises
        ------
        ValueError
            If the parameters or the state do not fit, with all differences; if the file is
            damaged or not a checkpoint (`fused_rmsprop.checkpoint.CheckpointError`); if an option
            was saved as a function and is not given. No parameter has changed then.
        TypeError
            If there is no such option, or `path` is not a path or a binary file object.
        OSError
            If the file cannot be read.
        AttributeError
            If it is called on an instance, which would stay as it is.

        Warns
        -----
        UserWarning
            As for `load_state_dict`.
        """
        from fused_rmsprop.checkpoint.content import loading, read_content

        as_flag("strict", strict)
        known = ("threads", "grads", "strict", "rename", *GROUP_OPTIONS, *SETTINGS)
        if unknown := options.keys() - {*known}:
            raise TypeError(unknown_option(min(unknown), f"{cls.__name__}.load", known))
        content = read_content(path)
        opt = cls.__new__(cls)
        with loading(content.where):
            saved = opt._build_for(content, params, options, threads)
            if grads is not None:
                opt.bind_grads(grads)
            report = opt._load(saved, strict, rename)
        return opt if report is None else (opt, report)

    if not TYPE_CHECKING:
        load = Constructor(load.__func__)

    def _build_for(
        self, content: Content, params: Any, options: Mapping[str, Any], threads: int | None
    ) -> Saved:
        """Build an optimizer with the options of a file, and return its state and parameters."""
        from fused_rmsprop.checkpoint.content import from_content

        grouped = is_list_of_groups(params)
        specs: Sequence[Mapping[str, Any]] = list(params) if grouped else [{"params": params}]
        saved = content.metadata["param_groups"]
        same = len(specs) == len(saved)
        state_dict, saved_params, defaults = from_content(
            content, options, specs if same else [{}] * len(saved)
        )
        groups = state_dict["param_groups"]
        if same:
            for i, (before, group) in enumerate(zip(saved, groups, strict=True)):
                states = [state_dict["state"][name] for name in group["params"]]
                given = parse_options({name: group[name] for name in GROUP_OPTIONS}, "RMSProp.load")
                check_fixed(before["options"], given, states, f"param_groups[{i}]")
            specs = [
                {name: group[name] for name in GROUP_OPTIONS}
                | {"params": spec["params"], "name": spec.get("name", group["name"])}
                for spec, group in zip(specs, groups, strict=True)
            ]
        else:  # the options given here
            own = {name: value for name, value in options.items() if name in GROUP_OPTIONS}
            specs = [{**spec, **own} for spec in specs]
        self._build(
            specs,
            grouped,
            defaults,
            state_dict["settings"] | {"threads": threads},
            state_dict["counters"]["step_count"],
        )
        return parts_of(state_dict, saved_params, content.where)

    def __getstate__(self) -> dict[str, Any]:
        self._stepper.read_here()  # its arrays are in the pickle
        for group in self._groups:
            group.core.check_unchanged()
        specs = [
            {"params": group.params, **group.options}
            | ({"name": group.name} if self._grouped else {})
            for group in self._groups
        ]
        settings = self._settings()
        return {
            "build": (specs, self._grouped, self.defaults, settings, self.step_count),
            "grads": self._stepper.bound,
            "state_dict": self.state_dict(),
            "attributes": {k: v for k, v in vars(self).items() if k not in self._REBUILT},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        specs, grouped, defaults, settings, steps = state["build"]
        self._build(specs, grouped, defaults, settings, steps, from_pickle=True)
        self.load_state_dict(state["state_dict"])
        self.bind_grads(state["grads"])
        vars(self).update(state["attributes"])
