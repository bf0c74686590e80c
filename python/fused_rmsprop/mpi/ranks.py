"""The processes of a communicator: waits for them with a time limit, and lets all fail together."""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NoReturn, TypeVar

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

T = TypeVar("T")
#: Other ranks may need this core.
_let_others_run = getattr(os, "sched_yield", partial(time.sleep, 0))

#: How long a wait asks again and again before it lets other threads and processes have the core.
_SPIN_SECONDS = 1e-3
_NAP_SECONDS = 50e-6
#: The most seconds that the end of this process waits for one that did not answer.
_EXIT_SECONDS = 10.0
#: How long a wait may last before it is told of.
_SILENT_SECONDS = 30.0
#: What the launcher gets to pass on the last words before an MPI.Abort: MPICH's may drop them.
_LAST_WORDS_SECONDS = 0.5
#: The time limits of waits that have failed.
_limits: list[float] = []
#: Connections whose communicator is gone, though MPI may still use their buffers.
_unfinished: list[object] = []


_TOGETHER = "all ranks call step, save, ... together, never under 'if rank == 0:'"
_LOST = (
    "this optimizer cannot go on, and its parameters may hold half a step. Start all ranks again "
    "from the last checkpoint"
)


class RankError(RuntimeError):
    """Another process has failed or does not answer, so this one cannot go on either."""


def digest(value: object) -> bytes:
    """A short fingerprint of the text of a value."""
    return hashlib.blake2b(repr(value).encode("utf-8", "backslashreplace"), digest_size=15).digest()


class _Connection:
    """The duplicate of a communicator, and what became of it."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.failure: str | None = None
        #: In the course of what messages are exchanged, or were when an interrupt came.
        self.under_way: str | None = None
        #: What MPI may read from and write to meanwhile.
        self.kept: list[object] = []

    @staticmethod
    @cache
    def key() -> int:
        """The key of the connection among a communicator's attributes."""
        return int(MPI.Comm.Create_keyval(delete_fn=_Connection.end))

    @staticmethod
    def end(comm: Any, key: int, connection: _Connection) -> None:
        """Free the duplicate with the communicator, unless MPI may still use it."""
        if connection.failure or connection.under_way:
            _unfinished.append(connection)
        elif not MPI.Is_finalized():
            connection.comm.Free()


class Ranks:
    """The processes of a communicator, which make the same calls in the same order.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        It is duplicated once for all optimizers, so that no message of the program's own can meet
        theirs.
    timeout : float or None
        Seconds to wait for the other processes; None: without limit.
    abort : bool
        Whether to end all processes when one does not answer.
    """

    def __init__(self, comm: Any, timeout: float | None, abort: bool) -> None:
        if isinstance(comm, MPI.Comm) and comm == MPI.COMM_NULL:
            raise ValueError("comm is COMM_NULL: this process is no member of the communicator")
        if not isinstance(comm, MPI.Intracomm):
            raise TypeError(
                f"comm is a communicator of mpi4py, say MPI.COMM_WORLD, got {type(comm).__name__}"
            )
        self.timeout = timeout
        self.abort = abort
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        #: How many functions are inside `together`, and the error in them that all processes know.
        self._depth = 0
        self._shared: BaseException | None = None
        self._connection = self._connect(comm)
        self.comm = self._connection.comm
        self.check()

    def _connect(self, comm: Any) -> _Connection:
        """Take the duplicate that all optimizers share: communicators are not many to have."""
        known: _Connection | None = comm.Get_attr(_Connection.key())
        if known is None:
            self._connection, self.comm = _Connection(comm), comm  # for an MPI.Abort
            duplicate, request = comm.Idup()
            self.wait(
                [request], "where an optimizer was made (MPICH has about 2,000 communicators)"
            )
            known = _Connection(duplicate)
            comm.Set_attr(_Connection.key(), known)
        return known

    def check(self) -> None:
        """Raise a `RankError` if another process did not answer before, or this was interrupted."""
        connection = self._connection
        if connection.under_way and not connection.failure:
            connection.failure = (
                f"rank {self.rank} of {self.size} was interrupted {connection.under_way}: {_LOST}"
            )
        if connection.failure:
            raise RankError(connection.failure)

    def keep(self, *buffers: object) -> None:
        """Keep what MPI may read from and write to until `complete`, also after an interrupt."""
        self._connection.kept.extend(buffers)

    def complete(self) -> None:
        """End the messages that `agree` has begun: all have arrived."""
        self._connection.under_way = None
        self._connection.kept.clear()

    def wait(self, requests: list[Any], doing: str) -> None:
        """Wait for requests, or raise a `RankError`: `doing` says in the course of what."""
        started, told = time.monotonic(), False
        try:
            while not MPI.Request.Testall(requests):
                waited = time.monotonic() - started
                if self.timeout is not None and waited > self.timeout:
                    self._fail(requests, f"did not answer within {self.timeout:g} s", doing)
                if waited > _SILENT_SECONDS and not told:
                    told = True
                    print(
                        f"fused_rmsprop.mpi: rank {self.rank} of {self.size} has waited "
                        f"{_SILENT_SECONDS:g} s for another rank {doing}; {_TOGETHER}",
                        file=sys.stderr,
                        flush=True,
                    )
                _let_others_run() if waited < _SPIN_SECONDS else time.sleep(_NAP_SECONDS)
        except MPI.Exception as error:
            self._fail(requests, f"cannot be reached ({error.Get_error_string()})", doing)

    def _fail(self, requests: list[Any], how: str, doing: str) -> NoReturn:
        self.keep(requests)
        _limits.append(self.timeout or _EXIT_SECONDS)
        self._connection.failure = (
            f"rank {self.rank} of {self.size}: another rank {how} {doing}. It has died, hangs, has "
            f"left the loop, or made another call; {_TOGETHER}: {_LOST}"
        )
        if self.abort:
            try:
                print(self._connection.failure, file=sys.stderr, flush=True)
                sys.stdout.flush()
                time.sleep(_LAST_WORDS_SECONDS)
            finally:  # after an interrupt, too
                self.comm.Abort(1)
        raise RankError(self._connection.failure)

    def allgather(self, row: NDArray[Any], counts: list[int], doing: str) -> NDArray[Any]:
        """The rows of all processes, one after the other; `counts` is how many each has."""
        items = row.size // len(row) if len(row) else int(np.prod(row.shape[1:]))
        out = np.empty((sum(counts), *row.shape[1:]), row.dtype)
        numbers = [count * items * row.itemsize for count in counts]
        given, taken = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (row, out))
        self.keep(given, taken)
        self.wait([self.comm.Iallgatherv(given, [taken, numbers, MPI.BYTE])], doing)
        return out

    def least(self, value: int, doing: str) -> int:
        """The least of all processes' values."""
        given, found = np.array([value], np.int64), np.empty(1, np.int64)
        self.keep(given, found)
        self.wait([self.comm.Iallreduce(given, found, op=MPI.MIN)], doing)
        return int(found[0])

    def allgather_bytes(self, data: bytes, doing: str) -> list[bytes]:
        """Data of any length from every process."""
        sizes = self.allgather(np.array([len(data)], np.int64), [1] * self.size, doing).tolist()
        joined = self.allgather(np.frombuffer(data, np.uint8), sizes, doing).tobytes()
        ends = np.cumsum(sizes).tolist()
        return [joined[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def agree(
        self,
        doing: str,
        call: object = "",
        differences: Callable[[], Mapping[str, object]] = dict,
        error: BaseException | None = None,
        mask: bytes = b"",
        goes_on: bool = False,
    ) -> list[bytes]:
        """Go on only if every process can, and makes the same call.

        Parameters
        ----------
        doing : str
            What the processes are about to do, for errors.
        call : object
            What must not differ, as its `repr` shows it.
        differences : function
            Returns the same by names, for the error.
        error : exception, optional
            Why this process cannot go on.
        mask : bytes
            What may differ.
        goes_on : bool
            Whether more messages follow, up to a call of `complete`. After an interrupt among them
            no others are exchanged.

        Returns
        -------
        list of bytes
            The mask of each process.

        Raises
        ------
        BaseException
            `error`, if there is one.
        RankError
            If another process has one, or makes another call.
        """
        if error is not None and self._knows(error):
            raise error  # the other processes have raised, too
        mine = bytes([error is not None]) + digest((doing, call)) + digest(mask)
        self.check()
        self._connection.under_way = doing
        rows = self.allgather(np.frombuffer(mine, np.uint8).reshape(1, -1), [1] * self.size, doing)
        if rows[:, 0].any():
            self._raise_together(error, doing)
        if (rows[:, 1:16] != rows[0, 1:16]).any():
            self._raise_difference(doing, differences)
        same = bool((rows[:, 16:] == rows[0, 16:]).all())
        masks = [mask] * self.size if same else self.allgather_bytes(mask, doing)
        if not goes_on:
            self.complete()
        return masks

    def together(self, doing: str, function: Callable[[], T], goes_on: bool = False) -> T:
        """The result of a function, unless it raises in any process: then all raise."""
        error: BaseException | None = None
        self._depth += 1
        try:
            result = function()
        except Exception as raised:
            error = raised
        finally:
            self._depth -= 1
        try:
            self.agree(doing, error=error, goes_on=goes_on)
        finally:
            if not self._depth:  # a later call may raise the same exception object
                self._shared = None
        return result

    def _knows(self, error: BaseException) -> bool:
        """Whether the error, or the one that it was made of, has been told to all processes."""
        cause: BaseException | None = error
        while cause is not None and cause is not self._shared:
            cause = cause.__cause__
        return cause is not None

    def _share(self, error: BaseException) -> NoReturn:
        """Raise what all processes know of; a function around this one need not tell it again."""
        self.complete()
        if self._depth:
            self._shared = error
        raise error

    def _raise_together(self, error: BaseException | None, doing: str) -> NoReturn:
        text = "" if error is None else f"{type(error).__name__}: {error}"
        texts = self.allgather_bytes(text.encode("utf-8", "backslashreplace"), doing)
        if error is not None:
            self._share(error)
        rank = next(i for i, text in enumerate(texts) if text)
        self._share(RankError(f"rank {rank} raised an error {doing}: {texts[rank].decode()}"))

    def _raise_difference(
        self, doing: str, differences: Callable[[], Mapping[str, object]]
    ) -> NoReturn:
        """Name the first thing in which a process differs from the first one."""
        mine = {"the call": doing} | {name: repr(value) for name, value in differences().items()}
        found = [json.loads(row) for row in self.allgather_bytes(json.dumps(mine).encode(), doing)]
        for rank, other in enumerate(found[1:], 1):
            for name in [*found[0], *other]:
                of_first, here = found[0].get(name, "missing"), other.get(name, "missing")
                if of_first != here:
                    self._share(
                        RankError(
                            f"the ranks differ in {name}: {of_first} on rank 0, {here} on rank "
                            f"{rank}. All ranks must make the same calls with the same options; "
                            "nothing has changed"
                        )
                    )
        self._share(RankError(f"the ranks differ {doing}; nothing has changed"))


@atexit.register  # when the module is imported, to come after the functions of later ones
def _end_in_time() -> None:
    """End this process by a signal if MPI_Finalize waits too long for one that did not answer."""
    if _limits and hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(math.ceil(min(*_limits, _EXIT_SECONDS)))
