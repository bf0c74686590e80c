"""Kill, stop or fail a rank at a random moment: the others must end, the checkpoint be whole.

python tests/mpi/kills.py --count 100 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import kills_program as program

from attack_support import print_table
from fused_rmsprop import RMSProp
from mpi_support import environment, is_hydra, launch

RANKS = 4
FAULTS = ("kill", "stop", "pause", "raise", "exit", "kill")
#: Seconds from a fault to the end of all ranks: the time-out, MPI_Finalize with a limit as long,
#: and a busy machine's clean-up.
LIMIT = 2 * program.TIMEOUT + 6
_STARTED_WITHIN = 60
_VICTIMS = (0, 0, 0, 1, 2, 3)  # the first one writes the file
#: MPICH's mpiexec ends the others by a signal even if it does not clean up, where it sees that one
#: was killed: it sees this shell, which goes on.
_UNSEEN = ["sh", "-c", 'trap \'\' USR1; "$0" "$@"; exit $?']


class Reference:
    """The parameters after each step, by one process."""

    def __init__(self) -> None:
        self._params = program.parameters()
        self._opt = RMSProp(self._params, **program.OPTIONS)
        self._after = [self._image(self._params)]

    def after(self, steps: int) -> bytes:
        """The bytes of the parameters after so many steps."""
        while len(self._after) <= steps:
            for rank in range(RANKS):
                self._opt.accumulate(program.gradients(len(self._after) - 1, rank))
            self._opt.step()
            self._after.append(self._image(self._params))
        return self._after[steps]

    def check(self, path: Path) -> None:
        """Raise an error unless there is no checkpoint, or one of the step that it names."""
        if path.exists():
            params = program.parameters()
            opt = RMSProp.load(path, params)
            if self._image(params) != self.after(opt.step_count):
                raise AssertionError(f"the checkpoint of step {opt.step_count} has other values")

    @staticmethod
    def _image(params: program.Arrays) -> bytes:
        return b"".join(array.tobytes() for array in params.values())


def attack(fault: str, cleans_up: bool, rng: np.random.Generator, folder: Path) -> float:
    """Launch a training, and let a random rank fail; the seconds until all have ended."""
    victim, step = int(rng.choice(_VICTIMS)), int(rng.integers(1, 200))
    by_signal = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "pause": signal.SIGSTOP}.get(fault)
    command = launch(RANKS, program.__file__, folder, fault, victim, step)
    if not cleans_up:
        command[1:1] = ["-disable-auto-cleanup"]
        place = command.index(sys.executable)
        command[place:place] = _UNSEEN
    with (folder / "log.mpiexec").open("wb") as out:
        launched = subprocess.Popen(command, env=environment(), stdout=out, stderr=out)
    try:
        wait(lambda: launched.poll() is not None or started(folder), _STARTED_WITHIN, "no start")
        pids = pids_of(folder)
        others = [pid for pid in pids if pid != pids[victim]]
        if by_signal:
            time.sleep(float(rng.uniform(0, 0.3)))
            os.kill(pids[victim], by_signal)
        else:
            wait((folder / "failed").exists, _STARTED_WITHIN, "no fault")
        began = time.monotonic()
        if fault == "pause":  # the others have given it up when it goes on
            wait(
                lambda: told_in(folder) >= len(others) or not any(map(is_alive, others)),
                LIMIT,
                "the other ranks wait for the paused one",
            )
            with contextlib.suppress(ProcessLookupError):  # mpiexec may have ended it
                os.kill(pids[victim], signal.SIGCONT)
        ending = others if fault in ("kill", "stop") else pids
        wait(lambda: not any(map(is_alive, ending)), LIMIT, "the other ranks hang")
        seconds = time.monotonic() - began
        if fault == "stop" and is_alive(pids[victim]):
            os.kill(pids[victim], signal.SIGKILL)
        wait(lambda: launched.poll() is not None, LIMIT, "mpiexec hangs")
    finally:
        for pid in pids_of(folder):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        launched.kill()
        launched.wait()
    if not launched.returncode:
        raise AssertionError("mpiexec tells of no failure")
    told = told_in(folder)
    # The first rank that ends lets mpiexec end the others, which then may not have spoken.
    if told < (RANKS - 1 if not cleans_up else fault != "kill"):
        raise AssertionError(f"{told} ranks told of the failure of another")
    return seconds


def started(folder: Path) -> bool:
    """Whether all ranks run, and have saved once."""
    return len(pids_of(folder)) == RANKS and (folder / "checkpoint.npz").exists()


def pids_of(folder: Path) -> list[int]:
    """The processes that have begun, in the order of their ranks."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("pid.*"))]
    return [int(text) for text in texts if text]


def told_in(folder: Path) -> int:
    """How many ranks have told of the failure of another."""
    return logs(folder).count("RankError: ")


def logs(folder: Path) -> str:
    """What mpiexec and all ranks have written to stderr."""
    files = sorted(folder.glob("log.*"))
    return "".join(f"{f.name}: {f.read_text(encoding='utf-8', errors='replace')}" for f in files)


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended may still wait for its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait until it is true, or raise an error."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{otherwise}, for {seconds:g} s")
        time.sleep(0.01)


def check_files(folder: Path, reference: Reference) -> bool:
    """Check the checkpoint, and that the next save removes leftovers; whether there were some."""
    path = folder / "checkpoint.npz"
    reference.check(path)
    left = any(folder.glob(".checkpoint*"))
    RMSProp(program.parameters()).save(path)
    if leftovers := [file.name for file in folder.glob(".checkpoint*")]:
        raise AssertionError(f"{leftovers} stays after the next save")
    return left


def run(count: int, seed: int) -> int:
    """Attack so often; print a table; how many went wrong."""
    rng = np.random.default_rng(seed)
    reference = Reference()
    kinds = [(fault, cleans) for fault in FAULTS for cleans in (True, False)]
    kinds = [kind for kind in kinds if kind[1] or is_hydra()]
    counts: Counter[tuple[str, bool]] = Counter()
    lefts: Counter[tuple[str, bool]] = Counter()
    longest: dict[tuple[str, bool], float] = {}
    losses = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        counts[kind] += 1
        with tempfile.TemporaryDirectory(prefix="kills") as folder:
            try:
                seconds = attack(*kind, rng, Path(folder))
                lefts[kind] += check_files(Path(folder), reference)
                longest[kind] = max(seconds, longest.get(kind, 0))
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                losses.append(f"{kind}: {told}\n{logs(Path(folder))}")
    rows = [
        (kind[0], "on" if kind[1] else "off", n, lefts[kind], f"{longest.get(kind, 0):.1f}")
        for kind, n in counts.items()
    ]
    print_table(("fault", "clean-up", "count", "leftover files", "longest until the end, s"), rows)
    print(*losses, f"lost: {len(losses)}", sep="\n")
    return len(losses)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    return 1 if run(given.count, given.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
