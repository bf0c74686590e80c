"""The options of `RMSProp`: defaults, combinations, bias correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from reference import initial_state, rmsprop, same_bits
from support import draw


def test_the_defaults_are_torchs() -> None:
    group = RMSProp(np.ones(2)).param_groups[0]
    assert {k: v for k, v in group.items() if k != "params"} == {
        "lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0,
        "centered": False, "nesterov": False, "maximize": False, "eps_inside_sqrt": False,
        "lr_in_momentum": False, "decoupled_weight_decay": False, "initial_square_avg": 0.0,
        "bias_correction": False, "ema_decay": 0.0,
    }  # fmt: skip
    positional = RMSProp(np.ones(2), 0.1, 0.9, 1e-6, 0.02, 0.5, True)
    wanted = {"lr": 0.1, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.02, "momentum": 0.5}
    assert positional.param_groups[0].options().items() >= (wanted | {"centered": True}).items()


def test_options_are_not_attributes() -> None:
    opt = RMSProp(np.ones(2))
    with pytest.raises(AttributeError, match=r"param_groups\[0\]\['momentum'\] = 0.9"):
        opt.momentum = 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nesterov": True}, "nesterov needs momentum > 0"),
        ({"bias_correction": True, "initial_square_avg": 1.0}, "it has no meaning with"),
        ({"initial_square_avg": -1.0}, "initial_square_avg must be >= 0 and finite in float32"),
        ({"initial_square_avg": 1e39}, "initial_square_avg must be >= 0 and finite in float32"),
        ({"initial_square_avg": float("nan")}, "initial_square_avg must be >= 0"),
        ({"ema_decay": 1.0}, "ema_decay must be >= 0 and < 1"),
        (
            {"lr": 1e20, "weight_decay": 1e20, "decoupled_weight_decay": True},
            r"lr \* weight_decay=1e\+40 overflows in float32",
        ),
    ],
)
def test_combinations_without_a_meaning_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RMSProp(np.ones(2, np.float32), **options)


def test_threads_and_flush_denormals_can_be_changed() -> None:
    opt = RMSProp(draw(3), threads=2)
    assert opt.threads == 2
    opt.threads = None
    assert opt.threads is None
    opt.flush_denormals = False
    opt.param_groups[0]["eps"] = 1e-40
    with pytest.raises(ValueError, match="subnormal"):
        opt.flush_denormals = True
    assert opt.flush_denormals is False


def test_a_denormal_is_zero_or_is_not() -> None:
    tiny = np.full(100, 1e-40, np.float32)
    for flush in (True, False):
        p = np.zeros(100, np.float32)
        RMSProp(p, eps=1e-8, lr=1.0, flush_denormals=flush).step(tiny)
        assert p.any() != flush


def test_bias_correction_is_that_of_the_averages() -> None:
    """The kept average is ``v / (1 - alpha**t)``, and the variance that of corrected averages."""
    p, alpha = draw(50, dtype=np.float64), 0.9
    plain = RMSProp(p.copy(), alpha=alpha, bias_correction=True)
    centered = RMSProp(p.copy(), alpha=alpha, bias_correction=True, centered=True)
    v, m = np.zeros(50), np.zeros(50)
    for t in range(1, 30):
        g = draw(50, dtype=np.float64)
        v, m = alpha * v + (1 - alpha) * g * g, alpha * m + (1 - alpha) * g
        plain.step(g)
        centered.step(g)
        share = 1 - alpha**t
        np.testing.assert_allclose(plain.state["param"]["square_avg"], v / share, rtol=1e-13)
        state = centered.state["param"]
        np.testing.assert_allclose(state["grad_avg"], m / share, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            state["variance"], v / share - (m / share) ** 2, rtol=1e-11, atol=1e-14
        )


def test_bias_correction_counts_the_steps_of_each_parameter() -> None:
    options: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "bias_correction": True}
    a, b = draw(3), draw(3)
    expected = [(a.copy(), initial_state(a)), (b.copy(), initial_state(b))]
    opt = RMSProp([a, b], **options)
    for t in range(5):
        grads: list[Any] = [draw(3), None if t < 2 else draw(3)]
        opt.step(grads)
        for i, g in enumerate(grads):
            if g is not None:
                expected[i] = rmsprop(expected[i][0], g, expected[i][1], **options)
    assert same_bits(a, expected[0][0])
    assert same_bits(b, expected[1][0])
