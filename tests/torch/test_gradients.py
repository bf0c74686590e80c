"""The drop-in limits, clips and checks gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from torch_support import RMSprop, params_of, torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipping_is_torchs(dtype: Any) -> None:
    """But for the 1e-6 that torch adds to the norm."""
    params: list[list[Any]] = []
    for ours in (True, False):
        generator = torch.Generator().manual_seed(1)
        tensors = [torch.randn(n, 7, dtype=dtype, generator=generator) for n in (40, 1, 300)]
        params.append([t.requires_grad_() for t in tensors])
        limits: Any = {"max_grad_norm": 1.5, "max_grad_value": 2.0} if ours else {}
        opt = (RMSprop if ours else torch.optim.RMSprop)(params[-1], lr=0.01, **limits)
        for _ in range(20):
            for p in params[-1]:
                p.grad = torch.randn(p.shape, dtype=dtype, generator=generator)
            if not ours:
                torch.nn.utils.clip_grad_value_(params[-1], 2.0)
                norm = torch.nn.utils.clip_grad_norm_(params[-1], 1.5)
            before = params[-1][0].grad.clone()
            opt.step()
            assert torch.equal(params[-1][0].grad, before)
        if ours:
            found = opt.grad_norm
    assert found == pytest.approx(float(norm), rel=1e-5)
    for p, q in zip(*params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_a_nonfinite_gradient_is_skipped_or_raised() -> None:
    p, q = params_of([1.0, 2.0], [[1.0, 2.0], [3.0, 4.0]])
    opt = RMSprop([("weight", p), ("bias", q)], on_nonfinite="skip", ema_decay=0.9)
    opt.step()
    before = copy.deepcopy((p, q, opt.state_dict(), p._version, q._version))
    q.grad[1, 0] = torch.nan
    opt.step()
    assert opt.skipped_steps == 1
    opt.on_nonfinite = "raise"
    with pytest.raises(FloatingPointError) as error:
        opt.step()
    assert str(error.value) == (
        "the gradient of param_groups[0]['params'][1] (bias) has 1 NaN or infinite element, the "
        "first at index (1, 0): nan; nothing has changed"
    )
    assert torch.equal(p, before[0])
    assert torch.equal(q, before[1])
    assert str(opt.state_dict()) == str(before[2])
    assert (p._version, q._version) == before[3:]
    assert opt.skipped_steps == 1
    q.grad = torch.ones_like(q)
    opt.step()
    assert opt.state[q]["step"] == 2


@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
def test_a_first_step_that_is_not_made_leaves_no_state(on_nonfinite: str) -> None:
    p, q = params_of([1.0, torch.nan], [1.0])
    opt = RMSprop([p, q], ema_decay=0.5, on_nonfinite=on_nonfinite)
    try:
        opt.step()
    except FloatingPointError:
        assert on_nonfinite == "raise"
    assert not opt.state
    with torch.no_grad():
        q.fill_(100.0)
    p.grad = torch.ones_like(p)
    opt.step()
    assert opt.state[q]["param_avg"].item() == (100.0 + q.item()) / 2


@pytest.mark.parametrize("settings", [{"max_grad_norm": 1.0}, {"on_nonfinite": "raise"}])
def test_limits_are_the_kernels_alone(settings: Any) -> None:
    (p,) = params_of([1.0])
    half = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    opt = RMSprop([p, half], **settings)
    opt.step()  # only p has a gradient
    half.grad = torch.ones_like(half)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is not supported for"):
        opt.step()
    assert torch.equal(p, before)
