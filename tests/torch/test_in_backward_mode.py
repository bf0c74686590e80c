"""``in_backward`` on and off, the life of its hooks, and gradients that are used once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from in_backward_support import Trained, made, same, train, values
from interrupt_support import interrupted_everywhere
from torch_support import RMSprop, torch


def test_hooks_end_with_an_optimizer_in_a_cycle() -> None:
    network, opt = made(True)
    hooks = network.tied._post_accumulate_grad_hooks
    assert len(hooks) == 1
    opt.loop = opt
    gone = weakref.ref(opt)
    del opt
    gc.collect()
    assert gone() is None
    assert not hooks


@pytest.mark.parametrize("on_again", [False, True])
@pytest.mark.parametrize(
    ("name", "value"), [("bias_correction", True), ("initial_square_avg", 0.5)]
)
def test_options_stay_fixed_when_the_mode_changes(name: str, value: Any, on_again: bool) -> None:
    network, opt = made(True)
    train(network, opt, 2)
    opt.in_backward = False
    opt.in_backward = on_again
    opt.param_groups[0][name] = value
    before = values((network, opt))
    with pytest.raises(ValueError, match=f"{name} is fixed at"):
        train(network, opt, 1)
    assert same(values((network, opt)), before)


def test_options_that_updates_accepted_stay_accepted() -> None:
    network, opt = made(True)
    opt.param_groups[0]["bias_correction"] = True
    train(network, opt, 2)
    opt.in_backward = False
    train(network, opt, 1, begin=2)
    twin, other = made(False, bias_correction=True)
    train(twin, other, 3)
    assert same(values((network, opt)), values((twin, other)))


def test_the_mode_is_turned_off_while_a_hook_waits() -> None:
    p = torch.ones(3, requires_grad=True)
    opt = RMSprop([p], in_backward=True)
    owner: Any = opt._in_backward
    opt.in_backward = False
    p.grad = torch.ones(3)
    owner.update(opt, p)
    assert p.grad is not None
    assert not opt.state


def test_small_parameters_have_no_trials_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [torch.ones(100, requires_grad=True) for _ in range(3)]
    opt = RMSprop(params, in_backward=True)
    owner: Any = opt._in_backward
    monkeypatch.setattr(owner, "_series", None)  # which would be asked
    monkeypatch.setattr(owner, "_end_round", lambda _: setattr(owner, "_open", False))
    for _ in range(3):
        torch.stack([p.sum() for p in params]).sum().backward()
        opt.step()
    assert [opt.state[p]["step"] for p in params] == [3, 3, 3]


@pytest.mark.slow
def test_no_gradient_is_used_twice_after_an_interrupt() -> None:
    def prepare() -> Trained:
        p = torch.arange(1.0, 4.0).requires_grad_()
        network = torch.nn.ParameterList([p])
        return network, RMSprop(network.parameters(), in_backward=True)

    def act(trained: Trained) -> None:
        trained[0][0].square().sum().backward()

    def check(trained: Trained) -> None:
        network, opt = trained
        stepped = int(opt.state.get(network[0], {}).get("step", 0))
        left = network[0].grad is not None
        try:
            opt.step()
        except RuntimeError:  # it has a gradient again
            left = False
        # Each backward pass has one gradient. After an interrupt it may be lost, never used twice.
        now = int(opt.state.get(network[0], {}).get("step", 0))
        assert now == stepped + left <= 1

    assert interrupted_everywhere(prepare, act, check) > 10
