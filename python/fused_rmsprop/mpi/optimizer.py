"""The `RMSProp` of a process among others, each of which holds its share of the state."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI

from fused_rmsprop import _core
from fused_rmsprop.base import warn_of_spreading
from fused_rmsprop.groups.group import Group
from fused_rmsprop.introspection import unquote
from fused_rmsprop.mpi import checks
from fused_rmsprop.mpi.cores import own_share
from fused_rmsprop.mpi.loading import LoadedState
from fused_rmsprop.mpi.parts import Parts, cut
from fused_rmsprop.mpi.ranks import Ranks
from fused_rmsprop.mpi.traffic import Traffic
from fused_rmsprop.optimizer import RMSProp as OneProcess
from fused_rmsprop.values import Number, as_scale

_STEP = "at the beginning of a step"
_MADE = "where the optimizer was made, or a parameter group added"
#: Bytes of gradients that travel together, of all processes: see docs/mpi.md.
_BUCKET_BYTES = 8 << 20
_BUCKET_BYTES_PER_RANK = 64 << 10
_BUCKET_BYTES_HERE = 1 << 20  # on one machine, where a bucket better stays in the caches
_TIMEOUT = 1800.0


class RMSProp(LoadedState):
    """RMSProp for data-parallel training over MPI, with the state split among the processes.

    Every process has all parameters and computes gradients on its own data. `step` updates the
    parameters in all of them by the mean of their gradients. Each process holds the state of its
    own range of elements, steps it, and sends the new values to the others.

    The result is, bit for bit, that of `fused_rmsprop.RMSProp` in one process which accumulates
    the gradients of rank 0, 1, ... in this order and then steps, for any number of processes.

    Parameters
    ----------
    params, lr, ... :
        As for `fused_rmsprop.RMSProp`, with the same structure, values and options on all ranks.
        By default `threads` are at most this process's share of the cores that it may run on.
    comm : mpi4py.MPI.Intracomm
        The communicator, by default ``MPI.COMM_WORLD``. It is duplicated, once for all optimizers:
        those that step in different threads need communicators of their own.
    reduction : {"ordered", "fast"}
        ``"ordered"`` adds up gradients in the order of the ranks. ``"fast"`` leaves the order to
        MPI: then the bits depend on the number of ranks and on the MPI library.
    bucket_bytes : int or None
        The most bytes of gradients that travel together; while one bucket is stepped, the next
        travels. By default 1 MiB if all ranks run on one machine, otherwise 8 MiB, but at least
        64 KiB for each rank.
    timeout : float or None
        Seconds to wait for the other ranks, after which a `RankError` is raised; None: no limit.
    abort : bool
        Whether to call ``MPI.Abort`` then, which ends all ranks.

    Raises
    ------
    TypeError, ValueError
        As `fused_rmsprop.RMSProp` does.
    RankError
        If the ranks differ in structure, values or options, if another rank has raised an error,
        or does not answer in time. But for the last, nothing has changed in any of them.

    Notes
    -----
    All ranks must call `step`, `accumulate`, `use_ema`, `add_param_group`, `gather_state`,
    `state_dict`, `load_state_dict`, `save` and `load` together. If one raises, all do: the others
    a `RankError` with its message.

    Sharding the state is stage 1 of ZeRO (S. Rajbhandari et al., arXiv:1910.02054, 2020).

    Examples
    --------
    Run it by ``mpiexec -n 4 python train.py``, or in one process as here:

    >>> import numpy as np
    >>> from fused_rmsprop.mpi import RMSProp
    >>> params = {"W": np.ones((2, 2)), "b": np.zeros(2)}
    >>> opt = RMSProp(params, lr=0.01, alpha=0.9)
    >>> opt.step({"W": np.full((2, 2), 0.5), "b": None})
    >>> print(params["W"].round(3))
    [[0.968 0.968]
     [0.968 0.968]]
    """

    _REBUILT = OneProcess._REBUILT | {
        *("_ranks", "_traffic", "_bucket_bytes", "_parts", "_source"),
        "_most_threads",
    }

    def __init__(
        self,
        params: object,
        *args: Any,
        comm: Any = None,
        reduction: str = "ordered",
        bucket_bytes: int | None = None,
        timeout: float | None = _TIMEOUT,
        abort: bool = False,
        **options: Any,
    ) -> None:
        if any(isinstance(value, MPI.Comm) for value in args):
            raise TypeError("the communicator has a name: RMSProp(params, comm=comm)")
        self._connect(comm, reduction, bucket_bytes, timeout, abort)
        make = super().__init__
        self._ranks.together(_MADE, lambda: make(params, *args, **options))

    def _connect(
        self,
        comm: Any,
        reduction: str,
        bucket_bytes: int | None,
        timeout: float | None,
        abort: bool,
    ) -> None:
        """Take up the connection to the other processes, if the settings of all are good."""
        error: Exception | None = None
        try:
            checks.check_settings(reduction, bucket_bytes, timeout, abort)
        except Exception as raised:
            error, timeout, abort = raised, _TIMEOUT, False
        ranks = Ranks(MPI.COMM_WORLD if comm is None else comm, timeout, abort)
        ranks.agree(_MADE, error=error, goes_on=True)
        share = own_share(ranks)
        ranks.complete()
        self._ranks = ranks
        self._traffic = Traffic(ranks, reduction == "ordered")
        on_network = max(_BUCKET_BYTES, _BUCKET_BYTES_PER_RANK * ranks.size)
        self._bucket_bytes = bucket_bytes or (_BUCKET_BYTES_HERE if share.whole else on_network)
        self._most_threads = share.threads
        self._parts: dict[bytes, Parts] = {}
        self._source = None

    def _build(self, specs: Any, grouped: bool, *args: Any, **kwargs: Any) -> None:
        super()._build(specs, grouped, *args, **kwargs)
        self._stepper.most_threads = self._most_threads

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add arrays with options of their own, on all ranks; they call it together.

        Parameters
        ----------
        param_group : dict
            As for `fused_rmsprop.RMSProp.add_param_group`, with the same arrays on all ranks.

        Raises
        ------
        TypeError, ValueError
            As there. Nothing has changed in any rank then.
        RankError
            If another rank has raised one of these, or the ranks differ.
        """
        add = super().add_param_group
        self._ranks.together(_MADE, lambda: add(param_group))

    def _prepared(self, change: _core.Change, specs: Any, grouped: bool, *args: Any) -> list[Group]:
        error: Exception | None = None
        added: list[Group] = []
        try:
            added = super()._prepared(change, specs, grouped, *args)
            change.add([group.core for group in added], grouped)  # refuses arrays in two places
        except Exception as raised:
            error = raised
        described = checks.described(self, added) if error is None else {}
        self._ranks.agree(_MADE, described, lambda: described, error)
        if self._source is None:  # otherwise they take over loaded values
            values = checks.crcs(added)
            self._ranks.agree(_MADE, values, lambda: values)
        self._parts.clear()
        return added

    def _cut(self, before: Sequence[Group], core: _core.Group) -> Any:
        """Give this process a range of a group's elements, so that all have as much in the end."""
        ranks, arrays = self._ranks, core.arrays
        loads = np.zeros(ranks.size, np.int64)
        for group in before:
            items = np.array([a.itemsize for a in group.core.arrays], np.int64)
            loads += (np.diff(group.cuts, axis=1) * items[:, None]).sum(axis=0)
        cuts = cut([a.size for a in arrays], [a.itemsize for a in arrays], loads.tolist())
        first, end = cuts[:, ranks.rank], cuts[:, ranks.rank + 1]
        core.take_parts(first.tolist(), (end - first).tolist())
        return cuts

    def step(self, grads: object = None, grad_scale: Number = 1.0) -> None:
        """Update all parameters in place, on all ranks, by the mean of the ranks' gradients.

        Parameters
        ----------
        grads : like the parameters, or None
            This rank's gradients, as for `fused_rmsprop.RMSProp.step`. A None leaf adds nothing
            to the sum; a leaf that is None on all ranks is left alone. The sum is divided by the
            number of ranks, as that of `accumulate` is.
            None: the mean of the accumulated gradients, or else the bound gradients.
        grad_scale : float
            A factor of the gradients, ``> 0``, the same on all ranks.

        Raises
        ------
        TypeError, ValueError, FloatingPointError, RuntimeError
            As `fused_rmsprop.RMSProp.step` does.
        RankError
            If another rank has raised one of these, or made another call; nothing has changed
            then. If a rank does not answer in time: arrays may hold half a step.
        """
        step = self._stepper.sharded()
        try:
            leaf = self._step(step, *self._begin(step, "step", grads, grad_scale))
        finally:
            step.abandon()
        if leaf is None:
            self._stepper.notify()
            return
        try:
            self._ranks.together(_STEP, lambda: warn_of_spreading(leaf, self._stepper))
        except BaseException:
            self._stepper.warned_of_spreading = False  # on all ranks, as in this one
            raise
        RMSProp.step(self, grads, grad_scale)

    def _step(
        self, step: _core.ShardedStep, parts: Parts, scale: float, of_sums: bool
    ) -> str | None:
        """Make a step that all ranks have begun.

        Returns the name of a gradient that refuses it because clipping would spread a NaN.
        """
        ranks, traffic = self._ranks, self._traffic
        gradients = self._stepper.accumulated or ranks.size
        whole = step.needs_all_gradients
        if whole and not of_sums:
            traffic.run(step, parts, exchange=True, update=False)
        goes_on = step.measure(
            scale, gradients, parts.chunks_of_leaves, self._joined(parts), self._least
        )
        if goes_on:
            traffic.run(step, parts, exchange=not whole and not of_sums, update=True)
        if not goes_on and step.refused_by is not None:
            if self.on_nonfinite != "propagate":
                checks.raise_nonfinite(self, step, of_sums)
            ranks.complete()
            return checks.first_nonfinite(step, of_sums)
        step.finish()
        ranks.complete()
        return None

    def accumulate(self, grads: object = None) -> None:
        """Add the gradients of all ranks to the sums; the next ``step()`` takes their mean.

        Each rank holds its part of the sums. ``step()`` multiplies them by ``1 / n`` after
        ``n / ranks`` calls.

        Parameters
        ----------
        grads : like the parameters, or None
            As for `step`; None: the bound gradients.

        Raises
        ------
        TypeError, ValueError, RuntimeError, RankError
            As `step` does. Nothing has been added then, unless a rank did not answer in time.
        """
        step = self._stepper.sharded()
        try:
            parts, *_ = self._begin(step, "accumulate", grads, 1.0)
            self._traffic.run(step, parts, exchange=True, update=False)
            step.keep_sums(self._ranks.size)
            self._ranks.complete()
        finally:
            step.abandon()

    def _begin(
        self, step: _core.ShardedStep, name: str, grads: object, grad_scale: Number
    ) -> tuple[Parts, float, bool]:
        """Begin a step, or an accumulation, if all ranks do so with the same options.

        Returns the parts that take part, the factor, and whether it is of accumulated gradients.
        """
        error: Exception | None = None
        has, scale, of_sums = b"", 1.0, False
        try:
            scale = as_scale("grad_scale", grad_scale)
            of_sums = name == "step" and self._stepper.accumulated > 0
            has = self._read(step, grads, of_sums)
        except Exception as raised:
            error = raised

        def call() -> dict[str, object]:
            return {"grad_scale": scale, **checks.settings_of(self)}

        now = None if error else (name, of_sums, call())
        differences = {"the call": name}
        masks = self._ranks.agree(
            _STEP, now, lambda: {**differences, **call()}, error, has, goes_on=True
        )
        step.take(masks, not self._traffic.ordered)
        return self._parts_of(step.active()), scale, of_sums

    def _read(self, step: _core.ShardedStep, grads: object, of_sums: bool) -> bytes:
        """Read and check this rank's gradients."""
        after = -1
        for group in self._groups:
            group.need_grad_sum()
            if group.scheduled:
                after = self._stepper.step_count if after < 0 else after
                group.follow_schedules()
        return step.begin(grads, of_sums, after)

    def _joined(self, parts: Parts) -> Any:
        def join(own: Any) -> Any:
            doing = "while the norm of a step was measured"
            return self._ranks.allgather(own, parts.chunks_of_ranks, doing)[parts.order]

        return join

    def _least(self, value: int) -> int:
        return self._ranks.least(value, "while a step was checked")

    def leafwise(self, grad_scale: Number = 1.0) -> NoReturn:
        """Refused: ranks exchange all gradients of a step together."""
        raise TypeError(
            "leafwise() is for one process: over MPI the gradients travel in buckets, which "
            "overlaps their exchange with the step already; call step(grads)"
        )

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "an optimizer over MPI cannot be pickled or copied, because its communicator cannot; "
            "opt.save(path) and RMSProp.load(path, params) keep its state"
        )

    def __repr__(self) -> str:
        return f"{super().__repr__()} on rank {self._ranks.rank} of {self._ranks.size}"


def _with_options_of_one_process() -> inspect.Signature:
    """The signature that help shows: the options by their names."""
    unquote(RMSProp)
    ours = inspect.signature(RMSProp.__init__).parameters
    theirs = inspect.signature(OneProcess.__init__).parameters
    own = [p for p in ours.values() if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature([*theirs.values(), *own])


RMSProp.__init__.__signature__ = _with_options_of_one_process()  # type: ignore[attr-defined]
