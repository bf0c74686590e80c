"""The drop-in with ``in_backward=True``: backward passes step the parameters."""

from __future__ import annotations

import itertools
import warnings
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
from support import team
from torch_support import ALL_BY_TORCH, RMSprop, private, torch

TORCHS_OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
    {"maximize": True, "foreach": True},
    {"lr": torch.tensor(0.02)},
    {"eps": 0},
]
OWN_OPTIONS: list[dict[str, Any]] = [
    {"momentum": 0.9, "nesterov": True, "ema_decay": 0.9, "initial_square_avg": 1.0},
    {"momentum": 0.5, "lr_in_momentum": True, "eps_inside_sqrt": True},
    {"bias_correction": True, "decoupled_weight_decay": True, "weight_decay": 0.1},
    {"max_grad_value": 0.1, "on_nonfinite": "raise", "flush_denormals": False, "threads": 2},
]


@ALL_BY_TORCH
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        *itertools.product([torch.float32, torch.float64], TORCHS_OPTIONS + OWN_OPTIONS),
        *itertools.product([torch.bfloat16], TORCHS_OPTIONS),  # which torch steps
    ],
    ids=str,
)
def test_it_has_the_bits_of_the_ordinary_loop(dtype: Any, options: dict[str, Any]) -> None:
    def act(in_backward: bool) -> Trained:
        network, opt = made(in_backward, dtype, **options)
        train(network, opt, 6)
        return network, opt

    assert_same(act)


def test_groups_change_between_steps() -> None:
    def act(in_backward: bool) -> Trained:
        network = model()
        opt = RMSprop(in_two_groups(network, momentum=0.5), lr=0.1, in_backward=in_backward)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.7)
        for step in range(8):
            train(network, opt, 1, step)
            scheduler.step()  # warns if it comes before a step
            group = opt.param_groups[step % 2]
            group.update({2: {"momentum": 0.9}, 3: {"centered": True}}.get(step, {}))
            opt.max_grad_value = {4: 0.01, 6: None}.get(step, opt.max_grad_value)
            opt.threads = {5: 1}.get(step, opt.threads)
        return network, opt

    assert_same(act)


def test_settings_reach_the_updates() -> None:
    network, opt = made(True, lr=0.1)
    train(network, opt, 2)
    opt.on_nonfinite = "raise"
    network.scale.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError):
        train(network, opt, 1)


def test_flush_denormals_decides_what_the_kernel_takes() -> None:
    p = torch.ones(2, requires_grad=True)
    opt = RMSprop([p], eps=1e-40, eps_inside_sqrt=True, flush_denormals=False, in_backward=True)
    p.sum().backward()
    opt.flush_denormals = True
    with pytest.raises(ValueError, match="is not supported for"):
        p.sum().backward()


def test_a_closure_hooks_and_the_loss() -> None:
    def act(in_backward: bool) -> Trained:
        network, opt = made(in_backward)
        seen = []
        opt.register_step_pre_hook(lambda *_: seen.append("pre"))
        opt.register_step_post_hook(lambda *_: seen.append("post"))
        for step in range(3):

            def closure(step: int = step) -> Any:
                opt.zero_grad()
                loss = loss_of(network, step)
                loss.backward()
                return loss

            expected = loss_of(network, step)
            assert torch.equal(opt.step(closure), expected)
        assert seen == ["pre", "post"] * 3
        return network, opt

    assert_same(act)


def test_a_step_is_made_of_gradients_that_are_set_by_hand() -> None:
    def act(in_backward: bool) -> Trained:
        network, opt = made(in_backward)
        train(network, opt, 1)
        opt.zero_grad()
        for step in range(2):
            loss_of(network, step).backward()
            network.unused.grad = torch.ones(3, dtype=torch.float64)
            opt.step()
            if in_backward:
                assert network.unused.grad is None
            opt.zero_grad()
        return network, opt

    assert_same(act)


def test_a_parameter_that_is_no_leaf_is_stepped_by_step() -> None:
    results = []
    for in_backward in (True, False):
        p = torch.ones(3, requires_grad=True) * 2
        p.retain_grad()
        opt = RMSprop([p], in_backward=in_backward)
        (p * 3).sum().backward()
        opt.step()
        results.append(p.detach())
    assert same(*results)


def test_each_backward_pass_updates() -> None:
    network, opt = made(True)
    for step in range(3):
        loss_of(network, step).backward()
    opt.step()
    assert opt.state[network.scale]["step"] == 3
    assert network.unused not in opt.state


def test_a_step_is_no_update_twice() -> None:
    network, opt = made(True)
    train(network, opt, 1)
    before = values((network, opt))
    opt.step()
    opt.step()
    assert same(values((network, opt)), before)


def test_gradients_are_accumulated_while_it_is_off() -> None:
    def act(in_backward: bool) -> Trained:
        network, opt = made(in_backward, momentum=0.5)
        for step in range(3):
            opt.in_backward = False
            loss_of(network, 2 * step).backward()
            opt.in_backward = in_backward
            loss_of(network, 2 * step + 1).backward()
            opt.step()
            opt.zero_grad()
        return network, opt

    assert_same(act)


def test_turning_it_on_and_off() -> None:
    def act(in_backward: bool) -> Trained:
        network, opt = made(False, centered=True)
        for step in range(6):
            opt.in_backward = in_backward and step % 4 > 1
            train(network, opt, 1, step)
            opt.param_groups[0]["lr"] *= 0.9
            opt.threads = 1 + step % 2
            hooks = [len(p._post_accumulate_grad_hooks or ()) for p in network.parameters()]
            assert hooks == [int(opt.in_backward)] * len(hooks)
        opt.in_backward = in_backward
        return network, opt

    assert_same(act)


def test_options_that_changed_while_it_was_on_are_in_force_when_it_is_off() -> None:
    p = torch.ones(3, requires_grad=True)
    opt = RMSprop([p])
    opt.load_state_dict(opt.state_dict())
    opt.in_backward = True
    opt.param_groups[0]["bias_correction"] = True  # there is no state yet
    p.sum().backward()
    opt.in_backward = False
    p.sum().backward()
    opt.step()
    assert opt.state[p]["step"] == 2


def test_a_step_after_it_was_turned_on_frees_gradients_too() -> None:
    network, opt = made(False)
    train(network, opt, 2)
    opt.in_backward = True
    opt.step()
    assert all(p.grad is None for p in network.parameters())
    assert opt.state[network.scale]["step"] == 3


@ALL_BY_TORCH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_create_graph(dtype: Any) -> None:
    def act(in_backward: bool) -> Trained:
        p = torch.arange(1.0, 4.0, dtype=dtype).requires_grad_()
        network = torch.nn.ParameterList([p])
        opt = RMSprop(network.parameters(), in_backward=in_backward)
        for _ in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a cycle through the gradient
                (network[0] * 3).sum().backward(create_graph=True)
            opt.step()
            opt.zero_grad()
        assert network[0].is_leaf
        assert network[0].grad_fn is None
        return network, opt

    assert_same(act)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_step_in_any_grad_mode(mode: Any) -> None:
    network, opt = made(True)
    loss = loss_of(network, 0)
    with torch.no_grad():
        loss.backward()
    with mode():
        opt.step()
    assert opt.state[network.scale]["step"] == 1


def test_a_parameter_that_was_given_twice() -> None:
    def act(in_backward: bool) -> Trained:
        network = torch.nn.Linear(3, 2)
        with torch.no_grad():
            network.weight.fill_(0.5)
            network.bias.zero_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            params = [network.weight, network.bias, network.weight]
            opt = RMSprop(params, in_backward=in_backward)
        for _ in range(3):
            network(torch.ones(2, 3)).square().sum().backward()
            opt.step()
            opt.zero_grad()
        assert opt.state[network.weight]["step"] == 6
        return network, opt

    assert_same(act)


def test_groups_that_are_added() -> None:
    def act(in_backward: bool) -> Trained:
        network = model()
        first, *others = network.parameters()
        opt = RMSprop([first], in_backward=in_backward)
        train_all = network, opt
        opt.add_param_group({"params": others, "lr": 0.3})
        train(*train_all, 3)
        return train_all

    assert_same(act)


def test_parameters_that_are_unfrozen() -> None:
    def act(in_backward: bool) -> Trained:
        network = model()
        network.tied.requires_grad_(False)
        opt = RMSprop(network.parameters(), in_backward=in_backward)
        train(network, opt, 2)
        network.tied.requires_grad_(True)
        if in_backward:
            loss_of(network, 2).backward()
            assert network.tied.grad is not None  # step() steps it, for the last time
            opt.step()
            assert opt.state[network.tied]["step"] == 1
            assert network.tied.grad is None
        else:
            train(network, opt, 1, 2)
        train(network, opt, 2, 3)
        network.tied.requires_grad_(False)
        train(network, opt, 1, 5)
        network.tied.requires_grad_(True)
        train(network, opt, 1, 6)
        return network, opt

    assert_same(act)


def test_the_norm_is_unknown_and_threads_are_those_of_the_updates() -> None:
    network, opt = made(True, on_nonfinite="raise", threads=2)
    train(network, opt, 2)
    assert opt.grad_norm is None
    assert opt.threads_used == 1
    p = torch.ones(4_000_000, requires_grad=True)
    opt.add_param_group({"params": [p]})
    (p * 2).sum().backward()
    assert opt.threads_used == team(2)
    opt.in_backward = False
    train(network, opt, 1)
    assert opt.grad_norm is not None
    opt.in_backward = True
    assert opt.grad_norm is None


@pytest.mark.parametrize("lacking", [False, True])
def test_autograd_is_told_of_updates(lacking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch lacks all private names."""
    expected = made(False)
    train(*expected, 3)
    if lacking:
        monkeypatch.setattr(private, "hidden", frozenset(private.NAMES))
    network, opt = made(True)
    train(network, opt, 3)
    assert same(values((network, opt)), values(expected))
    assert [p._version for p in network.parameters()] == [
        p._version for p in expected[0].parameters()
    ]
