"""Numbers, names and histories as the rules need them: rounded, merged, cut into parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from fused_rmsprop.monitor.history import Array, History
from fused_rmsprop.monitor.report import Finding

#: Looks at a history and says what is wrong; its name is that of its findings.
Rule: TypeAlias = Callable[[History], Iterator[Finding]]


def number(value: float) -> str:
    """Two digits: 0.012, 340, 1e-9."""
    text = f"{value:.2g}"
    if "e" not in text:
        return text
    digits, exponent = text.split("e")
    if -1 < int(exponent) < 5:
        return f"{float(text):.0f}"
    return f"{digits}e{int(exponent)}"


def percent(share: float) -> str:
    """A share as a percentage: 43 %, 0.5 %."""
    return f"{round(100 * share) if 0.1 <= share < 100 else number(100 * share)} %"


def rounded(value: float) -> float:
    """The nearest of 1, 2, 3 and 5 times a power of ten: what a person would try."""
    if not 0 < value < math.inf:
        return value
    exponent = math.floor(math.log10(value))
    tries = [float(f"{digit}e{exponent}") for digit in (1, 2, 3, 5, 10)]
    return min(tries, key=lambda tried: abs(math.log(tried / value)))


def change(old: float, new: float) -> str:
    """What to change: ``0.01 -> 0.003``."""
    return f"{number(old)} -> {number(rounded(new))}"


def where(history: History, leaves: Sequence[int]) -> str:
    """The names of leaves: one, two, or the first and the last; "" for all leaves."""
    names = [history.names[i] for i in leaves]
    if len(names) == len(history.leaves) and len(names) > 1:
        return ""
    if len(names) > 2:
        return f"{names[0]} ... {names[-1]} ({len(names)} leaves)"
    return " and ".join(names)


def finding(rule: str, history: History, leaves: Sequence[int], text: str) -> Finding:
    """A finding about some leaves; it names none if they are all, or if there are none."""
    name = where(history, leaves)
    return Finding(rule, name, text, tuple(history.names[i] for i in leaves) if name else ())


def median(values: Array) -> float:
    """The median without NaN and infinities; NaN if nothing is left."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def medians(values: Array) -> Array:
    """The median over the points of each leaf."""
    return np.array([median(column) for column in values.T])


def share(condition: Any) -> float:
    """The share of points at which a condition holds; 0 if there are none."""
    return float(np.mean(condition)) if np.size(condition) else 0.0


def ratio(above: Any, below: Any) -> Any:
    """A quotient; infinite or NaN, without a warning, where it has no value."""
    with np.errstate(all="ignore"):
        return np.divide(above, below)


def early(history: History) -> slice:
    """The first quarter of the points."""
    return slice(0, max(1, len(history.steps) // 4))


def late(history: History) -> slice:
    """The second half of the points."""
    return slice(len(history.steps) // 2, None)


def weights(history: History) -> list[int]:
    """The leaves of two dimensions or more; the largest leaf, if there is none.

    Biases and scales start at 0 or 1 and are small: their sizes say little about a training. A
    bias in front of a normalisation has no gradient but rounding errors.
    """
    return matrices(history) or [largest(history, range(len(history.leaves)))]


def matrices(history: History) -> list[int]:
    """The leaves of two dimensions or more."""
    return [i for i, leaf in enumerate(history.leaves) if len(leaf.shape) > 1]


def largest(history: History, leaves: Sequence[int]) -> int:
    """The leaf with the most elements."""
    return max(leaves, key=lambda i: history.leaves[i].size)


def option(history: History, name: str, leaf: int) -> Array:
    """A schedulable option as it was for a leaf; shape (points,)."""
    return history.option(name)[:, history.leaves[leaf].group]


def highest(history: History, name: str, leaves: Sequence[int]) -> float:
    """The highest value of a schedulable option, for the largest of some leaves."""
    return float(option(history, name, largest(history, leaves)).max())


def constant(history: History, name: str, leaf: int, default: Any = None) -> Any:
    """An option that does not change, as it is for a leaf."""
    value = history.constants.get(name, default)
    return value[history.leaves[leaf].group] if isinstance(value, list | tuple) else value


def is_scheduled(values: Array) -> bool:
    """Whether an option changes by more than a fifth in the second half of the points."""
    half = values[len(values) // 2 :]
    return bool(len(half)) and bool(half.min() < 0.8 * half.max())
