"""Observes the steps of `RMSProp`: the class hands them over while there is a monitor."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        self._skipped = opt.skipped_steps
        self._known: tuple[list[Any], tuple[Any, ...], Values] | None = None
        self.leaves = tuple(
            Leaf(name, array.shape, str(array.dtype), index)
            for index, group in enumerate(self._groups)
            for name, array in zip(group.core.names, group.core.arrays, strict=True)
        )
        self._index = {leaf.name: index for index, leaf in enumerate(self.leaves)}
        self._places = [(group, i) for group in self._groups for i in range(len(group.core.names))]
        self.groups = tuple(group.name or str(g) for g, group in enumerate(self._groups))

    def index_of(self, name: str) -> int | None:
        """The place of a parameter among the leaves."""
        return self._index.get(name)

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
        """How many steps the optimizer has made, and skipped since the monitor was made."""
        return self._opt.step_count + self._opt.skipped_steps - self._skipped

    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change."""
        return constants_of(self._opt, [group.options for group in self._groups])

    def _values(self) -> Values:
        opt, options = self._opt, [group.options for group in self._groups]
        limits = (opt.max_grad_norm, opt.max_grad_norm_per_array, opt.max_grad_value)
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
        self._stepping = False  # whether a step is under way
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
        if not self._stepping:
            self._plan()

    def _count(self) -> None:
        """Tell the observers how many steps were made without them."""
        if self._stepping:
            return
        passed = self._planned - max(self._opt._stepper.unobserved, 0)
        self._planned -= passed
        for observer in self.observers:
            observer.pass_by(passed)

    def _plan(self) -> None:
        """Tell the stepper when the next step for an observer comes."""
        steps = [n for o in self.observers if (n := o.steps_to_due) is not None]
        self._planned = min(steps, default=0)
        self._opt._stepper.unobserved = self._planned if steps else -1

    def step(self, opt: RMSProp, grads: object, grad_scale: Any) -> None:
        """Make a step that an observer samples."""
        stepper = opt._stepper
        due = self.begin(leaf_by_leaf=False)
        scale = 1 / stepper.accumulated if stepper.accumulated > 0 else 1.0
        made, sampled = False, list[NumpyObserver]()
        try:
            stepper.keeps_gradients = True
            RMSProp.step(opt, grads, grad_scale)
            made = True
            gradients = stepper.take_gradients()
            for observer in due:
                of_leaves = gradients[: len(observer.leaves)]
                observer.take_gradients(of_leaves, scale * float(grad_scale))
                sampled.append(observer)
        finally:
            stepper.keeps_gradients = False
            self.end(sampled, made)

    def begin(self, leaf_by_leaf: bool) -> list[NumpyObserver]:
        """Begin a step; the observers that sample it."""
        self._stepping = False  # an interrupt may have cut the last one short
        self._count()
        self._stepping = True
        due = [observer for observer in self.observers if observer.steps_to_due == 0]
        try:
            for observer in due:
                observer.begin(leaf_by_leaf)
        except BaseException:
            self.end(due, False)
            raise
        return due

    def end(self, due: list[NumpyObserver], made: bool) -> None:
        """End a step, whether it was made or not."""
        try:
            for observer in self.observers:
                if made and observer in due:
                    observer.end()
                else:
                    observer.abandon()
                    observer.pass_by(int(made))
        finally:
            self._stepping = False
            self._plan()

    def listener(self, grad_scale: float) -> Listener:
        """What a `leafwise` block tells of its updates."""
        return Listener(self, grad_scale)


class Listener:
    """Samples the updates of a `leafwise` block, which calls it."""

    def __init__(self, watch: Watch, grad_scale: float) -> None:
        self._watch, self._scale = watch, grad_scale
        self._due: list[NumpyObserver] = []

    def begin(self) -> None:
        """Before the block is entered."""
        self._due = self._watch.begin(leaf_by_leaf=True)

    def after(self, name: str, grad: Any) -> None:
        """After an update."""
        for observer in self._due:
            if (index := observer.index_of(name)) is not None:
                observer.take_gradient(index, grad, self._scale)

    def end(self, made: bool) -> None:
        """When the block was left."""
        due, self._due = self._due, []
        self._watch.end(due, made)
