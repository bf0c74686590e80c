"""Real trainings in torch, healthy and ill, and their reports."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fused_rmsprop.monitor import History, Monitor
from fused_rmsprop.monitor.rules import report
from torch_support import RMSprop, torch
from trainings_support import digits

nn = torch.nn
Accident = Callable[[int, Any], None]


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> Any:
    """Small layers are slower on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def train(
    model: Any,
    steps: int = 150,
    accident: Accident | None = None,
    lr: float = 1e-3,
    schedule: Callable[[int], float] | None = None,
    **options: Any,
) -> History:
    """Train on digits; lr falls linearly to nearly zero by default."""
    images, labels = digits(np.float32)
    x, y = torch.from_numpy(images).reshape(-1, 1, 8, 8), torch.from_numpy(labels)
    rng = np.random.default_rng(0)
    optimizer = RMSprop(model.parameters(), lr=lr, **{"alpha": 0.9, **options})
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, schedule or (lambda step: 1 - 0.99 * step / steps)
    )
    with Monitor(optimizer, names=model.named_parameters()) as monitor:
        for step in range(steps):
            rows = rng.choice(len(x), 64, replace=False)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            if accident is not None:
                accident(step, model)
            optimizer.step()
            scheduler.step()
            monitor.log(loss=loss)
    return monitor.history


def convolutions() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


class Recurrent(torch.nn.Module):
    """Reads an image row by row."""

    def __init__(self, cell: Any = nn.GRU) -> None:
        super().__init__()
        self.cell = cell(8, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.cell(x[:, 0])[0][:, -1])


class Transformer(torch.nn.Module):
    """Attends to the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.places = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(self.rows(x[:, 0]) + self.places).mean(1))


def perceptron(activation: Any = nn.ReLU, layers: int = 3, gain: float | None = None) -> Any:
    """Layers of 32 units; ``gain`` scales Glorot's initialisation."""
    sizes = [64, *[32] * (layers - 1), 10]
    parts = [nn.Flatten()]
    for n, m in pairwise(sizes):
        parts += [nn.Linear(n, m), activation()]
        if gain is not None:
            nn.init.xavier_normal_(parts[-2].weight, gain)
            nn.init.zeros_(parts[-2].bias)
    return nn.Sequential(*parts[:-1])


def frozen(model: Any) -> Any:
    model[0].weight.requires_grad_(False)
    return model


def with_unused_head(model: Any) -> Any:
    model.unused = nn.Linear(3, 3)
    return model


def plain_convolutions() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def constant(step: int) -> float:
    return 1.0


def two_half_circles() -> History:
    """The page for a start with torch."""
    angle = torch.pi * torch.rand(500)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    x = torch.cat([upper, torch.tensor([1, 0.5]) - upper]) + 0.1 * torch.randn(1000, 2)
    red = torch.arange(2.0).repeat_interleave(500).unsqueeze(1)
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = RMSprop(model.parameters(), lr=0.02, max_grad_norm=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    with Monitor(optimizer) as monitor:
        for _ in range(1000):
            batch = torch.randint(len(x), (100,))
            loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch]), red[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            monitor.log(loss=loss)
    return monitor.history


class Rows(torch.nn.Module):
    """A large embedding: batches touch few of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.Embedding(500_000, 16), nn.Linear(16, 2)

    def forward(self, indices: Any) -> Any:
        return self.head(self.rows(indices))


class LongRecurrent(Recurrent):
    """Reads an image four times; its recurrent weights multiply by ``gain``."""

    def __init__(self, gain: float) -> None:
        super().__init__(nn.RNN)
        nn.init.orthogonal_(self.cell.weight_hh_l0, gain)

    def forward(self, x: Any) -> Any:
        return self.head(self.cell(x[:, 0].repeat(1, 4, 1))[0][:, -1])


def warm_up(step: int) -> float:
    return min(1.0, (step + 1) / 75) * (1 - step / 150)


HEALTHY: dict[str, Callable[[], History]] = {
    "convolutions with normalisation": lambda: train(convolutions()),
    "frozen": lambda: train(frozen(convolutions())),
    "GRU": lambda: train(Recurrent(), 250, lr=3e-3),
    "RNN, clipped": lambda: train(Recurrent(nn.RNN), 250, lr=2e-3, max_grad_norm=1.0),
    "transformer, alpha=0.99, warm-up": lambda: train(Transformer(), alpha=0.99, schedule=warm_up),
    "perceptron": lambda: train(perceptron(), lr=2e-3),
    "perceptron with momentum": lambda: train(perceptron(), lr=2e-4, momentum=0.9),
    "20 layers of tanh": lambda: train(perceptron(nn.Tanh, 20, gain=1.0), lr=3e-4),
    "convolutions, torch's alpha, constant lr": lambda: train(
        plain_convolutions(), alpha=0.99, schedule=constant
    ),
    "convolutions, constant lr": lambda: train(plain_convolutions(), 300, schedule=constant),
    "logistic regression, torch's defaults": lambda: train(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lr=1e-2, alpha=0.99, schedule=constant
    ),
    "the start page": two_half_circles,
    "alpha=0.999 without warm-up, lr=1e-3": lambda: train(perceptron(), 300, alpha=0.999),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_has_an_empty_report(name: str) -> None:
    history = HEALTHY[name]()
    losses = history.logged["loss"].values
    assert losses[-20:].mean() < 0.8 * losses[:5].mean()
    assert str(report(history)) == "nothing unusual was seen"


def nan_in_step_51(step: int, model: Any) -> None:
    if step == 50:
        model[3].bias.grad[0] = torch.nan  # of a weight only a sample is read


def first_units_die(step: int, model: Any) -> None:
    if step == 50:
        with torch.no_grad():
            model[1].bias[:24] = -100


def zero_gradient(step: int, model: Any) -> None:
    model[1].bias.grad.zero_()


ILL: dict[str, tuple[Callable[[], History], str, str, str]] = {
    "one NaN": (
        lambda: train(perceptron(), accident=nan_in_step_51),
        *("nonfinite_gradients", "3.bias", "first seen in step 51"),
    ),
    "an unused head": (
        lambda: train(with_unused_head(Recurrent())),
        *("dead_leaves", "unused.weight and unused.bias", "no gradient in any of 15 points"),
    ),
    "a gradient of zero": (
        lambda: train(perceptron(), accident=zero_gradient),
        *("dead_leaves", "1.bias", "gradient is zero in all 15 points"),
    ),
    "lr x 100": (lambda: train(perceptron(), lr=0.1), "large_updates", "", "lower lr (0.1 -> "),
    "lr x 100, convolutions": (
        lambda: train(convolutions(), lr=0.1),
        *("large_updates", "", "lower lr (0.1 -> "),
    ),
    "lr / 1e6": (lambda: train(perceptron(), lr=1e-9), "small_updates", "", "in float32: raise lr"),
    "alpha=0.999 without warm-up": (
        lambda: train(perceptron(), lr=1e-2, alpha=0.999),
        *("long_first_steps", "", "and the loss jumps; warm up over 1000 steps, or set"),
    ),
    "dead units": (
        lambda: train(perceptron(), lr=2e-3, accident=first_units_die),
        *("dying_units", "1.weight and 3.weight", "units die"),
    ),
    "20 layers of tanh, too small weights": (
        lambda: train(perceptron(nn.Tanh, 20, gain=0.3)),
        *("vanishing_over_depth", " leaves)", "of those of 39.bias from the beginning"),
    ),
    "an RNN, too large weights": (
        lambda: train(LongRecurrent(4.0)),
        *("exploding_from_the_start", "cell.weight_ih_l0 and cell.weight_hh_l0", "of head.weight"),
    ),
    "clipped at 1e-6": (
        lambda: train(perceptron(), max_grad_norm=1e-6, lr=2e-3),
        *("always_clipped", "", "max_grad_norm=1e-6 clips 100 % of the steps"),
    ),
    "eps=1": (
        lambda: train(perceptron(), eps=1.0),
        *("eps_dominates", "", "the step is that of SGD with lr 0.001; lower eps (1 -> 1e-8)"),
    ),
    "a linear model, lr / 1000": (
        lambda: train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lr=5e-5),
        *("stalled_loss", "", "successive updates agree"),
    ),
}


@pytest.mark.parametrize("name", ILL)
def test_the_report_names_the_illness_and_nothing_else(name: str) -> None:
    run, rule, where, text = ILL[name]
    (finding,) = report(run())
    assert finding.rule == rule
    assert finding.where == where or (where.startswith(" ") and finding.where.endswith(where))
    assert text in finding.text


def test_an_embedding_is_not_dead_because_batches_touch_few_rows() -> None:
    model, rng = Rows(), np.random.default_rng(0)
    optimizer = RMSprop(model.parameters(), lr=1e-3)
    with Monitor(optimizer, names=model.named_parameters()) as monitor:
        for _ in range(100):
            indices = torch.from_numpy(rng.zipf(1.2, 32) % 500_000)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(indices), indices % 2).backward()
            optimizer.step()
    assert "dead_leaves" not in [finding.rule for finding in report(monitor.history)]
