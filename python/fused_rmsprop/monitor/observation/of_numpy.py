"""Observes the steps of `RMSProp`: the class hands them over while there is a monitor."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from operator import is_
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observation.observers import Observer, constants_of, values_of
from fused_rmsprop.monitor.observation.sampling import Arrays, Values
from fused_rmsprop.optimizer import RMSProp


class NumpyObserver(Observer):
    """Observes an `RMSProp`."""

    kind = "numpy"

    def __init__(self, opt: RMSProp) -> None:
        super().__init__()
        self._opt = opt
        self._groups = opt._groups[:]
        self._known: tuple[list[Any], tuple[Any, ...], Values] | None = None
        self.leaves = tuple(
            Leaf(name, array.shape, str(array.dtype), index)
            for index, group in enumerate(self._groups)
            for name, array in zip(group.core.names, group.core.arrays, strict=True)
        )
        self._places = [(group, i) for group in self._groups for i in range(len(group.core.names))]
        self.groups = tuple(group.name or str(g) for g, group in enumerate(self._groups))

    def attach(self) -> None:
        """Let the optimizer hand its steps over."""
        watch = self._opt._watch or Watch(self._opt)
        watch.take((*watch.observers, self))

    def detach(self) -> None:
        """End that, unless there is another monitor."""
        if (watch := self._opt._watch) is not None:
            watch.take(tuple(o for o in watch.observers if o is not self))

    @property
    def step_count(self) -> int:
        """How many steps the optimizer has made."""
        return self._opt.step_count

    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change."""
        return constants_of(self._opt, [group.options for group in self._groups])

    def _values(self) -> Values:
        opt, options = self._opt, [group.options for group in self._groups]
        limits = (opt.max_grad_norm, opt.max_grad_norm_per_array)
        known = self._known  # options are replaced, not changed; the values cost more than a leaf
        if known and all(map(is_, known[0], options)) and known[1] == limits:
            return known[2]
        values = values_of([group.values() for group in self._groups], opt)
        if not any(group.scheduled for group in self._groups):
            self._known = options, limits, values
        return values

    def _params(self) -> Arrays:
        # Nobody may keep them: by references the optimizer tells whether a variable was rebound.
        return [array for group in self._groups for array in group.core.arrays]

    def _averages(self, indices: Sequence[int]) -> Arrays:
        places = self._places
        return [places[index][0].averages[places[index][1]] for index in indices]

    def _as_array(self, grad: Any) -> NDArray[Any]:
        if isinstance(grad, np.ndarray) or not hasattr(grad, "__dlpack__"):
            return np.asarray(grad)
        other: NDArray[Any] = np.from_dlpack(grad)
        return other

    def _frozen(self) -> frozenset[int]:
        flags = [frozen for group in self._groups for frozen in group.core.frozen]
        return frozenset(index for index, frozen in enumerate(flags) if frozen)

    def _grad_norm(self) -> float | None:
        return self._opt.grad_norm


class Watch:
    """The monitors of an optimizer, and its steps with them around."""

    def __init__(self, opt: RMSProp) -> None:
        self._opt = opt
        self._planned = 0  # steps up to the next one for a monitor, when they were last counted
        self.observers: tuple[NumpyObserver, ...] = ()

    def take(self, observers: tuple[NumpyObserver, ...]) -> None:
        """Have these observers from now on."""
        self._count()
        self.observers = observers
        if observers:
            vars(self._opt)["_watch"] = self
        else:
            vars(self._opt).pop("_watch", None)
        self._plan()

    def _count(self) -> None:
        """Tell the observers how many steps were made without them."""
        stepper = self._opt._stepper
        passed = self._planned - max(stepper.unobserved, 0)
        self._planned -= passed
        for observer in self.observers:
            observer.pass_by(passed)

    def _plan(self) -> None:
        """Tell the stepper when the next step for an observer comes."""
        steps = [n for o in self.observers if (n := o.steps_to_due) is not None]
        self._planned = min(steps, default=0)
        self._opt._stepper.unobserved = self._planned if steps else -1

    def step(self, grads: object, grad_scale: Any) -> None:
        """Make a step that an observer samples."""
        self._count()
        opt = self._opt
        due = [observer for observer in self.observers if observer.steps_to_due == 0]
        gradients, scale = self._gradients(grads, grad_scale)
        for observer in due:
            observer.begin()
        opt._stepper.unobserved = -1
        try:
            RMSProp.step(opt, grads, grad_scale)
            self._end(due, gradients, scale)
        except BaseException:
            for observer in due:
                observer.abandon()
            raise
        finally:
            self._plan()

    def _end(self, due: list[NumpyObserver], gradients: list[Any], scale: float) -> None:
        for observer in self.observers:
            if observer in due:
                observer.take_gradients(gradients[: len(observer.leaves)], scale)
                observer.end()
            else:
                observer.pass_by(1)

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
            return [None] * len(self._opt.state), 1.0

    def leafwise(self, block: _core.Leafwise, grad_scale: float) -> ObservedBlock:
        """The same step leaf by leaf, observed."""
        return ObservedBlock(block, self, grad_scale)


class ObservedBlock(AbstractContextManager["ObservedBlock"]):
    """A `leafwise` block whose updates are observed."""

    def __init__(self, block: _core.Leafwise, watch: Watch, grad_scale: float) -> None:
        self._block, self._watch, self._scale = block, watch, grad_scale
        self._due: list[NumpyObserver] = []
        self._indices: dict[str, int] = {}
        self._bound: list[Any] = []
        self._updated = False

    def __enter__(self) -> ObservedBlock:
        opt = self._watch._opt
        self._bound = [] if opt._stepper.bound is None else opt._stepper.gradients(None)
        self._indices = {name: i for i, name in enumerate(opt.state)}
        self._block.__enter__()
        self._watch._count()
        self._due = [o for o in self._watch.observers if o.steps_to_due == 0]
        for observer in self._due:
            observer.begin(leaf_by_leaf=True)
        opt._stepper.unobserved = -1
        return self

    def __call__(self, name: str, grad: Any = None) -> None:
        """Update a leaf; see `RMSProp.leafwise`."""
        index = self._indices.get(name, -1) if isinstance(name, str) else -1
        observers = [o for o in self._due if 0 <= index < len(o.leaves)]
        self._block(name, grad)
        self._updated = True
        given = grad if grad is not None or not self._bound else self._bound[index]
        for observer in observers:
            observer.take_gradient(index, given, self._scale)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, traceback)
        counts = kind is None or self._updated
        for observer in self._watch.observers:
            if observer not in self._due:
                observer.pass_by(int(counts))
            elif counts:
                observer.end()
            else:
                observer.abandon()
        self._due, self._bound = [], []
        self._watch._plan()
