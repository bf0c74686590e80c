"""Observes the steps of the torch drop-in, which hands them over while there is a monitor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from numpy.typing import NDArray
from torch.nn.parameter import is_lazy

from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observation.observers import Observer, constants_of, values_of
from fused_rmsprop.monitor.observation.sampling import Arrays, Values
from fused_rmsprop.torch import RMSprop

_AS_NUMPY = (torch.float32, torch.float64)


class TorchObserver(Observer):
    """Observes an `fused_rmsprop.torch.RMSprop`."""

    kind = "torch"

    def __init__(self, optimizer: RMSprop, names: Any = None) -> None:
        super().__init__()
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
        self._watch: Watch = optimizer._watch or Watch()
        self._skipped = optimizer.skipped_steps
        self._count_steps()

    def attach(self) -> None:
        """Let the optimizer hand its steps over."""
        self._watch.take((*self._watch.observers, self))
        self._optimizer.__dict__["_watch"] = self._watch

    def detach(self) -> None:
        """End that, unless there is another monitor."""
        watch = self._optimizer._watch
        if watch is not None:
            watch.take(tuple(o for o in watch.observers if o is not self))
            if not watch.observers:
                self._optimizer.__dict__.pop("_watch", None)

    @property
    def step_count(self) -> int:
        """How many steps the optimizer has made, and skipped since the monitor was made."""
        return self._before + self._watch.made

    def _count_steps(self) -> None:
        """Follow the states, which may have been loaded."""
        states = map(self._optimizer.state.get, self.params)
        made = max((int(state.get("step", 0)) for state in states if state), default=0)
        made += self._optimizer.skipped_steps - self._skipped
        self._before = made - self._watch.made

    def begin(self, leaf_by_leaf: bool = False) -> None:
        """Begin a step that is due."""
        self._count_steps()
        super().begin(leaf_by_leaf)

    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change."""
        return constants_of(self._optimizer, self._optimizer.param_groups)

    def index_of(self, param: Any) -> int | None:
        """The place of a parameter among the leaves."""
        return self._index.get(id(param))

    def _values(self) -> Values:
        return values_of(self._optimizer.param_groups[: len(self.groups)], self._optimizer)

    def _params(self) -> Arrays:
        return [_as_array(p) for p in self.params]

    def _averages(self, indices: Sequence[int]) -> Arrays:
        states = [self._optimizer.state.get(self.params[index], {}) for index in indices]
        averages = [state.get("variance", state.get("square_avg")) for state in states]
        return [None if average is None else _as_array(average) for average in averages]

    def _as_array(self, grad: Any) -> NDArray[Any]:
        return _as_array(grad)

    def _frozen(self) -> frozenset[int]:
        pairs = enumerate(self.params)
        return frozenset(i for i, p in pairs if not p.requires_grad and p.grad is None)

    def _grad_norm(self) -> float | None:
        return self._optimizer.grad_norm


class Watch:
    """The monitors of an optimizer, and what it calls in the course of a step."""

    def __init__(self) -> None:
        self.observers: tuple[TorchObserver, ...] = ()
        self.made = 0  # steps
        self._planned = self._left = 0  # steps before the next one for a monitor; when planned
        self._due: list[TorchObserver] = []  # those of the step under way

    def take(self, observers: tuple[TorchObserver, ...]) -> None:
        """Have these observers from now on."""
        self._count()
        self.observers = observers
        self._plan()

    def _count(self) -> None:
        """Tell the observers how many steps were made without them."""
        for observer in self.observers:
            observer.pass_by(self._planned - self._left)
        self._planned = self._left

    def _plan(self) -> None:
        steps = [n for o in self.observers if (n := o.steps_to_due) is not None]
        self._planned = self._left = min(steps, default=0)

    def around(self, step: Callable[[], object]) -> None:
        """Make a step of all parameters together."""
        if self._left > 0:
            step()
            self._left -= 1
            self.made += 1
            return
        self._begin(False)
        made = False
        try:
            step()
            made = True
            for observer in self._due:
                observer.take_gradients([p.grad for p in observer.params])
        except BaseException:
            self._due = []
            raise
        finally:
            self.end(made)

    def _begin(self, leaf_by_leaf: bool) -> None:
        self._count()
        self._due = [observer for observer in self.observers if observer.steps_to_due == 0]
        for observer in self._due:
            observer.begin(leaf_by_leaf)

    def begin(self) -> None:
        """Begin a round of updates during a backward pass."""
        self._begin(True)

    def after(self, param: Any) -> None:
        """After an update of that round; the gradient is still there."""
        for observer in self._due:
            if (index := observer.index_of(param)) is not None:
                observer.take_gradient(index, param.grad)

    def end(self, made: bool = True) -> None:
        """End the round, or a step that monitors sample."""
        due, self._due = self._due, []
        self.made += int(made)
        try:
            for observer in self.observers:
                if made and observer in due:
                    observer.end()
                else:
                    observer.abandon()
                    observer.pass_by(int(made))
        finally:
            self._plan()


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
