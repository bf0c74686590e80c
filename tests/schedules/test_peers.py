"""The schedules against those of torch and optax."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fused_rmsprop.schedules import (
    Constant,
    Cosine,
    Exponential,
    Join,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Schedule,
    StepDecay,
    WarmupCosine,
)
from support import needs, needs_torch, values

# Beside torch, whose schedulers are made for an optimizer with the rate lr.

TORCH: dict[str, tuple[Schedule, int, float, Callable[[Any, Any], Any]]] = {
    "constant": (Constant(0.3), 20, 0.3, lambda s, o: s.ConstantLR(o, factor=1)),
    "linear, up": (
        Linear(0.2 * 0.01, end_value=0.2, transition_steps=70),
        100, 0.2, lambda s, o: s.LinearLR(o, start_factor=0.01, total_iters=70),
    ),
    "linear, down": (
        Linear(0.2, end_value=0.2 * 0.1, transition_steps=70),
        100, 0.2, lambda s, o: s.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=70),
    ),
    "step": (
        StepDecay(0.1, decay_rate=0.3, transition_steps=17),
        200, 0.1, lambda s, o: s.StepLR(o, step_size=17, gamma=0.3),
    ),
    "piecewise": (
        Piecewise([0.1 * 0.2**k for k in range(4)], boundaries=[1, 30, 80]),
        100, 0.1, lambda s, o: s.MultiStepLR(o, milestones=[1, 30, 80], gamma=0.2),
    ),
    "exponential": (
        Exponential(0.1, decay_rate=0.97, transition_steps=1),
        500, 0.1, lambda s, o: s.ExponentialLR(o, gamma=0.97),
    ),
    "polynomial": (
        Polynomial(0.1, transition_steps=150, power=1.7),
        200, 0.1, lambda s, o: s.PolynomialLR(o, total_iters=150, power=1.7),
    ),
    "cosine": (
        Cosine(0.1, transition_steps=300),
        301, 0.1, lambda s, o: s.CosineAnnealingLR(o, T_max=300),
    ),
    "cosine, to a minimum": (
        Cosine(0.1, end_value=0.003, transition_steps=300),
        301, 0.1, lambda s, o: s.CosineAnnealingLR(o, T_max=300, eta_min=0.003),
    ),
    "warm-up, cosine": (
        WarmupCosine(
            0.1, init_value=0.1 * 0.01, end_value=0.001, warmup_steps=40, total_steps=240
        ),
        241, 0.1, lambda s, o: s.SequentialLR(
            o,
            [s.LinearLR(o, 0.01, total_iters=40), s.CosineAnnealingLR(o, 200, eta_min=0.001)],
            milestones=[40],
        ),
    ),
    "join": (
        Join(
            [Constant(0.2 * 0.5), Exponential(0.2, decay_rate=0.9, transition_steps=1)],
            boundaries=[20],
        ),
        80, 0.2, lambda s, o: s.SequentialLR(
            o, [s.ConstantLR(o, 0.5, total_iters=20), s.ExponentialLR(o, 0.9)], milestones=[20]
        ),
    ),
    "one cycle": (
        OneCycle(0.5, total_steps=250),
        250, 0.1, lambda s, o: s.OneCycleLR(o, 0.5, 250, cycle_momentum=False),
    ),
    "one cycle, linear, peak between steps": (
        OneCycle(
            0.5, total_steps=97, pct_start=0.31, anneal_strategy="linear", div_factor=7,
            final_div_factor=100,
        ),
        97, 0.1, lambda s, o: s.OneCycleLR(
            o, 0.5, 97, pct_start=0.31, anneal_strategy="linear", div_factor=7,
            final_div_factor=100, cycle_momentum=False,
        ),
    ),
    "one cycle, three phases": (
        OneCycle(0.5, total_steps=203, pct_start=0.37, three_phase=True),
        203, 0.1, lambda s, o: s.OneCycleLR(
            o, 0.5, 203, pct_start=0.37, three_phase=True, cycle_momentum=False
        ),
    ),
    "one cycle, three phases, linear": (
        OneCycle(
            0.5, total_steps=200, pct_start=0.5, anneal_strategy="linear", three_phase=True
        ),
        200, 0.1, lambda s, o: s.OneCycleLR(
            o, 0.5, 200, pct_start=0.5, anneal_strategy="linear", three_phase=True,
            cycle_momentum=False,
        ),
    ),
}  # fmt: skip


def torch_values(make: Callable[[Any, Any], Any], lr: float, steps: int) -> NDArray[np.float64]:
    torch = needs_torch()
    rates = []
    with warnings.catch_warnings():  # torch's about itself: steps before steps, its own epochs
        warnings.simplefilter("ignore")
        opt = torch.optim.SGD([torch.zeros(1)], lr=lr)
        scheduler = make(torch.optim.lr_scheduler, opt)
        for _ in range(steps):
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
    return np.array(rates)


@pytest.mark.parametrize("case", TORCH)
def test_the_values_are_torchs(case: str) -> None:
    schedule, steps, lr, make = TORCH[case]
    theirs = torch_values(make, lr, steps)
    # Near 0 what is left of a cosine is its rounding, in torch and here.
    np.testing.assert_allclose(
        values(schedule, steps), theirs, rtol=1e-12, atol=1e-15 * theirs.max()
    )


# Beside optax, which computes in float32.

OPTAX: dict[str, tuple[Schedule, int, Callable[[Any], Any]]] = {
    "constant": (Constant(0.3), 20, lambda o: o.constant_schedule(0.3)),
    "linear": (
        Linear(0.01, end_value=0.2, transition_steps=70),
        100, lambda o: o.linear_schedule(0.01, 0.2, 70),
    ),
    "linear, later": (
        Linear(0.2, end_value=0.05, transition_steps=70, transition_begin=11),
        100, lambda o: o.linear_schedule(0.2, 0.05, 70, transition_begin=11),
    ),
    "piecewise": (
        Piecewise([0.1, 0.05, 0.1], boundaries=[30, 80]),
        100, lambda o: o.piecewise_constant_schedule(0.1, {80: 2.0, 30: 0.5}),
    ),
    "exponential": (
        Exponential(0.1, decay_rate=0.9, transition_steps=10, transition_begin=5),
        200, lambda o: o.exponential_decay(0.1, 10, 0.9, transition_begin=5),
    ),
    "exponential, to an end": (
        Exponential(0.1, decay_rate=0.9, transition_steps=10, end_value=0.04),
        200, lambda o: o.exponential_decay(0.1, 10, 0.9, end_value=0.04),
    ),
    "exponential, up to an end": (
        Exponential(0.1, decay_rate=1.3, transition_steps=10, end_value=0.9),
        200, lambda o: o.exponential_decay(0.1, 10, 1.3, end_value=0.9),
    ),
    "step": (
        StepDecay(0.1, decay_rate=0.5, transition_steps=30, transition_begin=8),
        200, lambda o: o.exponential_decay(0.1, 30, 0.5, transition_begin=8, staircase=True),
    ),
    "step, to an end": (
        StepDecay(0.1, decay_rate=0.5, transition_steps=30, end_value=0.03),
        200, lambda o: o.exponential_decay(0.1, 30, 0.5, staircase=True, end_value=0.03),
    ),
    "polynomial": (
        Polynomial(0.1, end_value=0.01, transition_steps=90, power=2.5, transition_begin=13),
        120, lambda o: o.polynomial_schedule(0.1, 0.01, 2.5, 90, transition_begin=13),
    ),
    "cosine": (
        Cosine(0.1, transition_steps=100), 120, lambda o: o.cosine_decay_schedule(0.1, 100),
    ),
    "cosine, alpha and exponent": (
        Cosine(0.1, end_value=0.02, transition_steps=100, exponent=1.5),
        120, lambda o: o.cosine_decay_schedule(0.1, 100, alpha=0.2, exponent=1.5),
    ),
    "warm-up, cosine": (
        WarmupCosine(0.1, warmup_steps=20, total_steps=120),
        140, lambda o: o.warmup_cosine_decay_schedule(0.0, 0.1, 20, 120),
    ),
    "warm-up, cosine, all arguments": (
        WarmupCosine(
            0.1, init_value=0.02, end_value=0.01, warmup_steps=20, total_steps=120, exponent=2
        ),
        140, lambda o: o.warmup_cosine_decay_schedule(0.02, 0.1, 20, 120, 0.01, exponent=2.0),
    ),
    "join": (
        Join(
            [
                Linear(0.0, end_value=0.1, transition_steps=10),
                Constant(0.1),
                Exponential(0.1, decay_rate=0.5, transition_steps=20),
            ],
            boundaries=[10, 50],
        ),
        120, lambda o: o.join_schedules(
            [
                o.linear_schedule(0.0, 0.1, 10),
                o.constant_schedule(0.1),
                o.exponential_decay(0.1, 20, 0.5),
            ],
            [10, 50],
        ),
    ),
    "one cycle, as a join": (
        Join(
            [
                Cosine(0.1 / 25, end_value=0.1, transition_steps=30),
                Cosine(0.1, end_value=0.1 / 25 / 1e4, transition_steps=70),
            ],
            boundaries=[30],
        ),
        120, lambda o: o.cosine_onecycle_schedule(100, 0.1),
    ),
    "linear one cycle, as a join": (
        Join(
            [
                Linear(0.1 / 25, end_value=0.1, transition_steps=30),
                Linear(0.1, end_value=0.1 / 25, transition_steps=55),
                Linear(0.1 / 25, end_value=0.1 / 25 / 1e4, transition_steps=15),
            ],
            boundaries=[30, 85],
        ),
        120, lambda o: o.linear_onecycle_schedule(100, 0.1),
    ),
}  # fmt: skip


def optax_values(make: Callable[[Any], Any], steps: int) -> NDArray[np.float64]:
    optax = needs("optax")
    jax = needs("jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rates = jax.vmap(make(optax))(np.arange(steps, dtype=np.int32))
    return np.broadcast_to(np.asarray(rates, np.float64), steps)


@pytest.mark.parametrize("case", OPTAX)
def test_the_values_are_optaxs(case: str) -> None:
    schedule, steps, make = OPTAX[case]
    theirs = optax_values(make, steps)
    np.testing.assert_allclose(values(schedule, steps), theirs, rtol=3e-6, atol=3e-7 * theirs.max())


def test_schedules_of_optax_can_be_joined() -> None:
    optax = needs("optax")
    schedule = Join([Constant(0.5), optax.linear_schedule(1.0, 0.0, 4)], boundaries=[2])
    rates = [schedule(step) for step in range(7)]
    assert rates == [0.5, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert {type(rate) for rate in rates} == {float}
