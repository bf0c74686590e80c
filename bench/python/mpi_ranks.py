"""What each rank does for mpi_steps.py and mpi_model.py: checks results, then times steps.

    mpiexec -n 2 python bench/python/mpi_ranks.py jobs.json results.json

`launch` does that. The jobs are a list of `Job` as dicts; rank 0 writes a list of results.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mpi_formula import default_bucket

ALPHA, LR = 0.9, 0.001
CHECKED_STEPS = 3
BLOCK_SECONDS = 0.02
PARTS = {
    "send gradients": "pack",
    "wait for gradients": "wait",
    "add": "add",
    "update": "update",
    "send parameters": "gather",
    "wait for parameters": "gather_wait",
    "write": "write",
}


@dataclass
class Way:
    """A way to step.

    `network` is the latency, bandwidth and overhead that each message gets in addition.
    """

    reduction: str = "ordered"
    bucket_bytes: int | None = None  # the default for a network
    threads: int = 1
    network: Sequence[float] | None = None


@dataclass
class Job:
    """What to measure at one size."""

    elements: int
    ways: list[Way] = field(default_factory=lambda: [Way()])
    seconds: float = 5.0
    one_process: bool = False  # in turn with the ways
    what: str = "steps"  # or "memory", "trace"


def launch(ranks: int, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Run jobs on so many ranks of this machine, and return their results."""
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        sys.exit("there is no mpiexec: pip install 'fused-rmsprop[mpi]' brings one")
    environment = {**os.environ, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "jobs.json"), Path(folder, "results.json")
        given.write_text(json.dumps([asdict(job) for job in jobs]), encoding="utf-8")
        command = [mpiexec, "-n", str(ranks), sys.executable, __file__, str(given), str(found)]
        done = subprocess.run(command, env=environment)
        if done.returncode:
            sys.exit(f"{ranks} ranks failed with status {done.returncode}")
        results: list[dict[str, Any]] = json.loads(found.read_text(encoding="utf-8"))
    return results


class Problem:
    """Parameters, and the gradients of this rank, or of all of them on rank 0."""

    def __init__(self, comm: Any, elements: int) -> None:
        self.comm, self.elements = comm, elements
        self.params = np.empty(elements, np.float32)
        self.reset()
        self.grad = self.gradient_of(comm.rank)

    def reset(self) -> None:
        """Let the parameters be as in the beginning."""
        np.random.default_rng(0).standard_normal(dtype=np.float32, out=self.params)

    def gradient_of(self, rank: int) -> Any:
        """The gradient of a rank."""
        rng = np.random.default_rng(1000 + rank)
        return rng.standard_normal(self.elements, dtype=np.float32)

    def optimizer(self, way: Way) -> Any:
        """An optimizer over MPI, whose messages are slowed if a network is given."""
        from fused_rmsprop.mpi import RMSProp

        self.reset()
        opt: Any = RMSProp(
            self.params,
            lr=LR,
            alpha=ALPHA,
            threads=way.threads,
            reduction=way.reduction,
            bucket_bytes=way.bucket_bytes or default_bucket(self.comm.size),
        )
        if way.network is not None:
            from mpi_slowed import SlowedRanks

            opt._ranks = opt._traffic._ranks = SlowedRanks(self.comm, *way.network)
        return opt


def barrier(comm: Any) -> None:
    """Wait for all ranks, and leave the cores to them meanwhile; then start at once."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(2e-4)
    comm.Barrier()


def expected(problem: Problem) -> Any:
    """The parameters after some steps in one process, which has the gradients of all ranks."""
    from fused_rmsprop import RMSProp

    problem.reset()
    opt = RMSProp(problem.params, lr=LR, alpha=ALPHA, threads=1)
    for _ in range(CHECKED_STEPS):
        for rank in range(problem.comm.size):
            opt.accumulate(problem.gradient_of(rank))
        opt.step()
    return problem.params.copy()


def check(problem: Problem, way: Way, opt: Any, wanted: Any) -> None:
    """Compare the first steps with those of one process, and the ranks with each other."""
    comm = problem.comm
    problem.reset()
    for _ in range(CHECKED_STEPS):
        opt.step(problem.grad)
    wrong = ""
    if wanted is not None:
        exact = way.reduction == "ordered" or comm.size <= 2
        if exact and problem.params.tobytes() != wanted.tobytes():
            wrong = f"{way} on {comm.size} ranks differs from one process"
        # Where a sum nearly vanishes, its rounding decides about the direction of a whole step.
        rare = np.count_nonzero(np.abs(problem.params - wanted) > 1e-3 * LR)
        if rare > 1e-4 * problem.elements:
            wrong = f"{way} on {comm.size} ranks is far from one process in {rare} elements"
    if len(set(comm.allgather(zlib.crc32(problem.params.data)))) > 1:
        wrong = f"{way} on {comm.size} ranks: they have different parameters"
    if any(wrong_ones := comm.allgather(wrong)):
        sys.exit(max(wrong_ones))


class OverMPI:
    """Times the steps of one way, with their parts."""

    def __init__(self, problem: Problem, way: Way, opt: Any) -> None:
        self._problem, self.way, self._opt = problem, way, opt
        self.rounds: list[dict[str, float]] = []

    def block(self, repeats: int) -> float:
        """Step several times; returns the seconds of a step, of the slowest rank."""
        comm, traffic = self._problem.comm, self._opt._traffic
        barrier(comm)
        self._opt.step(self._problem.grad)
        traffic.trace, traffic.bytes_sent = [], 0
        comm.Barrier()
        began = time.perf_counter()
        for _ in range(repeats):
            self._opt.step(self._problem.grad)
        seconds = time.perf_counter() - began
        parts = dict.fromkeys(PARTS.values(), 0.0)
        for what, _, begin, end in traffic.trace:
            parts[PARTS[what]] += end - begin
        parts["rest"] = seconds - sum(parts.values())
        parts["bytes_sent"] = traffic.bytes_sent
        traffic.trace = None
        every = comm.allgather({"step": seconds, **parts})
        found = {key: float(np.mean([one[key] for one in every])) / repeats for key in every[0]}
        found["step"] = max(one["step"] for one in every) / repeats
        self.rounds.append(found)
        return found["step"]

    def forget(self) -> None:
        """Drop the rounds so far."""
        self.rounds.clear()

    def result(self) -> dict[str, Any]:
        """Medians over the rounds."""
        medians = {
            key: float(np.median([one[key] for one in self.rounds])) for key in self.rounds[0]
        }
        low, high = np.percentile([one["step"] for one in self.rounds], (25, 75)).tolist()
        elements, ranks = self._problem.elements, self._problem.comm.size
        return {
            **asdict(self.way),
            **medians,
            "step_low": low,
            "step_high": high,
            "bytes_computed": 8 * elements * (ranks - 1) / ranks,
            "update_rate": 20 * elements / medians["update"],
            "rounds": len(self.rounds),
        }


class OneProcess:
    """Times the steps of a process that has all gradients, on rank 0; the others sleep."""

    def __init__(self, problem: Problem, threads: int) -> None:
        from fused_rmsprop import RMSProp

        self._comm, self.threads = problem.comm, threads
        self._seconds: dict[str, list[float]] = {"step": [], "step_and_accumulate": []}
        if self._comm.rank == 0:
            self._grads = [problem.gradient_of(rank) for rank in range(self._comm.size)]
            self._opt = RMSProp(problem.params, lr=LR, alpha=ALPHA, threads=threads)

    def _step(self) -> None:
        self._opt.step(self._grads[0])

    def _step_and_accumulate(self) -> None:
        for grad in self._grads:
            self._opt.accumulate(grad)
        self._opt.step()

    def block(self, repeats: int) -> float:
        """Step several times both ways; returns the seconds of both."""
        barrier(self._comm)
        if self._comm.rank == 0:
            for name, step in (
                ("step", self._step),
                ("step_and_accumulate", self._step_and_accumulate),
            ):
                step()
                began = time.perf_counter()
                for _ in range(repeats):
                    step()
                self._seconds[name].append((time.perf_counter() - began) / repeats)
        barrier(self._comm)
        return float(self._comm.bcast(sum(of[-1] for of in self._seconds.values() if of)))

    def forget(self) -> None:
        """Drop the rounds so far."""
        for of in self._seconds.values():
            of.clear()

    def result(self, elements: int) -> dict[str, Any]:
        """Medians over the rounds."""
        if self._comm.rank:
            return {}
        medians = {name: float(np.median(of)) for name, of in self._seconds.items()}
        rate = 20 * elements / medians["step"]
        return {"threads": self.threads, **medians, "update_rate": rate}


def steps(comm: Any, job: Job) -> dict[str, Any]:
    """Check all ways, then time them in turn."""
    problem = Problem(comm, job.elements)
    wanted = expected(problem) if comm.rank == 0 else None
    contestants: list[Any] = []
    for way in job.ways:
        opt = problem.optimizer(way)
        check(problem, way, opt, wanted)
        contestants.append(OverMPI(problem, way, opt))
    if job.one_process:
        contestants.append(OneProcess(problem, len(os.sched_getaffinity(0))))
    repeats = []
    for c in contestants:
        once = min(c.block(1) for _ in range(3))
        repeats.append(comm.bcast(max(1, int(BLOCK_SECONDS / once))))
        c.forget()
    began, rounds = time.perf_counter(), 0
    while comm.bcast(rounds < 3 or time.perf_counter() - began < job.seconds):
        for c, n in zip(contestants, repeats, strict=True):
            c.block(n)
        rounds += 1
    over = [c.result() for c in contestants if isinstance(c, OverMPI)]
    found: dict[str, Any] = {"ranks": comm.size, "elements": job.elements, "ways": over}
    if job.one_process:
        found["one_process"] = contestants[-1].result(job.elements)
    return found


def _resident(key: str) -> int:
    """Bytes from /proc: VmRSS is what the process has, VmHWM the most that it had."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise LookupError(key)


def memory(comm: Any, job: Job) -> dict[str, Any]:
    """State, and the most memory that steps take beside parameters, gradients and state."""
    problem = Problem(comm, job.elements)
    opt = problem.optimizer(job.ways[0])
    barrier(comm)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins anew
    before = _resident("VmRSS")
    for _ in range(CHECKED_STEPS):
        opt.step(problem.grad)
    grown = _resident("VmHWM") - before
    arrays = [a for state in opt.state.values() for a in state.values() if hasattr(a, "nbytes")]
    state = sum(a.nbytes for a in arrays if a.size > 1 or job.elements == 1)
    every = comm.allgather((state, grown))
    return {
        "ranks": comm.size,
        "elements": job.elements,
        "state_bytes": max(state for state, _ in every),
        "grown_bytes": max(grown for _, grown in every),
    }


def trace(comm: Any, job: Job) -> dict[str, Any]:
    """What each rank did when in one step; seconds from the beginning of the first."""
    problem = Problem(comm, job.elements)
    opt = problem.optimizer(job.ways[0])
    for _ in range(5):
        barrier(comm)
        opt._traffic.trace = []
        began = time.perf_counter()
        opt.step(problem.grad)
        end = time.perf_counter()
    every = comm.allgather((began, end, opt._traffic.trace))
    start = min(began for began, _, _ in every)
    return {
        "ranks": comm.size,
        "elements": job.elements,
        "events": [
            [[what, bucket, begin - start, end - start] for what, bucket, begin, end in events]
            for _, _, events in every
        ],
        "seconds": max(end for _, end, _ in every) - start,
    }


def main() -> None:
    """Do all jobs."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    given, found = sys.argv[1:]
    kinds = {"steps": steps, "memory": memory, "trace": trace}
    results = []
    gc.disable()
    for one in json.loads(Path(given).read_text(encoding="utf-8")):
        job = Job(**{**one, "ways": [Way(**way) for way in one["ways"]]})
        results.append(kinds[job.what](comm, job))
        gc.collect()
    if comm.rank == 0:
        Path(found).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
