"""What the observers of both front ends have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.base import warn_the_caller
from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observation.sampling import Recorder, Values
from fused_rmsprop.options import SCHEDULABLE


class Observer(ABC):
    """Samples the steps of an optimizer, and changes nothing of it.

    A step is `begin`, `after_all` or `after` of each leaf with a gradient, and `end`, or `abandon`
    if it was not made. None of them raises an `Exception`: a training goes on without its monitor.
    """

    kind: str
    leaves: tuple[Leaf, ...]
    groups: tuple[str, ...]

    def __init__(self) -> None:
        self._recorder: Recorder | None = None

    @abstractmethod
    def attach(self) -> None:
        """Let the optimizer call the methods below."""

    @abstractmethod
    def detach(self) -> None:
        """End that."""

    @property
    @abstractmethod
    def step_count(self) -> int:
        """How many steps the optimizer has made."""

    @abstractmethod
    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change, for the rules of a report."""

    @abstractmethod
    def _values(self) -> Values:
        """The options of the next step."""

    @abstractmethod
    def _params(self) -> list[NDArray[Any]]:
        """The parameters, for a moment."""

    @abstractmethod
    def _averages(self, indices: Sequence[int]) -> list[NDArray[Any] | None]:
        """The averages of squares of these parameters, or their variances."""

    @abstractmethod
    def _as_array(self, grad: Any) -> NDArray[Any]:
        """A gradient as NumPy reads it."""

    @abstractmethod
    def _frozen(self) -> frozenset[int]:
        """The leaves that steps leave alone."""

    @abstractmethod
    def _grad_norm(self) -> float | None:
        """The norm of all gradients of the last step, if it was measured."""

    def observe(self, recorder: Recorder) -> None:
        """Begin to observe for a recorder."""
        self._recorder = recorder
        self.attach()

    @property
    def steps_to_due(self) -> int | None:
        """How many steps come before the next one to sample; None if there is none."""
        return None if self._recorder is None else self._recorder.steps_to_due

    def pass_by(self, steps: int) -> None:
        """Count steps that were not sampled."""
        if self._recorder is not None:
            self._recorder.pass_by(steps)

    def begin(self) -> None:
        """Sample all leaves before a step that is due."""
        self._guarded(self._gather_before)

    def after_all(self, grads: Sequence[Any], scale: float = 1.0) -> None:
        """Sample all leaves after their update; None is no gradient."""
        self._guarded(lambda recorder: self._gather_all(recorder, grads, scale))

    def after(self, index: int, grad: Any, scale: float = 1.0) -> None:
        """Sample one leaf after its update."""
        self._guarded(lambda recorder: self._gather_one(recorder, index, grad, scale))

    def end(self) -> None:
        """End a step that was made."""
        self._guarded(self._complete)

    def abandon(self) -> None:
        """End a step that was not made."""
        self._guarded(Recorder.abandon)

    def _gather_before(self, recorder: Recorder) -> None:
        now = recorder.begin(self._values())
        _core.gather([*self._params()], recorder.positions, now.param)

    def _gather_all(self, recorder: Recorder, grads: Sequence[Any], scale: float) -> None:
        if (now := recorder.now) is None:
            return
        _core.gather([*self._params()], recorder.positions, now.update)
        now.update -= now.param
        if recorder.wants_gradients:
            arrays = [None if grad is None else self._as_array(grad) for grad in grads]
            _core.gather(arrays, recorder.positions, now.grad)
            if scale != 1:
                now.grad *= scale
            indices = range(len(self.leaves))
            _core.gather(self._averages(indices), recorder.positions, now.average)
            now.with_grad = {index for index in indices if arrays[index] is not None}

    def _gather_one(self, recorder: Recorder, index: int, grad: Any, scale: float) -> None:
        if (now := recorder.now) is None:
            return
        positions, part = [recorder.positions[index]], recorder.slices[index]
        _core.gather([self._params()[index]], positions, now.update[part])
        now.update[part] -= now.param[part]
        if recorder.wants_gradients:
            _core.gather([self._as_array(grad)], positions, now.grad[part])
            now.grad[part] *= scale
            _core.gather(self._averages([index]), positions, now.average[part])
            now.with_grad.add(index)

    def _complete(self, recorder: Recorder) -> None:
        if (now := recorder.now) is None:
            return
        now.frozen = self._frozen()
        for index, part in enumerate(recorder.slices):
            if index in now.frozen:
                now.param[part] = now.grad[part] = now.average[part] = np.nan
                now.update[part] = 0
        recorder.end(self.step_count, self._grad_norm())

    def _guarded(self, action: Callable[[Recorder], object]) -> None:
        if self._recorder is None:
            return
        try:
            with np.errstate(all="ignore"):
                action(self._recorder)
        except Exception as error:
            self._recorder = None
            self.detach()
            warn_the_caller(
                f"the monitor ends, and the training goes on without it: {type(error).__name__}: "
                f"{error}",
                RuntimeWarning,
            )


def values_of(groups: Sequence[Mapping[str, Any]], opt: Any) -> Values:
    """The options of each group in a step, as numbers, and the limits of an optimizer."""
    return Values(
        np.array([[float(group[name]) for group in groups] for name in SCHEDULABLE]),
        np.array([float(group["eps"]) for group in groups]),
        np.array([bool(group["eps_inside_sqrt"]) for group in groups]),
        opt.max_grad_norm,
        opt.max_grad_norm_per_array,
    )


def constants_of(opt: Any, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Options that hardly ever change: of the optimizer, and a list of each group's."""
    of_all = ("max_grad_norm", "max_grad_norm_per_array", "max_grad_value", "on_nonfinite")
    of_groups = (
        *("eps", "eps_inside_sqrt", "centered", "nesterov", "maximize"),
        *("bias_correction", "initial_square_avg"),
    )
    return {
        **{name: getattr(opt, name) for name in of_all},
        **{name: [group[name] for group in groups] for name in of_groups},
    }
