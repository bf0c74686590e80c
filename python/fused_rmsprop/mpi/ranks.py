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
from typing import Any, NoReturn, TypeVar

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

T = TypeVar("T")

#: How long a wait asks again and again before it lets other threads and processes have the core.
_SPIN_SECONDS = 1e-3
_NAP_SECONDS = 50e-6
#: The most seconds that the end of this process waits for one that did not answer.
_EXIT_SECONDS = 60.0
#: The connections to such processes, kept because MPI may write to their buffers at any time.
_failed: list[Ranks] = []


class RankError(RuntimeError):
    """Another process has failed or does not answer, so this one cannot go on either."""


def digest(value: object) -> bytes:
    """A short fingerprint of the text of a value."""
    return hashlib.blake2b(repr(value).encode("utf-8", "backslashreplace"), digest_size=15).digest()


class Ranks:
    """The processes of a communicator, which make the same calls in the same order.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        It is duplicated, so that no message of the program's own can meet those of an optimizer.
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
        self._failure: str | None = None
        #: What MPI may read from and write to while a request is under way.
        self.buffers: list[object] = []
        #: How many functions are inside `together`, and the error in them that all processes know.
        self._depth = 0
        self._shared: BaseException | None = None
        self.comm = comm  # to abort, until there is the duplicate
        duplicate, request = comm.Idup()
        doing = "where an optimizer was made, which takes one communicator (MPICH has about 2,000)"
        self.wait([request], doing)
        self.comm = duplicate
        #: How many threads this process has for itself.
        self.threads = 1

    def check(self) -> None:
        """Raise a `RankError` if another process did not answer before."""
        if self._failure:
            raise RankError(self._failure)

    def wait(self, requests: list[Any], doing: str) -> None:
        """Wait for requests, or raise a `RankError`: `doing` says in the course of what."""
        started = time.monotonic()
        try:
            while not MPI.Request.Testall(requests):
                waited = time.monotonic() - started
                if self.timeout is not None and waited > self.timeout:
                    self._fail(requests, f"did not answer within {self.timeout:g} s", doing)
                if waited > _SPIN_SECONDS:
                    time.sleep(_NAP_SECONDS)
        except MPI.Exception as error:
            self._fail(requests, f"cannot be reached ({error.Get_error_string()})", doing)

    def _fail(self, requests: list[Any], how: str, doing: str) -> NoReturn:
        self.buffers.append(requests)  # which hold theirs
        _failed.append(self)
        self._failure = (
            f"rank {self.rank} of {self.size}: another rank {how} {doing}. It has died, hangs, or "
            "made another call. This optimizer cannot go on, and its parameters may hold half a "
            "step: start all ranks again from the last checkpoint"
        )
        if self.abort:
            print(self._failure, file=sys.stderr, flush=True)
            self.comm.Abort(1)
        raise RankError(self._failure)

    def allgather(self, row: NDArray[Any], counts: list[int], doing: str) -> NDArray[Any]:
        """The rows of all processes, one after the other; `counts` is how many each has."""
        items = row.size // len(row) if len(row) else int(np.prod(row.shape[1:]))
        out = np.empty((sum(counts), *row.shape[1:]), row.dtype)
        numbers = [count * items * row.itemsize for count in counts]
        given, taken = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (row, out))
        self.wait([self.comm.Iallgatherv(given, [taken, numbers, MPI.BYTE])], doing)
        return out

    def least(self, value: int, doing: str) -> int:
        """The least of all processes' values."""
        given, found = np.array([value], np.int64), np.empty(1, np.int64)
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
        rows = self.allgather(np.frombuffer(mine, np.uint8).reshape(1, -1), [1] * self.size, doing)
        if rows[:, 0].any():
            self._raise_together(error, doing)
        if (rows[:, 1:16] != rows[0, 1:16]).any():
            self._raise_difference(doing, differences)
        if (rows[:, 16:] == rows[0, 16:]).all():
            return [mask] * self.size
        return self.allgather_bytes(mask, doing)

    def together(self, doing: str, function: Callable[[], T]) -> T:
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
            self.agree(doing, error=error)
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
    if _failed and hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        limits = [ranks.timeout or _EXIT_SECONDS for ranks in _failed]
        signal.alarm(math.ceil(min(*limits, _EXIT_SECONDS)))


def own_threads(ranks: Ranks) -> int:
    """How many threads a process has for itself: the cores of its affinity mask are shared evenly.

    Each core counts for the processes on this machine whose mask has it.
    """
    try:
        cores = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = [*range(os.cpu_count() or 1)]
    here = MPI.Get_processor_name()
    packed = json.dumps([here, cores]).encode()
    told = map(json.loads, ranks.allgather_bytes(packed, "where cores were shared"))
    masks = [mask for machine, mask in told if machine == here]
    share = sum(1 / sum(core in mask for mask in masks) for core in cores)
    return max(1, int(share + 1e-6))
