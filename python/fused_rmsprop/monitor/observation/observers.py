"""What the observers of both front ends have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.base import warn_the_caller
from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observation.sampling import Arrays, Observation, Recorder, Values
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
        self._finish: Callable[[Observation], None] | None = None
        self._failed: Callable[[], None] | None = None
        self._guard = _Guard(self)

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
    def _params(self) -> Arrays:
        """The parameters, for a moment."""

    @abstractmethod
    def _averages(self, indices: Sequence[int]) -> Arrays:
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

    def observe(
        self,
        recorder: Recorder,
        finish: Callable[[Observation], None],
        failed: Callable[[], None],
    ) -> None:
        """Begin to observe for a recorder; give away observations that are complete."""
        self._recorder, self._finish, self._failed = recorder, finish, failed
        self.attach()

    @property
    def steps_to_due(self) -> int | None:
        """How many steps come before the next one to sample; None if there is none."""
        return None if self._recorder is None else self._recorder.steps_to_due

    def pass_by(self, steps: int) -> None:
        """Count steps that were not sampled."""
        if self._recorder is not None:
            self._recorder.pass_by(steps)

    def begin(self, leaf_by_leaf: bool = False) -> None:
        """Begin a step that is due; before anything has changed."""
        if (recorder := self._recorder) is not None:
            with self._guard:
                values = self._values() if recorder.is_first else None
                recorder.begin(self._params(), values, leaf_by_leaf)

    def take_gradients(self, grads: Sequence[Any], scale: float = 1.0) -> None:
        """Sample the gradients of all leaves after the step; None is no gradient."""
        if (recorder := self._recorder) is not None and recorder.now is not None:
            with self._guard:
                arrays = [None if grad is None else self._as_array(grad) for grad in grads]
                recorder.take_gradients(arrays, self._averages(range(len(arrays))), scale)

    def take_gradient(self, index: int, grad: Any, scale: float = 1.0) -> None:
        """Sample the gradient of one leaf after its update."""
        if (recorder := self._recorder) is not None and recorder.now is not None:
            with self._guard:
                (average,) = self._averages([index])
                recorder.take_gradient(index, self._as_array(grad), average, scale)

    def end(self) -> None:
        """End a step that was made."""
        if (recorder := self._recorder) is None:
            return
        complete = None
        with self._guard:
            if (now := recorder.now) is not None:
                now.step, now.grad_norm = self.step_count, self._grad_norm()
                now.frozen = self._frozen()
            complete = recorder.end(self._params())
        if complete is not None and self._finish is not None:
            self._finish(complete)

    def abandon(self) -> None:
        """End a step that was not made."""
        if self._recorder is not None:
            self._recorder.abandon()

    def fail(self, error: Exception) -> None:
        """End the observation."""
        self._recorder = None
        if self._failed is not None:
            self._failed()
        warn_the_caller(
            f"the monitor ends, and the training goes on without it: {type(error).__name__}: "
            f"{error}",
            RuntimeWarning,
        )


class _Guard:
    """Lets an observer end with a warning where its own code fails."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if isinstance(error, Exception):
            self._observer.fail(error)
            return True
        return False


def values_of(groups: Sequence[Mapping[str, Any]], opt: Any) -> Values:
    """The options of each group in a step, as numbers, and the limits of an optimizer."""
    return Values(
        np.array([[float(group[name]) for group in groups] for name in SCHEDULABLE]),
        np.array([float(group["eps"]) for group in groups]),
        np.array([bool(group["eps_inside_sqrt"]) for group in groups]),
        opt.max_grad_norm,
        opt.max_grad_norm_per_array,
        opt.max_grad_value,
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
