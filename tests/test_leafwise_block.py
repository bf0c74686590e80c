"""The ``with`` block of `RMSProp.leafwise`: its ends, and what is refused inside."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from interrupt_support import interrupted_everywhere
from leafwise_support import NAMES, Pair, assert_twins, gradients, make, nested
from support import halved, needs_fork, run_python


def test_an_exception_in_the_block() -> None:
    ours, twin = make(), make()
    grads = gradients(ours[1], 1)

    def block(*names: str) -> None:
        with ours[0].leafwise() as update:
            for name in names:
                update(name, grads[name])
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        block()
    assert_twins(ours, twin)
    with pytest.raises(KeyError, match="mine"):
        block("head.b", "body.s")
    twin[0].step(nested(grads, ["head.b", "body.s"]))
    assert_twins(ours, twin)


def test_a_block_is_entered_once_and_then_left() -> None:
    opt = RMSProp(np.ones(2))
    block = opt.leafwise()
    enter: Any = block.__enter__
    update: Any = block
    with pytest.raises(RuntimeError, match="updates need the with block"):
        update("param", np.ones(2))
    with block, pytest.raises(RuntimeError, match="entered only once"):
        enter()
    with pytest.raises(RuntimeError, match="entered only once"):
        enter()
    with pytest.raises(RuntimeError, match=r"has been left.* call opt\.leafwise\(\) for the next"):
        update("param", np.ones(2))
    block.__exit__(None, None, None)
    assert opt.step_count == 1  # also without any update


@pytest.mark.parametrize(
    "action",
    [
        lambda opt: opt.step(np.ones(5)),
        lambda opt: opt.accumulate(np.ones(5)),
        lambda opt: opt.discard_accumulated(),
        lambda opt: opt.leafwise().__enter__(),
        lambda opt: opt.use_ema().__enter__(),
        lambda opt: opt.state_dict(),
        lambda opt: opt.load_state_dict(RMSProp(np.ones(5)).state_dict()),
        lambda opt: opt.save("never.npz"),
        lambda opt: opt.bind_grads(None),
        lambda opt: setattr(opt, "lr", 0.5),
        lambda opt: setattr(opt, "flush_denormals", False),
        lambda opt: opt.param_groups[0].update(momentum=0.5),
        lambda opt: opt.add_param_group({"params": np.ones(2), "name": "more"}),
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
    ],
)
def test_nothing_else_is_possible_meanwhile(action: Callable[[RMSProp], Any]) -> None:
    p = np.ones(5)
    opt = RMSProp(p, ema_decay=0.5)
    with opt.leafwise() as update:
        with pytest.raises(RuntimeError, match=r"inside leafwise\(\).*: leave the with block"):
            action(opt)
        update("param", np.ones(5))
        assert opt.lr == 0.01
        assert int(opt.state["param"]["step"]) == 1
    opt.step(np.ones(5))
    assert opt.step_count == 2


def test_a_block_inside_use_ema_is_refused() -> None:
    opt = RMSProp(np.ones(5), ema_decay=0.5)
    with opt.use_ema(), pytest.raises(RuntimeError, match=r"inside use_ema\(\)"), opt.leafwise():
        pass


@needs_fork
def test_a_forked_child_is_inside_the_block_too() -> None:
    code = """
import os
import numpy as np
from fused_rmsprop import RMSProp

def refused():
    try:
        opt.step([np.ones(5), np.ones(5)])
    except RuntimeError as error:
        return "inside leafwise()" in str(error)

params = [np.ones(5), np.ones(5)]
opt = RMSProp(params)
with opt.leafwise() as update:
    update("0", np.ones(5))
    child = os.fork()
    refused_inside = refused()
    update("1", np.ones(5))
opt.step([np.ones(5), np.ones(5)])
twins = [np.ones(5), np.ones(5)]
twin = RMSProp(twins)
for _ in range(2):
    twin.step([np.ones(5), np.ones(5)])
same = all((p == t).all() for p, t in zip(params, twins))
code = 7 if refused_inside and same and opt.step_count == 2 else 1
if child == 0:
    os._exit(code)
print(code, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code).stdout == "7 7\n"


def test_another_thread_during_an_update() -> None:
    """It can neither update nor leave; the update that runs leaves then."""
    p = np.ones(4_000_000, np.float32)
    g, small = np.ones_like(p), np.ones(2)

    def refused(call: Callable[..., object], *args: object) -> bool:
        try:
            call(*args)
        except RuntimeError as error:
            return "in the middle of a step, or of a change, in another thread" in str(error)
        return False

    met: list[bool] = []
    deadline = time.monotonic() + 60
    while met != [True, True] and time.monotonic() < deadline:
        opt = RMSProp([p, np.ones(2)], threads=1)
        block = opt.leafwise()
        update = block.__enter__()
        first = p[0]
        thread = threading.Thread(target=update, args=("0", g))
        thread.start()
        while p[0] == first:
            time.sleep(1e-5)
        # Both are too late if the update has ended.
        met = [refused(update, "1", small), refused(block.__exit__, None, None, None)]
        thread.join()
        opt.step([g, small])
        assert opt.step_count == 2
        assert int(opt.state["0"]["step"]) == 2
    assert met == [True, True]


def test_several_threads_take_turns() -> None:
    ours, twin = make(), make()
    grads = gradients(ours[1], 1)
    with ours[0].leafwise() as update:
        for name in NAMES:
            thread = threading.Thread(target=update, args=(name, grads[name]))
            thread.start()
            thread.join()
    twin[0].step(nested(grads, NAMES))
    assert_twins(ours, twin)


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("updates", [0, 1])
def test_a_dropped_block_lets_go_of_the_optimizer(updates: int, cycle: bool) -> None:
    class Holder:
        pass

    opt = RMSProp(np.ones(2))
    held: Any = Holder()
    held.block = opt.leafwise()
    held.update = held.block.__enter__()
    if updates:
        held.update("param", np.ones(2))
    held.itself = held if cycle else None
    with pytest.raises(RuntimeError, match="inside leafwise"):
        opt.step(np.ones(2))
    del held
    gc.collect()
    opt.step(np.ones(2))
    assert opt.step_count == updates + 1


def test_gradients_are_not_kept() -> None:
    opt = RMSProp([np.ones(2)], grads=[np.ones(2)])
    bound = opt._stepper.bound
    grad = np.ones(2)
    counts = gc.get_referrers(grad), gc.get_referrers(bound[0])  # type: ignore[index]
    with opt.leafwise() as update:
        update("0", grad)
    assert [len(found) for found in counts] == [
        len(gc.get_referrers(grad)),
        len(gc.get_referrers(bound[0])),  # type: ignore[index]
    ]


@pytest.mark.parametrize(
    ("times", "every"),
    [(1, 7), *(pytest.param(*p, marks=pytest.mark.slow) for p in ((1, 1), (2, 5)))],
)
def test_an_interrupted_block(times: int, every: int) -> None:
    """Each leaf is updated or not, the step counts if one is, and the optimizer can go on."""
    options: dict[str, Any] = {"momentum": 0.5, "centered": True, "lr": halved}
    names = ["head.b", "body.s"]
    grads = gradients(make()[1], 1)

    def act(subject: Pair) -> None:
        with subject[0].leafwise() as update:
            for name in names:
                update(name, grads[name])

    def check(subject: Pair) -> None:
        opt = subject[0]
        steps = [int(opt.state[name]["step"]) for name in names]
        assert steps in ([0, 0], [1, 0], [1, 1])
        assert opt.step_count in (steps[0], 1)
        twin = make(**options)
        if opt.step_count:
            twin[0].step(nested(grads, names[: sum(steps)]))
        twin[0].step(nested(grads, NAMES))
        opt.step(nested(grads, NAMES))
        assert_twins(subject, twin)

    found = interrupted_everywhere(lambda: make(**options), act, check, times=times, every=every)
    assert found > 0
