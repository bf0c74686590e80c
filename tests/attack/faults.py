"""Inject faults at random moments; every byte must then be as before the call or as after it.

python tests/attack/faults.py --kind interrupt --count 10000 --seed 1 --front-end numpy
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from attack_support import in_child, print_table, scratch_folder
from faults_support import KINDS, Trial, attack
from worlds_support import FILES, NumpyWorld, Operation

OUTCOMES = ("landed", "before", "after", "between")
_NEW_MOUNT_NAMESPACE, _PRIVATE, _DETACH = 0x00020000, 1 << 18 | 1 << 14, 2  # of Linux


def world_of(front_end: str) -> Any:
    """The class of a front end's worlds."""
    if front_end == "numpy":
        return NumpyWorld
    from torch_worlds_support import TorchWorld

    return TorchWorld


def operations_for(kind: str, front_end: str) -> tuple[Operation, ...]:
    """The operations that a fault of this kind can hit."""
    if kind in ("kill", "disk"):  # nothing but a file outlives a process, or needs a disk
        return FILES if front_end == "numpy" else ()
    operations: tuple[Operation, ...] = world_of(front_end).operations
    if kind == "memory":  # safetensors itself ends the process when it has no memory
        return tuple(o for o in operations if "safetensors" not in o.name)
    if kind == "fork":  # a child inside one of these blocks stays inside it
        return tuple(o for o in operations if o.name not in ("use_ema", "leafwise"))
    return operations


def size_for(kind: str, front_end: str, operation: Operation) -> int:
    """The elements of the largest parameter; enough, where it matters, to release the GIL."""
    if kind == "fork" and operation.name.startswith("step"):
        return 20_000 if front_end == "numpy" else 2_200_000
    return 100_000 if kind == "memory" else 1000


def mount_small(folder: Path) -> bool:
    """Mount a small file system there, in a mount namespace of this process; needs root."""
    libc = ctypes.CDLL(None)
    if libc.unshare(_NEW_MOUNT_NAMESPACE) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        return False
    return bool(libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=1m") == 0)


def fix_allocation() -> None:
    """Let the C library map each large array, so that the limit of memory is felt."""
    map_threshold, bytes_from = -3, 65536
    ctypes.CDLL(None).mallopt(map_threshold, bytes_from)


def attack_one(kind: str, front_end: str, operation: Operation, count: int, seed: int) -> Any:
    """Attack one operation in a child; its counts, and how the child ended."""
    if kind == "fork":  # with large parameters
        operation = operation._replace(calls=operation.calls[:3])

    def work() -> Counter[str]:
        sys.unraisablehook = lambda _: None  # an interrupt in a finalizer goes no further
        with scratch_folder() as folder:
            if kind == "disk":
                mounted = mount_small(folder)
            if kind == "memory":
                fix_allocation()
            size = size_for(kind, front_end, operation)
            trial = Trial(lambda: world_of(front_end)(operation, folder, size))
            rng = np.random.default_rng([seed, sum(map(ord, kind + operation.name))])
            found = attack(trial, KINDS[kind], count, rng)
            if kind == "disk" and mounted:
                ctypes.CDLL(None).umount2(bytes(folder), _DETACH)
            return found

    return in_child(work, seconds=60 + count // 10)


def run(kind: str, front_end: str, count: int, seed: int, only: str) -> int:
    """Inject ``count`` faults, spread over all operations; print a table; the number lost."""
    operations = [o for o in operations_for(kind, front_end) if only in o.name]
    world_of(front_end)  # imported once, not in each child
    rows: list[list[Any]] = []
    losses: list[str] = []
    start = time.perf_counter()
    for i, operation in enumerate(operations):
        share = count * (i + 1) // len(operations) - count * i // len(operations)
        found, ended = attack_one(kind, front_end, operation, share, seed)
        found = found or {}
        bad = {key: n for key, n in found.items() if key not in OUTCOMES}
        if ended:
            bad[f"the attacked process ended with {ended}"] = share
        losses += [f"{operation.name}: {n} {what}" for what, n in bad.items()]
        rows.append(
            [operation.name, share, *(found.get(o, 0) for o in OUTCOMES), sum(bad.values())]
        )
    if not rows:
        print(f"{kind}, {front_end}: this front end writes no files")
        return 0
    totals = np.sum([row[1:] for row in rows], axis=0).tolist()
    print(f"\n{kind}, {front_end}, seed {seed}: {time.perf_counter() - start:.1f} s")
    print_table(("operation", "injected", *OUTCOMES, "lost"), [*rows, ["all", *totals]])
    print(*losses, sep="\n")
    if kind != "none" and count >= 50 and not totals[1 + OUTCOMES.index("landed")]:
        print("no fault landed inside an operation: this attacked nothing")
        return 1
    return int(totals[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="operations whose names contain this")
    parser.add_argument("--front-end", choices=["numpy", "torch", "both"], default="both")
    given = parser.parse_args(arguments)
    faulthandler.enable()
    kinds = list(KINDS) if given.kind == "all" else [given.kind]
    ends = ["numpy", "torch"] if given.front_end == "both" else [given.front_end]
    lost = sum(
        run(kind, end, given.count, given.seed, given.only) for kind in kinds for end in ends
    )
    print(f"\nlost: {lost}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
