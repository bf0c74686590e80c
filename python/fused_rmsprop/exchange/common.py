"""Pair the parameters of two optimizers and convert the state of each pair.

Arrays pass between frameworks in float64 under torch's names. There, ``square_avg`` is the average
about zero, even with ``centered``. This module imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fused_rmsprop.groups.state import KINDS, Array
from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.options import options_at


class Theirs(NamedTuple):
    """A parameter of the other optimizer."""

    name: str
    shape: tuple[int, ...]
    on: dict[str, bool]  # the options that decide which state exists
    lr_in_momentum: bool = True
    bias_corrected: bool = False  # stores bias-corrected averages, as RMSProp does

    @property
    def keys(self) -> list[str]:
        """The names of the arrays in its state."""
        return [kind.name for kind in KINDS if kind.option is None or self.on.get(kind.option)]


class Pair(NamedTuple):
    """A parameter of `RMSProp` and its counterpart."""

    name: str
    options: dict[str, Any]  # of its group
    state: dict[str, Array]  # in the state_dict
    theirs: Theirs

    @property
    def second_moment(self) -> Array:
        """``variance`` with ``centered``, otherwise ``square_avg``."""
        return self.state[KINDS[0].key(self.options)]

    def check(self) -> None:
        """Raise a `ValueError` if shapes or options differ."""
        if (shape := self.second_moment.shape) != self.theirs.shape:
            counterpart = f"its counterpart {self.theirs.name} has shape {self.theirs.shape}"
            raise ValueError(f"{self.name!r} has shape {shape}, {counterpart}")
        for option, theirs in self.theirs.on.items():
            if bool(self.options[option]) != theirs:
                where = "the other optimizer" if theirs else "opt"
                raise ValueError(f"{option} is on for {self.name!r} in {where} only")

    @np.errstate(all="ignore")
    def to_theirs(self, count: int) -> dict[str, Array]:
        """Convert the state after ``count`` steps into new arrays for the other optimizer."""
        arrays = {key: self.state[key].astype(np.float64) for key in self.theirs.keys[1:]}
        arrays["square_avg"] = self.second_moment.astype(np.float64)
        if self.options["centered"]:
            arrays["square_avg"] += arrays["grad_avg"] ** 2
        for key in arrays.keys() & {"square_avg", "grad_avg"}:
            arrays[key] *= self._weight(int(self.state["step"]))
        self._move_lr(arrays, self.options["lr_in_momentum"], self.theirs.lr_in_momentum, count)
        return arrays

    @np.errstate(all="ignore")
    def from_theirs(self, found: dict[str, Array], steps: int, count: int) -> None:
        """Write the other optimizer's arrays into the state; an empty dict resets it."""
        self.state["step"][...] = steps
        arrays = {key: np.array(found.get(key, 0.0), np.float64) for key in self.theirs.keys}
        if not found:
            arrays["square_avg"] += self.options["initial_square_avg"]
        for key in arrays.keys() & {"square_avg", "grad_avg"}:
            arrays[key] /= self._weight(steps) or 1.0  # the weight is 0 before the first step
        if self.options["centered"]:
            variance = arrays["square_avg"] - arrays["grad_avg"] ** 2
            arrays["square_avg"] = np.maximum(variance, 0.0)  # cancellation can make it negative
        self._move_lr(arrays, self.theirs.lr_in_momentum, self.options["lr_in_momentum"], count)
        self.second_moment[...] = arrays.pop("square_avg")
        for key, array in arrays.items():
            self.state[key][...] = array

    def _weight(self, steps: int) -> float:
        """The bias of their averages: the total weight of the gradients in them."""
        if self.theirs.bias_corrected or not self.options["bias_correction"]:
            return 1.0
        return float(1 - self.options["alpha"] ** steps)

    def _move_lr(self, arrays: dict[str, Array], inside: bool, wanted: bool, count: int) -> None:
        """Multiply the momentum buffer by the next learning rate, or divide by it, in place."""
        if "momentum_buffer" not in arrays or inside == wanted:
            return
        lr = options_at(self.options, count)["lr"]
        if wanted:
            arrays["momentum_buffer"] *= lr
        elif lr != 0:
            arrays["momentum_buffer"] /= lr
        else:
            problem = "includes the learning rate, which is now 0: it cannot be divided out"
            raise ValueError(f"the momentum buffer of {self.name!r} {problem}")


class Exchange:
    """The parameters of ``opt``, paired with those of another optimizer in order or by name."""

    def __init__(self, opt: RMSProp, theirs: Sequence[Theirs], by_name: bool = False) -> None:
        if not isinstance(opt, RMSProp):
            raise TypeError(
                f"opt, the first argument, must be a fused_rmsprop.RMSProp, got {class_of(opt)}"
            )
        saved = opt.state_dict()
        if saved["counters"]["accumulated"] > 0:
            todo = "call step or discard_accumulated first"
            raise ValueError(f"opt has accumulated gradients: {todo}")
        ours = {name: group for group in saved["param_groups"] for name in group["params"]}
        names = [other.name for other in theirs] if by_name else list(ours)
        if sorted(names) != sorted(ours):
            raise ValueError(f"opt has the parameters {list(ours)}, the other optimizer {names}")
        if len(names) != len(theirs):
            raise ValueError(f"opt has {len(ours)} parameters, the other optimizer {len(theirs)}")
        self._opt, self._saved = opt, saved
        self.count: int = saved["counters"]["step_count"]
        self.pairs = [
            Pair(name, ours[name], saved["state"][name], other)
            for name, other in zip(names, theirs, strict=True)
        ]
        for pair in self.pairs:
            pair.check()

    def load(self, found: Iterable[dict[str, Array]], steps: Iterable[int], count: int) -> None:
        """Load the other optimizer's arrays and step counts, one for each pair, into ``opt``."""
        self._saved["counters"]["step_count"] = count
        for pair, arrays, n in zip(self.pairs, found, steps, strict=True):
            pair.from_theirs(arrays, n, count)
        self._opt.load_state_dict(self._saved)


def class_of(value: object) -> str:
    """The class of a value, for an error message."""
    return f"a {type(value).__module__}.{type(value).__qualname__}"
