"""What a monitor has recorded: in numbers, words, pictures, tables and files."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from typing import Any, TypeVar

from fused_rmsprop.introspection.html import or_none
from fused_rmsprop.monitor.files import run_file, tables
from fused_rmsprop.monitor.history import History, Store
from fused_rmsprop.monitor.pictures import plotting
from fused_rmsprop.monitor.pictures.html import monitor_html
from fused_rmsprop.monitor.report import Report
from fused_rmsprop.monitor.rules import report

R = TypeVar("R", bound="Record")


class Record(ABC):
    """What was recorded of a training. Any thread may read it, also while the training goes on."""

    _store: Store

    @property
    @abstractmethod
    def is_observing(self) -> bool:
        """Whether more comes."""

    @property
    def history(self) -> History:
        """A copy of all numbers so far."""
        self._complete()
        return self._store.history()

    @abstractmethod
    def _complete(self) -> object:
        """Add what was observed to the store."""

    @abstractmethod
    def _set_up(self, store: Store) -> None:
        """Hold a store, and observe nothing."""

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
        TypeError
            If `figure` is none: a path, or axes.
        """
        return plotting.plot(self.history, figure)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save what was recorded to a file of JSON lines, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            An older file is replaced.

        Raises
        ------
        OSError
            If it cannot be written. An older file is as before.
        """
        run_file.write(self.history, path)

    @classmethod
    def load(cls: type[R], path: str | os.PathLike[str]) -> R:
        """A monitor with what a file tells, which observes nothing.

        Parameters
        ----------
        path : str or path-like
            A file by `save`, or by a monitor with ``path=``, also of a training that still runs.

        Raises
        ------
        OSError, ValueError
            If it cannot be read, or is no such file.
        """
        history = run_file.read(path)
        described = (history.leaves, history.groups, history.option_names, history.constants)
        store = Store(*described, sys.maxsize)
        store.take(history)
        record = cls.__new__(cls)
        record._set_up(store)
        return record

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a row for each step that was observed or logged.

        Parameters
        ----------
        path : str or path-like
            The columns are ``step``, ``grad_rms/<leaf>``, ..., ``lr/<group>``, and logged names.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        tables.to_csv(self.history, path)

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each observed step: ``df["grad_rms"].plot()``.

        Raises
        ------
        ImportError
            Without pandas.
        """
        return tables.to_pandas(self.history)

    def postfix(self) -> dict[str, str]:
        """The latest values in short, for tqdm: ``bar.set_postfix(monitor.postfix())``.

        Returns
        -------
        dict of str
            Each logged value by its name; ``lr``, from the lowest to the highest if groups differ;
            ``update/param``, the size of the update relative to the parameter's; ``reversed``, the
            share of elements whose update changes its sign in the next step. The last two are of
            all parameters, at the last observation. A value that is not known yet has no key.
        """
        return tables.postfix(self.history)

    def __repr__(self) -> str:
        detached = "" if self.is_observing else " (detached)"
        return f"<{type(self).__name__}{detached}: {self.history!r}>"

    def _repr_html_(self) -> str | None:
        history = self.history
        return or_none(lambda: monitor_html(history, report(history), self.is_observing))

    def __getstate__(self) -> dict[str, Any]:
        """What was recorded: a copy observes nothing."""
        self._complete()
        return {"_store": self._store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_up(state["_store"])
