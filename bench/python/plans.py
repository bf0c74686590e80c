"""Compare the plan that a step chooses with all that it could have chosen.

    python bench/python/plans.py --json plans.json

Every plan (quotient, prefetching) is forced in turn, for one thread and for all, and the chosen one
runs among them. Results are first compared with the reference. Then the default number of threads
is compared with one and with all, from the sixtieth step on.

In a round all plans run side by side, in random order. The chosen one's time is divided by each
other's of the same round, because the speed of a machine varies more from one second to the next
than plans differ. The ratio is the median over the rounds for the plan for which that is largest.

--check measures a few cases, and fails where the choice is more than a tenth slower than the best.
A case has five rounds. While it fails, it has five more, up to 25 in all, and the verdict is over
all of them: noise averages out, and a wrong choice does not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fused_rmsprop import RMSProp, _core, show_config

from measure import repeats_for, timed_block
from peers import ALPHA, EPS, LR
from report import environment, headline

sys.path.append(str(Path(__file__).parents[2] / "tests/support"))
from reference import flushed_denormals, initial_state, rmsprop, same_bits

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)
SETTLING_SIZES = (300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
PLAIN: dict[str, Any] = {"lr": LR, "alpha": ALPHA, "eps": EPS}
CASES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "momentum": {**PLAIN, "momentum": 0.9},
    "centered": {**PLAIN, "centered": True},
    "all": {**PLAIN, "momentum": 0.9, "centered": True, "weight_decay": 1e-4, "ema_decay": 0.99},
}
QUICK = ((1_000, 32_000, 2_000_000), ("float32", "float64"), ("plain", "all"))
PLANS = tuple(
    f"quotient={quotient},prefetch={prefetch}"
    for quotient in ("division", "refined")
    for prefetch in ("off", "on")
)
CHOSEN = ""
BLOCK, SLEEP, ROUNDS = 0.01, 0.01, 5  # seconds, seconds
SETTLED, TIMED = 60, 70  # steps
TRIES, WORST = 5, 1.1


def drawn(elements: int, dtype: str) -> tuple[Any, Any]:
    """Draw a parameter and its gradient."""
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal(elements, np.float32).astype(dtype) for _ in range(2))
    return p, g


def check(dtype: str, options: dict[str, Any], threads: int) -> None:
    """Compare all plans with the reference, where prefetching reaches over the end of an array."""
    p, g = drawn(5_000, dtype)
    state = initial_state(p)
    if "ema_decay" in options:
        state["param_avg"] = p.copy()
    expected = p, state
    with flushed_denormals():
        for _ in range(3):
            expected = rmsprop(expected[0], g, expected[1], **options)
    for plan in (*PLANS, CHOSEN):
        param = p.copy()
        opt = RMSProp(param, **options, threads=threads)
        _core.force_plan(plan)
        for _ in range(3):
            opt.step(g)
        assert same_bits(param, expected[0]), plan


def rounds(
    elements: int, dtype: str, options: dict[str, Any], threads: int
) -> Iterator[dict[str, float]]:
    """Yield the seconds per step by plan, round after round, without end."""
    p, g = drawn(elements, dtype)
    order = [*PLANS, CHOSEN]
    rng = random.Random(0)
    repeats = 0
    while True:
        # All plans use the same memory. A new optimizer has made its choice after some steps, and
        # makes no other for a second.
        opt = RMSProp(p, **options, threads=threads, grads=g)
        rng.shuffle(order)
        seconds = {}
        for plan in order:
            _core.force_plan(plan)
            for _ in range(SETTLED if plan == CHOSEN else 1):
                opt.step()
            repeats = repeats or repeats_for(opt.step, BLOCK)
            time.sleep(SLEEP)
            seconds[plan] = timed_block(opt.step, repeats)
        yield seconds


def settling(elements: int, threads: int) -> dict[str, float]:
    """Return the seconds per step from the sixtieth on: one thread, all, the default."""
    p, g = drawn(elements, "float32")
    found: dict[str, list[float]] = {"one": [], "all": [], "default": []}
    for _, (name, n) in itertools.product(range(3), zip(found, (1, threads, None), strict=True)):
        opt = RMSProp(p, threads=n, grads=g)
        time.sleep(0.3)
        for _ in range(SETTLED):
            opt.step()
        began = time.perf_counter()
        for _ in range(TIMED):
            opt.step()
        found[name].append((time.perf_counter() - began) / TIMED)
    return {name: statistics.median(each) for name, each in found.items()}


def row(elements: int, dtype: str, case: str, threads: int, tries: int) -> dict[str, Any]:
    """Measure one case, in more rounds as long as it fails; print and return its figures."""
    endless = rounds(elements, dtype, CASES[case], threads)
    measured: list[dict[str, float]] = []
    for _ in range(tries):
        measured += itertools.islice(endless, ROUNDS)
        ratios = {plan: statistics.median(s[CHOSEN] / s[plan] for s in measured) for plan in PLANS}
        best = max(PLANS, key=ratios.__getitem__)
        if ratios[best] <= WORST:
            break
    medians = {plan: statistics.median(s[plan] for s in measured) for plan in (*PLANS, CHOSEN)}
    columns = "".join(f"{seconds / elements * 1e9:10.3f}" for seconds in medians.values())
    print(
        f"{case:9} {dtype} {threads:3} {elements:11,}{columns}{len(measured):8}"
        f"{ratios[best]:9.2f}  {best}",
        flush=True,
    )
    return {
        "case": case, "dtype": dtype, "threads": threads, "elements": elements,
        "seconds": {plan or "chosen": s for plan, s in medians.items()},
        "rounds": len(measured), "ratio": ratios[best],
    }  # fmt: skip


def main() -> int:
    """Parse the arguments, measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    available = show_config("dicts")["threads"]["available"]
    teams = sorted({1, available})
    sizes, dtypes, cases = QUICK if given.check else (SIZES, ("float32", "float64"), tuple(CASES))
    about = environment(available)
    print(headline(about))
    print("nanoseconds per element; the ratio is of the chosen plan's time to the best one's")
    heads = "".join(f"{head:>10}" for head in ("divide", "+prefetch", "refine", "+prefetch"))
    print(f"{'':9} {'':7} thr    elements{heads}    chosen  rounds    ratio  best")
    rows = []
    for dtype, case, threads in itertools.product(dtypes, cases, teams):
        check(dtype, CASES[case], threads)
        for elements in sizes:
            rows.append(row(elements, dtype, case, threads, TRIES if given.check else 1))
    slow = [each for each in rows if each["ratio"] > WORST]
    settled = []
    if not given.check:
        _core.force_plan("")
        span = f"steps {SETTLED} to {SETTLED + TIMED}"
        print(f"\n{span}: ms by one thread, by {available}, by default; default / better")
        for elements in SETTLING_SIZES:
            s = settling(elements, available)
            settled.append({"elements": elements, **s})
            ms = "".join(f"{1e3 * value:10.3f}" for value in s.values())
            print(f"{elements:11,}{ms}{s['default'] / min(s['one'], s['all']):8.2f}")
    if given.json:
        given.json.write_text(
            json.dumps({"about": about, "plans": rows, "settling": settled}), encoding="utf-8"
        )
    if given.check and slow:
        print(f"{len(slow)} choices are more than {WORST:.2f} of the best", file=sys.stderr)
    return 1 if given.check and slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
