"""Compare the plan that a step chooses with all that it could have chosen.

    python bench/python/plans.py --json plans.json

Every plan (quotient, prefetching) is forced in turn, for one thread and for all, and the chosen one
runs among them: its time over the best one's. Results are first compared with the reference. Then
the default number of threads is compared with one and with all, from the fiftieth step on.

--check measures a few cases, and fails where the choice is more than a tenth slower than the best.
It tries each case up to five times, because noise passes and a wrong choice does not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
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
SETTLED = 50  # steps
WORST = 1.1


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


def times(
    elements: int, dtype: str, options: dict[str, Any], threads: int
) -> dict[str, list[float]]:
    """Return the seconds per step, by plan and round."""
    p, g = drawn(elements, dtype)
    seconds: dict[str, list[float]] = {plan: [] for plan in (*PLANS, CHOSEN)}
    repeats = 0
    for _ in range(ROUNDS):
        # All plans use the same memory. A new optimizer has made its choice after some steps, and
        # makes no other for a second.
        opt = RMSProp(p, **options, threads=threads, grads=g)
        _core.force_plan(CHOSEN)
        for _ in range(SETTLED):
            opt.step()
        repeats = repeats or repeats_for(opt.step, BLOCK)
        seconds[CHOSEN].append(timed_block(opt.step, repeats))
        for plan in PLANS:
            _core.force_plan(plan)
            time.sleep(SLEEP)
            seconds[plan].append(timed_block(opt.step, repeats))
    return seconds


def settling(elements: int, threads: int) -> dict[str, float]:
    """Return the seconds per step from the fiftieth on: one thread, all, the default."""
    p, g = drawn(elements, "float32")
    found: dict[str, list[float]] = {"one": [], "all": [], "default": []}
    for _, (name, n) in itertools.product(range(3), zip(found, (1, threads, None), strict=True)):
        opt = RMSProp(p, threads=n, grads=g)
        time.sleep(0.3)
        for _ in range(50):
            opt.step()
        began = time.perf_counter()
        for _ in range(70):
            opt.step()
        found[name].append((time.perf_counter() - began) / 70)
    return {name: statistics.median(each) for name, each in found.items()}


def row(elements: int, dtype: str, case: str, threads: int) -> dict[str, Any]:
    """Measure one case; print and return its figures."""
    seconds = times(elements, dtype, CASES[case], threads)
    medians = {plan: statistics.median(each) for plan, each in seconds.items()}
    best = min(PLANS, key=medians.__getitem__)
    ratio = medians[CHOSEN] / medians[best]
    columns = "".join(f"{medians[plan] / elements * 1e9:10.3f}" for plan in (*PLANS, CHOSEN))
    print(f"{case:9} {dtype} {threads:3} {elements:11,}{columns}{ratio:9.2f}  {best}")
    return {
        "case": case, "dtype": dtype, "threads": threads, "elements": elements,
        "seconds": {plan or "chosen": s for plan, s in medians.items()}, "ratio": ratio,
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
    print("nanoseconds per element; the last ratio is of the chosen plan's time to the best one's")
    heads = "".join(f"{head:>10}" for head in ("divide", "+prefetch", "refine", "+prefetch"))
    print(f"{'':9} {'':7} thr    elements{heads}    chosen    ratio  best")
    rows, slow = [], []
    for dtype, case, threads in itertools.product(dtypes, cases, teams):
        check(dtype, CASES[case], threads)
        for elements in sizes:
            for _ in range(5 if given.check else 1):
                rows.append(row(elements, dtype, case, threads))
                if rows[-1]["ratio"] <= WORST:
                    break
            else:
                slow.append(rows[-1])
    settled = []
    if not given.check:
        _core.force_plan("")
        print(f"\nsteps 50 to 120: ms by one thread, by {available}, by default; default / better")
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
