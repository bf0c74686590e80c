"""A group of parameters with its options and its state, as an optimizer holds it.

Whoever changes one has claimed the optimizer's stepper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
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
    zeros_in_order_of,
)
from fused_rmsprop.options import (
    check_start,
    core_options,
    in_repr,
    options_at,
    parse_options,
    scheduled,
)

State = Mapping[str, Array]


class Checked(NamedTuple):
    """Options that were found good, and their values at the next step."""

    options: dict[str, Any]
    values: dict[str, Any]


class Group:
    """Arrays in a user's containers that share options, and the state of each.

    In errors the containers are called ``root`` and the group ``where``; the names of the arrays
    begin with ``name``.
    """

    def __init__(
        self,
        stepper: _core.NumpyStepper,
        params: object,
        options: Mapping[str, Any],
        *,
        root: str,
        name: str,
        where: str,
    ) -> None:
        self.name = name
        self.params = _snapshot(params)
        self.stepper = stepper
        self.core = _core.Group(params, root, name)
        #: The state of each parameter by its name, as users see it.
        self.state: dict[str, State] = {}
        self._where = where
        self._values_step = -1
        self._arrays: Arrays = {}
        checked = self.validated(
            parse_options(options, where), stepper.flush_denormals, stepper.step_count
        )
        self.options = checked.options
        self.commit(checked)

    def __repr__(self) -> str:
        arrays = self.core.arrays
        elements = sum(array.size for array in arrays)
        plural = "" if len(arrays) == 1 else "s"
        return f"{in_repr(self.options)}; {len(arrays)} array{plural} of {elements:,} in all"

    @property
    def state_nbytes(self) -> int:
        """The bytes of all state arrays, the sum of gradients included."""
        return sum(array.nbytes for arrays in self._arrays.values() for array in arrays)

    def values(self) -> dict[str, Any]:
        """The options of the next step: numbers in the place of functions of the step."""
        step = self.stepper.step_count
        if step != self._values_step:  # so that functions are called once for each step
            self._values, self._values_step = options_at(self.options, step), step
        return self._values

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
        values = self.values()
        self._validate(self.options, values, self._values_step, flush_denormals)

    def _validate(
        self, options: dict[str, Any], values: dict[str, Any], step: int, flush_denormals: bool
    ) -> None:
        try:
            self.core.validate(core_options(values), flush_denormals)
            for dtype in {array.dtype for array in self.core.arrays}:
                check_start(values, str(dtype), float(np.finfo(dtype).max))
        except ValueError as error:
            names = ", ".join(f"{name}({step})" for name in scheduled(options))
            by = f", by {names}" if names else ""
            raise ValueError(f"{self._where}{by}: {error}") from None

    def follow_schedules(self) -> None:
        """Set the options that are functions of the step to their values for the next one."""
        values = self.values()
        with self.stepper.claim():
            self.validate(self.stepper.flush_denormals)
            self.core.set_options(core_options(values))

    def commit(self, checked: Checked) -> None:
        """Use options that were checked, with the state that they need."""
        for kind in KINDS:  # an option that a kind starts from changes before the first step only
            start = checked.options.get(kind.start or "")
            if start != self.options.get(kind.start or ""):
                for array in self._arrays[kind.name]:
                    array[...] = start
        self._use(checked, arrays_for(checked.options, self._arrays, self.core.arrays))

    def commit_saved(self, checked: Checked, kinds: set[str]) -> Arrays:
        """Use options that were checked, with arrays of those kinds to be written to."""
        params = self.core.arrays
        arrays = {
            name: self._arrays.get(name) or [zeros_in_order_of(param) for param in params]
            for name in kinds
        }
        self._use(checked, arrays)
        return arrays

    def need_grad_sum(self) -> None:
        """Allocate the sum of gradients, unless it is there."""
        if GRAD_SUM not in self._arrays:
            zeros = [zeros_in_order_of(param) for param in self.core.arrays]
            with self.stepper.claim():
                self._use_arrays({**self._arrays, GRAD_SUM: zeros})

    def grad_sums(self) -> dict[str, Array]:
        """The sums of gradients by the names of the parameters that have one."""
        pairs = zip(self.core.names, self.core.summed, strict=True)
        return {name: self._arrays[GRAD_SUM][i] for i, (name, summed) in enumerate(pairs) if summed}

    @contextmanager
    def showing_averages(self) -> Iterator[None]:
        """For the time being, the parameters hold their averages' values, if there are any."""
        averages = self._arrays.get("param_avg")
        if averages is None:
            yield
            return
        # Views: they stay writable whatever is done to the array objects meanwhile.
        arrays = [array.view() for array in self.core.arrays]
        for array, name in zip(arrays, self.core.names, strict=True):
            if not array.flags.writeable:
                raise ValueError(f"the parameter {name!r} has become read-only")
        values = [array.copy(order="K") for array in arrays]
        try:
            for array, average in zip(arrays, averages, strict=True):
                array[...] = average
            yield
        finally:
            for array, value in zip(arrays, values, strict=True):
                array[...] = value

    def _use(self, checked: Checked, arrays: Arrays) -> None:
        self.options, self._values = checked
        self.scheduled = bool(scheduled(self.options))
        self._values_step = self.stepper.step_count
        self._use_arrays(arrays)

    def _use_arrays(self, arrays: Arrays) -> None:
        core = core_options(self._values)
        names = [*(kind.name for kind in KINDS), GRAD_SUM]
        if self.state and all(arrays.get(name) is self._arrays.get(name) for name in names):
            self.core.set_options(core)
            return
        self.core.configure(core, [arrays.get(name) for name in names])
        self._arrays = arrays
        steps = self.core.steps
        shown = [(k.key(self.options), arrays[k.name]) for k in KINDS if k.name in arrays]
        for i, name in enumerate(self.core.names):
            # Views: whatever a user does to these array objects, the memory stays where it is.
            views = {key: kind[i].view() for key, kind in shown}
            self.state[name] = MappingProxyType({"step": steps[i : i + 1].reshape(()), **views})


def _snapshot(nest: Any) -> Any:
    """The same arrays in new containers, which nobody else can change."""
    if isinstance(nest, dict):
        return {key: _snapshot(value) for key, value in nest.items()}
    if isinstance(nest, (list, tuple)):
        items = [_snapshot(value) for value in nest]
        return tuple(items) if isinstance(nest, tuple) else items
    return nest
