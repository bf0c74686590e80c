"""Observes the steps of the torch drop-in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parameter import is_lazy

from fused_rmsprop import _core
from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observation.observers import Observer, constants_of
from fused_rmsprop.torch import RMSprop
from fused_rmsprop.torch.plan import kernel_options

_AS_NUMPY = (torch.float32, torch.float64)


class TorchObserver(Observer):
    """Observes an `fused_rmsprop.torch.RMSprop`."""

    kind = "torch"

    def __init__(self, optimizer: RMSprop, names: Any = None) -> None:
        self._optimizer = optimizer
        given = _given_names(names, [p for g in optimizer.param_groups for p in g["params"]])
        leaves, params, taken = [], [], set[str]()
        for g, group in enumerate(optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                known = group.get("param_names")
                name = given.get(id(p)) or (known[i] if known else f"{g}.{i}")
                if is_lazy(p):
                    raise ValueError(
                        f"{name} is not initialized yet: run the model once, then make the monitor"
                    )
                if name in taken:
                    raise ValueError(f"two parameters are called {name!r}")
                taken.add(name)
                shape = tuple(_local(p).shape) + (2,) * p.is_complex()
                leaves.append(Leaf(name, shape, str(p.dtype).removeprefix("torch."), g))
                params.append(p)
        self.leaves = tuple(leaves)
        self.groups = tuple(str(g) for g in range(len(optimizer.param_groups)))
        self.params = params
        self.uncounted = optimizer.skipped_steps
        self.at_once = False
        # Of a step that is shown here:
        self._awaited: dict[int, list[int]] = {}  # the leaves of a parameter, by its identity
        self._options_now: list[_core.Options] = []

    def count_steps(self) -> int:
        """How many steps the states tell of, and were skipped."""
        states = map(self._optimizer.state.get, self.params)
        made = max((int(state.get("step", 0)) for state in states if state), default=0)
        return made + self._optimizer.skipped_steps

    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change."""
        return constants_of(self._optimizer, self._optimizer.param_groups)

    def make_room(self, room: int) -> None:
        """Let so many observations wait."""
        super().make_room(room)
        self.at_once = room == 1

    def begin(self) -> bool:
        """Begin a step that is shown here, because the kernel does not make it as a whole."""
        if not self.sampler.begin():
            return False
        groups = self._options()
        present = {id(p) for group in groups for p in group["params"]}
        self._awaited = {}
        for index, (leaf, p) in enumerate(zip(self.leaves, self.params, strict=True)):
            if id(p) in present and _size(p) == leaf.size:
                self._awaited.setdefault(id(p), []).append(index)
                self.sampler.put_before(index, self._sampled(index, p))
        self._options_now = [kernel_options(group) for group in groups]
        return True

    def show(self, param: Any) -> None:
        """Show a parameter after its update, while its gradient is still there."""
        for index in self._awaited.pop(id(param), ()):
            if _size(param) != self.leaves[index].size:
                continue
            state = self._optimizer.state.get(param, {})
            average = state.get("variance", state.get("square_avg"))
            grad, average = (
                None if tensor is None else self._sampled(index, tensor)
                for tensor in (param.grad, average)
            )
            options = self._options_now[self.leaves[index].group]
            self.sampler.put_after(index, self._sampled(index, param), grad, average, options)

    def show_others(self) -> None:
        """Show all parameters that were not shown after an update."""
        for p in self.params:
            self.show(p)

    def _sampled(self, index: int, tensor: Any) -> NDArray[Any]:
        elements: NDArray[Any] = _as_array(tensor).ravel()[self.positions[index]]
        return elements

    def _attach(self) -> None:
        self._optimizer._stepper.add_sampler(self.sampler)
        watch = self._optimizer._watch or Watch(self._optimizer)
        watch.observers = (*watch.observers, self)
        self._optimizer.__dict__["_watch"] = watch

    def _detach(self) -> None:
        self._optimizer._stepper.remove_sampler(self.sampler)
        watch = self._optimizer._watch
        if watch is not None:
            watch.observers = tuple(o for o in watch.observers if o is not self)
            if not watch.observers:
                self._optimizer.__dict__.pop("_watch", None)

    def _params(self) -> list[Any]:
        return self.params

    def _strides(self) -> list[tuple[int, ...]]:
        can_step = self._optimizer._plan.can_step
        in_order = [np.empty(leaf.shape, np.int8).strides for leaf in self.leaves]
        pairs = zip(self.params, in_order, strict=True)
        return [_local(p).stride() if can_step(p) else strides for p, strides in pairs]

    def _options(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self._optimizer.param_groups
        return groups


class Watch:
    """Shows to monitors the steps that the kernel does not make as a whole.

    Those are steps of which torch makes a part, and updates in the course of a backward pass. A
    monitor that fails ends with a warning, and the training goes on.
    """

    def __init__(self, optimizer: RMSprop) -> None:
        self._optimizer = optimizer
        self.observers: tuple[TorchObserver, ...] = ()
        #: Those that the step under way is shown to, and whether they sample it.
        self._shown: list[tuple[TorchObserver, bool]] = []

    @property
    def at_once(self) -> bool:
        """Whether a monitor is to be told of each observation when its step ends."""
        return any(observer.at_once for observer in self.observers)

    def begin(self) -> None:
        """Begin a step."""
        self._shown = [(o, bool(_guarded(o, TorchObserver.begin))) for o in self.observers]

    def after(self, param: Any) -> None:
        """After an update; the gradient is still there."""
        for observer, is_due in self._shown:
            if is_due:
                _guarded(observer, lambda observer: observer.show(param))

    def end(self, made: bool = True) -> None:
        """End the step."""
        shown, self._shown = self._shown, []
        for observer, is_due in shown:
            if not made:
                observer.sampler.abandon()
                continue
            if is_due:
                _guarded(observer, TorchObserver.show_others)
            steps = observer.count_steps() if is_due else None
            observer.sampler.end(self._optimizer._stepper, steps)

    def follow(self) -> None:
        """Count on from a state that was loaded."""
        for observer in self.observers:
            observer.sampler.follow(observer.count_steps())


def _size(tensor: Any) -> int:
    """The number of an array's elements that a tensor becomes."""
    return int(_local(tensor).numel()) * (2 if tensor.is_complex() else 1)


def _guarded(observer: TorchObserver, show: Callable[[TorchObserver], object]) -> object:
    """Show something to an observer, which ends if that fails."""
    try:
        return show(observer)
    except Exception as error:
        observer.fail(error)
        return None


def _given_names(names: Any, params: Sequence[Any]) -> dict[int, str]:
    """The names of all parameters by their identity, from pairs or from a mapping of names."""
    if names is None:
        return {}
    pairs: Iterable[Any] = names.items() if isinstance(names, Mapping) else names
    try:
        given = {id(param): str(name) for name, param in pairs}
    except (TypeError, ValueError):
        raise TypeError(
            "names are pairs of a name and a parameter: names=model.named_parameters()"
        ) from None
    if (known := sum(id(param) in given for param in params)) < len(params):
        raise ValueError(
            f"names has {known} of the optimizer's {len(params)} parameters: "
            "names=model.named_parameters() of the model that it trains has all"
        )
    return given


def _local(tensor: Any) -> Any:
    """The part of a tensor that lies in this process."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _as_array(tensor: Any) -> NDArray[Any]:
    """A tensor of any kind as an array of float32 or float64; of most kinds its own memory."""
    array: NDArray[Any]
    tensor = tensor.detach()
    if type(tensor) is torch.Tensor and tensor.dtype in _AS_NUMPY:
        with suppress(RuntimeError, TypeError):  # on another device, or seen as its negative
            array = tensor.numpy()
            return array
    tensor = _local(tensor)
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    array = tensor.to("cpu", torch.float64).resolve_neg().numpy()
    return array
