"""What the observers of both front ends have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fused_rmsprop import _core
from fused_rmsprop.monitor.history import Leaf
from fused_rmsprop.monitor.observation.sampling import Batch, Positions, draw_positions


class Observer(ABC):
    """Lets a sampler see the steps of an optimizer, and changes nothing of it."""

    kind: str
    leaves: tuple[Leaf, ...]
    groups: tuple[str, ...]
    sampler: _core.Sampler
    #: The steps that were skipped before: they have no numbers.
    uncounted: int
    #: The places in C order of the elements of each leaf that are sampled.
    positions: list[Positions]

    #: Called with an error of the observer's own, which must not end a training.
    fail: Callable[[Exception], None]

    def observe(
        self,
        every: int,
        most: int,
        seed: int,
        on_full: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """Begin to observe every n-th step, up to so many elements of a leaf."""
        self.fail = fail
        rng = np.random.default_rng(seed)
        self.positions = [draw_positions(leaf.shape, most, rng) for leaf in self.leaves]
        each = zip(self.positions, self.leaves, self._strides(), strict=True)
        leaves = [(p.tolist(), leaf.shape, strides, leaf.group) for p, leaf, strides in each]
        self.sampler = _core.Sampler(
            leaves, self._params(), every, self.steps, self.uncounted, on_full
        )
        self._attach()

    @property
    def ends(self) -> Positions:
        """The end of each leaf's sample among those of all."""
        return np.cumsum([len(positions) for positions in self.positions], dtype=np.int64)

    def make_room(self, room: int) -> None:
        """Let so many observations wait; 1: each is taken when its step ends."""
        self.sampler.set_room(room)

    def detach(self) -> None:
        """End that; what was sampled can still be taken."""
        self._detach()
        self.sampler.close()

    def take(self) -> Batch:
        """The observations that wait."""
        batch = Batch(**self.sampler.take())
        if np.isnan(batch.options).any():  # of groups without leaves, or without the kernel's
            for group, options in enumerate(self._options()[: batch.options.shape[-1]]):
                batch.fill_options(group, options)
        return batch

    @property
    def steps(self) -> int:
        """How many steps the optimizer has made, and skipped since the monitor was made."""
        return self.count_steps() - self.uncounted

    @abstractmethod
    def count_steps(self) -> int:
        """How many steps the optimizer has made and skipped."""

    @abstractmethod
    def constants(self) -> dict[str, Any]:
        """Options that hardly ever change, for the rules of a report."""

    @abstractmethod
    def _attach(self) -> None:
        """Let the optimizer's steps show themselves to the sampler."""

    @abstractmethod
    def _detach(self) -> None:
        """End that."""

    @abstractmethod
    def _params(self) -> list[Any]:
        """What steps know the leaves by, if not by their order."""

    @abstractmethod
    def _strides(self) -> list[tuple[int, ...]]:
        """The strides of the leaves that the kernel steps, in elements."""

    @abstractmethod
    def _options(self) -> Sequence[Mapping[str, Any]]:
        """The options of each group."""


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
