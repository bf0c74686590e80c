"""The drop-in while a process forks or ends, and while a signal's handler looks at it."""

from __future__ import annotations

import copy
import sys
from types import FrameType
from typing import Any

import pytest

from support import needs_fork, run_python
from torch_support import RMSprop, torch

FORKS = """
import os
import sys
import threading
import time

import torch
from fused_rmsprop.torch import RMSprop

torch.set_num_threads(1)
p = torch.ones(3_000_000, requires_grad=True)  # so many that others run meanwhile
p.grad = torch.ones_like(p)
opt = RMSprop([p])
opt.step()
ending = threading.Event()

def train():
    while not ending.is_set():
        opt.step()

thread = threading.Thread(target=train)
thread.start()
codes = []
for i in range(20):
    time.sleep(0.001 * i)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            opt.step()
            opt.state_dict()
            code = 0
        finally:
            os._exit(code)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        status = -1
    codes.append(status)
ending.set()
thread.join()
print(codes == [0] * 20 or codes)
"""


@pytest.mark.slow
@needs_fork
def test_a_child_that_is_forked_in_the_middle_of_a_step_steps() -> None:
    assert run_python(FORKS).stdout == "True\n"


ENDS = """
import threading
import time

import torch
from fused_rmsprop.torch import RMSprop

p = torch.ones(3_000_000, requires_grad=True)  # so many that others run meanwhile
p.grad = torch.ones_like(p)
opt = RMSprop([p])

def train():
    while True:
        opt.step()

threading.Thread(target=train, daemon=True).start()
while opt.threads_used < 1 or not opt.state:
    time.sleep(0.01)
time.sleep(0.2)
"""


@pytest.mark.slow
def test_a_program_that_ends_while_a_daemon_thread_trains() -> None:
    """These steps call no operation of torch; a thread inside one can abort the program."""
    assert [run_python(ENDS, check=False).returncode for _ in range(6)] == [0] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("change", [{}, {"lr": 0.5}, {"centered": False}], ids=str)
def test_a_state_that_is_saved_at_any_line_of_a_step(
    dtype: Any, steps_before: int, change: Any
) -> None:
    """As by the handler of a signal: it is the state before the step or after it, or refused."""
    p = torch.arange(1.0, 4.0, dtype=dtype).requires_grad_()
    p.grad = torch.ones_like(p)
    opt = RMSprop([p], lr=0.1, momentum=0.9, centered=True)
    for _ in range(steps_before):
        opt.step()
    opt.param_groups[0].update(change)
    saved: list[Any] = []
    refused: list[str] = []

    def look(frame: FrameType, event: str, arg: object) -> Any:
        if "fused_rmsprop" not in frame.f_code.co_filename:
            return None
        try:
            saved.append(copy.deepcopy(opt.state_dict()["state"].get(0, {})))
        except RuntimeError as error:
            refused.append(str(error))
        return look

    before = copy.deepcopy(opt.state_dict()["state"].get(0, {}))
    tracing = sys.gettrace()
    sys.settrace(look)
    opt.step()
    sys.settrace(tracing)
    after = opt.state_dict()["state"][0]

    def same(a: Any, b: Any) -> bool:
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    assert len(saved) > 5
    assert all(same(state, before) or same(state, after) for state in saved)
    assert all(text.startswith("this optimizer is in the middle of") for text in refused)
    assert opt.state[p]["step"] == steps_before + 1
