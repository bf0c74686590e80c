"""A parameter group: arrays that share options, and the state of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.options import (
    FIXED,
    OPTIONS,
    check_start,
    core_options,
    options_at,
    parse_options,
    scheduled,
)

Array = NDArray[Any]
State = Mapping[str, Array]

#: What there can be beside a parameter, in the core's order; the last is not shown to users.
_KINDS = ("square_avg", "momentum_buffer", "grad_avg", "param_avg", "grad_sum")


def zeros_in_order_of(param: Array) -> Array:
    """Zeros of the shape and dtype of ``param``, with the elements in its order in memory.

    Not `numpy.zeros_like`, which writes to the new memory at once; `numpy.zeros` leaves that to
    the first step, so that the state of a parameter that is never stepped costs nothing.
    """
    if param.flags.c_contiguous:
        return np.zeros(param.shape, param.dtype)
    slowest_first = np.argsort([-stride for stride in param.strides], kind="stable")
    zeros = np.zeros([param.shape[axis] for axis in slowest_first], param.dtype)
    return zeros.transpose(np.argsort(slowest_first))


def snapshot(nest: Any) -> Any:
    """The same arrays in new containers, which nobody else can change."""
    if isinstance(nest, dict):
        return {key: snapshot(value) for key, value in nest.items()}
    if isinstance(nest, (list, tuple)):
        items = [snapshot(value) for value in nest]
        return tuple(items) if isinstance(nest, tuple) else items
    return nest


@contextmanager
def claimed(stepper: _core.Stepper, why: str = "") -> Iterator[None]:
    """Keep others from stepping or changing the optimizer meanwhile; ``why`` tells them."""
    stepper.acquire(why)
    try:
        yield
    finally:
        stepper.release()


class Checked(NamedTuple):
    """Options that were found good, and their values at the next step."""

    options: dict[str, Any]
    values: dict[str, Any]


class ParamGroup(MutableMapping[str, Any]):
    """Parameters that share options: a mapping from ``"params"`` and each option to its value.

    Optimizers make these; see `RMSProp.param_groups`. Options are set as in a dict and checked
    at once; a refused change leaves everything as it was. `update` changes several together.
    """

    __slots__ = (
        *("_arrays", "_name", "_options", "_params", "_stepper", "_values", "_values_step"),
        *("_scheduled_groups", "_where", "core", "state"),
    )
    __eq__ = object.__eq__  # identity, as arrays have no truth value to compare by
    __hash__ = object.__hash__

    def __init__(
        self,
        stepper: _core.Stepper,
        params: object,
        options: Mapping[str, Any],
        *,
        root: str,
        name: str,
        where: str,
    ) -> None:
        self._name = name
        self._where = where
        self._params = snapshot(params)
        self._stepper = stepper
        self.core = _core.Group(params, root, name)
        self._values_step = -1
        self._scheduled_groups: list[ParamGroup] = []
        checked = self.validated(
            parse_options(options, where), stepper.flush_denormals, stepper.step_count
        )
        #: The arrays of every kind of state, one per parameter.
        self._arrays: dict[str, list[Array]] = {
            "square_avg": self._zeros(checked.options["initial_square_avg"])
        }
        #: The state of each parameter by its name; see `RMSProp.state`.
        self.state: dict[str, State] = {}
        self.commit(checked)

    @property
    def name(self) -> str:
        """What the names of the group's parameters in the state begin with."""
        return self._name

    def __getitem__(self, key: str) -> Any:
        return self._params if key == "params" else self._options[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"{key!r} cannot be removed from a parameter group")

    def __iter__(self) -> Iterator[str]:
        return iter(("params", *OPTIONS))

    def __len__(self) -> int:
        return 1 + len(OPTIONS)

    def __repr__(self) -> str:
        return f"ParamGroup({self.summary()})"

    def summary(self) -> str:
        """The main options, those in use of the others, and the size, for a `repr`."""
        options = ", ".join(
            f"{key}={value!r}"
            for key, value in self._options.items()
            if key in ("lr", "alpha", "eps") or value
        )
        arrays = self.core.arrays
        elements = sum(array.size for array in arrays)
        plural = "" if len(arrays) == 1 else "s"
        return f"{options}; {len(arrays)} array{plural} of {elements:,} in all"

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change several options together, or none if any of them is refused."""
        with claimed(self._stepper):
            self.commit(self.checked(dict(*args, **kwargs)))

    def options(self) -> dict[str, Any]:
        """A copy of the options, without the arrays."""
        return dict(self._options)

    def current(self) -> dict[str, Any]:
        """The options of the next step: numbers in the place of functions of the step."""
        step = self._stepper.step_count
        if step != self._values_step:  # so that functions are called once for each step
            self._values, self._values_step = options_at(self._options, step), step
        return dict(self._values)

    @property
    def state_nbytes(self) -> int:
        """The bytes of all state arrays."""
        return sum(array.nbytes for arrays in self._arrays.values() for array in arrays)

    # What follows is for RMSProp, which has claimed the stepper when it calls what changes things.

    def checked(self, changes: Mapping[str, Any]) -> Checked:
        """The options after ``changes``, or the error that `update` would raise."""
        if "params" in changes:
            raise ValueError("the arrays of a group cannot be replaced; add_param_group adds some")
        options = self._options | parse_options(changes, self._where)
        for name in FIXED:
            if options[name] != self._options[name]:
                raise ValueError(
                    f"{self._where}: {name} is fixed, because the state began with it; "
                    "make a new optimizer"
                )
        return self.validated(options, self._stepper.flush_denormals, self._stepper.step_count)

    def validated(self, options: dict[str, Any], flush_denormals: bool, step: int) -> Checked:
        """``options`` as of that step, or an error that names the group."""
        values = options_at(options, step)
        self.validate(values, flush_denormals, self._where_at(options, step))
        return Checked(options, values)

    def _where_at(self, options: Mapping[str, Any], step: int) -> str:
        names = ", ".join(f"{name}({step})" for name in scheduled(options))
        return f"{self._where}, by {names}" if names else self._where

    def validate(self, values: Mapping[str, Any], flush_denormals: bool, where: str = "") -> None:
        """Raise a `ValueError` that names the group unless the values suit its arrays."""
        try:
            self.core.validate(core_options(values), flush_denormals)
            for dtype in {array.dtype for array in self.core.arrays}:
                check_start(values, str(dtype), float(np.finfo(dtype).max))
        except ValueError as error:
            raise ValueError(f"{where or self._where}: {error}") from None

    def enlist(self, scheduled_groups: list[ParamGroup]) -> None:
        """From now on be in that list as long as an option is a function of the step."""
        self._scheduled_groups = scheduled_groups
        if self in scheduled_groups:
            scheduled_groups.remove(self)
        if scheduled(self._options):
            scheduled_groups.append(self)

    def follow_schedules(self) -> None:
        """Set the options that are functions of the step to their values for the next one."""
        values = self.current()
        with claimed(self._stepper):
            where = self._where_at(self._options, self._values_step)
            self.validate(values, self._stepper.flush_denormals, where)
            self.core.set_options(core_options(values))

    def commit(self, checked: Checked) -> None:
        """Use options that were checked; allocate the state that they newly need."""
        options, arrays = checked.options, dict(self._arrays)
        if _needs(options)["momentum_buffer"] and "momentum_buffer" not in arrays:
            arrays["momentum_buffer"] = self._zeros()
        if options["centered"] and "grad_avg" not in arrays:
            # The variance about an average of zero is square_avg: it goes on in the same array.
            arrays["grad_avg"] = self._zeros()
        if not options["centered"] and (grad_avg := arrays.pop("grad_avg", None)) is not None:
            with np.errstate(all="ignore"):
                arrays["square_avg"] = [
                    v + m * m for v, m in zip(arrays["square_avg"], grad_avg, strict=True)
                ]
        if options["ema_decay"] == 0:
            arrays.pop("param_avg", None)
        elif "param_avg" not in arrays:
            arrays["param_avg"] = self._zeros()
            for average, array in zip(arrays["param_avg"], self.core.arrays, strict=True):
                average[...] = array
        self._use(checked, arrays)

    def need_grad_sum(self) -> None:
        """Allocate what `RMSProp.accumulate` adds to, unless it is there."""
        if "grad_sum" not in self._arrays:
            with claimed(self._stepper):
                self._use_arrays({**self._arrays, "grad_sum": self._zeros()})

    @contextmanager
    def showing_averages(self) -> Iterator[None]:
        """The parameters hold their averages' values, if there are any, for the time being."""
        averages = self._arrays.get("param_avg")
        if averages is None:
            yield
            return
        # Views: they stay writable whatever is done to the array objects meanwhile.
        arrays = [array.view() for array in self.core.arrays]
        for array, what in zip(arrays, self.core.names, strict=True):
            if not array.flags.writeable:
                raise ValueError(f"the parameter {what!r} has become read-only")
        values = [array.copy(order="K") for array in arrays]
        try:
            for array, average in zip(arrays, averages, strict=True):
                array[...] = average
            yield
        finally:
            for array, value in zip(arrays, values, strict=True):
                array[...] = value

    def _zeros(self, start: float = 0.0) -> list[Array]:
        arrays = [zeros_in_order_of(array) for array in self.core.arrays]
        if start:
            for array in arrays:
                array[...] = start
        return arrays

    def _use(self, checked: Checked, arrays: dict[str, list[Array]]) -> None:
        self._options, self._values = checked.options, checked.values
        self.enlist(self._scheduled_groups)
        self._values_step = self._stepper.step_count
        self._use_arrays(arrays)

    def _use_arrays(self, arrays: dict[str, list[Array]]) -> None:
        core = core_options(self._values)
        if self.state and all(arrays.get(k) is self._arrays.get(k) for k in _KINDS):
            self.core.set_options(core)
            return
        self.core.configure(core, [arrays.get(kind) for kind in _KINDS])
        self._arrays = arrays
        self._show_state()

    def _show_state(self) -> None:
        options, arrays = self._options, self._arrays
        steps = self.core.steps
        for i, name in enumerate(self.core.names):
            # Views: whatever a user does to these array objects, the memory stays where it is.
            state: dict[str, Array] = {"step": steps[i : i + 1].reshape(())}
            for kind in _KINDS[:-1]:
                if kind in arrays:
                    key = "variance" if kind == "square_avg" and options["centered"] else kind
                    state[key] = arrays[kind][i].view()
            self.state[name] = MappingProxyType(state)

    def saved_state(self) -> dict[str, dict[str, Array]]:
        """Copies of the state of each parameter by its name, with what has been accumulated."""
        saved = {
            name: {key: array.copy() for key, array in state.items()}
            for name, state in self.state.items()
        }
        for i, (name, summed) in enumerate(zip(self.core.names, self.core.summed, strict=True)):
            if summed:
                saved[name]["grad_sum"] = self._arrays["grad_sum"][i].copy()
        return saved

    def differences(self, options: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
        """What keeps a saved state (leaf name to state) from being loaded with ``options``."""
        needed = {"step"} | {kind for kind, need in _needs(options).items() if need}
        if options["centered"]:
            needed = needed - {"square_avg"} | {"variance"}
        found = []
        for name, array in zip(self.core.names, self.core.arrays, strict=True):
            state = saved.get(name)
            if not isinstance(state, Mapping):
                found.append(f"state[{name!r}] is missing")
                continue
            for key in sorted(needed | (state.keys() & {"momentum_buffer", "grad_sum"})):
                where = f"state[{name!r}][{key!r}]"
                if key not in state:
                    found.append(f"{where} is missing")
                elif key == "step":
                    if not is_count(state[key]):
                        found.append(f"{where} is {state[key]!r}, not a number of steps")
                else:
                    found += different(where, state[key], array)
        return found

    def load(self, checked: Checked, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over options and state in which `differences` found nothing wrong."""
        options = checked.options
        names = self.core.names
        wanted = {kind for kind, need in _needs(options).items() if need}
        if all("momentum_buffer" in saved[name] for name in names):
            wanted.add("momentum_buffer")
        if any("grad_sum" in saved[name] for name in names):
            wanted.add("grad_sum")
        arrays = {kind: self._arrays.get(kind) or self._zeros() for kind in wanted}
        self._use(checked, arrays)
        for name in names:
            for key, array in self.state[name].items():
                array[...] = saved[name][key]
        self.core.summed = ["grad_sum" in saved[name] for name in names]
        for i, name in enumerate(names):
            if "grad_sum" in saved[name]:
                arrays["grad_sum"][i][...] = saved[name]["grad_sum"]


def different(where: str, saved: Any, array: Array) -> list[str]:
    """What keeps a saved array from being loaded into, or beside, a parameter; at most one line."""
    if not isinstance(saved, np.ndarray):
        return [f"{where} is a {type(saved).__name__}, not an array"]
    if (saved.dtype, saved.shape) != (array.dtype, array.shape):
        return [
            f"{where} is {saved.dtype} of shape {saved.shape}, "
            f"the parameter {array.dtype} of shape {array.shape}"
        ]
    return []


def _needs(options: Mapping[str, Any]) -> dict[str, bool]:
    """Which kinds of state the options cannot do without."""
    momentum = options["momentum"]
    return {
        "square_avg": True,
        "momentum_buffer": callable(momentum) or momentum > 0,
        "grad_avg": options["centered"],
        "param_avg": options["ema_decay"] > 0,
    }


def is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number that a step counter can hold."""
    array = np.asarray(value)
    if array.shape != () or not np.issubdtype(array.dtype, np.integer):
        return False
    return 0 <= int(array) <= np.iinfo(np.int64).max
