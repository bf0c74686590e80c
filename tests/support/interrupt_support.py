"""Interrupts a call at every place where Python lets a signal end it, one place after the other."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

Subject = TypeVar("Subject")

# As Ctrl-C does it. It takes a weak reference, which it ignores: it is the callback of one.
_set_interrupt = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("PyErr_SetInterrupt", ctypes.pythonapi))


def interrupted_everywhere(
    prepare: Callable[[], Subject],
    act: Callable[[Subject], object],
    check: Callable[[Subject], object],
    *,
    times: int = 1,
    every: int = 1,
    error: type[BaseException] = KeyboardInterrupt,
) -> int:
    """Let a signal come at every place in ``act`` in turn, each time with a new subject.

    These are the places where the interpreter itself runs signal handlers: at the begin of
    functions, after calls and in loops, in all Python code that is called.

    Parameters
    ----------
    prepare : callable
        Makes a subject.
    act : callable
        The call to interrupt.
    check : callable
        Called with the subject after each interrupt, and after a call without one.
    times : int
        With 2, a second signal follows at every place after the first, and so on.
    every : int
        With n, only at every nth place: for long calls.
    error : type
        The exception that the signal's handler raises.

    Returns
    -------
    The number of interrupts.
    """
    subject = prepare()
    act(subject)  # with caches and imports of its own
    check(subject)

    def explore(at: tuple[int, ...]) -> int:
        interrupts = 0
        while True:
            subject = prepare()
            events = _Interruption(at, error).events_of(act, subject)
            check(subject)
            if len(events) < len(at):  # it ended before
                return interrupts
            interrupts += 1
            after = events[-1] + every  # up to + 1 the signal would have come at the same place
            if len(at) < times:
                interrupts += explore((*at, after))
            at = (*at[:-1], after)

    return explore((1,))


class _Interruption:
    """A run of a function in which signals come at events of given numbers.

    An event is an instruction about to run. The signal is sent when the tracing of the event has
    ended, so that the interpreter handles it as any other: not before the instruction has run, and
    only if instructions of its kind look for signals.
    """

    def __init__(self, at: tuple[int, ...], error: type[BaseException]) -> None:
        self._left = list(at)
        self._error = error
        self._event = 0
        self._due = False
        self._delivered: list[int] = []
        self._fuses: list[object] = []

    def events_of(self, function: Callable[[Subject], object], subject: Subject) -> list[int]:
        """Call the function; return the numbers of the events at which it was interrupted."""
        unraisable, sys.unraisablehook = sys.unraisablehook, self._unraisable
        handler = signal.signal(signal.SIGINT, self._handle)
        tracing = sys.gettrace()
        gc.disable()
        try:
            sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for it when tracing begins
            sys.settrace(self._trace_call)
            function(subject)
        except self._error:
            if not self._delivered:
                raise
        finally:
            sys.settrace(tracing)
            gc.enable()
            signal.signal(signal.SIGINT, handler)
            sys.unraisablehook = unraisable
        return self._delivered

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if frame is None or frame.f_code.co_filename == __file__:
            self._due = True  # later: this is no code of the function
            return
        self._delivered.append(self._event)
        raise self._error

    def _unraisable(self, unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, self._error):  # from a destructor: no harm
            sys.__unraisablehook__(unraisable)

    def _trace_call(self, frame: FrameType, event: str, arg: object) -> _Tracer | None:
        if frame.f_code.co_filename == __file__:
            return None
        frame.f_trace = tracer = _Tracer(self)  # without it, Python 3.13 and 3.14 ignore the next
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return tracer

    def trace(self, tracer: _Tracer) -> _Tracer:
        self._event += 1
        if self._left and self._event >= self._left[0]:
            del self._left[0]
            self._due = True
        if self._due:
            self._due = False
            # The interpreter lets go of the old tracer when it has the new one, and runs no Python
            # code from then on.
            self._fuses.append(weakref.ref(tracer, _set_interrupt))
        return _Tracer(self)


class _Tracer:
    """Traces one event of a frame."""

    def __init__(self, interruption: _Interruption) -> None:
        self._interruption = interruption

    def __call__(self, frame: FrameType, event: str, arg: object) -> _Tracer:
        return self._interruption.trace(self)
