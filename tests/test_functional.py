"""`rmsprop_step`: one step on plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, rmsprop_step
from reference import initial_state, rmsprop, same_bits
from support import draw, read_only

OPTIONS: dict[str, Any] = {"lr": 0.013, "alpha": 0.93, "eps": 1e-7}


@pytest.mark.parametrize("threads", [1, 2, None])
def test_rmsprop_step_is_the_same_update(threads: int | None) -> None:
    options: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.9}
    options["centered"] = True
    p = np.asfortranarray(draw(300, 200))
    q = p.copy(order="K")
    state = {k: np.zeros_like(p) for k in ("square_avg", "momentum_buffer", "grad_avg")}
    opt = RMSProp(q, **options)
    for _ in range(3):
        g = draw(300, 200)
        rmsprop_step(p, g, **(state | options), threads=threads)
        opt.step(g)
    assert same_bits(p, q)
    assert same_bits(state["square_avg"], opt.state["param"]["variance"])


def test_guard_bytes_around_params_and_state() -> None:
    options: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.9}
    options["centered"] = True
    names = ("param", "grad", "square_avg", "momentum_buffer", "grad_avg")
    for dtype in (np.float32, np.float64):
        for size in (*range(70), 1023, 1024, 1025, 50_001):
            buffers = {k: np.full(size + 40, 9, dtype) for k in names}
            start = {k: 16 + (5 * i + size) % 16 for i, k in enumerate(names)}
            arrays = {k: b[start[k] : start[k] + size] for k, b in buffers.items()}
            for k, array in arrays.items():
                array[...] = draw(size) if k in ("param", "grad") else abs(draw(size))
            before = {k: a.copy() for k, a in arrays.items()}
            state = {k: before[k] for k in names[2:]}
            expected, state = rmsprop(before["param"], before["grad"], state, **options)
            rmsprop_step(**(arrays | options), threads=2)
            assert same_bits(arrays["param"], expected)
            assert all(same_bits(arrays[k], state[k]) for k in names[2:])
            for k, buffer in buffers.items():
                assert (buffer[: start[k]] == 9).all()
                assert (buffer[start[k] + size :] == 9).all()


def test_rmsprop_step_scales_and_limits() -> None:
    p, g = draw(300), draw(300)
    state = initial_state(p)
    wanted, new = rmsprop(
        p, g, state, **OPTIONS, ema_decay=0.9, grad_scale=2.0, max_grad_value=0.8,
        bias_correction=True,
    )  # fmt: skip
    rmsprop_step(
        p, g, state["square_avg"], **OPTIONS, ema_decay=0.9, param_avg=state["param_avg"],
        grad_scale=2.0, max_grad_value=0.8, bias_correction=True, step=0,
    )  # fmt: skip
    assert same_bits(p, wanted)
    assert same_bits(state["param_avg"], new["param_avg"])
    with pytest.raises(ValueError, match=r"ema_decay > 0 needs param_avg.*a copy of the parameter"):
        rmsprop_step(p, g, state["square_avg"], **OPTIONS, ema_decay=0.9)
    with pytest.raises(ValueError, match="step must be"):
        rmsprop_step(p, g, state["square_avg"], **OPTIONS, step=-1)
    with pytest.raises(TypeError, match="lr must be a number here"):
        rmsprop_step(p, g, state["square_avg"], lr=lambda t: 0.1, alpha=0.9, eps=1e-8)  # type: ignore[arg-type]


def test_rmsprop_step_misuse() -> None:
    def refused(message: str, error: type[Exception] = ValueError, **changes: Any) -> None:
        arrays: dict[str, Any] = {
            k: np.ones((2, 3)) for k in ("param", "grad", "square_avg", "momentum_buffer")
        }
        arrays |= changes
        before = {k: np.array(v) for k, v in arrays.items()}
        with pytest.raises(error, match=message):
            rmsprop_step(**arrays, lr=0.1, alpha=0.9, eps=1e-8, momentum=0.9)
        assert all(np.array_equal(before[k], v) for k, v in arrays.items())

    shared = np.ones((2, 3))
    refused("param and square_avg share memory", param=shared, square_avg=shared)
    refused("grad shares memory with momentum_buffer", grad=shared, momentum_buffer=shared)
    refused("square_avg has dtype float32", TypeError, square_avg=np.ones((2, 3), np.float32))
    refused("square_avg is read-only", square_avg=read_only(shared))
    refused("square_avg and param have their .* different orders", square_avg=np.ones((3, 2)).T)
    refused("momentum > 0 needs momentum_buffer", momentum_buffer=None)
    refused("grad has shape", grad=np.ones((3, 2)))
    with pytest.raises(ValueError, match="centered=True needs grad_avg"):
        rmsprop_step(
            shared, np.ones((2, 3)), np.ones((2, 3)), lr=0.1, alpha=0.9, eps=1e-8, centered=True
        )
