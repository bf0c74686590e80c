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
from fused_rmsprop.monitor.observation.sampling import Positions, in_memory
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
        self._index = {id(p): i for i, p in enumerate(params)}
        self._skipped = optimizer.skipped_steps
        # Of a step that is shown here:
        self._taken = set[int]()  # leaves
        self._options_now: list[_core.Options] = []

    def count_steps(self) -> int:
        """How many steps the states tell of, and were skipped since the monitor was made."""
        states = map(self._optimizer.state.get, self.params)
        made = max((int(state.get("step", 0)) for state in states if state), default=0)
        return made + self._optimizer.skipped_steps - self._skipped

    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change."""
        return constants_of(self._optimizer, self._optimizer.param_groups)

    def frozen(self) -> NDArray[np.bool_]:
        """Which leaves steps leave alone, if they have no gradient."""
        return np.array([not p.requires_grad for p in self.params], bool)

    def begin(self) -> bool:
        """Begin a step that is shown here, because the kernel does not make it as a whole."""
        if not self.sampler.begin():
            return False
        self._taken.clear()
        self._options_now = [kernel_options(group) for group in self._options()]
        for index, p in enumerate(self.params):
            self.sampler.put_before(index, self._sampled(index, p))
        return True

    def take_leaf(self, param: Any) -> None:
        """Show a parameter after its update, while its gradient is still there."""
        index = self._index.get(id(param))
        if index is None or index in self._taken:
            return
        self._taken.add(index)
        state = self._optimizer.state.get(param, {})
        average = state.get("variance", state.get("square_avg"))
        grad, average = (
            None if tensor is None else self._sampled(index, tensor)
            for tensor in (param.grad, average)
        )
        options = self._options_now[self.leaves[index].group]
        self.sampler.put_after(index, self._sampled(index, param), grad, average, options)

    def take_others(self) -> None:
        """Show all parameters that were not shown after an update."""
        for p in self.params:
            self.take_leaf(p)

    def _sampled(self, index: int, tensor: Any) -> NDArray[Any]:
        elements: NDArray[Any] = _as_array(tensor).ravel()[self.positions[index]]
        return elements

    def _attach(self) -> None:
        stepper = self._optimizer._stepper
        stepper.samplers = [*stepper.samplers, self.sampler]
        watch = self._optimizer._watch or Watch(self._optimizer)
        watch.observers = (*watch.observers, self)
        self._optimizer.__dict__["_watch"] = watch

    def _detach(self) -> None:
        stepper = self._optimizer._stepper
        stepper.samplers = [sampler for sampler in stepper.samplers if sampler is not self.sampler]
        watch = self._optimizer._watch
        if watch is not None:
            watch.observers = tuple(o for o in watch.observers if o is not self)
            if not watch.observers:
                self._optimizer.__dict__.pop("_watch", None)

    def _params(self) -> list[Any]:
        return self.params

    def _in_memory(self, index: int, positions: Positions) -> Positions:
        p = self.params[index]
        if p.layout != torch.strided or p.is_complex() or hasattr(p, "to_local"):
            return positions  # the kernel does not step it
        return in_memory(positions, self.leaves[index].shape, p.stride())

    def _options(self) -> Sequence[Mapping[str, Any]]:
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
        self._due: list[TorchObserver] = []  # those of the step under way

    def begin(self) -> None:
        """Begin a step."""
        self._due = [o for o in self.observers if _guarded(o, TorchObserver.begin)]

    def after(self, param: Any) -> None:
        """After an update; the gradient is still there."""
        for observer in self._due:
            _guarded(observer, lambda observer: observer.take_leaf(param))

    def end(self, made: bool = True) -> None:
        """End the step."""
        due, self._due = self._due, []
        for observer in due if made else ():
            _guarded(observer, TorchObserver.take_others)
        for observer in self.observers:
            if made:
                observer.sampler.end(self._optimizer._stepper)
            else:
                observer.sampler.abandon()

    def follow(self) -> None:
        """Count on from a state that was loaded."""
        for observer in self.observers:
            observer.sampler.steps = observer.count_steps()


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
