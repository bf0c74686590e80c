"""Real trainings: a report names the illness of the ill ones, and nothing of the healthy ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.monitor import History, Monitor
from fused_rmsprop.monitor.rules import AT_ONCE, RULES, report
from fused_rmsprop.schedules import Cosine, WarmupCosine
from support import Array
from trainings_support import (
    constant,
    digits,
    network,
    quadratic,
    regression,
    train,
    word_counts,
)


def demo(**options: Any) -> History:
    return train(network(), 300, **{"lr": 5e-4, "alpha": 0.9, **options})


def by_epochs(step: int) -> float:
    """The schedule of the demo, for ten epochs."""
    return 5e-4 * (1 - (step // 28) / 10)


def logistic(dtype: Any = np.float32) -> Any:
    return network((64, 10), gain=0.0, dtype=dtype)


def two_half_circles() -> Any:
    """The page for a start with NumPy: one hidden layer, batches of 100."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, 500)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([upper, [1, 0.5] - upper]) + 0.1 * rng.standard_normal((1000, 2))
    data = np.asarray(points, np.float32), np.repeat([0, 1], 500)
    return network((2, 32, 2), "tanh", data=data, batch=100)


def straight_line(lr: float, steps: int = 300) -> History:
    """Linear regression without noise, in full batches."""
    return train(regression(noise=0), steps, lr=lr, alpha=0.99, schedule=constant(lr))


def guide() -> History:
    """The example of docs/training.md, whose loss nobody logs; it converges to 1e-11."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 3))
    y, params = x @ [2.0, -3.0, 0.5] + 1, {"w": np.zeros(3), "b": np.zeros(1)}

    def next_batch() -> tuple[float, Any]:
        error = x @ params["w"] + params["b"] - y
        return 0.0, {"w": x.T @ error / 1000, "b": error.mean(keepdims=True)}

    lr = WarmupCosine(0.05, warmup_steps=20, total_steps=400)
    return unlogged(train((params, next_batch), 400, lr=0.05, schedule=lr, max_grad_norm=1.0))


def unlogged(history: History) -> History:
    return replace(history, logged={})


def few_digits() -> tuple[Array, Array]:
    x, labels = digits(np.float32)
    return x[:96], labels[:96]


HEALTHY: dict[str, Callable[[], History]] = {
    "the demo": lambda: train(network(), 280, alpha=0.9, lr=5e-4, schedule=by_epochs),
    "the demo in float64": lambda: train(
        network(dtype=np.float64), 280, alpha=0.9, lr=5e-4, schedule=by_epochs
    ),
    "torch's alpha and a constant lr": lambda: train(
        network(), 200, lr=5e-4, schedule=constant(5e-4)
    ),
    "bias correction": lambda: train(network(), 300, lr=1e-3, bias_correction=True),
    "centered, warm-up": lambda: train(
        network(),
        300,
        lr=1e-3,
        centered=True,
        schedule=WarmupCosine(peak_value=1e-3, warmup_steps=30, total_steps=300),
    ),
    "alpha=0.999, warm-up": lambda: train(
        network(),
        300,
        lr=1e-3,
        alpha=0.999,
        schedule=WarmupCosine(peak_value=1e-3, warmup_steps=100, total_steps=300),
    ),
    "momentum, clipping": lambda: demo(lr=1e-4, momentum=0.9, nesterov=True, max_grad_norm=1.0),
    "clipping of each array": lambda: demo(max_grad_norm_per_array=0.5),
    "weight decay, batches of 8": lambda: train(
        network(batch=8), 300, lr=1e-3, alpha=0.9, weight_decay=1e-3
    ),
    "full batches": lambda: train(network(data=few_digits(), batch=96), 150, lr=1e-3, alpha=0.9),
    "tanh": lambda: train(network(activation="tanh"), 300, lr=1e-3, alpha=0.9),
    "20 layers of tanh": lambda: train(
        network((64, *[32] * 19, 10), "tanh"), 200, lr=3e-4, alpha=0.9
    ),
    "sigmoid": lambda: train(network((64, 64, 10), "sigmoid"), 300, lr=3e-3, alpha=0.9),
    "logistic regression": lambda: train(logistic(), 300, lr=5e-3, alpha=0.9),
    "logistic regression at a constant lr": lambda: train(
        logistic(np.float64), 600, lr=5e-3, alpha=0.9, schedule=constant(5e-3)
    ),
    "noisy regression, momentum": lambda: train(regression(), 300, lr=2e-3, momentum=0.9),
    "noisy regression at a constant lr": lambda: train(
        regression(), 600, lr=5e-3, schedule=constant(5e-3)
    ),
    "counts of words": lambda: train(
        network((500, 5), gain=0.0, data=word_counts()), 200, lr=1e-2, alpha=0.9
    ),
    "every step": lambda: demo(every=1),
    "the start page": lambda: train(
        two_half_circles(), 1000, lr=0.02, schedule=Cosine(0.02, transition_steps=1000)
    ),
    "logistic regression, torch's defaults": lambda: train(
        logistic(), 300, lr=1e-2, schedule=constant(1e-2)
    ),
    "alpha=0.999 without warm-up, lr=1e-3": lambda: demo(alpha=0.999, lr=1e-3),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_has_an_empty_report(name: str) -> None:
    history = HEALTHY[name]()
    losses = history.logged["loss"].values
    assert losses[-20:].mean() < 0.6 * losses[:5].mean()  # it is healthy indeed
    assert str(report(history)) == "nothing unusual was seen"


@pytest.mark.parametrize(
    "run", [HEALTHY["the start page"], HEALTHY["the demo"], HEALTHY["logistic regression"], guide]
)
def test_a_healthy_training_has_an_empty_report_without_a_loss(run: Callable[[], History]) -> None:
    assert str(report(unlogged(run()))) == "nothing unusual was seen"


def nan_in_step_101(step: int, params: Any, grads: Any) -> None:
    if step == 100:
        grads[1]["W"][:, 0] = np.nan  # a single element may not be in the sample


def no_gradient(step: int, params: Any, grads: Any) -> None:
    grads[2]["b"] = None


def zero_gradient(step: int, params: Any, grads: Any) -> None:
    grads[2]["b"][:] = 0


def wrong_sign(step: int, params: Any, grads: Any) -> None:
    for layer in grads:
        for grad in layer.values():
            grad *= -1


def larger_inputs_later(step: int, params: Any, grads: Any) -> None:
    if step >= 150:
        for layer in grads:
            for grad in layer.values():
                grad *= 1e4


def most_units_die(step: int, params: Any, grads: Any) -> None:
    if step == 60:
        params[0]["b"][:45] = -100


def a_layer_dies(step: int, params: Any, grads: Any) -> None:
    if step == 100:
        params[1]["b"][:] = -1000


def first_layer_saturates(step: int, params: Any, grads: Any) -> None:
    if step == 60:
        params[0]["b"] += np.where(np.arange(64) % 2, 9.0, -9.0)


def born_dead() -> Any:
    params, next_batch = network()
    params[1]["b"] -= 50
    return params, next_batch


def sigmoid_outputs() -> Any:
    """A layer of sigmoid units that learns one output of ten by squares."""
    x, labels = digits(np.float64)
    rng = np.random.default_rng(0)
    params, targets = [{"W": np.zeros((64, 10)), "b": np.zeros(10)}], np.eye(10)[labels]

    def next_batch() -> tuple[float, Any]:
        rows = rng.choice(len(x), 64, replace=False)
        outputs = np.exp(-np.logaddexp(0, -(x[rows] @ params[0]["W"] + params[0]["b"])))
        error = outputs - targets[rows]
        delta = error * outputs * (1 - outputs) / 64
        loss = float(np.mean(np.sum(error**2, axis=1)))
        return loss, [{"W": x[rows].T @ delta, "b": delta.sum(axis=0)}]

    return params, next_batch


def outputs_saturate(step: int, params: Any, grads: Any) -> None:
    if step == 60:
        params[0]["b"] += 30


# The rule, the parameter, and what else the finding says.
ILL: dict[str, tuple[Callable[[], History], str, str, str]] = {
    "one NaN": (
        lambda: demo(accident=nan_in_step_101),
        *("nonfinite_gradients", "1.W", "first seen in step 101"),
    ),
    "no gradient": (
        lambda: demo(accident=no_gradient),
        *("dead_leaves", "2.b", "no gradient in any of 30 points"),
    ),
    "a gradient of zero": (
        lambda: demo(accident=zero_gradient),
        *("dead_leaves", "2.b", "gradient is zero in all 30 points"),
    ),
    "a dead layer": (
        lambda: train(born_dead(), 200, lr=5e-4, alpha=0.9),
        *("dead_leaves", "0.W ... 2.W (5 leaves)", "are its units dead?"),
    ),
    "lr x 100": (lambda: demo(lr=5e-2), "large_updates", "", "lower lr (0.05 -> 0.002)"),
    "lr x 100, alpha=0.99": (
        lambda: demo(alpha=0.99, lr=5e-2),
        *("large_updates", "", "lower lr (0.05 -> 0.002)"),
    ),
    "lr x 100 without a schedule": (
        lambda: demo(lr=5e-2, schedule=constant(5e-2)),
        *("large_updates", "", "lower lr (0.05 -> 0.002)"),
    ),
    "lr / 100": (lambda: demo(lr=5e-6), "small_updates", "", "raise lr (5e-6 -> "),
    "lr / 1e6": (lambda: demo(lr=5e-10), "small_updates", "", "lost to rounding in float32"),
    "lr / 1e6 in float64": (
        lambda: train(network(dtype=np.float64), 200, lr=5e-10, alpha=0.9),
        *("small_updates", "", "raise lr (5e-10 -> "),
    ),
    "alpha=0.999 without warm-up": (
        lambda: demo(alpha=0.999, lr=3e-3),
        *("long_first_steps", "", "and the loss jumps; warm up over 1000 steps, or set"),
    ),
    "torch's defaults": (
        lambda: train(network(), 200, lr=1e-2, schedule=constant(1e-2)),
        *("long_first_steps", "", "first steps are 10 times too long: they move the weights by 4"),
    ),
    "a wrong sign in a network": (
        lambda: train(network(), 200, wrong_sign, lr=1e-3, schedule=constant(1e-3)),
        *("rising_loss", "", "the first, to "),
    ),
    "weights of zero": (
        lambda: train(network(gain=0.0), 200, lr=1e-3, alpha=0.9),
        *("zero_weights", "0.W ... 2.W (3 leaves)", "weights start at zero: layers behind"),
    ),
    "weights of zero, sigmoid": (
        lambda: train(network(gain=0.0, activation="sigmoid"), 200, lr=1e-3),
        *("zero_weights", "0.W ... 2.W (3 leaves)", "weights start at zero: layers behind"),
    ),
    "20 layers of tanh, too large weights": (
        lambda: train(network((64, *[32] * 19, 10), "tanh", gain=20), 200, lr=1e-3),
        *("exploding_from_the_start", " leaves)", "times those of 19.W from the beginning"),
    ),
    "20 layers of ReLU, too large weights": (
        lambda: train(network((64, *[32] * 19, 10), gain=12), 200, lr=1e-3),
        *("exploding_from_the_start", "", "from the beginning: scale inputs and targets"),
    ),
    "40 layers of ReLU, too large weights": (
        lambda: train(network((64, *[32] * 39, 10), gain=36), 200, lr=1e-3),
        *("overflowing_squares", " leaves)", "overflow in float32"),
    ),
    "a linear model, lr / 100": (
        lambda: straight_line(3e-4),
        *("stalled_loss", "", "successive updates agree: try a larger lr (0.0003 -> 0.003)"),
    ),
    "lr / 100 at a constant lr": (
        lambda: train(network(), 300, lr=1e-5, schedule=constant(1e-5)),
        *("small_updates", "", "raise lr (1e-5 -> "),
    ),
    "a wrong sign": (
        lambda: train(logistic(), 200, wrong_sign, lr=5e-3, alpha=0.9, schedule=constant(5e-3)),
        *("rising_loss", "", "check the sign of the gradient"),
    ),
    "larger inputs later": (
        lambda: demo(accident=larger_inputs_later),
        *("exploding_gradients", "", "from step 151 on: clip it (max_grad_norm="),
    ),
    "dead units": (
        lambda: demo(accident=most_units_die),
        *("dying_units", "0.W and 1.W", "units die"),
    ),
    "a layer that dies": (
        lambda: demo(accident=a_layer_dies),
        *("dying_units", "0.W ... 2.W (3 leaves)", "to 100 %"),
    ),
    "a saturated layer": (
        lambda: train(
            network(activation="tanh", dtype=np.float64),
            *(300, first_layer_saturates),
            lr=1e-3,
            alpha=0.9,
        ),
        *("vanishing_gradients", "0.W and 0.b", "of their first size: they vanish"),
    ),
    "a saturated output": (
        lambda: train(sigmoid_outputs(), 300, outputs_saturate, lr=1e-3, alpha=0.9),
        *("vanishing_gradients", "", "but the loss stays high"),
    ),
    "20 layers of tanh, too small weights": (
        lambda: train(network((64, *[32] * 19, 10), "tanh", gain=0.05), 200, lr=1e-4, alpha=0.9),
        *("vanishing_over_depth", " leaves)", "of those of 19.b from the beginning"),
    ),
    "clipped at 1e-6": (
        lambda: demo(max_grad_norm=1e-6),
        *("always_clipped", "", "max_grad_norm=1e-6 clips 100 % of the steps"),
    ),
    "eps=1": (
        lambda: demo(eps=1.0),
        *("eps_dominates", "", "the step is that of SGD with lr 0.0005; lower eps (1 -> 1e-8)"),
    ),
    "eps=1 with a suitable lr": (
        lambda: demo(eps=1.0, lr=0.5),
        *("eps_dominates", "", "SGD with lr 0.5"),
    ),
    "a valley": (
        lambda: train(quadratic(), 200, lr=0.1, alpha=0.9, schedule=constant(0.1)),
        *("oscillation", "", "loss stalls: 100 % of all updates reverse, with a cosine of -1.0"),
    ),
    "a valley, lr falls": (
        lambda: train(quadratic(), 200, lr=0.1, alpha=0.9),
        *("oscillation", "", "loss falls, but 100 % of all updates reverse"),
    ),
    "a constant lr on separable classes": (
        lambda: train(
            network((500, 5), gain=0.0, data=word_counts()),
            200,
            lr=3e-3,
            alpha=0.9,
            schedule=constant(3e-3),
        ),
        *("growing_effective_lr", "", "schedule lr, from 0.003 to 3e-5 or 0"),
    ),
    "noise at a constant lr": (
        lambda: train(regression(noise=2), 1500, lr=0.02, alpha=0.9, schedule=constant(0.02)),
        *("stalled_loss", "", "at a constant lr: lower it (0.02 -> 0.002"),
    ),
    "a linear model, lr / 1000": (
        lambda: train(logistic(), 200, lr=5e-6, alpha=0.9),
        *("stalled_loss", "", "successive updates agree: try a larger lr (5e-6 -> 5e-5)"),
    ),
    "twenty steps": (
        lambda: train(network(), 20, lr=5e-4, alpha=0.9),
        *("too_few_points", "", "2 points up to step 11 are too few"),
    ),
}


@pytest.mark.parametrize("name", ILL)
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # one NaN
def test_the_report_names_the_illness_and_nothing_else(name: str) -> None:
    run, rule, where, text = ILL[name]
    (finding,) = report(run())
    assert finding.rule == rule
    assert finding.where == where or (where.startswith(" ") and finding.where.endswith(where))
    assert text in finding.text


def test_every_rule_has_an_ill_training() -> None:
    tested = {rule for _, rule, _, _ in ILL.values()}
    assert {rule.__name__ for rule in (*AT_ONCE, *RULES)} - tested == {"nonfinite_loss"}


def test_a_skipped_nan_is_healthy() -> None:
    assert not report(demo(accident=nan_in_step_101, on_nonfinite="skip"))


def test_one_group_with_a_learning_rate_of_its_own_is_named() -> None:
    params, next_batch = network()
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05, "name": "head"}]

    def batch() -> tuple[float, Any]:
        loss, grads = next_batch()
        return loss, [grads[:2], grads[2:]]

    opt = RMSProp(groups, lr=5e-4, alpha=0.9)
    with Monitor(opt) as monitor:
        for _ in range(200):
            opt.step(batch()[1])
    (finding,) = report(monitor.history)
    assert (finding.rule, finding.where) == ("large_updates", "head.0.W")
    assert "lower lr (0.05 -> 0.002)" in finding.text


def test_a_limit_that_is_set_in_mid_training_is_no_error() -> None:
    params, next_batch = network()
    opt = RMSProp(params, lr=5e-4, alpha=0.9)
    with Monitor(opt) as monitor:
        opt.max_grad_norm = 1e-6
        for _ in range(100):
            opt.step(next_batch()[1])
    (finding,) = report(monitor.history)
    assert finding.rule == "always_clipped"
