"""Observes the steps of `RMSProp`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observation.observers import Observer, constants_of
from fused_rmsprop.optimizer import RMSProp


class NumpyObserver(Observer):
    """Observes an `RMSProp`, whose steps know the leaves by their order."""

    kind = "numpy"

    def __init__(self, opt: RMSProp) -> None:
        self._opt = opt
        self._groups = opt._groups[:]
        self.uncounted = opt.skipped_steps
        self.leaves = tuple(
            Leaf(name, array.shape, str(array.dtype), index)
            for index, group in enumerate(self._groups)
            for name, array in zip(group.core.names, group.core.parts, strict=True)
        )
        self.groups = tuple(group.name or str(g) for g, group in enumerate(self._groups))

    def count_steps(self) -> int:
        """How many steps the optimizer has made and skipped."""
        return self._opt.step_count + self._opt.skipped_steps

    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change."""
        return constants_of(self._opt, [group.options for group in self._groups])

    def _attach(self) -> None:
        self._opt._stepper.add_sampler(self.sampler)

    def _detach(self) -> None:
        self._opt._stepper.remove_sampler(self.sampler)

    def _params(self) -> list[Any]:
        # By references the optimizer tells whether a variable was rebound: keep no arrays.
        return []

    def _strides(self) -> list[tuple[int, ...]]:
        arrays = [array for group in self._groups for array in group.core.parts]
        return [tuple(stride // a.itemsize for stride in a.strides) for a in arrays]

    def _options(self) -> Sequence[Mapping[str, Any]]:
        return [group.values() for group in self._groups]
