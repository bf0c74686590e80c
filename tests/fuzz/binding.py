"""Hostile values in every argument, and arrays that change between steps.

    python tests/fuzz/binding.py --inputs 100000 --seed 1 --front-end numpy

Each input is a few actions on an optimizer of tiny arrays. An action ends in an error of a
documented type, and then nothing has changed; or it succeeds, and a step has the bits of the NumPy
reference.
Plain seeded random numbers instead of hypothesis: inputs run in forked children, where a crash
cannot be shrunk; the seed and the index of an input repeat it (``--only 1234``).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from attack_support import in_child, print_table
from victims_support import NumpyVictim, Victim, WrongError

BATCH = 500


def victim_of(front_end: str) -> Any:
    """The class of a front end's victims."""
    if front_end == "numpy":
        return NumpyVictim
    from torch_victims_support import TorchVictim

    return TorchVictim


def one_input(kind: Any, seed: int, index: int) -> Counter[str]:
    """Attack a new optimizer with a few actions; how they ended."""
    r = random.Random(seed * 1_000_003 + index)
    random.seed(index)
    victim: Victim = kind(r)
    ends: Counter[str] = Counter()
    for _ in range(r.randint(1, 5)):
        action = r.choice(victim.actions)
        try:
            victim.mark()
            try:
                action()
            except WrongError:
                raise
            except victim.raises:
                ends["refused"] += 1
                victim.check_unchanged()
            else:
                ends["done"] += 1
            victim.check_sound()
        except BaseException as error:
            what = f"{type(error).__name__}: {str(error)[:90]}"
            ends[f"WRONG {action.__name__}: {what}  [{victim.said}]"] += 1
            break
    return ends


def run(front_end: str, inputs: int, seed: int, first: int = 0) -> tuple[Counter[str], list[str]]:
    """All inputs in batches, each in a child: how actions ended, and what was wrong."""
    kind = victim_of(front_end)
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    crashes: list[str] = []

    def batch(indices: range) -> Any:
        found: Counter[str] = Counter()
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for index in indices:
                for end, n in one_input(kind, seed, index).items():
                    found[f"{end} (--only {index})" if end.startswith("WRONG") else end] += n
        return found

    pending = [
        range(i, min(i + BATCH, first + inputs)) for i in range(first, first + inputs, BATCH)
    ]
    while pending:
        indices = pending.pop(0)
        found, ended = in_child(partial(batch, indices), seconds=120)
        if ended and len(indices) > 1:  # which of them was it?
            crashes.append(f"the process ended with {ended} (inputs {indices})")
            half = len(indices) // 2
            pending[:0] = [indices[:half], indices[half:]]
            continue
        if ended:
            wrong.append(f"the process ended with {ended} (--only {indices[0]})")
        for end, n in (found or {}).items():
            if end.startswith("WRONG"):
                wrong.append(end)
            else:
                ends[end] += n
    if crashes and not wrong:  # each half survived, so no single input is to blame
        wrong = crashes
    return ends, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the index of one input, to repeat it")
    parser.add_argument("--front-end", choices=["numpy", "torch", "both"], default="both")
    given = parser.parse_args(arguments)
    all_wrong = 0
    rows = []
    for end in ["numpy", "torch"] if given.front_end == "both" else [given.front_end]:
        start = time.perf_counter()
        inputs, first = (given.inputs, 0) if given.only is None else (1, given.only)
        ends, wrong = run(end, inputs, given.seed, first)
        print(*wrong, sep="\n")
        seconds = round(time.perf_counter() - start, 1)
        rows.append([end, inputs, ends["done"], ends["refused"], len(wrong), seconds])
        all_wrong += len(wrong)
    print_table(["front end", "inputs", "done", "refused", "wrong", "seconds"], rows)
    return 1 if all_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
