"""Observes the steps of `RMSProp`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observation.observers import Observer, constants_of
from fused_rmsprop.monitor.observation.sampling import Positions, in_memory
from fused_rmsprop.optimizer import RMSProp


class NumpyObserver(Observer):
    """Observes an `RMSProp`, whose steps know the leaves by their order."""

    kind = "numpy"

    def __init__(self, opt: RMSProp) -> None:
        self._opt = opt
        self._groups = opt._groups[:]
        self._skipped = opt.skipped_steps
        self.leaves = tuple(
            Leaf(name, array.shape, str(array.dtype), index)
            for index, group in enumerate(self._groups)
            for name, array in zip(group.core.names, group.core.arrays, strict=True)
        )
        self.groups = tuple(group.name or str(g) for g, group in enumerate(self._groups))

    def count_steps(self) -> int:
        """How many steps the optimizer has made, and skipped since the monitor was made."""
        return self._opt.step_count + self._opt.skipped_steps - self._skipped

    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change."""
        return constants_of(self._opt, [group.options for group in self._groups])

    def frozen(self) -> NDArray[np.bool_]:
        """Which leaves steps leave alone."""
        return np.array([frozen for group in self._groups for frozen in group.core.frozen], bool)

    def _attach(self) -> None:
        stepper = self._opt._stepper
        stepper.samplers = [*stepper.samplers, self.sampler]

    def _detach(self) -> None:
        stepper = self._opt._stepper
        stepper.samplers = [sampler for sampler in stepper.samplers if sampler is not self.sampler]

    def _params(self) -> list[Any]:
        # By references the optimizer tells whether a variable was rebound: keep no arrays.
        return []

    def _in_memory(self, index: int, positions: Positions) -> Positions:
        array = [array for group in self._groups for array in group.core.arrays][index]
        strides = [stride // array.itemsize for stride in array.strides]
        return in_memory(positions, array.shape, strides)

    def _options(self) -> Sequence[Mapping[str, Any]]:
        return [group.values() for group in self._groups]
