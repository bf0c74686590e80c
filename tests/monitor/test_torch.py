"""A monitor of the torch drop-in: the same numbers as of the NumPy class, and nothing changed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp as NumpyRMSProp
from fused_rmsprop.monitor import Monitor
from support import needs_torch

torch = needs_torch()

from fused_rmsprop.torch import RMSprop  # noqa: E402

OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"centered": True, "on_nonfinite": "raise"},
    {"max_grad_norm_per_array": 0.1, "bias_correction": True, "ema_decay": 0.9},
    {"max_grad_norm": 0.1},
    {"momentum": 0.9, "alpha": 1.0},  # stepped by torch
]


def model(dtype: Any = None) -> Any:
    torch.manual_seed(0)
    layers = (torch.nn.Linear(30, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))
    return torch.nn.Sequential(*layers).to(dtype or torch.float32)


def train(
    net: Any, optimizer: Any, steps: int = 25, monitor: Monitor | None = None, calls: bool = True
) -> None:
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 30, dtype=net[0].weight.dtype)
        loss = (net(x) ** 2).sum()
        loss.backward()
        if calls:
            optimizer.step()
        if monitor is not None:
            monitor.log(loss=loss)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize("in_backward", [False, True])
def test_steps_have_the_same_bits(options: dict[str, Any], in_backward: bool) -> None:
    if in_backward and "max_grad_norm" in options:
        pytest.skip("in_backward refuses max_grad_norm")
    ends = []
    for every in (0, 1, 3):
        net = model()
        optimizer = RMSprop(net.parameters(), in_backward=in_backward, **options)
        monitor = Monitor(optimizer, every=every, sample=50) if every else None
        train(net, optimizer, monitor=monitor)
        states = [
            s.numpy().tobytes() for p in net.parameters() for s in optimizer.state[p].values()
        ]
        ends.append(([p.detach().numpy().tobytes() for p in net.parameters()], states))
        if monitor is not None:
            monitor.detach()
            assert monitor.history.steps.tolist() == list(range(1, 26, every))
            assert len(monitor.history.logged["loss"].steps) == 25
    assert ends[1:] == ends[:1] * 2


def test_the_numbers_are_those_of_the_numpy_class() -> None:
    start = [np.arange(6.0).reshape(2, 3), np.ones(4)]
    grads = [np.sin(np.arange(6.0)).reshape(2, 3), np.array([1.0, 0.0, -2.0, 3.0])]
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.5, "max_grad_norm": 1.0}
    arrays = [a.copy() for a in start]
    ours = NumpyRMSProp(arrays, **options)
    tensors = [torch.tensor(a, requires_grad=True) for a in start]
    theirs = RMSprop(tensors, **options)
    with Monitor(ours, every=2) as of_numpy, Monitor(theirs, every=2) as of_torch:
        for step in range(6):
            ours.step([(1 + step) * g for g in grads])
            for p, g in zip(tensors, grads, strict=True):
                p.grad = torch.from_numpy((1 + step) * g)
            theirs.step()
    np.testing.assert_array_equal(of_numpy.history.rows, of_torch.history.rows)
    np.testing.assert_array_equal(of_numpy.history.option_values, of_torch.history.option_values)
    assert of_torch.history.names == ("0.0", "0.1")
    assert of_torch.history.constants["kind"] == "torch"


def test_updates_in_the_backward_pass_are_those_of_a_step() -> None:
    recorded = []
    for in_backward, calls in ((False, True), (True, True), (True, False)):
        net = model()
        optimizer = RMSprop(net.named_parameters(), lr=0.01, in_backward=in_backward)
        monitor = Monitor(optimizer, every=2)
        train(net, optimizer, 6, calls=calls)
        if not calls:  # a round ends with the next, or with a step
            optimizer.step()
        monitor.detach()
        recorded.append(monitor.history)
        assert monitor.history.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    for history in recorded[1:]:
        assert history.steps.tolist() == [1, 3, 5]
        np.testing.assert_array_equal(history.rows, recorded[0].rows)


def test_the_mode_can_change_while_it_observes() -> None:
    net = model()
    optimizer = RMSprop(net.parameters(), lr=0.01)
    with Monitor(optimizer, every=1) as monitor:
        for in_backward in (False, True, False):
            optimizer.in_backward = in_backward
            train(net, optimizer, 3)
    assert monitor.history.steps.tolist() == [*range(1, 10)]
    assert not np.isnan(monitor.history["grad_rms"]).any()


def test_names_come_from_the_optimizer_or_from_the_user() -> None:
    net = model()
    assert Monitor(RMSprop(net.parameters())).history.names == ("0.0", "0.1", "0.2", "0.3")
    named = ("0.weight", "0.bias", "2.weight", "2.bias")
    assert Monitor(RMSprop(net.named_parameters())).history.names == named
    given = Monitor(RMSprop(net.parameters()), names=net.named_parameters())
    assert given.history.names == named
    assert (
        Monitor(RMSprop(net.parameters()), names=dict(net.named_parameters())).history.names
        == named
    )
    for bad in (["a", "b"], 3, net):
        with pytest.raises(TypeError, match=r"names=model\.named_parameters"):
            Monitor(RMSprop(net.parameters()), names=bad)
    for some, count in ((model(), 0), (net[0], 2), (torch.nn.Sequential(), 0)):
        with pytest.raises(ValueError, match=f"names has {count} of the optimizer's 4 parameters"):
            Monitor(RMSprop(net.parameters()), names=some.named_parameters())
    first = Monitor(RMSprop(net[0].parameters()), names=net.named_parameters())
    assert first.history.names == named[:2]
    with pytest.raises(TypeError, match=r"pass the optimizer of this model, Monitor\(optimizer\)"):
        Monitor(net)
    pairs = [("same", p) for p in net.parameters()]
    with pytest.raises(ValueError, match="two parameters are called 'same'"):
        Monitor(RMSprop(net.parameters()), names=pairs)


def test_only_the_drop_in_is_observed() -> None:
    with pytest.raises(TypeError, match=r"got a torch\.optim.*fused_rmsprop\.torch import RMSprop"):
        Monitor(torch.optim.RMSprop(model().parameters()))
    lazy = torch.nn.LazyLinear(3)
    with pytest.raises(ValueError, match="run the model once, then make the monitor"):
        Monitor(RMSprop(lazy.parameters()))


def test_tensors_of_every_kind_are_measured() -> None:
    complex_one = torch.tensor([3 + 4j, 0j], requires_grad=True)
    half = torch.full((300,), 2.0, dtype=torch.bfloat16, requires_grad=True)
    channels = torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    channels.requires_grad_()
    optimizer = RMSprop([complex_one, half, channels], lr=0.1)
    complex_one.grad = torch.tensor([6 + 8j, 0j])
    half.grad = torch.full((300,), 4.0, dtype=torch.bfloat16)
    channels.grad = torch.full((2, 3, 4, 5), 3.0)
    with Monitor(optimizer, every=1, sample=100) as monitor:
        optimizer.step()
    history = monitor.history
    np.testing.assert_allclose(history["grad_rms"][0], [5.0, 4.0, 3.0])
    assert [leaf.dtype for leaf in history.leaves] == ["complex64", "bfloat16", "float32"]
    assert (history["update_rms"] > 0).all()


def test_missing_frozen_and_sparse_gradients_are_told_apart() -> None:
    net = model()
    net[0].weight.requires_grad_(False)
    optimizer = RMSprop(net.named_parameters(), lr=0.01)
    with Monitor(optimizer, every=1) as monitor:
        for p in net.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        net[2].bias.grad = None
        optimizer.step()
    history = monitor.history
    assert np.isnan(history.of("0.weight", "param_rms")).all()
    assert np.isnan(history.of("2.bias", "grad_rms")).all()
    assert (history.of("2.bias", "update_rms") == 0).all()
    assert history.of("2.weight", "grad_rms") == 1


def test_a_closure_a_scheduler_and_hooks_work() -> None:
    net = model()
    optimizer = RMSprop(net.parameters(), lr=0.001)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (net(torch.ones(4, 30)) ** 2).sum()
        loss.backward()
        return loss

    with Monitor(optimizer, every=1) as monitor:
        for _ in range(3):
            assert optimizer.step(closure) is not None
            scheduler.step()
    assert called == [1, 1, 1]
    assert monitor.history.option("lr").ravel().tolist() == [0.001, 0.0005, 0.00025]
    assert (monitor.history["grad_rms"] > 0).all()


def test_steps_count_on_from_a_loaded_state() -> None:
    net = model()
    optimizer = RMSprop(net.parameters())
    train(net, optimizer, 5)
    monitor = Monitor(optimizer)
    train(net, optimizer, 1, monitor)
    monitor.detach()
    assert monitor.history.steps.tolist() == [6]
    assert monitor.history.logged["loss"].steps.tolist() == [6]


def test_a_state_that_is_loaded_meanwhile_counts() -> None:
    net = model()
    optimizer = RMSprop(net.parameters())
    train(net, optimizer, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    train(net, optimizer, 5)
    with Monitor(optimizer, every=1) as monitor:
        train(net, optimizer, 1, monitor)
        optimizer.load_state_dict(saved)
        train(net, optimizer, 2, monitor)
    assert monitor.history.steps.tolist() == [11, 6, 7]
    assert monitor.history.logged["loss"].steps.tolist() == [11, 6, 7]


def test_a_sample_is_of_the_same_elements_in_every_order_of_memory() -> None:
    recorded = []
    start = torch.sin(torch.arange(4000.0)).reshape(4, 10, 10, 10)
    for kind in (torch.contiguous_format, torch.channels_last):
        p = start.clone(memory_format=kind).requires_grad_()
        optimizer = RMSprop([p], lr=0.1)
        with Monitor(optimizer, every=1, sample=100) as monitor:
            for step in range(3):
                p.grad = torch.cos(step * start).contiguous(memory_format=kind)
                optimizer.step()
        recorded.append(monitor.history.rows)
    np.testing.assert_array_equal(recorded[0], recorded[1])


def test_steps_that_torch_and_the_kernel_share_are_counted_once() -> None:
    half = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    single = torch.ones(3, requires_grad=True)
    optimizer = RMSprop([{"params": [half], "lr": 0.5}, {"params": [single]}], lr=0.25)
    with Monitor(optimizer, every=3) as monitor:
        for step in range(8):
            half.grad = torch.ones(3, dtype=torch.bfloat16) if step < 7 else None
            single.grad = torch.full((3,), 2.0)
            optimizer.step()
    assert monitor.history.steps.tolist() == [1, 4, 7]
    assert monitor.history["grad_rms"].tolist() == [[1, 2]] * 3
    assert monitor.history.option("lr").tolist() == [[0.5, 0.25]] * 3
    assert (monitor.history["cosine"][:2] > 0.99).all()


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
def test_a_step_that_an_interrupt_cut_short_silences_no_monitor(lr: Any) -> None:
    net = model()
    optimizer = RMSprop(net.parameters(), lr=lr)
    with Monitor(optimizer, every=1) as monitor:
        train(net, optimizer, 2)
        optimizer._watch.begin()  # as in a step of which torch makes a part
        train(net, optimizer, 2)
    assert monitor.history.steps.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
def test_a_round_of_updates_ends_with_its_mode(lr: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = RMSprop([p], lr=lr, in_backward=True)
    with Monitor(optimizer, every=1) as monitor:
        (p * 2).sum().backward()
        optimizer.in_backward = False
        for _ in range(3):
            p.grad = torch.ones(3)
            optimizer.step()
    assert monitor.history.steps.tolist() == [1, 2, 3, 4]
    assert monitor.history["grad_rms"].ravel().tolist() == [2, 1, 1, 1]


def test_updates_without_calls_of_step_are_told_of() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = RMSprop([p], lr=0.01, in_backward=True)
    seen: list[int] = []
    Monitor(optimizer, every=1, callback=lambda step, values: seen.append(step))
    for _ in range(20):
        (p * p).sum().backward()
    assert seen == [*range(1, 19)]  # the 20th round is open, and the 19th waits for it


def test_leaves_may_have_gaps_and_be_given_twice() -> None:
    gaps = torch.ones(600)[::2].requires_grad_()
    twice = torch.ones(3, requires_grad=True)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = RMSprop([gaps, twice, twice], lr=0.1)
    with Monitor(optimizer, every=1) as monitor:
        gaps.grad, twice.grad = torch.full((300,), 2.0), torch.ones(3)
        optimizer.step()
    assert monitor.history["grad_rms"].tolist() == [[2, 1, 1]]
    first, second, third = monitor.history["update_rms"][0]
    assert 0 < first < second == third


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_parameter_of_another_size_is_no_longer_measured(dtype: Any) -> None:
    changed, same = (torch.ones(n, dtype=dtype, requires_grad=True) for n in (300, 3))
    kernels = torch.ones(3, requires_grad=True)
    optimizer = RMSprop([changed, same, kernels], lr=0.1)
    with Monitor(optimizer, every=1) as monitor:
        for size in (300, 20, 0):
            with torch.no_grad():
                changed.set_(torch.ones(size, dtype=dtype))
            optimizer.state.pop(changed, None)
            changed.grad, same.grad = torch.ones(size, dtype=dtype), torch.ones(3, dtype=dtype)
            kernels.grad = torch.ones(3)
            optimizer.step()
    nan = np.isnan(monitor.history["grad_rms"])
    assert nan.tolist() == [[False] * 3, *[[True, False, False]] * 2]


def test_a_sample_stays_the_same_in_a_new_order_of_memory() -> None:
    p = torch.sin(torch.arange(4000.0)).reshape(4, 10, 10, 10).requires_grad_()
    optimizer = RMSprop([p], lr=0.0)
    with Monitor(optimizer, every=1, sample=100) as monitor:
        for kind in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
            p.data = p.data.contiguous(memory_format=kind)
            p.grad = p.detach().clone()
            optimizer.step()
    sizes = monitor.history["param_rms"].ravel()
    assert sizes[0] == sizes[1] == sizes[2]
    assert (monitor.history["grad_rms"].ravel() == sizes).all()


def test_a_leaf_without_a_gradient_has_an_effective_rate() -> None:
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = RMSprop([p, q], lr=0.1)
    with Monitor(optimizer, every=1) as monitor:
        for step in range(3):
            p.grad, q.grad = torch.ones(3), torch.ones(3) if step == 0 else None
            optimizer.step()
    rates = monitor.history["effective_lr_p50"]
    assert rates[0, 1] == rates[1, 1] == rates[2, 1] == rates[0, 0] > rates[1, 0]


@pytest.mark.parametrize("read", [False, True])
def test_a_parameter_is_frozen_in_the_steps_in_which_it_is(read: bool) -> None:
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
    q.requires_grad_(False)
    optimizer = RMSprop([p, q], lr=0.1)
    monitor = Monitor(optimizer, every=1)
    for step in range(6):
        if step == 3:
            q.requires_grad_()
            if read:
                assert len(monitor.history.steps)
        p.grad = torch.ones(3)
        optimizer.step()
    monitor.detach()
    assert np.isnan(monitor.history.of("0.1", "param_rms")).tolist() == [True] * 3 + [False] * 3


def test_a_group_that_is_gone_is_no_longer_measured() -> None:
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = RMSprop([{"params": [p]}, {"params": [q]}], lr=0.1)
    with Monitor(optimizer, every=1) as monitor:
        for step in range(4):
            if step == 2:
                optimizer.param_groups.pop()
            p.grad = q.grad = torch.ones(3)
            optimizer.step()
    assert np.isnan(monitor.history["grad_rms"]).tolist() == [[False] * 2] * 2 + [[False, True]] * 2


def test_a_group_that_is_added_later_is_not_observed() -> None:
    net = model()
    optimizer = RMSprop(net[0].named_parameters(), lr=0.1)
    with Monitor(optimizer, every=1) as monitor:
        train(net, optimizer, 1)
        optimizer.add_param_group({"params": list(net[2].named_parameters())})
        train(net, optimizer, 2)
    assert monitor.history.names == ("weight", "bias")
    assert monitor.history.steps.tolist() == [1, 2, 3]
    assert (monitor.history["grad_rms"] > 0).all()


def test_copies_are_not_observed_and_detach_ends_it() -> None:
    net = model()
    optimizer = RMSprop(net.parameters())
    monitor = Monitor(optimizer, every=1)
    train(net, optimizer, 3)
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert copied._watch is None
    monitor.detach()
    train(net, optimizer, 3)
    assert optimizer._watch is None
    assert monitor.history.steps.tolist() == [1, 2, 3]


def test_a_step_that_fails_is_no_observation() -> None:
    net = model()
    optimizer = RMSprop(net.parameters(), on_nonfinite="raise")
    with Monitor(optimizer, every=1) as monitor:
        train(net, optimizer, 1)
        net[0].bias.grad = torch.full((40,), torch.nan)
        with pytest.raises(FloatingPointError, match=r"\['params'\]\[1\] has 40 NaN"):
            optimizer.step()
        train(net, optimizer, 2)
    assert monitor.history.steps.tolist() == [1, 2, 3]
