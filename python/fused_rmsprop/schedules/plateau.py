"""`ReduceOnPlateau`: lower the learning rate when a metric has stopped improving.

Unlike schedules, it keeps state and writes to the parameter groups of an optimizer of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsFloat

from fused_rmsprop.schedules.base import as_choice, as_tuple, as_value
from fused_rmsprop.values import as_count, as_number


@dataclass(eq=False)
class ReduceOnPlateau:
    """Multiply the learning rates by ``factor`` when a metric has stopped improving.

    Call ``update(metric)`` once per epoch, for example with the validation loss. After more than
    ``patience`` updates in a row without a new best, the rates of all parameter groups are lowered.

    Parameters
    ----------
    optimizer : RMSProp
        Or any object with ``param_groups``, a list of dicts with a number under ``"lr"``.
    mode : {"min", "max"}
        Whether a smaller or a larger metric is better.
    factor : float
        The factor of a reduction, ``0 <= factor < 1``.
    patience : int
        The number of updates without a new best that are tolerated.
    threshold : float
        The minimum improvement for a new best.
    threshold_mode : {"rel", "abs"}
        A new best must be beyond ``best * (1 - threshold)`` ("max": ``1 + threshold``), which suits
        only metrics ``>= 0``, or beyond ``best - threshold`` ("max": ``best + threshold``).
    cooldown : int
        The number of updates after a reduction that do not count against the patience.
    min_lr : float or list of float
        The lower bound of the rates; a list has one for each parameter group.
    eps : float
        Changes of a rate up to this size are skipped.

    Attributes
    ----------
    best : float
        The best metric so far; initially infinite.
    num_bad_epochs, cooldown_counter, last_epoch : int
        Updates since the best one, the last reduction or the last cooldown; remaining updates of
        the cooldown; all updates.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of bounds, or if the rate of a group is a schedule.

    Notes
    -----
    Names, defaults and decisions follow ``torch.optim.lr_scheduler.ReduceLROnPlateau``, whose
    ``step`` is `update` here. As there, NaN is never a new best.

    Examples
    --------
    >>> import numpy as np
    >>> from fused_rmsprop import RMSProp
    >>> from fused_rmsprop.schedules import ReduceOnPlateau
    >>> opt = RMSProp(np.zeros(3), lr=0.5)
    >>> plateau = ReduceOnPlateau(opt, factor=0.5, patience=1)
    >>> for loss in [3.0, 2.0, 2.5, 2.5]:
    ...     lowered = plateau.update(loss)
    >>> opt.lr, lowered
    (0.25, True)
    """

    optimizer: Any = field(repr=False)
    _: KW_ONLY
    mode: str = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float | Sequence[float] = 0.0
    eps: float = 1e-8
    best: float = field(init=False, default=math.inf)
    num_bad_epochs: int = field(init=False, default=0)
    cooldown_counter: int = field(init=False, default=0)
    last_epoch: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.mode == "max":
            self.best = -math.inf
        self._take(self.state_dict(), "ReduceOnPlateau")

    def update(self, metric: SupportsFloat) -> bool:
        """Record a metric, and lower the learning rates if it has stopped improving.

        Return whether a rate was lowered. NaN is worse than any number.

        Raises
        ------
        TypeError, ValueError
            If the metric is not a number, the rate of a group is a schedule, or the lengths of
            `min_lr` and the groups differ. Nothing changes in that case.
        """
        current = as_number("metric", metric)
        rates = _rates(self.optimizer, self.min_lr)
        before = dict(vars(self))
        try:
            return self._is_due(current) and self._reduce(rates)
        except BaseException:  # the optimizer may refuse a change, for example inside use_ema()
            vars(self).update(before)
            raise

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Only called for names that are not there."""
            hint = "; torch's step is update(metric) here" if name == "step" else ""
            raise AttributeError(f"'ReduceOnPlateau' object has no attribute {name!r}{hint}")

    def _is_due(self, metric: float) -> bool:
        """Record a metric; return whether the patience has ended."""
        self.last_epoch += 1
        if self._is_better(metric):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs <= self.patience:
            return False
        self.cooldown_counter = self.cooldown
        self.num_bad_epochs = 0
        return True

    def _is_better(self, metric: float) -> bool:
        change = -self.threshold if self.mode == "min" else self.threshold
        bound = self.best * (1 + change) if self.threshold_mode == "rel" else self.best + change
        return metric < bound if self.mode == "min" else metric > bound

    def _reduce(self, rates: list[tuple[Any, float, float]]) -> bool:
        lowered = False
        for group, old, min_lr in rates:
            new = max(old * self.factor, min_lr)
            if old - new > self.eps:
                group["lr"] = new
                lowered = True
        return lowered

    def state_dict(self) -> dict[str, Any]:
        """Return the options and the state, without the optimizer's learning rates."""
        return {name: getattr(self, name) for name in _CHECKS}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load options and state from `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it is invalid. Nothing changes in that case.
        """
        names = set(state_dict) if isinstance(state_dict, Mapping) else set()
        found = [f"{name!r} is missing" for name in _CHECKS if name not in names]
        found += [f"{name!r} is unknown" for name in sorted(map(str, names - _CHECKS.keys()))]
        if found:
            raise ValueError(f"not a state_dict of ReduceOnPlateau: {', '.join(found)}")
        self._take(state_dict, "the state_dict")

    def _take(self, state: Mapping[str, Any], where: str) -> None:
        """Check and set the options and the state; errors begin with ``where``."""
        checked = {name: _CHECKS[name](f"{where}: {name}", state[name]) for name in _CHECKS}
        if math.isnan(checked["best"]):
            raise ValueError(f"{where}: best must not be NaN: no metric would be better")
        if checked["factor"] >= 1:
            raise ValueError(f"{where}: factor must be < 1, got {state['factor']!r}")
        relative_min = checked["mode"] == "min" and checked["threshold_mode"] == "rel"
        if relative_min and checked["threshold"] >= 1:
            raise ValueError(
                f"{where}: threshold must be < 1, because no metric >= 0 is lower by that share, "
                f"got {state['threshold']!r}; threshold_mode='abs' makes it a difference"
            )
        _rates(self.optimizer, checked["min_lr"])
        vars(self).update(checked)


def _as_min_lr(name: str, value: Any) -> float | tuple[float, ...]:
    return as_tuple(name, value) if isinstance(value, (list, tuple)) else as_value(name, value)


#: By name of an option or a part of the state.
_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "mode": partial(as_choice, choices=("min", "max")),
    "threshold_mode": partial(as_choice, choices=("rel", "abs")),
    "min_lr": _as_min_lr,
    "best": as_number,
    **dict.fromkeys(("factor", "threshold", "eps"), as_value),
    **dict.fromkeys(("patience", "cooldown"), as_count),
    **dict.fromkeys(("num_bad_epochs", "cooldown_counter", "last_epoch"), as_count),
}


def _rates(optimizer: Any, min_lr: float | Sequence[float]) -> list[tuple[Any, float, float]]:
    """Return each group with its rate and lower bound; raise before any rate is lowered."""
    try:
        groups = list(optimizer.param_groups)
        rates = [group["lr"] for group in groups]
    except (AttributeError, TypeError, KeyError):
        raise TypeError(
            "ReduceOnPlateau: optimizer must have param_groups, each with a learning rate 'lr', "
            f"like RMSProp; got a {type(optimizer).__name__}"
        ) from None
    for i, rate in enumerate(rates):
        if callable(rate):
            schedule = f"a schedule, {rate!r}, which sets the rate at every step"
            where = f"ReduceOnPlateau: param_groups[{i}]['lr']"
            raise TypeError(f"{where} is {schedule}; set a number instead")
    numbers = [as_number(f"param_groups[{i}]['lr']", rate) for i, rate in enumerate(rates)]
    least = min_lr if isinstance(min_lr, Sequence) else [min_lr] * len(groups)
    if len(least) != len(groups):
        raise ValueError(
            f"min_lr has {len(least)} values and the optimizer {len(groups)} parameter groups; "
            "pass one value per group, or a number for all"
        )
    return list(zip(groups, numbers, least, strict=True))
