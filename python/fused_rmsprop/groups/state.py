"""The table of the kinds of state, and how the arrays of each begin and change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.options import OPTIONS

Array: TypeAlias = NDArray[Any]
#: The arrays of each kind, one per parameter.
Arrays: TypeAlias = Mapping[str, Sequence[Array]]


class StateKind(NamedTuple):
    """One kind of state beside a parameter."""

    name: str
    option: str | None  # makes it necessary; None: always
    start: str | None = None  # its first value: an option, "param", or None for zeros
    name_if_centered: str = ""
    kept: bool = False  # also after its option was turned off

    def key(self, options: Mapping[str, Any]) -> str:
        """The name that users see."""
        return self.name_if_centered if self.name_if_centered and options["centered"] else self.name

    def needed(self, options: Mapping[str, Any]) -> bool:
        """Whether a step with these options needs it."""
        return self.option is None or bool(options[self.option])


#: In the order of the C++ library's table.
KINDS: tuple[StateKind, ...] = (
    StateKind("square_avg", None, start="initial_square_avg", name_if_centered="variance"),
    StateKind("momentum_buffer", "momentum", kept=True),
    StateKind("grad_avg", "centered"),
    StateKind("param_avg", "ema_decay", start="param"),
)
#: The sum of gradients, which is no user's state; the core takes it after the kinds.
GRAD_SUM = "grad_sum"

_BY_NAME = {kind.name: kind for kind in KINDS}
_FIXED = tuple((o.name, _BY_NAME[o.fixed.state], o.fixed.why) for o in OPTIONS if o.fixed)


def needed_kinds(options: Mapping[str, Any]) -> list[StateKind]:
    """The kinds of state that a step with these options needs."""
    return [kind for kind in KINDS if kind.needed(options)]


def new_arrays(kind: StateKind, options: Mapping[str, Any], params: Iterable[Array]) -> list[Array]:
    """The arrays of a kind before the first step."""
    arrays = []
    for param in params:
        array = _core.zeros_in_order_of(param)
        if kind.start == "param":
            array[...] = param
        elif kind.start is not None and options[kind.start]:
            array[...] = options[kind.start]
        arrays.append(array)
    return arrays


def arrays_for(
    options: Mapping[str, Any], arrays: Arrays, params: Sequence[Array]
) -> dict[str, Sequence[Array]]:
    """The arrays that the options need: those that there are, and new ones."""
    wanted = {GRAD_SUM: arrays[GRAD_SUM]} if GRAD_SUM in arrays else {}
    for kind in KINDS:
        if kind.name in arrays and (kind.kept or kind.needed(options)):
            wanted[kind.name] = arrays[kind.name]
        elif kind.needed(options):
            wanted[kind.name] = new_arrays(kind, options, params)
    if "grad_avg" in arrays and "grad_avg" not in wanted:
        # No longer centered. (The other way nothing changes: the variance about an average of zero
        # is the square_avg.)
        wanted["square_avg"] = [_core.zeros_in_order_of(param) for param in params]
        with _core.FpEnvironment(), np.errstate(all="ignore"):
            for new, v, m in zip(
                wanted["square_avg"], arrays["square_avg"], arrays["grad_avg"], strict=True
            ):
                np.add(v, m * m, out=new)
    return wanted


def rates(lr: Any, square_avg: Array, eps: Any, eps_inside_sqrt: Any) -> Array:
    """The effective learning rate of each element, by which a step multiplies its gradient."""
    outside = np.sqrt(square_avg) + eps
    if not np.any(eps_inside_sqrt):
        return np.asarray(lr / outside)
    return np.asarray(lr / np.where(eps_inside_sqrt, np.sqrt(square_avg + eps), outside))


def check_fixed(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    states: Iterable[Mapping[str, Any]],
    where: str,
) -> None:
    """Refuse a change of an option that gives the state its meaning, once a step was made with it.

    Parameters
    ----------
    before, after : mapping
        Options; those that ``before`` lacks may change.
    states : iterable of mapping
        The state of each parameter of the group.
    where : str
        The group's name in errors.

    Raises
    ------
    ValueError
        With the reason.
    """
    changed = [
        (name, kind, why)
        for name, kind, why in _FIXED
        if before.get(name, after[name]) != after[name]
    ]
    if not changed:
        return
    for state in states:
        for name, kind, why in changed:
            if _has_meaning(kind, state):
                raise ValueError(
                    f"{where}: {name} is fixed at {before[name]} after the first step, because "
                    f"{why}; a new optimizer can have {name}={after[name]}"
                )


def _has_meaning(kind: StateKind, state: Mapping[str, Any]) -> bool:
    """Whether a step was made with a kind of state; a buffer of zeros has seen none."""
    arrays = [state[name] for name in (kind.name, kind.name_if_centered) if name in state]
    if not arrays or not float(state.get("step", 0)) > 0:
        return False
    return kind.start is not None or bool((arrays[0] != 0).any())
