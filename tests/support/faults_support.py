"""Injects faults into the operations of a world, and compares every byte with before and after."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np

from attack_support import Image, differences, how_it_ended
from worlds_support import World

Rng = np.random.Generator
#: Where a fault came: before the operation, inside of it, or after its end.
EARLY, LANDED, LATE = "early", "landed", "late"
#: One injection somewhere below a reach (in seconds or bytes): where it came.
Inject = Callable[[World, Rng, float], str]


class Kind(NamedTuple):
    """A kind of fault, and its reach at first if that is not the time of the operation."""

    inject: Inject
    reach: float = 0


class Trial:
    """The images that an operation may leave, and how the world must go on from each."""

    def __init__(self, make: Callable[[], World]) -> None:
        self.make = make
        self.images: list[Image] = []
        self.continuations: dict[int, Image] = {}
        self.images = [self._after(done).image() for done in range(len(make().operation.calls) + 1)]
        self.seconds = min(self._seconds() for _ in range(5))

    def _after(self, done: int) -> World:
        world = self.make()
        for index in range(done):
            world.call(index)
        return world

    def continuation(self, done: int) -> Image:
        """How a world goes on after so many calls."""
        if done not in self.continuations:
            self.continuations[done] = self._after(done).go_on()
        return self.continuations[done]

    def _seconds(self) -> float:
        world = self.make()
        start = time.perf_counter()
        perform(world)
        return time.perf_counter() - start

    def outcome(self, world: World) -> str:
        """before, after, between, or what was lost."""
        try:
            image = world.image()
            if image not in self.images:
                nearest = min((differences(image, i) for i in self.images), key=len)
                return f"lost: differs in {', '.join(nearest[:3])}"
            after = world.go_on()
        except BaseException as error:
            return f"lost: {type(error).__name__}: {str(error)[:70]}"
        good = [i for i, known in enumerate(self.images) if image == known]
        if not any(self.continuation(i) == after for i in good):
            wrong = differences(after, self.continuation(good[0]))
            return f"lost: goes on otherwise in {', '.join(wrong[:3])}"
        if good[0] == 0:
            return "before"
        return "after" if good[-1] == len(self.images) - 1 else "between"


def attack(trial: Trial, kind: Kind, count: int, rng: Rng) -> Counter[str]:
    """Inject faults; how many landed inside and what each left."""
    found: Counter[str] = Counter()
    start = kind.reach or 1.5 * trial.seconds
    reach = start
    for _ in range(count):
        world = trial.make()
        try:
            where = kind.inject(world, rng, reach)
        except Exception as error:  # no fault raises this
            found[f"lost: became {type(error).__name__}: {str(error)[:70]}"] += 1
            continue
        # An operation takes longer after other work than when it was measured; one fault in five
        # comes late, so that the others cover all of it.
        reach = max(start / 10, reach * (0.7 if where == LATE else 1.1))
        found["landed"] += where == LANDED
        found[trial.outcome(world)] += 1
    return found


def perform(world: World) -> None:
    """All calls of the operation."""
    for index in range(len(world.operation.calls)):
        world.call(index)


class Interrupts:
    """Timed interrupts, which Python handles as it does Ctrl-C: a signal whose handler raises."""

    def __init__(self, most: int, again: float) -> None:
        self.left = most
        self.again = again
        self.landed = False
        signal.signal(signal.SIGALRM, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.left <= 0:
            return
        self.left -= 1
        while frame is not None:
            if frame.f_code is perform.__code__:
                self.landed = True
            frame = frame.f_back
        if self.left > 0:  # not a timer that repeats: a fast one would let nothing else run
            signal.setitimer(signal.ITIMER_REAL, self.again)
        raise KeyboardInterrupt

    def caught(self, call: Callable[[], None], depth: int = 5) -> None:
        """Call it in more ``try`` blocks than there are interrupts, which may come late."""
        try:
            if depth:
                self.caught(call, depth - 1)
            else:
                call()
        except KeyboardInterrupt:
            pass
        finally:
            self.left = 0


def interrupt(world: World, rng: Rng, reach: float) -> str:
    """One, two or three interrupts; the later ones hit the clean-up after the first."""
    again = float(rng.choice([3e-6, 1e-5, 3e-5, 1e-4])) * float(rng.uniform(0.3, 1))
    interrupts = Interrupts(int(rng.choice([1, 1, 2, 2, 3])), again)
    first = float(rng.uniform(2e-6, reach + 1e-5))  # with the time to set the timer
    complete = False

    def call() -> None:
        nonlocal complete
        signal.setitimer(signal.ITIMER_REAL, first)
        perform(world)
        complete = True

    interrupts.caught(call)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return LANDED if interrupts.landed else LATE if complete else EARLY


def kill(world: World, rng: Rng, reach: float) -> str:
    """A child is killed in the middle of the operation; its files are left."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"0")
        try:
            perform(world)
            os.write(writing, b"1")
        except BaseException:
            os.write(writing, b"!")
        finally:
            os._exit(0)
    os.read(reading, 1)
    end = time.perf_counter() + float(rng.uniform(0, reach))
    while time.perf_counter() < end:
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writing)
    said = os.read(reading, 1)
    os.close(reading)
    assert said != b"!", "the operation failed by itself"
    return LATE if said else LANDED


def fork(world: World, rng: Rng, reach: float) -> str:
    """A child is forked while another thread performs the operation; the child must go on."""
    inside = threading.Event()
    done = threading.Event()

    def work() -> None:
        inside.set()
        perform(world)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    end = time.perf_counter() + float(rng.uniform(0, reach))
    while time.perf_counter() < end:
        pass
    landed = not done.is_set()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            world.folder = world.folder / "child"
            world.folder.mkdir(exist_ok=True)
            if world.operation.name.startswith("save "):  # the parent writes to its file
                world.path = world.folder / "checkpoint.npz"
            world.go_on()  # several steps, a save and a load
            status = 0
        finally:
            os._exit(status)
    _, raw = os.waitpid(child, 0)
    thread.join()
    shutil.rmtree(world.folder / "child", ignore_errors=True)
    if ended := how_it_ended(raw):
        raise ChildLostError(f"the child ended with {ended}")
    return LANDED if landed else LATE


class ChildLostError(Exception):
    """A child could not go on."""


def memory(world: World, rng: Rng, reach: float) -> str:
    """The address space ends in the middle of the operation."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    room = int(rng.uniform(0, reach))
    limit = pages * resource.getpagesize() + room
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        perform(world)
    except Exception as error:
        if not is_of_memory(error):
            raise
        return LANDED
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return LATE


def is_of_memory(error: BaseException | None) -> bool:
    """Whether there was no memory: torch has an error of its own, and clean-up may hide either."""
    while error is not None:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate" in str(error):
            return True
        error = error.__context__
    return False


def full_disk(world: World, rng: Rng, reach: float) -> str:
    """The file system is full, or a file's size is limited, in the middle of a save."""
    by_limit = not os.path.ismount(world.folder) or rng.random() < 0.5
    filler = world.folder / "filler"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if by_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(rng.uniform(0, reach)), hard))
        else:
            free = os.statvfs(world.folder)
            room = int(rng.uniform(0, reach)) // free.f_frsize * free.f_frsize
            filler.write_bytes(b"0" * max(0, free.f_bavail * free.f_frsize - room))
        perform(world)
    except OSError:
        return LANDED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        filler.unlink(missing_ok=True)
    return LATE


def nothing(world: World, rng: Rng, reach: float) -> str:
    """No fault: the harness itself must then find nothing."""
    perform(world)
    return LATE


KINDS: dict[str, Kind] = {
    "interrupt": Kind(interrupt),
    "kill": Kind(kill),
    "fork": Kind(fork),
    "memory": Kind(memory, reach=1_500_000),
    "disk": Kind(full_disk, reach=30_000),
    "none": Kind(nothing),
}
