"""The helper that interrupts everywhere finds the known holes, and no others."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from interrupt_support import interrupted_everywhere

not_3_10 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 interrupts with statements at other places"
)


class Resource:
    """Taken before the ``try``, as one should not."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seen: list[str] = []

    def leaky(self) -> None:
        self.lock.acquire()
        try:
            self.seen.append("inside")
        finally:
            self.lock.release()

    def sound(self) -> None:
        with self.lock:
            self.seen.append("inside")

    def returns_from_within(self) -> int:
        with self.lock:
            return len(self.seen)

    def restores_in_python(self) -> None:
        self.seen.append("shown")
        try:
            self.seen.append("inside")
        finally:
            self.undo()

    def undo(self) -> None:
        self.seen.clear()


def left_locked(method: str, times: int = 1) -> int:
    locked: list[bool] = []

    def check(resource: Resource) -> None:
        locked.append(resource.lock.locked())

    def act(resource: Resource) -> Any:
        return getattr(resource, method)()

    assert interrupted_everywhere(Resource, act, check, times=times) > 2
    return sum(locked)


def test_a_lock_taken_outside_the_try_is_found() -> None:
    assert left_locked("leaky") == 1
    assert left_locked("leaky", times=2) > 1


@not_3_10
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python 3.14 can leave the lock taken")
@pytest.mark.parametrize("method", ["sound", "returns_from_within"])
def test_a_with_statement_has_no_hole(method: str) -> None:
    assert left_locked(method) == left_locked(method, times=2) == 0


@not_3_10
def test_python_code_that_restores_is_interrupted() -> None:
    seen: list[list[str]] = []
    interrupted_everywhere(
        Resource, lambda r: r.restores_in_python(), lambda r: seen.append(list(r.seen))
    )
    assert ["shown", "inside"] in seen


def test_every_round_of_a_loop_is_interrupted_and_the_last_call_is_not() -> None:
    ends: list[int] = []

    def act(made: list[int]) -> None:
        for i in range(5):
            made.append(i)

    interrupted_everywhere(list[int], act, lambda made: ends.append(len(made)))
    assert {*ends} == {0, 1, 2, 3, 4, 5}
    assert ends[0] == ends[-1] == 5


def test_an_error_of_the_call_itself_is_not_hidden() -> None:
    def act(_: object) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        interrupted_everywhere(object, act, lambda _: None)
    caught: list[int] = []

    def catching(_: object) -> None:
        try:
            list(map(abs, range(3)))
            len(())
        except MemoryError:
            caught.append(1)

    interrupted_everywhere(object, catching, lambda _: None, error=MemoryError)
    assert caught
