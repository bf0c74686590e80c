"""A group of parameters with its options and its state, as an optimizer holds it.

A change is prepared here, and written by `_core.Change.commit` in one call. So an exception, even a
KeyboardInterrupt between two lines, leaves everything old or everything new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fused_rmsprop import _core
from fused_rmsprop.groups.state import (
    GRAD_SUM,
    KINDS,
    Array,
    Arrays,
    arrays_for,
    check_fixed,
)
from fused_rmsprop.groups.views import ParamState
from fused_rmsprop.options import (
    check_start,
    check_together,
    core_options,
    in_repr,
    options_at,
    parse_options,
    scheduled,
)

#: Options, a step, and the values of the options at that step.
Values = tuple[Mapping[str, Any], int, dict[str, Any]]


class Checked(NamedTuple):
    """Options that were found good, and their values at the next step."""

    options: dict[str, Any]
    values: dict[str, Any]


class Group:
    """Arrays in a user's containers that share options, and the state of each.

    In errors the containers are called ``root`` and the group ``where``; the names of the arrays
    begin with ``name``. Only arrays from a pickle may be read-only. ``cut`` may let the group step
    a part of each array; what it returns is kept as ``cuts``.
    """

    def __init__(
        self,
        change: _core.Change,
        stepper: _core.NumpyStepper,
        params: object,
        options: Mapping[str, Any],
        *,
        root: str,
        name: str,
        where: str,
        cut: Callable[[_core.Group], Any],
        from_pickle: bool = False,
    ) -> None:
        self.name = name
        self.stepper = stepper
        self.core = _core.Group(params, root, name, from_pickle)
        self.cuts = cut(self.core)
        self.params = _snapshot(params)
        #: The state of each parameter by its name, as users see it.
        self.state = {leaf: ParamState(leaf, {}) for leaf in self.core.names}
        self._where = where
        self._arrays: Arrays = {}
        checked = self.validated(
            parse_options(options, where), stepper.flush_denormals, stepper.step_count
        )
        self.options = checked.options
        self._values: Values = ({}, -1, {})
        self.scheduled = False
        self.prepare(change, checked)

    def __repr__(self) -> str:
        arrays = self.core.arrays
        elements = sum(array.size for array in arrays)
        plural = "" if len(arrays) == 1 else "s"
        frozen = f", {len(self.frozen)} of {len(arrays)} arrays frozen" if self.frozen else ""
        size = f"{len(arrays)} array{plural} of {elements:,} in all"
        return f"{in_repr(self.options)}; {size}{frozen}"

    @property
    def state_nbytes(self) -> int:
        """The bytes of all state arrays, the sum of gradients included."""
        return sum(array.nbytes for arrays in self._arrays.values() for array in arrays)

    @property
    def averages(self) -> Sequence[Array]:
        """The averages of squares of the parameters, or their variances."""
        return self._arrays[KINDS[0].name]

    @property
    def has_averages(self) -> bool:
        """Whether there are averages of the parameters themselves."""
        return any(kind.start == "param" and kind.name in self._arrays for kind in KINDS)

    @property
    def frozen(self) -> list[str]:
        """The names of the parameters that steps leave alone."""
        pairs = zip(self.core.names, self.core.frozen, strict=True)
        return [name for name, frozen in pairs if frozen]

    def values(self) -> dict[str, Any]:
        """The options of the next step: numbers in the place of functions of the step."""
        options, step = self.options, self.stepper.step_count
        of, at, values = self._values
        if of is not options or at != step:  # so that functions are called once for each step
            values = options_at(options, step)
            self._values = options, step, values
        return values

    def checked(self, changes: Mapping[str, Any]) -> Checked:
        """The options after ``changes``, or an error that names the group."""
        options = self.options | parse_options(changes, self._where)
        check_fixed(self.options, options, self.state.values(), self._where)
        return self.validated(options, self.stepper.flush_denormals, self.stepper.step_count)

    def validated(self, options: dict[str, Any], flush_denormals: bool, step: int) -> Checked:
        """``options`` as of that step, or an error that names the group."""
        values = options_at(options, step)
        self._validate(options, values, step, flush_denormals)
        return Checked(options, values)

    def validate(self, flush_denormals: bool) -> None:
        """Raise a `ValueError` unless the options suit the arrays, also with that setting."""
        self._validate(self.options, self.values(), self._values[1], flush_denormals)

    def _validate(
        self, options: dict[str, Any], values: dict[str, Any], step: int, flush_denormals: bool
    ) -> None:
        try:
            self.core.validate(core_options(values), flush_denormals)
            check_together(options)
            for dtype in self.core.dtypes:
                check_start(values, dtype, float(np.finfo(dtype).max))
        except ValueError as error:
            raise self._refusal(options, step, error) from None

    def _refusal(self, options: dict[str, Any], step: int, error: ValueError) -> ValueError:
        names = ", ".join(f"{name}({step})" for name in scheduled(options))
        by = f", by {names}" if names else ""
        return ValueError(f"{self._where}{by}: {error}")

    def follow_schedules(self) -> None:
        """Set the options that are functions of the step to their values for the next one."""
        for _ in range(3):
            changes = self.stepper.changes
            values = self.values()
            try:
                if self.stepper.set_options(self.core, core_options(values), changes):
                    return
            except ValueError as error:
                step = self._values[1]
                self._values = ({}, -1, {})  # ask the functions again next time
                raise self._refusal(self.options, step, error) from None
        raise RuntimeError(
            f"{self._where} was changed again and again while its functions of the step were asked"
        )

    def prepare(self, change: _core.Change, checked: Checked) -> None:
        """Add checked options, and the state that they need, to a change."""
        arrays = arrays_for(checked.options, self._arrays, self.core.parts)
        self._prepare(change, checked, arrays)
        for kind in KINDS:  # an option that a kind starts from changes before the first step only
            start = checked.options.get(kind.start or "")
            if start != self.options.get(kind.start or ""):
                for array in arrays[kind.name]:
                    change.copy(array, np.full_like(array, start))

    def prepare_saved(
        self,
        change: _core.Change,
        checked: Checked,
        saved: Mapping[str, Mapping[str, Any]],
        kinds: set[str],
    ) -> None:
        """Add checked options and the saved state of each parameter to a change."""
        params, names = self.core.parts, self.core.names
        summed = [GRAD_SUM in saved[name] for name in names]
        kinds = kinds | ({GRAD_SUM} if any(summed) else set())
        arrays = {
            name: self._arrays.get(name) or [_core.zeros_in_order_of(param) for param in params]
            for name in kinds
        }
        self._prepare(change, checked, arrays)
        change.set_summed(self.core, summed)
        steps = [int(np.asarray(saved[name]["step"])) for name in names]
        change.copy(self.core.steps, np.array(steps, np.int64))
        keys = {kind.name: kind.key(checked.options) for kind in KINDS} | {GRAD_SUM: GRAD_SUM}
        for kind, of_kind in arrays.items():
            for name, array in zip(names, of_kind, strict=True):
                if keys[kind] in saved[name]:
                    change.copy(array, saved[name][keys[kind]])

    def need_grad_sum(self) -> None:
        """Allocate the sum of gradients, unless it is there."""
        if GRAD_SUM in self._arrays:
            return
        with self.stepper.change() as change:
            if GRAD_SUM not in self._arrays:  # another thread may have been quicker
                zeros = [_core.zeros_in_order_of(param) for param in self.core.parts]
                arrays = {**self._arrays, GRAD_SUM: zeros}
                self._prepare(change, Checked(self.options, self.values()), arrays)
                change.commit()

    def grad_sums(self) -> dict[str, Array]:
        """The sums of gradients by the names of the parameters that have one."""
        pairs = zip(self.core.names, self.core.summed, strict=True)
        return {name: self._arrays[GRAD_SUM][i] for i, (name, summed) in enumerate(pairs) if summed}

    def _prepare(self, change: _core.Change, checked: Checked, arrays: Arrays) -> None:
        core = core_options(checked.values)
        names = [*(kind.name for kind in KINDS), GRAD_SUM]
        if self._arrays and all(arrays.get(name) is self._arrays.get(name) for name in names):
            change.set_options(self.core, core)
        else:
            change.configure(self.core, core, [arrays.get(name) for name in names])
            change.update(self.state, self._shown(checked.options, arrays))
        new = {
            "options": checked.options,
            "_values": (checked.options, self.stepper.step_count, checked.values),
            "scheduled": bool(scheduled(checked.options)),
            "_arrays": arrays,
        }
        change.update(vars(self), new)

    def _shown(self, options: Mapping[str, Any], arrays: Arrays) -> dict[str, ParamState]:
        """The state of each parameter, as users see it."""
        steps = self.core.steps
        shown = [(k.key(options), arrays[k.name]) for k in KINDS if k.name in arrays]
        # Views: whatever a user does to these array objects, the memory stays where it is.
        return {
            name: ParamState(
                name,
                {"step": steps[i : i + 1].reshape(())}
                | {key: of_kind[i].view() for key, of_kind in shown},
            )
            for i, name in enumerate(self.core.names)
        }


def _snapshot(nest: Any) -> Any:
    """The same arrays in new dicts, lists and tuples, which nobody else can change."""
    if isinstance(nest, Mapping):
        return {key: _snapshot(value) for key, value in list(nest.items())}
    if _core.is_sequence(nest):
        items = [_snapshot(value) for value in nest]
        return tuple(items) if isinstance(nest, tuple) else items
    return nest
