"""The formulas of the gallery are torch's, and its RMSProp is the package's."""

from __future__ import annotations

import runpy
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from support import ROOT, needs_torch

OPTIMIZERS = runpy.run_path(str(ROOT / "examples/gallery/optimizers.py"))

#: In the gallery: a name and its options; in torch: a name and its options.
PAIRS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.03}, "SGD", {}),
    ("Momentum", {"lr": 0.03, "momentum": 0.8}, "SGD", {}),
    ("Nesterov", {"lr": 0.03, "momentum": 0.8}, "SGD", {"nesterov": True}),
    ("AdaGrad", {"lr": 0.3, "eps": 1e-3}, "Adagrad", {}),
    ("Adadelta", {"lr": 0.7, "rho": 0.85, "eps": 1e-3}, "Adadelta", {}),
    ("RMSProp", {"lr": 0.02, "alpha": 0.8, "eps": 1e-3}, "RMSprop", {}),
    ("RMSProp", {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "momentum": 0.7}, "RMSprop", {}),
    ("RMSProp", {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "centered": True}, "RMSprop", {}),
    ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3}, "Adam", {}),
    ("AdamW", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}, "AdamW", {}),
]


def start() -> tuple[Any, Any]:
    """Parameters and the scales of a quadratic function, whose gradient is a product of both."""
    rng = np.random.default_rng(7)
    return rng.standard_normal(5), rng.uniform(0.1, 3.0, 5)


@pytest.mark.parametrize(
    ("name", "options", "torch_name", "torch_options"),
    [pytest.param(*pair, id=f"{pair[0]}-{'-'.join(pair[1])}") for pair in PAIRS],
)
def test_a_formula_is_that_of_torch(
    name: str, options: dict[str, Any], torch_name: str, torch_options: dict[str, Any]
) -> None:
    torch = needs_torch()
    x, scale = start()
    ours, before = OPTIMIZERS[name](**options), x.copy()
    theirs = torch.tensor(x, requires_grad=True)
    peer = getattr(torch.optim, torch_name)([theirs], **options, **torch_options)
    for step in range(100):
        ours.lr = peer.param_groups[0]["lr"] = options["lr"] / (1 + 0.01 * step)
        after = ours.step(x, scale * x + 0.1)
        assert np.array_equal(x, before), "a step returns a new array"
        theirs.grad = torch.from_numpy(scale) * theirs.detach() + 0.1
        peer.step()
        np.testing.assert_allclose(after, theirs.detach().numpy(), rtol=1e-12, atol=1e-12)
        x, before = after, after.copy()
    assert np.abs(x - start()[0]).max() > 0.1


@pytest.mark.parametrize("options", [{}, {"momentum": 0.7, "nesterov": True}, {"centered": True}])
def test_rmsprop_is_that_of_the_package(options: dict[str, Any]) -> None:
    x, scale = start()
    params = x.copy()
    ours = OPTIMIZERS["RMSProp"](lr=0.02, **options)
    opt = RMSProp(params, lr=0.02, alpha=0.9, **options)
    for _ in range(100):
        x = ours.step(x, scale * x)
        opt.step(scale * params)
        assert np.array_equal(x, params)
