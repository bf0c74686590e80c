"""Saving and loading, as methods of `RMSProp`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fused_rmsprop.checkpoint.state_dict import (
    SETTINGS,
    prepare_loading,
    snapshot_of,
    state_dict_of,
)
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.groups.grouped import GroupedOptimizer
from fused_rmsprop.groups.specs import is_list_of_groups
from fused_rmsprop.groups.state import check_fixed
from fused_rmsprop.options import GROUP_OPTIONS, parse_options, unknown_option

S = TypeVar("S", bound="Saving")


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

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state: bit for bit as if there had been no break.

        Parameters
        ----------
        state_dict : dict
            From `state_dict` of an optimizer whose parameters have the same names, shapes and
            dtypes. It does not hold the parameters: load those as well, or use `save` and `load`.

        Raises
        ------
        ValueError
            If it does not fit, with all differences. Nothing has changed then.
        """
        with self._stepper.change() as change:
            prepare_loading(change, self._groups, state_dict)
            change.commit()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters and all that `load` needs into one file.

        The new file replaces an old one at once: a crash, at any moment, leaves the old file or
        the new one, whole.

        Parameters
        ----------
        path : str or os.PathLike
            Ends in ``.npz``, which `numpy.load` opens and holds no pickle, or in
            ``.safetensors`` (``pip install 'fused-rmsprop[safetensors]'``). It holds parameters
            as ``params/<name>`` and their state as ``state/<name>/<key>``.

        Raises
        ------
        ValueError, ImportError, OSError
            If the suffix is another, safetensors is not installed, the file cannot be written, or
            an array was reshaped, resized or replaced since the optimizer was made.
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
        write(path, *as_content(state_dict, params, self.defaults))

    @classmethod
    @in_fp_environment
    def load(
        cls: type[S],
        path: str | os.PathLike[str],
        params: Any,
        *,
        threads: int | None = None,
        grads: object = None,
        **options: Any,
    ) -> S:
        """An optimizer that goes on from a file of `save`, bit for bit.

        Parameters
        ----------
        path : str or os.PathLike
            The file.
        params : like `params` of the class
            Arrays with the names, shapes and dtypes of the saved ones, in the same groups. They
            take over the saved values. Options in the groups are ignored, except functions that
            replace unsaved ones.
        threads, grads
            As for the class; they are not saved.
        **options
            Options of the class that override the saved ones. Overrides apply to all groups; if
            the option was an unsaved function in some groups, only to those. An option that needs
            state which was not saved is set afterwards:
            ``opt.param_groups[0]["momentum"] = 0.9``.

        Returns
        -------
        RMSProp
            With the saved state, options, settings and counters.

        Raises
        ------
        ValueError
            If the parameters or the state do not fit, with all differences; if the file is
            damaged or not a checkpoint (`fused_rmsprop.checkpoint.CheckpointError`); if an option
            was saved as a function and is not given. No parameter has changed then.
        OSError
            If the file cannot be read.
        """
        from fused_rmsprop.checkpoint.content import from_content, read_content

        content = read_content(path)
        known = (*GROUP_OPTIONS, *SETTINGS)
        if unknown := options.keys() - {*known}:
            raise ValueError(unknown_option(min(unknown), f"{cls.__name__}.load", known))
        grouped = is_list_of_groups(params)
        specs = list(params) if grouped else [{"params": params}]
        saved_groups = content.metadata["param_groups"]
        if len(specs) != len(saved_groups):
            raise ValueError(f"{path} has {len(saved_groups)} parameter groups, not {len(specs)}")
        state_dict, saved_params, defaults = from_content(content, options, specs)
        for i, (saved, group) in enumerate(
            zip(saved_groups, state_dict["param_groups"], strict=True)
        ):
            states = [state_dict["state"][name] for name in group["params"]]
            given = parse_options({name: group[name] for name in GROUP_OPTIONS}, "RMSProp.load")
            check_fixed(saved["options"], given, states, f"param_groups[{i}]")
        opt = cls.__new__(cls)
        opt._build(
            [
                {k: saved[k] for k in GROUP_OPTIONS}
                | {"params": spec["params"], "name": spec.get("name", saved["name"])}
                for spec, saved in zip(specs, state_dict["param_groups"], strict=True)
            ],
            grouped,
            defaults,
            state_dict["settings"] | {"threads": threads},
            state_dict["counters"]["step_count"],
        )
        if grads is not None:
            opt.bind_grads(grads)
        with opt._stepper.change() as change:
            prepare_loading(change, opt._groups, state_dict, saved_params)
            change.commit()
        return opt

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
