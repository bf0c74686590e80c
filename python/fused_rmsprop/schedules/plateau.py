"""`ReduceOnPlateau`: lower the learning rate when a metric has stopped improving.

Unlike the schedules it keeps state and writes to an optimizer's parameter groups, whose kind it
need not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, SupportsFloat, TypeAlias

from fused_rmsprop.options import as_number
from fused_rmsprop.schedules.checks import as_choice, as_count, as_value, as_values

#: A parameter group, its learning rate, and the least that this may become.
_Rate: TypeAlias = tuple[MutableMapping[str, Any], float, float]


@dataclass(eq=False)
class ReduceOnPlateau:
    """Multiply the learning rates with ``factor`` when a metric has stopped improving.

    Call ``update(metric)`` once per epoch, say with the validation loss. More than ``patience``
    updates in a row without a new best, and the rate of every parameter group is lowered.

    Parameters
    ----------
    optimizer : RMSProp
        Or anything that has ``param_groups``, a list of dicts with the key ``"lr"``, a number.
    mode : {"min", "max"}
        Whether a smaller or a larger metric is better.
    factor : float
        What a rate is multiplied with, ``0 <= factor < 1``.
    patience : int
        How many updates without a new best are put up with.
    threshold : float
        By how much a metric must be better than the best one to be the new best.
    threshold_mode : {"rel", "abs"}
        Whether it must be beyond ``best * (1 - threshold)`` (``1 + threshold`` for "max"), which
        suits metrics ``>= 0`` only, or beyond ``best - threshold`` (``best + threshold``).
    cooldown : int
        For how many updates after a reduction nothing is counted against the patience.
    min_lr : float or list of float
        What no rate is lowered beyond; a list has one for each parameter group.
    eps : float
        A rate that would change by no more than this is left alone.

    Attributes
    ----------
    best : float
        The best metric so far; at first infinite.
    num_bad_epochs : int
        Updates since then, or since the last reduction or cooldown.
    cooldown_counter : int
        How many updates of the cooldown are left.
    last_epoch : int
        How many updates there were.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of bounds, or the rate of a group is a schedule, which would go its
        own way.

    Notes
    -----
    Names, defaults and decisions are those of ``torch.optim.lr_scheduler.ReduceLROnPlateau``,
    whose ``step`` is `update` here. Therefore a NaN is never a new best: it counts as an update
    without one.

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
    best: float = field(init=False)
    num_bad_epochs: int = field(init=False, default=0)
    cooldown_counter: int = field(init=False, default=0)
    last_epoch: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        worst = -math.inf if self.mode == "max" else math.inf
        state = {name: getattr(self, name) for name in _NAMES if name != "best"} | {"best": worst}
        checked = _checked(state, "ReduceOnPlateau")
        _rates(self.optimizer, checked["min_lr"])
        vars(self).update(checked)

    def update(self, metric: SupportsFloat) -> bool:
        """Take note of a metric, and lower the learning rates if it is time.

        Parameters
        ----------
        metric : float
            The number to watch; NaN is worse than any.

        Returns
        -------
        bool
            Whether a rate was lowered.

        Raises
        ------
        TypeError, ValueError
            If the metric is not a number, the rate of a group is a schedule, or `min_lr` has not
            one value for each group. Nothing has changed then.
        """
        current = as_number("metric", metric)
        rates = _rates(self.optimizer, self.min_lr)
        before = dict(vars(self))
        try:
            return self._take_note(current, rates)
        except BaseException:  # the optimizer refuses a change, say inside use_ema()
            vars(self).update(before)
            raise

    def _take_note(self, current: float, rates: list[_Rate]) -> bool:
        self.last_epoch += 1
        if self._is_better(current):
            self.best = current
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
        return self._reduce(rates)

    def _is_better(self, metric: float) -> bool:
        change = -self.threshold if self.mode == "min" else self.threshold
        bound = self.best * (1 + change) if self.threshold_mode == "rel" else self.best + change
        return metric < bound if self.mode == "min" else metric > bound

    def _reduce(self, rates: list[_Rate]) -> bool:
        lowered = False
        for group, old, min_lr in rates:
            new = max(old * self.factor, min_lr)
            if old - new > self.eps:
                group["lr"] = new
                lowered = True
        return lowered

    def state_dict(self) -> dict[str, Any]:
        """The options and the state, to be given to `load_state_dict`.

        The learning rates are not part of it: they are the optimizer's.
        """
        return {name: getattr(self, name) for name in _NAMES}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state, with the options that were in force.

        Parameters
        ----------
        state_dict : dict
            From `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it is something else. Nothing has changed then.
        """
        names = set(state_dict) if isinstance(state_dict, Mapping) else set()
        if names != set(_NAMES):
            found = [f"{name!r} is missing" for name in _NAMES if name not in names]
            found += [f"{name!r} is unknown" for name in sorted(map(str, names - set(_NAMES)))]
            raise ValueError(f"this is no state_dict of ReduceOnPlateau: {', '.join(found)}")
        checked = _checked(state_dict, "the state_dict")
        _rates(self.optimizer, checked["min_lr"])
        vars(self).update(checked)


#: The options and the state.
_NAMES = tuple(item.name for item in fields(ReduceOnPlateau) if item.name != "optimizer")


def _checked(state: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options and the state in their plain form, or an error that begins with ``where``."""
    checked: dict[str, Any] = {}
    for name in ("patience", "cooldown", "num_bad_epochs", "cooldown_counter", "last_epoch"):
        checked[name] = as_count(f"{where}: {name}", state[name])
    for name in ("factor", "threshold", "eps"):
        checked[name] = as_value(f"{where}: {name}", state[name])
    for name, choices in (("mode", ("min", "max")), ("threshold_mode", ("rel", "abs"))):
        checked[name] = as_choice(f"{where}: {name}", state[name], choices)
    checked["min_lr"] = _as_min_lr(f"{where}: min_lr", state["min_lr"])
    checked["best"] = as_number(f"{where}: best", state["best"])
    if math.isnan(checked["best"]):
        raise ValueError(f"{where}: best must not be NaN, which no metric could be better than")
    if checked["factor"] >= 1:
        raise ValueError(f"{where}: factor must be < 1, got {state['factor']!r}")
    if (checked["mode"], checked["threshold_mode"]) == ("min", "rel") and checked["threshold"] >= 1:
        raise ValueError(
            f"{where}: threshold must be < 1, as no metric >= 0 is lower by that share, "
            f"got {state['threshold']!r}; threshold_mode='abs' takes it as an amount"
        )
    return {name: checked[name] for name in _NAMES}


def _as_min_lr(name: str, value: Any) -> float | tuple[float, ...]:
    return as_values(name, value) if isinstance(value, (list, tuple)) else as_value(name, value)


def _rates(optimizer: Any, min_lr: float | Sequence[float]) -> list[_Rate]:
    """The rate of each group and the least it may get, or an error: nothing is lowered in part."""
    try:
        groups = list(optimizer.param_groups)
        rates = [group["lr"] for group in groups]
    except (AttributeError, TypeError, KeyError):
        raise TypeError(
            "ReduceOnPlateau: optimizer must have param_groups, each with a learning rate 'lr', "
            f"as RMSProp has; got a {type(optimizer).__name__}"
        ) from None
    for i, rate in enumerate(rates):
        if callable(rate):
            raise TypeError(
                f"ReduceOnPlateau: param_groups[{i}]['lr'] is a schedule, {rate!r}, which sets the "
                "rate at every step; to have it lowered on a plateau, set a number there instead"
            )
    numbers = [as_number(f"param_groups[{i}]['lr']", rate) for i, rate in enumerate(rates)]
    least = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * len(groups)
    if len(least) != len(groups):
        raise ValueError(
            f"min_lr has {len(least)} values and the optimizer {len(groups)} parameter groups; "
            "give one value for each group, or a number for all"
        )
    return list(zip(groups, numbers, least, strict=True))
