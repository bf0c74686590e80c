"""The base class of both optimizers: settings of a whole optimizer, and shared error messages."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.options import OPTIMIZER_OPTIONS, unknown_option

T = TypeVar("T")
P = ParamSpec("P")

NO_AVERAGES = "there are no averages: make the optimizer with ema_decay=0.999, say"


def helps_with_options(
    function: Callable[P, T],
    where: str = "",
    hint: Callable[[str, str, Iterable[str]], str] = unknown_option,
) -> Callable[P, T]:
    """Let a function answer unknown keywords with the option that is probably meant.

    Arguments by position beyond those that it takes are answered with those that need a name.

    Parameters
    ----------
    function : callable
        Its signature and docstring are kept.
    where : str
        Its name in errors; by default its own, or that of the class that it makes.
    hint : callable
        ``hint(name, where, known)`` returns the message.
    """
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.name not in ("self", "params")]
    named = {p.name for p in parameters}
    by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    needed = [p.name for p in by_name if p.default is p.empty] or [p.name for p in by_name[:1]]
    where = where or function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def helping(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except TypeError:
            unknown = [name for name in kwargs if name not in named]
            if not unknown and len(args) <= len(by_position):
                raise
        if unknown:
            raise TypeError(hint(unknown[0], where, known))
        first = [name for name in by_position if name != "self"]
        example = ", ".join([*first, *(f"{name}=..." for name in needed)])
        raise TypeError(f"{where} takes only {', '.join(first)} by position: {where}({example})")

    return helping


def called(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Give a method of a base class the name that Python's own errors show for it."""

    def name_it(method: Callable[P, T]) -> Callable[P, T]:
        method.__qualname__ = name
        return method

    return name_it


class Setting(Generic[T]):
    """An option of a whole optimizer, which its stepper keeps."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, optimizer: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, optimizer: Optimizer, owner: type) -> T: ...
    def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
        return self if optimizer is None else getattr(optimizer._stepper, self._name)

    def __set__(self, optimizer: Optimizer, value: Any) -> None:
        optimizer._set(self._name, OPTIMIZER_OPTIONS[self._name].read(self._name, value))


#: The packages that a warning does not point into.
_LIBRARIES = ("fused_rmsprop", "torch", "contextlib")
#: How many names an error lists.
_LISTED = 20


class Optimizer:
    """An optimizer that steps through ``_stepper``."""

    _stepper: _core.Stepper

    max_grad_norm = Setting[float | None](
        "The limit of the 2-norm of all gradients together, or None."
    )
    max_grad_norm_per_array = Setting[float | None](
        "The limit of the 2-norm of each parameter's gradient, or None."
    )
    max_grad_value = Setting[float | None]("The limit of each element of a gradient, or None.")
    on_nonfinite = Setting[str](
        'What a NaN or an infinity in a gradient does: "propagate", "skip" or "raise".'
    )
    flush_denormals = Setting[bool]("Whether subnormal numbers count as zero during a step.")
    threads = Setting[int | None](
        "The size of the team for large steps, or None for what measures fastest."
    )

    def _set(self, name: str, value: Any) -> None:
        setattr(self._stepper, name, value)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self._stepper, name) for name in OPTIMIZER_OPTIONS}

    @property
    def threads_used(self) -> int:
        """How many threads the last step used."""
        return self._stepper.threads_used

    @property
    def grad_norm(self) -> float | None:
        """The 2-norm of all gradients of the last step, scaled and limited but not yet clipped.

        Neither by `max_grad_norm` nor by `max_grad_norm_per_array`.

        None unless `max_grad_norm` is set or `on_nonfinite` asks for a check. The same bits for
        any number of threads on every instruction set.
        """
        return self._stepper.grad_norm

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out because a gradient was not finite."""
        return self._stepper.skipped_steps


def unknown_name(name: object, known: Sequence[str]) -> KeyError:
    """The error for a name that no parameter has, with those that are probably meant."""
    text = str(name)

    def ends_alike(one: str) -> bool:
        a, b = one.lower(), text.lower()
        return a == b or a.endswith("." + b) or a.startswith(b + ".")

    near = [one for one in known if ends_alike(one)] or difflib.get_close_matches(
        text, known, 1, 0.8
    )
    hint = f"is {' or '.join(map(repr, near[:3]))} meant? There" if near else "there"
    listed = ", ".join(known[:_LISTED])
    more = f" and {len(known) - _LISTED} others" if len(known) > _LISTED else ""
    return KeyError(f"there is no parameter {name!r}; {hint} are {listed}{more}")


def warn_the_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, and point to the line outside of this package and torch that the call came from."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_of_spreading(what: str, stepper: _core.Stepper) -> None:
    """Warn, once for an optimizer, that clipping is about to spread a NaN or an infinity.

    If the warning is an error, nothing has changed.
    """
    warn_the_caller(
        f"{what} has a NaN or an infinity, and clipping by max_grad_norm carries it to all other "
        "parameters: a NaN makes them NaN, an infinity makes their gradients zero. "
        "on_nonfinite='skip' leaves such steps out, 'raise' stops at them",
        RuntimeWarning,
    )
    stepper.warned_of_spreading = True


def nonfinite_error(
    what: str, grad: NDArray[Any], unchanged: str = "nothing has changed"
) -> FloatingPointError:
    """The error for a gradient that is not finite: which it is, and where.

    Parameters
    ----------
    what : str
        The name of the gradient.
    grad : array
        Its values. If all are finite, scaling them made them overflow.
    unchanged : str
        A sentence on what has not changed.
    """
    wrong = ~np.isfinite(grad)
    count = int(np.count_nonzero(wrong))
    if count == 0:
        place = tuple(int(i) for i in np.unravel_index(int(np.abs(grad).argmax()), grad.shape))
        problem = (
            f"is finite, but overflows {grad.dtype} when the step scales or squares it: its "
            f"largest element, at index {place}, is {grad[place]!s}. grad_scale, max_grad_norm and "
            "max_grad_value make it smaller"
        )
    else:
        place = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), grad.shape))
        problem = (
            f"has {count} NaN or infinite element{'s' * (count > 1)}, the first at index {place}: "
            f"{float(grad[place])}"
        )
    return FloatingPointError(f"{what} {problem}; {unchanged}")
