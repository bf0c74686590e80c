"""Forked children of both optimizers: in the middle of a step, and inside `use_ema`."""

from __future__ import annotations

from pathlib import Path

import pytest

import parity_support
from support import needs_fork, run_python

pytestmark = needs_fork

SUPPORT = Path(parity_support.__file__).parent

START = """
import os, signal, sys, threading, time
import numpy as np
sys.path.insert(0, sys.argv[1])
import parity_support
from parity_support import outcome, torch

torch.set_num_threads(1)

def child_says(say):
    "Fork; the child writes what `say` returns."
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # instead of hanging
        try:
            os.write(writing, say().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
"""

DURING_A_STEP = """
make = getattr(parity_support, sys.argv[2])
SIZE = 4_000_000  # enough that the step lets other threads in
end = make([np.zeros(SIZE, np.float32)], lr=1.0)
end.bind([np.ones(SIZE, np.float32)])
(p,), opt = end.arrays, end.opt
opt.step()
count = lambda: int(end.states()[0]["step"])

def step_in_the_child():
    if count() != steps:
        return "too late"
    middle, p[-1] = p.copy(), 5.0
    middle[-1] = 5.0
    opt.step()
    return f"{bool((p < middle).all())} {count() - steps}"

said = []
while said.count("True 1") < 20:
    opt.threads = 1 + len(said) % 2
    steps, first = count(), p[0]
    thread = threading.Thread(target=opt.step)
    thread.start()
    while p[0] == first:  # the step has begun
        time.sleep(1e-4)
    said.append(child_says(step_in_the_child))
    thread.join()
    assert count() == steps + 1
    assert set(said) <= {"True 1", "too late"} and len(said) < 200, said[-30:]
opt.step()
assert count() == steps + 2
"""

INSIDE_USE_EMA = """
for make in parity_support.ENDS:
    end = make([np.ones(5)], ema_decay=0.5)
    end.bind([np.ones(5)])
    end.opt.step()
    with end.opt.use_ema():
        print(child_says(lambda: outcome(end.opt.step)))
        print(outcome(end.opt.step))
    end.opt.step()
    print(int(end.states()[0]["step"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("make", ["NumpyEnd", "TorchEnd"])
def test_a_child_forked_in_the_middle_of_a_step_can_step(make: str) -> None:
    run_python(START + DURING_A_STEP, SUPPORT, make)


def test_a_child_forked_inside_use_ema_is_inside_it_in_both() -> None:
    said = run_python(START + INSIDE_USE_EMA, SUPPORT).stdout.splitlines()
    assert said[:3] == said[3:]
    child, parent, steps = said[:3]
    assert child == parent
    assert "inside use_ema()" in child
    assert steps == "2"
