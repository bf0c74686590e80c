"""Observes the steps of `RMSProp`: the class hands them over while there is a monitor."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.groups.state import KINDS
from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observers import Observer, constants_of, values_of
from fused_rmsprop.monitor.sampling import Positions, Values
from fused_rmsprop.optimizer import RMSProp


class NumpyObserver(Observer):
    """Observes an `RMSProp`."""

    kind = "numpy"

    def __init__(self, opt: RMSProp) -> None:
        super().__init__()
        self._opt = opt
        self._groups = opt._groups[:]
        self.leaves = tuple(
            Leaf(name, array.shape, str(array.dtype), index)
            for index, group in enumerate(self._groups)
            for name, array in zip(group.core.names, group.core.arrays, strict=True)
        )
        self.groups = tuple(group.name or str(g) for g, group in enumerate(self._groups))

    def attach(self) -> None:
        """Let the optimizer hand its steps over."""
        watch = self._opt._watch or Watch(self._opt)
        watch.observers = (*watch.observers, self)
        vars(self._opt)["_watch"] = watch
        self._opt._stepper.observed = True

    def detach(self) -> None:
        """End that, unless there is another monitor."""
        watch = self._opt._watch
        if watch is None:
            return
        watch.observers = tuple(o for o in watch.observers if o is not self)
        if not watch.observers:
            self._opt._stepper.observed = False
            vars(self._opt).pop("_watch", None)

    @property
    def step_count(self) -> int:
        """How many steps the optimizer has made."""
        return self._opt.step_count

    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change."""
        return constants_of(self._opt, [group.options for group in self._groups])

    def _values(self) -> Values:
        return values_of([group.values() for group in self._groups], self._opt)

    def _params(self) -> list[NDArray[Any]]:
        # Nobody may keep them: by references the optimizer tells whether a variable was rebound.
        return [array for group in self._groups for array in group.core.arrays]

    def _average(self, index: int) -> NDArray[Any]:
        group = self._groups[self.leaves[index].group]
        return group.state[self.leaves[index].name][KINDS[0].key(group.options)]

    def _elements(self, array: Any, positions: Positions) -> NDArray[Any]:
        if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
            return positions.take(np.asarray(array))
        other: NDArray[Any] = np.from_dlpack(array)
        return positions.take(other)

    def _frozen(self) -> Collection[int]:
        flags = [frozen for group in self._groups for frozen in group.core.frozen]
        return {index for index, frozen in enumerate(flags) if frozen}

    def _grad_norm(self) -> float | None:
        return self._opt.grad_norm


class Watch:
    """The monitors of an optimizer, and its steps with them around."""

    def __init__(self, opt: RMSProp) -> None:
        self._opt = opt
        self.observers: tuple[NumpyObserver, ...] = ()

    def step(self, grads: object, grad_scale: Any) -> None:
        """Make a step."""
        opt, observers = self._opt, self.observers
        due = [observer for observer in observers if observer.is_due]
        gradients, scale = self._gradients(grads, grad_scale) if due else ([], 1.0)
        for observer in due:
            observer.begin()
            observer.before(range(len(observer.leaves)))
        opt._stepper.observed = False
        try:
            RMSProp.step(opt, grads, grad_scale)
        except BaseException:
            for observer in observers:
                observer.abandon()
            raise
        finally:
            opt._stepper.observed = opt._watch is not None
        for observer in due:
            pairs = enumerate(gradients[: len(observer.leaves)])
            observer.after([(i, grad) for i, grad in pairs if grad is not None], scale)
        for observer in observers:
            observer.end()

    def _gradients(self, grads: object, grad_scale: Any) -> tuple[list[Any], float]:
        """The gradient of each leaf, or None, and the factor of all; the step raises any error."""
        stepper = self._opt._stepper
        try:
            if grads is None and stepper.accumulated > 0:
                sums = {k: v for group in self._opt._groups for k, v in group.grad_sums().items()}
                found = [sums.get(name) for name in self._opt.state]
                return found, float(grad_scale) / stepper.accumulated
            return stepper.gradients(grads), float(grad_scale)
        except Exception:
            return [], 1.0

    def leafwise(self, block: _core.Leafwise, grad_scale: float) -> ObservedBlock:
        """The same step leaf by leaf, observed."""
        return ObservedBlock(block, self, grad_scale)


class ObservedBlock(AbstractContextManager["ObservedBlock"]):
    """A `leafwise` block whose updates are observed."""

    def __init__(self, block: _core.Leafwise, watch: Watch, grad_scale: float) -> None:
        self._block, self._watch, self._scale = block, watch, grad_scale
        self._indices: dict[str, int] = {}
        self._bound: list[Any] = []
        self._updated = False

    def __enter__(self) -> ObservedBlock:
        opt = self._watch._opt
        self._bound = [] if opt._stepper.bound is None else opt._stepper.gradients(None)
        self._indices = {name: i for i, name in enumerate(opt.state)}
        self._block.__enter__()
        for observer in self._watch.observers:
            observer.begin()
        return self

    def __call__(self, name: str, grad: Any = None) -> None:
        """Update a leaf; see `RMSProp.leafwise`."""
        index = self._indices.get(name, -1) if isinstance(name, str) else -1
        observers = [o for o in self._watch.observers if 0 <= index < len(o.leaves)]
        for observer in observers:
            observer.before((index,))
        self._block(name, grad)
        self._updated = True
        given = grad if grad is not None or not self._bound else self._bound[index]
        for observer in observers:
            observer.after([(index, given)], self._scale)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, traceback)
        for observer in self._watch.observers:
            observer.end() if kind is None or self._updated else observer.abandon()
        self._bound = []
