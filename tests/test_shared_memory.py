"""Processes that step one array in shared memory (Hogwild)."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import fork_and_spawn, run_script

SCRIPT = """
import multiprocessing
import sys
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from fused_rmsprop import RMSProp, rmsprop_step

SIZE, STEPS = 1000, 50
OPTIONS = {"lr": 0.01, "alpha": 0.9, "eps": 1e-8}

def arrays(memory, dtype):
    return np.ndarray((2, SIZE), dtype, memory.buf)

def plain(name, dtype):
    memory = SharedMemory(name)
    param, square_avg = arrays(memory, dtype)
    for _ in range(STEPS):
        rmsprop_step(param, 2 * param, square_avg, **OPTIONS)
    del param, square_avg
    memory.close()

def whole(name, dtype):
    memory = SharedMemory(name)
    param = arrays(memory, dtype)[0]
    opt = RMSProp([param], **OPTIONS)  # with a state of its own
    for _ in range(STEPS):
        opt.step([2 * param])
    del param, opt
    memory.close()

def run(context, target, workers, at_once, dtype):
    memory = SharedMemory(create=True, size=2 * SIZE * 8)
    try:
        both = arrays(memory, dtype)
        both[:] = [[1.0], [0.0]]
        given = {"target": target, "args": (memory.name, dtype)}
        processes = [context.Process(**given) for _ in range(workers)]
        for process in processes:
            process.start()
            if not at_once:
                process.join()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * workers
        result = both.copy()
        del both
        return result
    finally:
        memory.close()
        memory.unlink()

def main():
    context = multiprocessing.get_context(sys.argv[1])
    for dtype in (np.float32, np.float64):
        param, square_avg = np.ones(SIZE, dtype), np.zeros(SIZE, dtype)
        for _ in range(2 * STEPS):
            rmsprop_step(param, 2 * param, square_avg, **OPTIONS)
        one_by_one = run(context, plain, 2, False, dtype)
        assert (one_by_one[0] == param).all() and (one_by_one[1] == square_avg).all()
        for target in (plain, whole):
            at_once = run(context, target, 2, True, dtype)[0]
            assert np.isfinite(at_once).all() and (np.abs(at_once) < 0.7).all()

if __name__ == "__main__":
    main()
    print("trained")
"""


@pytest.mark.slow
@fork_and_spawn
def test_processes_train_one_array(method: str, tmp_path: Path) -> None:
    script = tmp_path / "hogwild.py"
    script.write_text(SCRIPT, encoding="utf-8")
    assert run_script(script, method) == "trained\n"
