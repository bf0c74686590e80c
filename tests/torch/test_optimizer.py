"""The drop-in for torch.optim.RMSprop against torch's own, which is the reference here."""

from __future__ import annotations

import gc
import warnings
import weakref
from typing import Any

import numpy as np
import pytest

from reference import rmsprop as reference_step
from support import needs
from torch_support import (
    RMSprop,
    TorchRMSprop,
    assert_close,
    assert_same,
    params_of,
    set_grads,
    some_params,
    torch,
)


def optimizer_cases() -> tuple[list[Any], list[Any]]:
    """The cases of torch itself for RMSprop: keyword arguments, and what must be refused."""
    needs("expecttest")  # which torch.testing imports
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_optimizers import optim_db
    info = next(i for i in optim_db if i.optim_cls is TorchRMSprop)
    good = [i.kwargs for i in info.optim_inputs_func(device="cpu")]
    return good, info.optim_error_inputs_func(device="cpu", dtype=torch.float32)


GOOD, BAD = optimizer_cases()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kwargs", GOOD, ids=str)
def test_steps_and_state_are_torchs(kwargs: Any, groups: int, dtype: Any) -> None:
    mine, others = some_params(dtype), some_params(dtype)

    def grouped(params: list[Any]) -> list[Any]:
        if groups == 1:
            return params
        return [{"params": params[:3], "lr": 0.02}, {"params": params[3:5]}, {"params": params[5:]}]

    ours = RMSprop(grouped(mine), **kwargs)
    theirs = TorchRMSprop(grouped(others), **{**kwargs, "foreach": False})
    if kwargs.get("capturable"):
        set_grads(mine, 0)
        set_grads(others, 0)
        with pytest.raises(AssertionError) as expected:
            theirs.step()
        with pytest.raises(AssertionError, match=str(expected.value)[:20]):
            ours.step()
        return
    for step in range(50):
        set_grads(mine, step)
        set_grads(others, step)
        ours.step()
        theirs.step()
        for group in (*ours.param_groups, *theirs.param_groups):
            group["lr"] = group["lr"] * 0.99
    assert_same(ours, theirs, mine, others)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad.error_regex))
def test_refuses_what_torch_refuses(bad: Any) -> None:
    case = bad.optimizer_error_input
    with pytest.raises(bad.error_type) as expected:
        TorchRMSprop(case.params, **case.kwargs)
    with pytest.raises(bad.error_type) as raised:
        RMSprop(case.params, **case.kwargs)
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_are_numpys(dtype: Any, momentum: float) -> None:
    params = some_params(dtype)[:4]
    arrays = [p.detach().numpy().copy() for p in params]
    states: list[Any] = [{"square_avg": np.zeros_like(a)} for a in arrays]
    for state, a in zip(states, arrays, strict=True):
        if momentum:
            state["momentum_buffer"] = np.zeros_like(a)
    opt = RMSprop(params, lr=0.01, alpha=0.9, momentum=momentum)
    for step in range(5):
        set_grads([*params, None], step)
        opt.step()
        for i, p in enumerate(params):
            arrays[i], states[i] = reference_step(
                arrays[i],
                p.grad.numpy(),
                states[i],
                lr=0.01,
                alpha=0.9,
                eps=1e-8,
                momentum=momentum,
            )
    for p, expected in zip(params, arrays, strict=True):
        assert np.array_equal(p.detach().numpy(), expected)


def test_tensor_lr_and_changed_options() -> None:
    results = []
    for make in (RMSprop, TorchRMSprop):
        params = some_params(torch.float64)
        opt: Any = make(params, lr=torch.tensor(0.01))
        for step in range(12):
            set_grads(params, step)
            if step == 4:
                opt.param_groups[0].update(alpha=0.5, eps=1e-3, weight_decay=0.1, maximize=True)
            if step == 8:
                opt.param_groups[0]["eps"] = 0  # which the kernel does not take
            opt.step()
        results.append((opt, params))
    assert_same(results[0][0], results[1][0], results[0][1], results[1][1])


def test_momentum_and_centered_turned_on_and_off() -> None:
    p = torch.ones(4, requires_grad=True)
    opt = RMSprop([p])
    for options in ({}, {"momentum": 0.9}, {"centered": True}, {"centered": False}):
        opt.param_groups[0].update(options)
        p.grad = torch.ones(4)
        opt.step()
    assert list(opt.state[p]) == ["step", "square_avg", "momentum_buffer"]
    assert p.isfinite().all()
    assert opt.state[p]["step"] == 4


def test_centered_does_not_become_nan_where_torch_does() -> None:
    def train(make: Any) -> Any:
        p = torch.zeros(100, requires_grad=True)
        opt = make([p], lr=1e-3, alpha=0.9, centered=True)
        generator = torch.Generator().manual_seed(0)
        for _ in range(300):
            p.grad = 1000 + 1e-3 * torch.randn(100, generator=generator)
            opt.step()
        return p

    assert train(TorchRMSprop).isnan().any()
    assert train(RMSprop).isfinite().all()


def test_what_the_kernel_does_not_do_goes_through_torch() -> None:
    def params() -> list[Any]:
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(40, generator=generator)
        tensors = [
            torch.randn(5, generator=generator),
            torch.randn(5, generator=generator).to(torch.bfloat16),
            torch.randn(5, generator=generator).to(torch.complex64),
            base[:20].detach(),
            base[10:30].detach(),  # shares memory with the one before
        ]
        return [t.requires_grad_() for t in tensors]

    mine, others = params(), params()
    ours, theirs = RMSprop(mine, momentum=0.9), TorchRMSprop(others, momentum=0.9, foreach=False)
    for step in range(5):
        for ps in (mine, others):
            generator = torch.Generator().manual_seed(step)
            for p in ps:
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        ours.step()
        theirs.step()
    assert_same(ours, theirs, mine, others)
    assert all(torch.equal(p, q) for p, q in zip(mine[1:], others[1:], strict=True))


def test_a_parameter_given_twice() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        with pytest.warns(UserWarning, match="duplicate"):
            opt: Any = make([p, p])
        p.grad = torch.ones_like(p)
        opt.step()
        values.append(p.detach())
    assert_close(values[0], values[1], torch.float64)


def test_sparse_gradients_are_refused_and_nothing_changes() -> None:
    p, q = torch.ones(6)[::2].requires_grad_(), torch.ones(3, requires_grad=True)
    opt = RMSprop([p, q])
    p.grad = torch.ones(3)
    q.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="RMSprop does not support sparse gradients"):
        opt.step()
    assert torch.equal(p, torch.ones(3))


def test_differentiable() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        twin = p.clone()
        opt: Any = make([twin], lr=0.1, differentiable=True)
        twin.grad = p * 2
        opt.step()
        (gradient,) = torch.autograd.grad(twin.sum(), p)
        values.append(gradient)
    assert torch.equal(values[0], values[1])


def test_a_step_allocates_nothing() -> None:
    params = [torch.randn(100, 10, requires_grad=True) for _ in range(20)]
    opt = RMSprop(params, momentum=0.9, centered=True)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    with torch.profiler.profile(profile_memory=True) as profile:
        opt.step()
    assert all(event.self_cpu_memory_usage == 0 for event in profile.key_averages())


def test_a_cycle_through_a_parameter_is_collected() -> None:
    def make() -> Any:
        (p,) = params_of([1.0])
        opt = RMSprop([p])
        p.register_hook(lambda grad: grad * opt.param_groups[0]["lr"])
        opt.step()
        return weakref.ref(opt)

    seen = make()
    gc.collect()
    assert seen() is None


def test_nothing_keeps_an_optimizer_alive() -> None:
    (p,) = params_of([1.0])
    opt = RMSprop([p])
    opt.step()
    seen = weakref.ref(opt)
    gc.disable()
    try:
        del opt
        assert seen() is None
    finally:
        gc.enable()
