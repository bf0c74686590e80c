"""Time a step of one small array by C, ctypes, cffi, a Numba loop and `RMSProp`.

    python bench/python/c_calls.py --json c_calls.json
    python bench/python/c_calls.py --check

Every caller steps an optimizer of its own; their parameters are compared first, with ==. Then all
are timed in turn, each over a loop of many calls in its own language. Prints the median time of a
call, and the median distance to C within a round. ``--check`` fails unless the Numba loop is less
than 100 ns above C. Needs a C compiler (cc); leaves out cffi and Numba where they are missing,
but --check needs Numba.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from statistics import median

import numpy as np

import fused_rmsprop
from fused_rmsprop import RMSProp

from report import environment

sys.path.append(str(Path(__file__).parents[2] / "tests/support"))
from c_api_support import Array, COptimizer, library

MOST_ABOVE_C = 100  # ns
LOOP = "void loop(int (*step)(void *), void *opt, long n) { while (n--) step(opt); }"
Loop = Callable[[int], object]  # that many steps
Caller = Callable[[Array, Array], Loop]


def c_optimizer(param: Array, grad: Array) -> COptimizer:
    """Return an optimizer of the C interface, which ends with the last reference to it."""
    opt = COptimizer()
    opt.add(0, param, grad=grad, square_avg=np.zeros_like(param))
    return opt


def by_c(param: Array, grad: Array) -> Loop:
    """Return a loop that the C compiler compiles."""
    opt = c_optimizer(param, grad)
    with tempfile.TemporaryDirectory() as folder:
        source, compiled = Path(folder) / "loop.c", Path(folder) / "loop.so"
        source.write_text(LOOP, encoding="utf-8")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", compiled], check=True)
        loop = ctypes.CDLL(str(compiled)).loop
    loop.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    step = ctypes.cast(library.fused_rmsprop_step, ctypes.c_void_p)
    return lambda calls: loop(step, opt.pointer, calls)


def by_ctypes(param: Array, grad: Array) -> Loop:
    """Return a loop of Python that calls through ctypes."""
    opt, step = c_optimizer(param, grad), library.fused_rmsprop_step

    def loop(calls: int) -> None:
        pointer = opt.pointer
        for _ in repeat(None, calls):
            step(pointer)

    return loop


def by_cffi(param: Array, grad: Array) -> Loop:
    """Return a loop of Python that calls through cffi."""
    import cffi

    opt, ffi = c_optimizer(param, grad), cffi.FFI()
    ffi.cdef("int fused_rmsprop_step(void *optimizer);")
    step = ffi.dlopen(fused_rmsprop.get_library()).fused_rmsprop_step

    def loop(calls: int) -> None:
        pointer = ffi.cast("void *", opt.pointer)
        for _ in repeat(None, calls):
            step(pointer)

    return loop


def by_numba(param: Array, grad: Array) -> Loop:
    """Return a loop that Numba compiles."""
    from numba import njit

    opt, step = c_optimizer(param, grad), library.fused_rmsprop_step

    def loop(pointer: int, calls: int) -> int:
        worst = 0
        for _ in range(calls):
            worst = min(worst, step(pointer))
        return worst

    compiled = njit(loop)
    compiled(opt.pointer, 0)
    return lambda calls: compiled(opt.pointer, calls)


def by_class(param: Array, grad: Array) -> Loop:
    """Return a loop of Python over `RMSProp.step` with bound gradients."""
    step = RMSProp(param, grads=grad).step

    def loop(calls: int) -> Array:
        for _ in repeat(None, calls):
            step()
        return param  # which someone must refer to

    return loop


CALLERS: dict[str, Caller] = {
    "C": by_c,
    "ctypes": by_ctypes,
    "cffi": by_cffi,
    "Numba": by_numba,
    "RMSProp.step": by_class,
}


def checked_loops(elements: int) -> dict[str, Loop]:
    """Return the loop of every caller that is there, once three steps gave the same bits."""
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, elements)).astype(np.float32)
    loops, params = {}, {}
    for name, make in CALLERS.items():
        params[name] = start.copy()
        try:
            loops[name] = make(params[name], grad)
        except ModuleNotFoundError as error:
            print(f"{name} is left out: there is no module {error.name}")
            continue
        loops[name](3)
    if len({params[name].tobytes() for name in loops}) != 1:
        raise SystemExit("the callers disagree")
    return loops


def nanoseconds(loop: Loop, calls: int) -> float:
    """Return the time of a call."""
    loop(calls // 10)
    began = time.perf_counter()
    loop(calls)
    return (time.perf_counter() - began) / calls * 1e9


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--elements", type=int, default=100)
    parser.add_argument("--calls", type=int, default=20_000, help="in a round")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--check", action="store_true", help="fail if Numba is too far above C")
    arguments = parser.parse_args()

    loops = checked_loops(arguments.elements)
    rounds = [
        {name: nanoseconds(loop, arguments.calls) for name, loop in loops.items()}
        for _ in range(arguments.rounds)
    ]
    times = {name: median(each[name] for each in rounds) for name in loops}
    above = {name: median(each[name] - each["C"] for each in rounds) for name in loops}
    print(f"one step of {arguments.elements} float32 elements")
    for name in loops:
        print(f"{name:>14}: {times[name]:6.0f} ns, {above[name]:+6.0f} ns beside C")
    if arguments.json:
        result = {"elements": arguments.elements, "ns_per_call": times, "ns_above_c": above}
        arguments.json.write_text(
            json.dumps(environment(None) | result, indent=1) + "\n", encoding="utf-8"
        )
    if arguments.check and not above.get("Numba", np.inf) < MOST_ABOVE_C:
        print(f"the Numba loop is not less than {MOST_ABOVE_C} ns above C")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
