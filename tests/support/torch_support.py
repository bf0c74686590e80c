"""Helpers of the tests of the torch drop-in; importing them skips the file if torch is missing."""

from __future__ import annotations

from typing import Any

import pytest

from support import needs_torch

torch = needs_torch()

from fused_rmsprop.torch import RMSprop, attributes, private  # noqa: E402
from fused_rmsprop.torch.peers import Peers  # noqa: E402

__all__ = [
    "ALL_BY_TORCH",
    "Peers",
    "RMSprop",
    "TorchRMSprop",
    "assert_close",
    "assert_same",
    "attributes",
    "params_of",
    "private",
    "set_grads",
    "some_params",
    "torch",
]

TorchRMSprop = torch.optim.RMSprop

#: A mark of tests in which torch steps every parameter.
ALL_BY_TORCH = pytest.mark.filterwarnings("ignore:all parameters fall back:UserWarning")


def some_params(dtype: Any, seed: int = 0) -> list[Any]:
    """Leaves of all kinds: shapes, memory orders, gaps."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    tensors = [
        normal(7, 5),
        normal(1000),
        normal(4, 6).t(),
        normal(2, 3, 4, 5).to(memory_format=torch.channels_last),
        normal(6, 4)[:, ::2],
        torch.tensor(0.5, dtype=dtype),
        torch.empty(0, 3, dtype=dtype),
        normal(3),  # never has a gradient
    ]
    return [t.requires_grad_() for t in tensors]


def set_grads(params: list[Any], step: int, orders: bool = True) -> None:
    """Gradients that depend on nothing but the step; some in other memory orders."""
    generator = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(params[:-1]):
        grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        p.grad = grad if orders and i % 2 else torch.empty_like(p).copy_(grad)


def assert_close(ours: Any, theirs: Any, dtype: Any) -> None:
    """To within 2e-6 of the array's scale in float32, 1e-12 in float64."""
    rtol = 2e-6 if dtype == torch.float32 else 1e-12
    scale = float(theirs.abs().max()) if theirs.numel() else 0.0
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * scale)


def assert_same(ours: Any, theirs: Any, mine: list[Any], others: list[Any]) -> None:
    """Parameters and, key by key, the states of two optimizers; the variance is ours alone."""
    for p, q in zip(mine, others, strict=True):
        assert_close(p.detach(), q.detach(), p.dtype)
    state, expected = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert state.keys() == expected.keys()
    for i, entries in expected.items():
        entries = {k: v for k, v in entries.items() if k != "variance"}
        assert [key for key in state[i] if key != "variance"] == list(entries)
        for key, value in entries.items():
            assert state[i][key].dtype == value.dtype
            assert_close(state[i][key], value, others[i].dtype)


def params_of(*values: Any) -> list[Any]:
    """Parameters, each with a gradient like itself."""
    params = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    for p in params:
        p.grad = p.detach().clone()
    return params
