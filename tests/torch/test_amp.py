"""GradScaler unscales gradients and leaves steps out by itself, as for torch's optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from torch_support import RMSprop, TorchRMSprop, assert_close, torch

INFINITE = 3  # the step whose gradients overflow


def nothing(scaler: Any, opt: Any, params: list[Any]) -> None:
    """No clipping."""


def clip(scaler: Any, opt: Any, params: list[Any]) -> None:
    """As torch's documentation writes it."""
    scaler.unscale_(opt)
    torch.nn.utils.clip_grad_norm_(params, 0.5)


def train(
    make: Callable[..., Any], dtype: Any, between: Any, **options: Any
) -> tuple[list[Any], list[Any], list[bool], list[bool]]:
    """The parameters, the gradients after each step, and which steps were called and made."""
    generator = torch.Generator().manual_seed(3)
    params = [
        torch.randn(shape, generator=generator).to(d).requires_grad_()
        for shape, d in (((40,), dtype), ((3, 4), dtype), ((5,), torch.bfloat16))
    ]
    if options:  # the kernel's alone
        params.pop()
    opt = make(params, lr=0.01, momentum=0.9, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    grads, called, made = [], [], []
    opt.register_step_post_hook(lambda *_: called.append(True))
    for step in range(8):
        opt.zero_grad()
        count = len(called)
        before = params[0].detach().clone()
        weight = torch.inf if step == INFINITE else 1.0
        scaler.scale(sum((p.float() ** 2).sum() for p in params) * weight).backward()
        between(scaler, opt, params)
        scaler.step(opt)
        scaler.update()
        grads.append(params[0].grad.clone())
        made.append(not torch.equal(params[0], before))
        called[count:] = [len(called) > count]
    return params, grads, called, made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("between", [nothing, clip])
def test_training_with_a_scaler_is_torchs(dtype: Any, between: Any) -> None:
    ours, theirs = (train(make, dtype, between) for make in (RMSprop, TorchRMSprop))
    for p, q in zip(ours[0], theirs[0], strict=True):
        assert_close(p.detach(), q.detach(), torch.float32)
    for g, h in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(g, h, rtol=1e-5, atol=1e-6, equal_nan=True)
    # The step is called when it is made, which Accelerate asks.
    assert ours[2] == ours[3] == theirs[2] == theirs[3]
    assert ours[2] == [step != INFINITE for step in range(8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_limit_is_of_unscaled_gradients(dtype: Any) -> None:
    ours = train(RMSprop, dtype, nothing, max_grad_norm=0.5)

    def by_hand(params: list[Any], **options: Any) -> Any:
        return TorchRMSprop(params, lr=options["lr"], momentum=options["momentum"])

    theirs = train(by_hand, dtype, clip, max_grad_norm=0.5)
    for p, q in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert ours[3] == theirs[3]


def test_only_in_backward_asks_for_the_scale() -> None:
    """Lightning refuses to clip, with an error, where an optimizer asks for it."""
    opt = RMSprop([torch.ones(1, requires_grad=True)])
    asks = "_step_supports_amp_scaling"
    assert not getattr(opt, asks)
    opt.in_backward = True
    assert getattr(opt, asks)
    opt.in_backward = False
    assert not getattr(opt, asks)


def test_float16_gradients_are_refused_as_torch_refuses_them() -> None:
    for make in (RMSprop, TorchRMSprop):
        half = torch.ones(2, dtype=torch.float16, requires_grad=True)
        half.grad = torch.ones_like(half)
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(torch.ones(()))
        with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
            scaler.step(make([half]))
