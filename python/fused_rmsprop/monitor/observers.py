"""What the observers of both front ends have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop.base import warn_the_caller
from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.sampling import Positions, Recorder, Values
from fused_rmsprop.options import SCHEDULABLE


class Observer(ABC):
    """Samples the steps of an optimizer, and changes nothing of it.

    A step is `begin`, `before` and `after` of each leaf with a gradient, and `end`, or `abandon`
    if it was not made. None of them raises an `Exception`: a training goes on without its monitor.
    """

    kind: str
    leaves: tuple[Leaf, ...]
    groups: tuple[str, ...]

    def __init__(self) -> None:
        self._recorder: Recorder | None = None
        self._untouched: set[int] = set()  # the leaves that this step has not sampled

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
    def _params(self) -> Sequence[Any]:
        """The parameters, for a moment."""

    @abstractmethod
    def _average(self, index: int) -> Any:
        """The average of squares of a parameter, or its variance; None if there is none."""

    @abstractmethod
    def _elements(self, array: Any, positions: Positions) -> NDArray[Any]:
        """Elements of a parameter, of its gradient or of its state."""

    @abstractmethod
    def _frozen(self) -> Collection[int]:
        """The leaves that steps leave alone."""

    @abstractmethod
    def _grad_norm(self) -> float | None:
        """The norm of all gradients of the last step, if it was measured."""

    def observe(self, recorder: Recorder) -> None:
        """Begin to observe for a recorder."""
        self._recorder = recorder
        self.attach()

    @property
    def is_due(self) -> bool:
        """Whether the next step is to be sampled."""
        return self._recorder is not None and self._recorder.is_due

    def begin(self) -> None:
        """Begin a step; before anything has changed."""
        self._untouched = set(range(len(self.leaves)))
        self._guarded(lambda recorder: recorder.begin(self._values()) if recorder.is_due else None)

    def before(self, indices: Iterable[int]) -> None:
        """Sample leaves before their update."""

        def sample(recorder: Recorder) -> None:
            if recorder.is_sampling:
                self._sample_before(recorder, indices)
                self._untouched.difference_update(indices)

        self._guarded(sample)

    def _sample_before(self, recorder: Recorder, indices: Iterable[int]) -> None:
        params = self._params()
        for index in indices:
            recorder.before(index, self._elements(params[index], recorder.positions[index]))

    def after(self, gradients: Iterable[tuple[int, Any]], scale: float = 1.0) -> None:
        """Sample leaves after their update, and their gradients."""

        def sample(recorder: Recorder) -> None:
            if not recorder.is_sampling:
                return
            params = self._params()
            for index, grad in gradients:
                positions = recorder.positions[index]
                recorder.after(index, self._elements(params[index], positions))
                if recorder.wants_gradients:
                    recorder.gradient(index, self._elements(grad, positions), scale)
                    if (average := self._average(index)) is not None:
                        recorder.average(index, self._elements(average, positions))

        self._guarded(sample)

    def end(self) -> None:
        """End a step that was made."""
        if self._recorder is not None and not self._recorder.is_sampling:
            self._recorder.pass_by()
        else:
            self._guarded(self._complete)

    def _complete(self, recorder: Recorder) -> None:
        frozen = self._frozen()
        for index in frozen:
            recorder.freeze(index)
        self._sample_before(recorder, self._untouched.difference(frozen))  # they had no update
        recorder.end(self.step_count, self._grad_norm())

    def abandon(self) -> None:
        """End a step that was not made."""
        self._guarded(Recorder.abandon)

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
    of_groups = ("eps", "centered", "nesterov", "bias_correction", "initial_square_avg")
    return {
        **{name: getattr(opt, name) for name in of_all},
        **{name: [group[name] for group in groups] for name in of_groups},
    }
