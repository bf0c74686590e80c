"""A network for the tests of ``in_backward``, and its training with the option and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch_support import RMSprop, torch

Trained = tuple[Any, Any]  # a model and its optimizer


class Tied(torch.nn.Module):  # type: ignore[misc]
    """A network that uses one parameter twice, and leaves one out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)
        self.tied = torch.nn.Parameter(torch.randn(6, 6))
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.unused = torch.nn.Parameter(torch.ones(3))

    def forward(self, x: Any) -> Any:
        x = torch.tanh(self.first(x) @ self.tied)
        return self.last(torch.tanh(x @ self.tied) * self.scale)


def model(dtype: Any = torch.float64) -> Any:
    torch.manual_seed(0)
    return Tied().to(dtype)


def loss_of(network: Any, step: int) -> Any:
    generator = torch.Generator().manual_seed(step)
    p = next(network.parameters())
    x = torch.randn(8, 4, dtype=p.dtype, generator=generator)
    return network(x).square().sum()


def train(network: Any, opt: Any, steps: int, begin: int = 0) -> None:
    for step in range(begin, begin + steps):
        opt.zero_grad()
        loss_of(network, step).backward()
        if getattr(opt, "in_backward", False):
            assert all(p.grad is None for p in network.parameters())
        opt.step()


def in_two_groups(network: Any, **options: Any) -> list[dict[str, Any]]:
    first, *others = network.parameters()
    return [{"params": [first], "lr": 0.05}, {"params": others, **options}]


def made(in_backward: bool, dtype: Any = torch.float64, **options: Any) -> Trained:
    network = model(dtype)
    return network, RMSprop(network.parameters(), **options, in_backward=in_backward)


def values(trained: Trained) -> list[Any]:
    """Copies of the parameters and, by name, of their states."""
    network, opt = trained
    params = list(network.parameters())
    states = [{k: v.clone() for k, v in opt.state.get(p, {}).items()} for p in params]
    return [[p.detach().clone() for p in params], states]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a.dtype == b.dtype and torch.equal(a, b))


def assert_same(act: Callable[[bool], Trained]) -> None:
    """The same bits with ``in_backward`` and without."""
    with_it, without = act(True), act(False)
    assert with_it[1].in_backward
    assert not without[1].in_backward
    assert same(values(with_it), values(without))
