"""The drop-in in training programs: schedulers, GradScaler, processes, a convnet."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from support import needs, run_python, run_script
from torch_support import RMSprop, TorchRMSprop, assert_same, torch

SCHEDULERS: list[Any] = [
    lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4]),
    lambda o: torch.optim.lr_scheduler.ConstantLR(o),
    lambda o: torch.optim.lr_scheduler.LinearLR(o),
    lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    lambda o: torch.optim.lr_scheduler.PolynomialLR(o),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
    lambda o: torch.optim.lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1),
    lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 10),
]


@pytest.mark.parametrize("index", range(len(SCHEDULERS)))
def test_schedulers(index: int) -> None:
    trained = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(5, dtype=torch.float64, requires_grad=True)
        opt: Any = make([p], lr=0.1, momentum=0.5)
        scheduler = SCHEDULERS[index](opt)
        for _ in range(8):
            opt.zero_grad()
            (p**3).sum().backward()
            opt.step()
            scheduler.step()
        trained.append((opt, [p]))
    assert_same(trained[0][0], trained[1][0], trained[0][1], trained[1][1])


def test_reduce_on_plateau() -> None:
    opt = RMSprop([torch.ones(2, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert opt.param_groups[0]["lr"] < 1.0


def test_grad_scaler() -> None:
    def trained(use_scaler: bool) -> tuple[Any, Any]:
        p = torch.linspace(-1, 1, 50, requires_grad=True)
        opt = RMSprop([p], lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=use_scaler)
        for _ in range(5):
            opt.zero_grad()
            scaler.scale((p**2).sum()).backward()
            scaler.step(opt)
            scaler.update()
        return p, opt

    p, opt = trained(True)
    q, _ = trained(False)
    assert torch.equal(p, q)  # the scale is a power of two
    before, state = p.detach().clone(), copy.deepcopy(opt.state_dict()["state"][0])
    scaler = torch.amp.GradScaler("cpu")
    p.grad = torch.full_like(p, torch.inf)
    scaler.scale(torch.ones(()))
    scaler.step(opt)
    scaler.update()
    assert torch.equal(p, before)
    assert all(torch.equal(opt.state[p][key], value) for key, value in state.items())
    # Unscaled by hand, the scaler gives no scale any more.
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    p.grad = scaler.scale(torch.ones(50))
    scaler.unscale_(opt)
    scaler.step(opt)
    assert not torch.equal(p, before)


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["torch, fused_rmsprop.torch", "fused_rmsprop, torch"])
def test_import_order_does_not_matter(imports: str) -> None:
    code = f"""
import {imports}
import hashlib
from fused_rmsprop.torch import RMSprop
torch.manual_seed(0)
p = torch.randn(300_000, requires_grad=True)
opt = RMSprop([p], momentum=0.9)
for _ in range(20):
    opt.zero_grad()
    (p**2).sum().backward()
    opt.step()
print(hashlib.sha256(p.detach().numpy().tobytes()).hexdigest())
"""
    outputs = [
        run_python(c).stdout for c in (code, code.replace(f"import {imports}", "import torch"))
    ]
    assert outputs[0] == outputs[1]


def test_the_package_does_not_import_torch() -> None:
    run_python("import sys, fused_rmsprop; assert 'torch' not in sys.modules")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", ["ddp", "zero"])
def test_distributed(kind: str, count: int, tmp_path: Path) -> None:
    if kind == "zero":
        optim = pytest.importorskip("torch.distributed.optim")
        if not hasattr(optim, "ZeroRedundancyOptimizer"):
            pytest.skip("this torch has no ZeroRedundancyOptimizer any more")
    script = Path(__file__).parent / "distributed.py"
    assert run_script(script, count, tmp_path / "meet", kind) == "all agree\n"


@pytest.mark.slow
def test_a_convnet_reaches_the_same_accuracy() -> None:
    digits = needs("sklearn.datasets", reason="the digits are scikit-learn's")
    data = digits.load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    train, test = slice(0, 1400), slice(1400, None)

    def accuracy(make: Any) -> float:
        torch.manual_seed(0)
        nn = torch.nn
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        )
        opt: Any = make(network.parameters(), lr=3e-3, alpha=0.9)
        for _ in range(20):
            for batch in torch.randperm(1400).split(50):
                opt.zero_grad()
                nn.functional.cross_entropy(network(x[train][batch]), y[train][batch]).backward()
                opt.step()
        with torch.no_grad():
            return float((network(x[test]).argmax(1) == y[test]).float().mean())

    ours, theirs = accuracy(RMSprop), accuracy(TorchRMSprop)
    assert theirs > 0.9
    assert abs(ours - theirs) <= 0.01
