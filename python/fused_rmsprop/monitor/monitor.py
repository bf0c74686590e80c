"""The class `Monitor`: what users call."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal

from fused_rmsprop import _core
from fused_rmsprop.base import helps_with_options, warn_the_caller
from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.monitor.files.streams import Callback, Streams, Writer, streams_to
from fused_rmsprop.monitor.history import Point, Store
from fused_rmsprop.monitor.logs import as_numbers
from fused_rmsprop.monitor.observation.observers import Observer
from fused_rmsprop.monitor.observation.sampling import Batch
from fused_rmsprop.monitor.observation.statistics import Statistics
from fused_rmsprop.monitor.pictures.live import Live
from fused_rmsprop.monitor.record import Record
from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.options import SCHEDULABLE
from fused_rmsprop.values import Number, as_count, as_number

#: As many sampled elements and observations wait to be stored together: small models would pay most
#: for the calls.
_ELEMENTS_TOGETHER = 2**19
_TOGETHER = 256


class Monitor(Record):
    """Watches an optimizer: how large gradients and updates are, whether they reverse, and more.

    It observes from its construction until `detach`. Steps give the same bits with it and without.
    It looks at two successive steps of each ``every`` ones, and there at a random sample of each
    parameter's elements, which stays the same.

    Parameters
    ----------
    opt : fused_rmsprop.RMSProp or fused_rmsprop.torch.RMSprop
        The optimizer. A parameter group that is added later is not observed.
    every : int
        The steps from one observation to the next, ``>= 1``.
    sample : int
        The largest number of elements of a parameter to look at, ``>= 16``. A share is then known
        to about ``1 / sqrt(sample)``.
    max_points : int
        The largest number of points, and of means of each logged value, that are kept, ``>= 16``.
        A point takes ``120 * (parameters + 1)`` bytes.
    seed : int
        Of the random sample.
    names : iterable of (str, parameter), optional
        Names of torch's parameters, ``names=model.named_parameters()``, unless the optimizer was
        made with them.
    path : str or path-like, optional
        A file to append each point and each logged value to, at once: JSON lines, which `load`
        reads and ``python -m fused_rmsprop watch`` follows.
    mode : {"x", "a", "w"}
        The file must not exist; go on in it, after a checkpoint was loaded; replace it. Only one
        monitor can write to a file.
    writer : object with ``add_scalar(tag, value, step)``, optional
        TensorBoard's ``SummaryWriter``, which the caller closes.
    callback : callable, ``callback(step, values)``, optional
        Given a dict of numbers at each point and each call of `log`: for Weights & Biases
        ``lambda step, values: wandb.log(values, step=step)``.

    Raises
    ------
    TypeError, ValueError
        If `opt` is another optimizer, a number is out of bounds, or a parameter of torch is not
        initialized yet; with ``mode="a"``, if the file is of another run, or tells of steps and
        the optimizer has made none.
    OSError
        If the file cannot be written; a `FileExistsError` if it exists, with ``mode="x"``.

    Notes
    -----
    The first observation is that of the first step, without the thinning of later ones. The
    quantities are those of cockpit (Schneider, Dangel, Hennig: NeurIPS 2021) that the two steps
    give for nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from fused_rmsprop import RMSProp
    >>> from fused_rmsprop.monitor import Monitor
    >>> p = np.array([3.0, -2.0])
    >>> opt = RMSProp(p, lr=0.1)
    >>> with Monitor(opt, every=5) as monitor:
    ...     for _ in range(20):
    ...         opt.step(2 * p)
    ...         monitor.log(loss=float(p @ p))
    >>> monitor.history["grad_rms"].shape
    (4, 1)
    """

    _observer: Observer | None
    _statistics: Statistics | None
    _tell: Callable[[dict[str, Any]], bool]
    #: Those that are not stored yet: an interrupt must not lose them.
    _batches: list[Batch]
    #: Points for streams, which only the thread that steps feeds.
    _unsent: list[Point]
    _live: Live | None
    #: Whether it ended by an error of its own, of which the user was warned.
    _has_failed: bool

    @helps_with_options
    @in_fp_environment
    def __init__(
        self,
        opt: Any,
        every: int = 10,
        *,
        sample: int = 256,
        max_points: int = 1000,
        seed: int = 0,
        names: Any = None,
        path: str | os.PathLike[str] | None = None,
        mode: Literal["x", "a", "w"] = "x",
        writer: Writer | None = None,
        callback: Callback | None = None,
    ) -> None:
        every = as_count("every", every, least=1)
        sample = as_count("sample", sample, least=16)
        max_points = as_count("max_points", max_points, least=16)
        seed = as_count("seed", seed, least=0)
        observer = _observer_of(opt, names)
        leaves = observer.leaves
        constants = {"kind": observer.kind, "every": every, "sample": sample}
        constants |= observer.constants()
        self._set_up(Store(leaves, observer.groups, SCHEDULABLE, constants, max_points))
        self._streams = streams_to(self._store, path, mode, observer.steps, writer, callback)
        self._observer = observer
        observer.observe(every, sample, seed, self._collect, self._fail)
        self._statistics = Statistics(leaves, observer.ends)
        self._make_room()
        _living.add(self)

    @property
    def is_observing(self) -> bool:
        """Whether it observes an optimizer."""
        return self._observer is not None

    def log(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Record the loss, or other numbers, after a step.

        Parameters
        ----------
        values : mapping of str to number, optional
            For names that are no keywords: ``{"val/loss": 0.1}``.
        **named : number
            ``log(loss=loss, accuracy=0.9)``: numbers, or arrays or tensors of one element. The
            monitor knows the step.

        Raises
        ------
        TypeError, ValueError
            If a value is not one number, or its name one that the monitor needs itself: ``step``,
            and options and quantities such as ``lr`` or ``grad_rms/all``. Nothing is recorded
            then.
        RuntimeError
            If the monitor was detached. One that has ended by an error of its own ignores the call.
        """
        # A short function: it may be called in each step, when the caches hold the user's data.
        if values is not None or not self._tell(named):
            self._log(as_numbers(values, named))

    def live(self, seconds: Number = 2.0) -> Live:
        """Show the figure of `plot` in a notebook, and draw it anew while the training goes on.

        It is drawn after observations, until its ``close()`` or `detach`.

        Parameters
        ----------
        seconds : float
            The least time between two drawings. They take at most a tenth of the time.

        Returns
        -------
        Live
            Its ``close()`` draws the figure for the last time.

        Raises
        ------
        RuntimeError
            Outside of a notebook, or if the monitor is detached.
        ImportError
            Without Matplotlib.
        """
        if self._observer is None:
            raise RuntimeError("the monitor is detached: plot() draws what was recorded")
        before, self._live = self._live, Live(lambda: self.history, as_number("seconds", seconds))
        if before is not None:
            before.close()
        self._make_room()
        return self._live

    def detach(self) -> None:
        """End the observation; what was recorded stays."""
        if self._observer is not None:
            self._observer.detach()
            self._collect()
            self._end()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def _set_up(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._observer = self._statistics = None
        self._tell, self._batches, self._unsent = _not_told, [], []
        self._streams = Streams()
        self._live, self._has_failed = None, False

    def _log(self, named: dict[str, float]) -> None:
        """Record numbers that were checked."""
        if (observer := self._observer) is None:
            if self._has_failed:
                return  # the training goes on
            raise RuntimeError("the monitor is detached: it observes no optimizer any more")
        sampler, step = observer.sampler, observer.sampler.steps
        sampler.learn(list(named))
        if not sampler.log(named):
            self._complete()
            sampler.log(named)
        if self._streams:
            self._streams.log(step, named)

    def _make_room(self) -> None:
        """Let as many observations wait as nobody misses."""
        if (observer := self._observer) is None:
            return
        at_once = bool(self._streams) or self._live is not None
        each = 1 + sum(map(len, observer.positions))
        room = 1 if at_once else min(_TOGETHER, 1 + _ELEMENTS_TOGETHER // each)
        observer.make_room(room)
        self._tell = _not_told if self._streams else observer.sampler.log

    def _collect(self) -> None:
        """Take the observations that wait; a step of the optimizer has just ended."""
        try:
            self._complete()
        except Exception as error:
            self._fail(error)
            return
        while self._unsent:
            self._streams.point(self._unsent.pop(0))
        if self._live is not None:
            self._live.update()

    def _complete(self) -> None:
        """Turn waiting observations into points, and store what was logged."""
        with self._lock, _core.FpEnvironment():
            observer, statistics = self._observer, self._statistics
            if observer is None or statistics is None:
                return
            self._store.log_all(observer.sampler.take_logged())
            self._batches.append(observer.take())
            while self._batches:
                points = statistics.points(self._batches[0])
                self._store.add(points)
                del self._batches[0]
                if self._streams:
                    self._unsent += points

    def _fail(self, error: Exception) -> None:
        """End the observation after an error: a training goes on without its monitor."""
        if self._observer is not None:
            self._observer.detach()
            with suppress(Exception):  # what can be had of what waits
                self._complete()
        self._has_failed = True
        self._end()
        warn_the_caller(
            f"the monitor ends, and the training goes on without it: {type(error).__name__}: "
            f"{error}",
            RuntimeWarning,
        )

    def _end(self) -> None:
        observer, self._observer = self._observer, None
        self._tell = _not_told
        if observer is not None:
            observer.detach()
        self._streams.close()
        if self._live is not None:
            self._live.close()


def _not_told(named: dict[str, Any]) -> bool:
    """In the place of `_core.Sampler.log`: there is more to do."""
    return False


_living: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked child, forget the threads that do not exist here."""
    for monitor in _living:
        monitor._lock = threading.RLock()
        monitor._store.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _observer_of(opt: Any, names: Any) -> Observer:
    if isinstance(opt, RMSProp):
        if names is not None:
            raise TypeError("names are for torch; the parameters of a NumPy optimizer have some")
        from fused_rmsprop.monitor.observation.of_numpy import NumpyObserver

        return NumpyObserver(opt)
    drop_in = sys.modules.get("fused_rmsprop.torch")
    if drop_in is not None and isinstance(opt, drop_in.RMSprop):
        from fused_rmsprop.monitor.observation.of_torch import TorchObserver

        return TorchObserver(opt, names)
    kind = type(opt)
    instead = ""
    if kind.__module__.startswith("torch.optim"):
        instead = "; from fused_rmsprop.torch import RMSprop is a drop-in for torch's"
    elif hasattr(opt, "parameters"):
        instead = ": pass the optimizer of this model, Monitor(optimizer)"
    raise TypeError(
        "a Monitor observes fused_rmsprop.RMSProp or fused_rmsprop.torch.RMSprop, got a "
        f"{kind.__module__}.{kind.__qualname__}{instead}"
    )
