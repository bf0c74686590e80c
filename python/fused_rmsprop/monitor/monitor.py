"""The class `Monitor`: what users call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from fused_rmsprop.base import helps_with_options
from fused_rmsprop.introspection.html import or_none
from fused_rmsprop.monitor import plotting
from fused_rmsprop.monitor.history import History, Store
from fused_rmsprop.monitor.html import monitor_html
from fused_rmsprop.monitor.live import Live
from fused_rmsprop.monitor.observers import Observer
from fused_rmsprop.monitor.report import Report
from fused_rmsprop.monitor.rules import report
from fused_rmsprop.monitor.sampling import Observation, Recorder
from fused_rmsprop.monitor.statistics import Statistics
from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.options import SCHEDULABLE
from fused_rmsprop.values import Number, as_count, as_number

#: As many sampled elements, or observations, wait to be turned into points together: small models
#: would pay most for NumPy's calls.
_ELEMENTS_TOGETHER = 2**16
_TOGETHER = 64


class Monitor:
    """Watches an optimizer: how large gradients and updates are, whether they reverse, and more.

    It observes from its construction until `detach`. Steps give the same bits with it and without.
    It looks at two successive steps of each ``every`` ones, and there at a random sample of each
    leaf's elements, which stays the same.

    Parameters
    ----------
    opt : fused_rmsprop.RMSProp or fused_rmsprop.torch.RMSprop
        The optimizer. A parameter group that is added later is not observed.
    every : int
        The steps from one observation to the next, ``>= 1``.
    sample : int
        The largest number of elements of a leaf to look at, ``>= 16``. A share is then known to
        about ``1 / sqrt(sample)``.
    max_points : int
        The largest number of points, and of means of each logged value, that are kept, ``>= 16``.
        A point takes ``120 * (leaves + 1)`` bytes.
    seed : int
        Of the random sample.
    names : iterable of (str, parameter), optional
        Names of torch's parameters, ``names=model.named_parameters()``, unless the optimizer was
        made with them.

    Raises
    ------
    TypeError, ValueError
        If `opt` is another optimizer, a number is out of bounds, or a parameter of torch is not
        initialized yet.

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
    _recorder: Recorder | None
    _statistics: Statistics | None
    _waiting: list[Observation]
    _live: Live | None

    @helps_with_options
    def __init__(
        self,
        opt: Any,
        every: int = 10,
        *,
        sample: int = 1024,
        max_points: int = 1000,
        seed: int = 0,
        names: Any = None,
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
        self._recorder = Recorder(leaves, every, sample, seed, self._finish)
        self._statistics = Statistics(leaves, self._recorder.slices)
        self._observer = observer
        observer.observe(self._recorder)

    @property
    def history(self) -> History:
        """A copy of what was recorded so far; from any thread, at any time."""
        with self._lock:
            self._count()
            return self._store.history()

    def log(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Record the loss, or other numbers, after a step.

        Parameters
        ----------
        values : mapping of str to number, optional
            For names that are no keywords: ``{"val/loss": 0.1}``.
        **named : number
            ``log(loss=loss, accuracy=0.9)``: numbers, or arrays or tensors of one element.

        Raises
        ------
        TypeError, ValueError
            If a value is not one number. Nothing is recorded then.
        RuntimeError
            If the monitor is detached.
        """
        if self._observer is None:
            raise RuntimeError("the monitor is detached: it observes no optimizer any more")
        given = named if values is None else {**values, **named}
        numbers = {name: _logged(name, value) for name, value in given.items()}
        self._store.log(self._observer.step_count, numbers)

    def report(self) -> Report:
        """Tell in words what is wrong with the training, the most urgent first.

        Returns
        -------
        Report
            A tuple of `Finding`, each with the name of its ``rule``, ``where`` (the name of a
            parameter, or "" for all) and ``text``. It prints one line for each.
        """
        return report(self.history)

    def plot(self, figure: Any = None) -> Any:
        """Draw what was recorded as one Matplotlib figure.

        It has logged values, the options that vary, percentiles of the effective learning rate,
        the oscillation of the updates, and heat maps of the gradient, the update and its ratio to
        the parameter, with a row for each parameter. Panels without data are left out. A single
        parameter has lines in the place of heat maps. At most 1000 points are drawn, and no steps
        that were undone by the load of an earlier checkpoint.

        Parameters
        ----------
        figure : matplotlib.figure.Figure or None
            A figure to clear and draw into, which keeps its size. None: a new one. If the program
            has imported ``matplotlib.pyplot``, it is one of pyplot's: ``plt.show()`` shows it, and
            it stays in memory until ``plt.close(figure)``. In notebooks with inline figures, and
            without pyplot, it belongs to the caller alone.

        Returns
        -------
        matplotlib.figure.Figure
            Notebooks show it; ``monitor.plot().savefig("training.png")`` saves it.

        Raises
        ------
        ImportError
            Without Matplotlib.
        """
        return plotting.plot(self.history, figure)

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
        return self._live

    def detach(self) -> None:
        """End the observation; what was recorded stays."""
        observer, self._observer = self._observer, None
        if observer is None:
            return
        observer.detach()
        with self._lock:
            if self._recorder is not None:
                self._recorder.flush()
            self._count()
        if self._live is not None:
            self._live.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        return f"<Monitor{' (detached)' * (self._observer is None)}: {self.history!r}>"

    def _repr_html_(self) -> str | None:
        history, observing = self.history, self._observer is not None
        return or_none(lambda: monitor_html(history, report(history), observing))

    def __getstate__(self) -> dict[str, Any]:
        """What was recorded: a copy observes nothing."""
        with self._lock:
            self._count()
            return {"_store": self._store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_up(state["_store"])

    def _set_up(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._waiting = []
        self._observer = self._recorder = self._statistics = None
        self._live = None

    def _finish(self, observation: Observation) -> None:
        """Take an observation; the optimizer is in the middle of `step`."""
        with self._lock:
            self._waiting.append(observation)
            elements = len(self._waiting) * observation.update.size
            if len(self._waiting) >= _TOGETHER or elements >= _ELEMENTS_TOGETHER:
                self._count()
        if self._live is not None:
            self._live.update()

    def _count(self) -> None:
        """Turn waiting observations into points; the lock is held."""
        waiting, self._waiting = self._waiting, []
        if waiting and self._statistics is not None:
            self._store.add(self._statistics.points(waiting))


def _observer_of(opt: Any, names: Any) -> Observer:
    if isinstance(opt, RMSProp):
        if names is not None:
            raise TypeError("names are for torch; the parameters of a NumPy optimizer have some")
        from fused_rmsprop.monitor.of_numpy import NumpyObserver

        return NumpyObserver(opt)
    drop_in = sys.modules.get("fused_rmsprop.torch")
    if drop_in is not None and isinstance(opt, drop_in.RMSprop):
        from fused_rmsprop.monitor.of_torch import TorchObserver

        return TorchObserver(opt, names)
    kind = type(opt)
    instead = ""
    if kind.__module__.startswith("torch.optim"):
        instead = "; from fused_rmsprop.torch import RMSprop is a drop-in for torch's"
    raise TypeError(
        "a Monitor observes fused_rmsprop.RMSProp or fused_rmsprop.torch.RMSprop, got a "
        f"{kind.__module__}.{kind.__qualname__}{instead}"
    )


def _logged(name: str, value: Any) -> float:
    if type(value) is float and type(name) is str:  # this may be called in each step
        return value
    if not isinstance(name, str):
        raise TypeError(f"names of logged values are str, got {name!r}")
    if hasattr(value, "detach"):  # torch warns of tensors in a graph
        value = value.detach()
    return as_number(name, value.item() if getattr(value, "size", 0) == 1 else value)
