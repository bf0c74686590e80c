"""Changes around ``in_backward=True``: states, groups, copies, threads, forks, interrupts."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
import weakref
from types import FrameType
from typing import Any

import pytest

from in_backward_support import (
    Trained,
    assert_same,
    in_two_groups,
    loss_of,
    made,
    model,
    same,
    train,
    values,
)
from interrupt_support import interrupted_everywhere
from support import needs_fork, run_python
from torch_support import ALL_BY_TORCH, RMSprop, TorchRMSprop, torch


def stepped_by_torch(opt: Any) -> list[bool]:
    return [bool(update.plan.for_torch[0]) for update in opt._in_backward._updates.values()]


def test_parameters_that_share_memory_are_stepped_by_torch() -> None:
    memory = torch.ones(6, dtype=torch.float64)
    p, q = memory[:4].requires_grad_(), memory.detach()[2:].requires_grad_()
    alone = torch.ones(3, requires_grad=True)
    opt = RMSprop([p, q, alone], lr=0.1, in_backward=True)
    theirs = memory.detach().clone()
    r, s = theirs[:4].requires_grad_(), theirs.detach()[2:].requires_grad_()
    other = TorchRMSprop([r, s], lr=0.1)
    for _ in range(3):
        for mine, their in ((p, r), (q, s)):
            (mine**2).sum().backward()
            other.zero_grad()
            (their**2).sum().backward()
            other.step()
        assert torch.equal(memory, theirs)
    alone.sum().backward()
    opt.load_state_dict(opt.state_dict())
    (p.sum() + q.sum() + alone.sum()).backward()
    assert stepped_by_torch(opt) == [True, True, False]

    p.data, q.data = p.data.clone(), q.data.clone()  # they share no longer
    (p.sum() + q.sum()).backward()
    assert stepped_by_torch(opt) == [False, False, False]
    q.data = p.data
    (p.sum() + q.sum()).backward()
    assert stepped_by_torch(opt) == [True, True, False]


def test_groups_that_are_meddled_with() -> None:
    def act(in_backward: bool) -> Trained:
        network = model()
        opt = RMSprop(in_two_groups(network), in_backward=in_backward)
        train(network, opt, 2)
        gone = opt.param_groups[1]["params"].pop(0)
        opt.param_groups.reverse()
        network.zero_grad()
        loss_of(network, 2).backward()
        if in_backward:
            left = [p for p in network.parameters() if p.grad is not None]
            assert len(left) == 1
            assert left[0] is gone
            assert not gone._post_accumulate_grad_hooks
        opt.step()
        opt.zero_grad()
        opt.param_groups[0]["params"].append(gone)
        loss_of(network, 3).backward()
        opt.step()
        train(network, opt, 2, 4)
        opt.param_groups[1] = {**opt.param_groups[1], "lr": 0.5}
        train(network, opt, 2, 6)
        return network, opt

    assert_same(act)


def test_a_group_that_is_removed() -> None:
    network = model()
    opt = RMSprop(in_two_groups(network), in_backward=True)
    train(network, opt, 2)
    del opt.param_groups[1]
    loss_of(network, 2).backward()
    first, *others = network.parameters()
    assert first.grad is None
    assert all(p.grad is not None for p in others if p is not network.unused)


def test_state_that_is_meddled_with() -> None:
    def act(in_backward: bool) -> Trained:
        network, opt = made(in_backward)
        train(network, opt, 2)
        p = network.first.weight
        opt.state[p] = {"step": torch.tensor(1.0), "square_avg": torch.full_like(p, 0.1)}
        train(network, opt, 1, 2)
        opt.state[network.tied]["square_avg"] = torch.full_like(network.tied, 0.2)
        del opt.state[network.scale]
        p.data = p.data.clone()
        train(network, opt, 2, 3)
        network.float()
        opt.state.clear()
        train(network, opt, 2, 5)
        return network, opt

    assert_same(act)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "centered": True}], ids=str)
def test_states_are_saved_loaded_and_copied(options: Any) -> None:
    def act(in_backward: bool) -> Trained:
        network, opt = made(in_backward, **options)
        train(network, opt, 2)
        saved = copy.deepcopy(opt.state_dict())
        assert "in_backward" not in saved["param_groups"][0]
        train(network, opt, 2, 2)
        opt.load_state_dict(saved)
        train(network, opt, 2, 4)
        network, opt = copy.deepcopy((network, opt))
        train(network, opt, 2, 6)
        network, opt = pickle.loads(pickle.dumps((network, opt)))
        train(network, opt, 2, 8)
        assert opt.state[network.scale]["step"] == 2 + 6
        return network, opt

    assert_same(act)


def test_copies_step_their_own_parameters() -> None:
    network, opt = made(True)
    train(network, opt, 1)
    before = values((network, opt))
    copied = copy.deepcopy(opt)
    assert copied.in_backward
    assert not copy.deepcopy(RMSprop([torch.ones(1)])).in_backward
    p = copied.param_groups[0]["params"][0]
    p.sum().backward()
    assert copied.state[p]["step"] == 2
    assert same(values((network, opt)), before)
    old = opt.__getstate__()
    del old["_in_backward"]  # as versions without it pickled
    new = RMSprop.__new__(RMSprop)
    new.__setstate__(old)
    assert not new.in_backward


def test_states_are_exchanged_with_torch() -> None:
    results = []
    for in_backward in (True, False):
        network, opt = made(in_backward, momentum=0.5)
        train(network, opt, 2)
        theirs = TorchRMSprop(network.parameters(), lr=0.02, momentum=0.5)
        theirs.load_state_dict(opt.state_dict())
        opt.in_backward = False
        train(network, theirs, 2, 2)
        opt.load_state_dict(theirs.state_dict())
        opt.in_backward = in_backward
        train(network, opt, 2, 4)
        results.append(values((network, opt)))
    assert same(*results)


def test_the_optimizer_is_freed_and_its_hooks_with_it() -> None:
    network, opt = made(True)
    train(network, opt, 2)
    assert all(len(p._post_accumulate_grad_hooks) == 1 for p in network.parameters())
    gc.disable()
    try:
        gone = weakref.ref(opt)
        del opt
        assert gone() is None
    finally:
        gc.enable()
    assert not any(p._post_accumulate_grad_hooks for p in network.parameters())
    before = network.tied.detach().clone()
    loss_of(network, 0).backward()
    assert network.tied.grad is not None
    assert torch.equal(network.tied, before)


def test_the_model_is_freed_with_its_optimizer() -> None:
    network, opt = made(True)
    train(network, opt, 2)
    scheduler = torch.optim.lr_scheduler.ConstantLR(opt)
    gone = [weakref.ref(each) for each in (network, opt, network.tied)]
    del network, opt, scheduler
    gc.collect()
    assert [each() for each in gone] == [None] * 3


def test_a_hook_that_outlives_its_optimizer_leaves_gradients_alone() -> None:
    p = torch.ones(2, requires_grad=True)
    opt = RMSprop([p], in_backward=True)
    (hook,) = p._post_accumulate_grad_hooks.values()
    p.register_post_accumulate_grad_hook(hook)
    del opt
    p.sum().backward()
    assert torch.equal(p.grad, torch.ones(2))
    assert torch.equal(p, torch.ones(2))


def test_a_state_that_is_read_between_updates() -> None:
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
    opt = RMSprop([p, q], in_backward=True)
    seen: list[Any] = []
    q.register_post_accumulate_grad_hook(
        lambda _: seen.append([int(s["step"]) for s in opt.state_dict()["state"].values()])
    )
    (p * q.detach()).sum().backward()
    q.sum().backward()
    assert seen == [[1, 1]]


@ALL_BY_TORCH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_state_that_is_saved_at_any_line_of_an_update(dtype: Any, steps_before: int) -> None:
    """As by the handler of a signal: it is the state before the update or after it, or refused."""
    p = torch.arange(1.0, 4.0, dtype=dtype).requires_grad_()
    opt = RMSprop([p], lr=0.1, momentum=0.9, in_backward=True)
    for _ in range(steps_before):
        p.sum().backward()
    opt.param_groups[0]["centered"] = True
    saved: list[Any] = []
    refused: list[str] = []

    def state() -> Any:
        return copy.deepcopy(opt.state_dict()["state"].get(0, {}))

    def look(frame: FrameType, event: str, arg: object) -> Any:
        if "fused_rmsprop" not in frame.f_code.co_filename:
            return None
        try:
            saved.append(state())
        except RuntimeError as error:
            refused.append(str(error))
        return look

    before, loss, tracing = state(), p.sum(), sys.gettrace()
    sys.settrace(look)
    loss.backward()
    sys.settrace(tracing)
    after = state()
    assert len(saved) > 5
    assert all(same(each, before) or same(each, after) for each in saved)
    assert refused
    assert all(text.startswith("this optimizer is in the middle of") for text in refused)
    assert after["step"] == steps_before + 1


@ALL_BY_TORCH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_whose_updates_meet_wait_for_one_another(dtype: Any) -> None:
    """As those that a backward pass has for devices of different kinds."""
    params = [torch.ones(500_000, dtype=dtype, requires_grad=True) for _ in range(4)]
    opt = RMSprop(params, lr=0.1, in_backward=True)
    errors: list[BaseException] = []
    steps = 30

    def run(p: Any) -> None:
        try:
            for _ in range(steps):
                p.sum().backward()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(p,)) for p in params]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(opt.state[p]["step"] == steps for p in params)
    assert all(torch.equal(p, params[0]) for p in params)


FORK = """
import os
import signal
import threading

import torch
from fused_rmsprop.torch import RMSprop

torch.set_num_threads(1)
p = torch.ones(3, requires_grad=True)
opt = RMSprop([p], in_backward=True)
holds, done = threading.Event(), threading.Event()

def hold():
    with opt._in_backward._lock, opt._stepper.claim():
        holds.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
holds.wait()
child = os.fork()
if child == 0:
    code = 1
    signal.alarm(30)  # in case it waits for ever
    try:
        p.grad = torch.ones(3)
        opt._in_backward.update(opt, p)
        code = int(opt.state[p]["step"] != 1)
    finally:
        os._exit(code)
code = os.waitpid(child, 0)[1]
done.set()
thread.join()
print(code)
"""


@needs_fork
def test_a_child_that_is_forked_in_the_middle_of_an_update() -> None:
    assert run_python(FORK).stdout == "0\n"


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 2])
def test_after_an_interrupt_each_parameter_is_as_before_or_after(steps: int) -> None:
    def prepare() -> Trained:
        p, q = (torch.arange(1.0, 4.0).requires_grad_() for _ in range(2))
        network = torch.nn.ParameterList([p, q])
        opt = RMSprop(network.parameters(), lr=0.1, momentum=0.9, in_backward=True)
        for _ in range(steps):
            act((network, opt))
        return network, opt

    def act(trained: Trained) -> None:
        network, opt = trained
        opt.zero_grad()
        (network[0] * network[1]).sum().backward()
        opt.step()

    before, later = values(prepare()), prepare()
    act(later)
    after = values(later)

    def check(trained: Trained) -> None:
        for p, state, old, old_state, new, new_state in zip(
            *values(trained), *before, *after, strict=True
        ):
            assert same([p, state], [old, old_state]) or same([p, state], [new, new_state])
        assert torch.is_grad_enabled()
        trained[1].zero_grad()
        stepped = [int(trained[1].state.get(p, {}).get("step", 0)) for p in trained[0]]
        act(trained)
        assert [trained[1].state[p]["step"] for p in trained[0]] == [n + 1 for n in stepped]
        trained[1].state_dict()

    assert interrupted_everywhere(prepare, act, check) > 20
