"""Loads saved state by the names of parameters, or as much of it as fits."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

from fused_rmsprop.base import called, helps_with_options
from fused_rmsprop.checkpoint.renaming import Rename, own_names
from fused_rmsprop.checkpoint.report import LoadReport, warn_if_nothing
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.torch.loading import check_is_state_dict, check_layout, check_loadable, fits
from fused_rmsprop.torch.plan import EXTRA_OPTIONS, check_extra
from fused_rmsprop.values import as_flag

_KINDS = ("missing", "unexpected", "unfitting")


class _Saved(NamedTuple):
    state: dict[str, Any] | None  # None: it was never stepped
    group: int


class LoadedByName:
    """An optimizer of torch that can load a part of a saved state."""

    register_load_state_dict_pre_hook: Any

    @helps_with_options
    @in_fp_environment
    @called("RMSprop.load_state_dict")
    def load_state_dict(
        self, state_dict: Any, strict: bool = True, rename: Rename | None = None
    ) -> LoadReport | None:
        """Load a state of this class or of torch's; see `torch.optim.Optimizer.load_state_dict`.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` returned.
        strict : bool, default True
            Whether the groups must have as many parameters as the saved ones. If False, every
            parameter whose name and shape are in ``state_dict`` gets the state saved for it, and
            the others start anew. The saved options of the groups are taken if there are as many
            groups as here; otherwise the groups keep theirs.
        rename : mapping, or function of str, optional
            The name here of a saved parameter; a function may return None for one to leave out.
            Names that a mapping lacks stay.

        Returns
        -------
        LoadReport or None
            With ``strict=False``, the names that are missing, unexpected and unfitting; else None.

        Raises
        ------
        TypeError, ValueError
            If it does not fit. Nothing has changed then.

        Warns
        -----
        UserWarning
            With ``strict=False``, if no parameter took a saved state: most often the names differ.

        Notes
        -----
        Names are those of ``named_parameters()``, if both optimizers were made from them.
        Otherwise they are the positions among all parameters: ``"0"``, ``"1"``, and so on. Without
        ``rename``, a strict load goes by position alone, as in torch.

        Examples
        --------
        >>> import torch
        >>> from fused_rmsprop.torch import RMSprop
        >>> small, large = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> saved = RMSprop([("weight", small.weight)]).state_dict()
        >>> optimizer = RMSprop(large.named_parameters())
        >>> optimizer.load_state_dict(saved, strict=False).missing
        ['bias']
        """
        check_is_state_dict(state_dict)
        by_name = not as_flag("strict", strict) or rename is not None
        fitting = Fitting(strict, rename)  # after the hooks of the user
        with (
            self.register_load_state_dict_pre_hook(fitting) if by_name else nullcontext(),
            self.register_load_state_dict_pre_hook(check_loadable),
        ):
            super().load_state_dict(state_dict)  # type: ignore[misc]
        return None if strict else fitting.report


class Fitting:
    """A hook of one ``load_state_dict`` that makes the saved state fit the optimizer."""

    def __init__(self, strict: bool, rename: Rename | None) -> None:
        self._strict, self._rename = strict, rename
        self.report = LoadReport([], [], [])

    def __call__(self, optimizer: Any, state_dict: Any) -> dict[str, Any]:
        """The state as `load_state_dict` takes it; what it leaves out is in the report."""
        check_layout(state_dict)
        groups, saved_groups = optimizer.param_groups, state_dict["param_groups"]
        named = all("param_names" in group for group in (*groups, *saved_groups))
        saved = self._saved(state_dict, named)
        here, there = list[str](), [*saved]
        group_of = {name: source.group for name, source in saved.items()}
        same = len(groups) == len(saved_groups)
        fitted: dict[str, Any] = {"state": {}, "param_groups": []}
        missing, unfitting = self.report.missing, self.report.unfitting
        count = 0
        for index, group in enumerate(groups):
            sources = set()
            begin = count
            end = begin + len(group["params"])
            names = group["param_names"] if named else [str(i) for i in range(begin, end)]
            found = [group_of[name] for name in names if name in group_of]
            taken = saved_groups[found[0]] if same and found else group
            for name, param in zip(names, group["params"], strict=True):
                source = saved.pop(name, None)
                here.append(name)
                if source is None:
                    missing.append(name)
                elif source.state:
                    if not isinstance(source.state, dict) or fits(source.state, param):
                        fitted["state"][count] = source.state
                        sources.add(source.group)
                    else:
                        unfitting.append(name)
                count += 1
            options = {**taken, "params": list(range(begin, end))}
            options.pop("param_names", None)  # those here stay
            read = [saved_groups[source] for source in sorted(sources)]
            self._check_options({**group, **options}, index, taken, read, fitted["state"])
            fitted["param_groups"].append(options)
        self.report.unexpected.extend(saved)
        if self._strict:
            self._refuse_others(len(groups), len(saved_groups))
        else:
            warn_if_nothing(self.report, here, there)
        return fitted

    def _saved(self, state_dict: Any, named: bool) -> dict[str, _Saved]:
        """The saved parameters by their names here."""
        saved: dict[str, _Saved] = {}
        for index, group in enumerate(state_dict["param_groups"]):
            for i, key in enumerate(group["params"]):
                name = group["param_names"][i] if named else str(len(saved))
                saved[name] = _Saved(state_dict["state"].get(key), index)
        hint = "" if named else "; for names, make both optimizers from named_parameters()"
        names = own_names(saved, self._rename, hint)
        return {new: saved[old] for old, new in names.items()}

    def _check_options(
        self,
        group: dict[str, Any],
        index: int,
        taken: dict[str, Any],
        sources: list[dict[str, Any]],
        states: dict[int, Any],
    ) -> None:
        """Refuse state whose meaning the options of its group here would change."""
        loaded = [states[i] for i in group["params"] if i in states]
        for saved in sources:
            if saved is not taken or any(saved.get(n) != group.get(n) for n in EXTRA_OPTIONS):
                before = {
                    n: saved.get(n, o.default)
                    for n, o in EXTRA_OPTIONS.items()
                    if o.core or n in saved
                }
                where = f"the state to be loaded into param_groups[{index}]"
                check_extra(group, where, before=before, states=loaded)

    def _refuse_others(self, groups: int, saved_groups: int) -> None:
        if groups != saved_groups:
            raise ValueError(
                f"the state to be loaded has {saved_groups} parameter groups, the optimizer "
                f"{groups}; strict=False keeps the options here and takes what fits"
            )
        wrong = [
            f"{kind}: {', '.join(n)}" for kind, n in zip(_KINDS, self.report, strict=True) if n
        ]
        if wrong:
            raise ValueError(
                f"the state to be loaded does not fit ({'; '.join(wrong)}); strict=False takes "
                "what fits"
            )
