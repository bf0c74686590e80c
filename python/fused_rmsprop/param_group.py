"""A parameter group: arrays that share options, and the state of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.options import OPTIONS, core_options, parse_options

Array = NDArray[Any]
State = Mapping[str, Array]


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
def claimed(stepper: _core.Stepper) -> Iterator[None]:
    """Keep other threads from stepping or changing the optimizer meanwhile."""
    stepper.acquire()
    try:
        yield
    finally:
        stepper.release()


class ParamGroup(MutableMapping[str, Any]):
    """Parameters that share options: a mapping from ``"params"`` and each option to its value.

    Optimizers make these; see `RMSProp.param_groups`. Options are set as in a dict and checked
    at once; a refused change leaves everything as it was. `update` changes several together.
    """

    __slots__ = (
        "_grad_avg",
        "_momentum_buffer",
        "_name",
        "_options",
        "_params",
        "_square_avg",
        "_stepper",
        "_where",
        "core",
        "state",
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
        self._options = parse_options(options, where)
        self.core = _core.Group(params, root, name)
        self.validate(self._options, stepper.flush_denormals)
        self._square_avg = self._zeros()
        self._momentum_buffer = self._zeros() if self._options["momentum"] > 0 else None
        self._grad_avg = self._zeros() if self._options["centered"] else None
        #: The state of each parameter by its name; see `RMSProp.state`.
        self.state: dict[str, State] = {}
        self._use(self._options, self._square_avg, self._momentum_buffer, self._grad_avg)

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
        """The options and the size, for a `repr`."""
        options = ", ".join(f"{key}={value!r}" for key, value in self._options.items())
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

    # What follows is for RMSProp, which has claimed the stepper when it calls commit() and load().

    def checked(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The options after ``changes``, or the error that `update` would raise."""
        if "params" in changes:
            raise ValueError("the arrays of a group cannot be replaced; add_param_group adds some")
        options = self._options | parse_options(changes, self._where)
        self.validate(options, self._stepper.flush_denormals)
        return options

    def validate(self, options: Mapping[str, Any], flush_denormals: bool) -> None:
        """Raise a `ValueError` that names the group unless the options suit its arrays."""
        try:
            self.core.validate(core_options(options), flush_denormals)
        except ValueError as error:
            raise ValueError(f"{self._where}: {error}") from None

    def commit(self, options: dict[str, Any]) -> None:
        """Use ``options``, which were checked; allocate the state that they newly need."""
        square_avg, momentum_buffer = self._square_avg, self._momentum_buffer
        grad_avg = self._grad_avg
        if options["momentum"] > 0 and momentum_buffer is None:
            momentum_buffer = self._zeros()
        if options["centered"] and grad_avg is None:
            # The variance about an average of zero is square_avg: it goes on in the same array.
            grad_avg = self._zeros()
        if not options["centered"] and grad_avg is not None:
            with np.errstate(all="ignore"):
                square_avg = [v + m * m for v, m in zip(square_avg, grad_avg, strict=True)]
            grad_avg = None
        if momentum_buffer is self._momentum_buffer and grad_avg is self._grad_avg:
            self.core.set_options(core_options(options))
            self._options = options
        else:
            self._use(options, square_avg, momentum_buffer, grad_avg)

    def _zeros(self) -> list[Array]:
        return [zeros_in_order_of(array) for array in self.core.arrays]

    def _use(
        self,
        options: dict[str, Any],
        square_avg: list[Array],
        momentum_buffer: list[Array] | None,
        grad_avg: list[Array] | None,
    ) -> None:
        self.core.configure(core_options(options), square_avg, momentum_buffer, grad_avg)
        self._options = options
        self._square_avg = square_avg
        self._momentum_buffer = momentum_buffer
        self._grad_avg = grad_avg
        steps = self.core.steps
        for i, name in enumerate(self.core.names):
            # Views: whatever a user does to these array objects, the memory stays where it is.
            state: dict[str, Array] = {"step": steps[i : i + 1].reshape(())}
            state["variance" if options["centered"] else "square_avg"] = square_avg[i].view()
            if momentum_buffer is not None:
                state["momentum_buffer"] = momentum_buffer[i].view()
            if grad_avg is not None:
                state["grad_avg"] = grad_avg[i].view()
            self.state[name] = MappingProxyType(state)

    def differences(self, options: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
        """What keeps a saved state (leaf name to state) from being loaded with ``options``."""
        needed = {"step", "variance" if options["centered"] else "square_avg"}
        needed |= {"momentum_buffer"} if options["momentum"] > 0 else set()
        needed |= {"grad_avg"} if options["centered"] else set()
        found = []
        for name, array in zip(self.core.names, self.core.arrays, strict=True):
            state = saved.get(name)
            if not isinstance(state, Mapping):
                found.append(f"state[{name!r}] is missing")
                continue
            for key in sorted(needed | (state.keys() & {"momentum_buffer"})):
                where = f"state[{name!r}][{key!r}]"
                if key not in state:
                    found.append(f"{where} is missing")
                elif key == "step":
                    if not _is_count(state[key]):
                        found.append(f"{where} is {state[key]!r}, not a number of steps")
                elif not isinstance(state[key], np.ndarray):
                    found.append(f"{where} is a {type(state[key]).__name__}, not an array")
                elif (state[key].dtype, state[key].shape) != (array.dtype, array.shape):
                    found.append(
                        f"{where} is {state[key].dtype} of shape {state[key].shape}, "
                        f"the parameter {array.dtype} of shape {array.shape}"
                    )
        return found

    def load(self, options: dict[str, Any], saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over options and state in which `differences` found nothing wrong."""
        names = self.core.names
        with_momentum = all("momentum_buffer" in saved[name] for name in names)
        momentum_buffer = (self._momentum_buffer or self._zeros()) if with_momentum else None
        grad_avg = (self._grad_avg or self._zeros()) if options["centered"] else None
        self._use(options, self._square_avg, momentum_buffer, grad_avg)
        for name in names:
            for key, array in self.state[name].items():
                array[...] = saved[name][key]


def _is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number that a step counter can hold."""
    array = np.asarray(value)
    if array.shape != () or not np.issubdtype(array.dtype, np.integer):
        return False
    return 0 <= int(array) <= np.iinfo(np.int64).max
