"""Parameters without a gradient are left alone, whatever they are, as torch leaves them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support import needs
from torch_support import RMSprop, TorchRMSprop, assert_close, torch

UninitializedParameter = needs("torch.nn.parameter").UninitializedParameter


def network() -> Any:
    torch.manual_seed(3)
    nn = torch.nn
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LazyLinear(2), nn.Tanh())


def backward(module: Any, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    module(torch.randn(5, 3, generator=generator)).square().sum().backward()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"in_backward": True},
    {"momentum": 0.9, "centered": True, "ema_decay": 0.9},
    {"max_grad_norm": 1e9, "on_nonfinite": "raise"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("added", [False, True])
def test_lazy_parameters_are_stepped_once_they_are_there(options: Any, added: bool) -> None:
    ours, theirs = network(), network()
    torchs = {k: v for k, v in options.items() if k in ("momentum", "centered")}
    other = TorchRMSprop(theirs.parameters(), **torchs)
    if added:
        opt = RMSprop(ours[0].parameters(), **options)
        opt.add_param_group({"params": ours[2].parameters()})
    else:
        opt = RMSprop(ours.parameters(), **options)
    for module, each in ((ours, opt), (theirs, other)):
        backward(module[:2], 0)
        each.step()
        assert len(each.state) == 2
        each.load_state_dict(copy.deepcopy(each.state_dict()))
        assert isinstance(module[2].weight, UninitializedParameter)
        for step in range(1, 5):
            each.zero_grad()
            torch.manual_seed(step)  # a lazy layer draws its first values
            backward(module, step)
            each.step()
    assert len(opt.state) == 4
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(p.detach(), q.detach(), p.dtype)
    # All of them are the kernel's.
    assert opt.in_backward or opt._plan.by_kernel_alone


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_meta_tensors_without_a_gradient(options: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    meta = torch.ones(3, requires_grad=True, device="meta")
    opt = RMSprop([meta, p], **options)
    (p * 2).sum().backward()
    opt.step()
    assert [*opt.state] == [p]


def test_a_parameter_that_changed_its_kind_goes_to_the_kernel() -> None:
    p, q = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True, device="meta")
    opt = RMSprop([p, q], lr=0.1, nesterov=False, max_grad_value=0.5)
    p.grad = torch.ones(3)
    opt.step()
    torch.utils.swap_tensors(q, torch.ones(2, requires_grad=True))
    q.grad = torch.ones(2)
    opt.step()
    assert opt._plan.by_kernel_alone
    assert q[0] < 1
