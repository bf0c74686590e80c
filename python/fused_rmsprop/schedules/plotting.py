"""A picture of schedules, drawn with matplotlib."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import numpy as np

from fused_rmsprop.schedules.base import Schedule, as_function, as_tuple
from fused_rmsprop.schedules.decays import Exponential
from fused_rmsprop.schedules.phases import Join, Scaled
from fused_rmsprop.values import as_count

_POINTS = 1000
_STEPS_WITHOUT_END = 1000


def plot(
    *schedules: Callable[[int], SupportsFloat],
    steps: int | None = None,
    ax: Any = None,
    labels: Sequence[str] | None = None,
) -> Any:
    """Draw the values of schedules over the steps.

    Parameters
    ----------
    *schedules : callable
        Schedules, or other functions of the step.
    steps : int or None
        The last step. None: the latest end of the schedules; 1000 if none has one.
    ax : matplotlib.axes.Axes or None
        Where to draw; None: the current axes of pyplot.
    labels : sequence of str or None
        One for each schedule. None: the schedules themselves, as text.

    Returns
    -------
    matplotlib.axes.Axes
        With a line of at most 1001 points for each schedule.

    Raises
    ------
    ImportError
        Without matplotlib.
    TypeError, ValueError
        If there is no schedule, one is not a function, or there are more or fewer labels.

    Examples
    --------
    >>> from fused_rmsprop import schedules
    >>> ax = schedules.plot(schedules.Cosine(0.1, transition_steps=500))  # doctest: +SKIP
    """
    if not schedules:
        raise TypeError(
            "plot() needs a schedule: plot(schedules.Cosine(0.1, transition_steps=500))"
        )
    if hasattr(schedules[0], "param_groups"):
        raise TypeError("plot draws schedules: plot(opt.param_groups[0]['lr'])")
    if isinstance(schedules[0], (list, tuple)):
        raise TypeError("each schedule is an argument of its own: plot(*schedules)")
    functions = [as_function(f"schedules[{i}]", one) for i, one in enumerate(schedules)]
    labels = None if labels is None else as_tuple("labels", labels, lambda _, label: label)
    if labels is not None and len(labels) != len(functions):
        raise ValueError(f"{len(functions)} schedules need as many labels, got {len(labels)}")
    if steps is None:
        last = max((end for one in functions if (end := _end(one))), default=_STEPS_WITHOUT_END)
    else:
        last = as_count("steps", steps, least=1)
    ax = ax if ax is not None else _current_axes()
    at = np.unique(np.linspace(0, last, min(last, _POINTS) + 1).astype(np.int64))
    for i, one in enumerate(functions):
        values = [float(one(step)) for step in at.tolist()]
        ax.plot(at, values, label=reprlib.repr(one) if labels is None else labels[i])
    ax.set_xlabel("step")
    ax.legend()
    return ax


def _current_axes() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("schedules.plot needs matplotlib: pip install matplotlib") from error
    return pyplot.gca()


def _end(schedule: object) -> int | None:
    """The step from which a schedule keeps its value; None if there is none, or it is unknown."""
    if isinstance(schedule, Scaled):
        return _end(schedule.schedule)
    if isinstance(schedule, Join) and schedule.boundaries:
        last = _end(schedule.schedules[-1])
        return None if last is None else schedule.boundaries[-1] + last
    if not isinstance(schedule, Schedule) or isinstance(schedule, Exponential):
        return None
    total, length = (getattr(schedule, k, None) for k in ("total_steps", "transition_steps"))
    if length is not None:
        return int(schedule.transition_begin + length)  # type: ignore[attr-defined]
    return None if total is None else int(total)
