"""Check results, then time contestants in turn; independent of particular peers and cases.

A block is a sleep, some milliseconds of untimed calls (at least one) and some milliseconds of timed
calls. During the sleep the worker threads of the previous contestant stop spinning. During the
untimed calls the system wakes a team and spreads it over the CPUs, which can take 10 ms and does
not happen in a training loop. Blocks alternate as A B C A B C ..., so that a change of the
machine's speed affects all contestants.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import numpy as np

from cases import Case, Problem
from peers import ALPHA, BASELINE, EPS, LR, Arrays, Contestant, Peer, Step

sys.path.append(str(Path(__file__).parents[2] / "tests/support"))
from reference import flushed_denormals, rmsprop

CHECKED_STEPS = 3
WARM_UP = 0.015  # seconds

Progress = Callable[[str, float], None]  # a description, and the share of the case it completes


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds and rounds per case, and a factor on block lengths."""

    seconds: float = 14.0
    least_rounds: int = 5
    most_rounds: int = 25
    block_share: float = 1.0


FULL, QUICK = Effort(), Effort(0.7, 3, 5, 0.5)


@dataclass
class Timing:
    """Seconds per step: median and quartiles over the rounds, and ratios.

    ``ratio`` is to our time in the same variant, ``ratio_to_first`` to the same peer in the first
    variant of the case. Both are medians of ratios within a round.
    """

    peer: str
    variant: str
    median: float
    low: float
    high: float
    ratio: float
    ratio_to_first: float
    repeats: int


@dataclass
class CaseResult:
    """The timings of a case, and the reasons why peers were skipped.

    ``foreign_load`` is the mean number of CPUs that other processes kept busy. If they compete with
    a team for a CPU, the times measure the scheduler.
    """

    group: str
    name: str
    elements: int
    tensors: int
    rounds: int
    timings: list[Timing]
    skipped: dict[str, str] = field(default_factory=dict)
    foreign_load: float = 0.0


class WrongResultError(Exception):
    """A contestant's result differs from the reference by more than its tolerance."""


class Expected:
    """The reference results for a problem, computed once for all contestants."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._known: dict[tuple[int, bool], Arrays] = {}

    def after(self, steps: int, flush: bool) -> Arrays:
        """Return the parameters after some steps, with or without flushing subnormal numbers."""
        # Other problems have no subnormal numbers.
        flush = flush and self._problem.subnormal_grads is not None
        if (steps, flush) not in self._known:
            with flushed_denormals() if flush else nullcontext():
                self._known[steps, flush] = self._run(steps)
        return self._known[steps, flush]

    def _run(self, steps: int) -> Arrays:
        problem = self._problem
        params = list(problem.params)
        states = [{"square_avg": np.zeros_like(p)} for p in params]
        for _ in range(steps):
            if problem.backward:
                problem.backward(params)
            for i, (p, g) in enumerate(zip(params, problem.grads, strict=True)):
                params[i], states[i] = rmsprop(p, g, states[i], lr=LR, alpha=ALPHA, eps=EPS)
        return params


def enter(peer: Peer, problem: Problem, expected: Expected, threads: int) -> Contestant:
    """Make a contestant, and compare its first steps with the reference."""
    contestant = peer.make([p.copy() for p in problem.params], problem.grads, threads)
    # With inexact parameters, gradients diverge after the first step.
    steps = 1 if problem.backward and peer.rtol > 0 else CHECKED_STEPS
    iterate = iteration(contestant, problem)
    for _ in range(steps):
        iterate()
    wanted = expected.after(steps, peer.flushes)
    for i, (p, e) in enumerate(zip(contestant.params(), wanted, strict=True)):
        if np.array_equal(p, e):
            continue
        error = np.abs(p - e)
        scale = np.abs(e) + np.abs(e - problem.params[i]).max()
        if peer.rtol == 0 or not bool(np.all(error <= peer.rtol * scale)):
            raise WrongResultError(
                f"{peer.name}: array {i} differs from the reference after {steps} steps by up to "
                f"{error.max():.3g} (relative tolerance {peer.rtol:g})"
            )
    return contestant


def iteration(contestant: Contestant, problem: Problem) -> Step:
    """Return the timed function: the step, after the backward pass if there is one."""
    backward = problem.backward
    if backward is None:
        return contestant.step

    def iterate() -> None:
        backward(contestant.params())
        contestant.step()

    return iterate


def timed_block(step: Step, repeats: int) -> float:
    """Return seconds per call, after untimed calls."""
    began = time.perf_counter()
    step()
    while time.perf_counter() - began < WARM_UP:
        step()
    began = time.perf_counter()
    for _ in repeat(None, repeats):
        step()
    return (time.perf_counter() - began) / repeats


def foreign_cpu_seconds() -> float:
    """Return the CPU time of all other processes since boot."""
    user, nice, system = Path("/proc/stat").read_text(encoding="utf-8").split()[1:4]
    ticks = int(user) + int(nice) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def repeats_for(step: Step, seconds: float) -> int:
    """Return the number of calls that last ``seconds``, by the faster of two blocks.

    A call can take a hundred times as long as usual while the system migrates threads.
    """
    repeats = 1
    while (each := min(timed_block(step, repeats) for _ in range(2))) * repeats < seconds:
        repeats = max(2 * repeats, min(10 * repeats, math.ceil(1.1 * seconds / each)))
    return repeats


def time_in_turn(
    steps: Sequence[Step], case: Case, effort: Effort, progress: Progress
) -> tuple[list[int], list[list[float]]]:
    """Time every step in blocks; return the calls per block and the seconds per call by round."""
    gc.collect()
    gc.disable()
    try:
        repeats = []
        for step in steps:
            time.sleep(case.sleep)
            repeats.append(repeats_for(step, case.block_seconds * effort.block_share))
        times: list[list[float]] = [[] for _ in steps]
        rounds = effort.most_rounds
        progress("timing", 0)
        round_ = 0
        began = time.perf_counter()
        while round_ < rounds:
            for step, n, seconds in zip(steps, repeats, times, strict=True):
                time.sleep(case.sleep)
                seconds.append(timed_block(step, n))
            round_ += 1
            affordable = int(effort.seconds / ((time.perf_counter() - began) / round_))
            rounds = min(effort.most_rounds, max(effort.least_rounds, affordable))
            progress("timing", 1 / rounds)
    finally:
        gc.enable()
    return repeats, times


def measure(
    case: Case, peers: Sequence[Peer], threads: int, effort: Effort, progress: Progress
) -> CaseResult:
    """Check every peer on every variant of a case, then time them in turn."""
    problems = case.make()
    tensors = max(len(problem.params) for problem in problems.values())
    result = CaseResult(case.group, case.name, case.elements, tensors, 0, [])
    keys: list[tuple[str, str]] = []
    steps: list[Step] = []
    for variant, problem in problems.items():
        expected = Expected(problem)
        for peer in peers:
            reason = peer.missing()
            if effort is QUICK and peer.compiles_long and tensors > 10:
                reason = "takes long to compile; omitted with --quick"
            if reason:
                result.skipped[peer.name] = reason
                continue
            progress(f"checking {peer.name}", 0)
            try:
                contestant = enter(peer, problem, expected, threads)
            except WrongResultError:
                raise
            except Exception as error:
                if not peer.packages:
                    raise
                result.skipped[peer.name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            keys.append((peer.name, variant))
            steps.append(iteration(contestant, problem))
        if problem.subnormal_grads:
            for g, small in zip(problem.grads, problem.subnormal_grads, strict=True):
                g[...] = small
    began, before = time.perf_counter(), foreign_cpu_seconds()
    repeats, times = time_in_turn(steps, case, effort, progress)
    result.foreign_load = (foreign_cpu_seconds() - before) / (time.perf_counter() - began)
    result.rounds = len(times[0])
    result.timings = summarise(keys, repeats, times)
    return result


def summarise(
    keys: list[tuple[str, str]], repeats: list[int], times: list[list[float]]
) -> list[Timing]:
    """Compute medians and quartiles, and medians of ratios within rounds."""
    by_key = {key: np.array(seconds) for key, seconds in zip(keys, times, strict=True)}
    first_variant = keys[0][1]
    timings = []
    for (peer, variant), n in zip(keys, repeats, strict=True):
        seconds = by_key[peer, variant]
        low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
        ratio = float(np.median(seconds / by_key[BASELINE, variant]))
        first = by_key.get((peer, first_variant), seconds)
        to_first = float(np.median(seconds / first))
        timings.append(Timing(peer, variant, median, low, high, ratio, to_first, n))
    return timings
