"""What a training loop needs around the step: options over time, averages, readings, presets."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fused_rmsprop import PRESETS, RMSProp, schedules
from fused_rmsprop.param_group import ParamGroup
from reference import initial_state, rmsprop, same_bits

Array = NDArray[Any]
RNG = np.random.default_rng(31)


def draw(*shape: int, dtype: type[Any] = np.float32) -> Array:
    return np.asarray(RNG.standard_normal(shape), dtype)


def halved(step: int) -> float:
    return 0.1 * 0.5**step


# Functions of the step


def test_functions_of_the_step_give_the_bits_of_numbers() -> None:
    functions: dict[str, Any] = {
        "lr": schedules.Cosine(0.1, transition_steps=5),
        "momentum": lambda t: 0.5 + 0.05 * t,
        "weight_decay": lambda t: 0.01 * t,
    }
    p = draw(300)
    expected, state = p.copy(), initial_state(p)
    opt = RMSProp(p, alpha=0.9, **functions)
    for t in range(8):
        assert opt.step_count == t
        assert opt.lr == functions["lr"](t)
        g = draw(300)
        opt.step(g)
        values: dict[str, Any] = {name: function(t) for name, function in functions.items()}
        expected, state = rmsprop(expected, g, state, alpha=0.9, eps=1e-8, **values)
        assert same_bits(p, expected)
    assert opt.param_groups[0]["lr"] is functions["lr"]


def test_skipped_and_refused_steps_do_not_count() -> None:
    seen: list[int] = []

    def lr(step: int) -> float:
        seen.append(step)
        return 0.1

    p = draw(3)
    opt = RMSProp(p, lr=lr, on_nonfinite="skip")
    opt.step(np.full(3, np.nan, np.float32))
    with pytest.raises(ValueError, match="grads"):
        opt.step(draw(4))
    for _ in range(3):
        opt.step(draw(3))
        assert opt.lr == 0.1
    assert seen == [0, 1, 2, 3]  # once for each step


def test_each_group_has_its_own_functions() -> None:
    a, b, c = draw(5), draw(5), draw(5)
    start = [a.copy(), b.copy(), c.copy()]
    opt = RMSProp(
        [{"params": a, "lr": halved}, {"params": b}, {"params": c, "lr": lambda t: 1.0 + t}],
        lr=0.25,
    )
    with pytest.raises(ValueError, match=r"differ in lr: \[0.1, 0.25, 1.0\]"):
        _ = opt.lr
    grads = [draw(5), draw(5), draw(5)]
    opt.step(grads)
    for p, g, p0, lr in zip((a, b, c), grads, start, (0.1, 0.25, 1.0), strict=True):
        assert same_bits(p, rmsprop(p0, g, initial_state(p0), lr=lr, alpha=0.99, eps=1e-8)[0])
    opt.lr = halved
    assert opt.lr == 0.05
    opt.lr = 0.5
    assert opt.lr == 0.5


def test_what_a_function_returns_is_checked_before_anything_changes() -> None:
    p = draw(3)
    opt = RMSProp(p, lr=lambda t: 0.1 if t < 2 else -1.0)
    opt.step(draw(3))
    opt.step(draw(3))
    before, state = p.copy(), opt.state_dict()
    with pytest.raises(
        ValueError, match=r"param_groups\[0\], by lr\(2\): lr must be finite and >= 0"
    ):
        opt.step(draw(3))
    assert same_bits(p, before)
    assert opt.state_dict()["counters"] == state["counters"]
    opt.lr = 0.1
    opt.step(draw(3))
    with pytest.raises(TypeError, match=r"lr\(3\) must be a number, got 'x'"):
        opt.lr = lambda t: "x"  # type: ignore[assignment, return-value]
    assert opt.lr == 0.1
    with pytest.raises(TypeError, match="lr is the class Constant: pass an instance"):
        opt.lr = schedules.Constant  # type: ignore[assignment]
    with pytest.raises(TypeError, match="alpha must be a number, got"):
        RMSProp(p, alpha=lambda t: 0.9)  # type: ignore[arg-type]


def test_momentum_may_start_from_zero() -> None:
    p = draw(20)
    expected, state = p.copy(), initial_state(p)
    momentum = schedules.Linear(0.0, end_value=0.8, transition_steps=4)
    opt = RMSProp(p, momentum=momentum, nesterov=True)
    for t in range(6):
        g = draw(20)
        opt.step(g)
        expected, state = rmsprop(
            expected, g, state, lr=0.01, alpha=0.99, eps=1e-8, momentum=momentum(t), nesterov=True
        )
        assert same_bits(p, expected)


def test_schedules_survive_copies_and_state_dicts() -> None:
    p = draw(10)
    opt = RMSProp(p, lr=schedules.Exponential(0.1, decay_rate=0.5, transition_steps=3))
    for _ in range(4):
        opt.step(draw(10))
    g = draw(10)
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.lr == opt.lr
        assert other.step_count == 4
        q = other.param_groups[0]["params"]
        other.step(g)
        expected = copy.deepcopy(opt)
        expected.step(g)
        assert same_bits(q, expected.param_groups[0]["params"])
    fresh = RMSProp(p.copy())
    fresh.load_state_dict(opt.state_dict())
    assert fresh.lr == opt.lr
    assert isinstance(fresh.param_groups[0]["lr"], schedules.Exponential)


def test_copies_do_not_call_a_function_for_steps_that_are_over() -> None:
    seen: list[int] = []

    def lr(step: int) -> float:
        seen.append(step)
        return 0.1 / step

    p = np.ones(3)
    opt = RMSProp(p)
    opt.step(np.ones(3))
    opt.lr = lr
    opt.step(np.ones(3))
    other = copy.deepcopy(opt)
    other.step(np.ones(3))
    opt.accumulate(np.ones(3))  # does not need it
    assert set(seen) == {1, 2}


def test_reduce_on_plateau_refuses_a_function() -> None:
    with pytest.raises((TypeError, ValueError), match="schedule"):
        schedules.ReduceOnPlateau(RMSProp(draw(3), lr=halved))


# The average of the parameters


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_use_ema_swaps_and_swaps_back(dtype: type[Any]) -> None:
    params: dict[str, Any] = {"W": np.asfortranarray(draw(7, 5, dtype=dtype)), "n": None}
    params["s"] = draw(dtype=dtype)
    opt = RMSProp(params, ema_decay=0.8)
    assert same_bits(opt.state["W"]["param_avg"], params["W"])
    averages = {k: v.copy() for k, v in params.items() if v is not None}
    for _ in range(3):
        grads = {"W": draw(7, 5, dtype=dtype), "s": draw(dtype=dtype), "n": None}
        opt.step(grads)
        for k, a in averages.items():
            averages[k] = np.asarray(
                np.asarray(dtype(0.8)) * a + np.asarray(dtype(1 - 0.8)) * params[k], dtype
            )
    trained = copy.deepcopy(params)
    addresses = [params["W"].ctypes.data, opt.state["W"]["param_avg"].ctypes.data]
    with opt.use_ema():
        assert same_bits(params["W"], averages["W"])
        assert same_bits(np.atleast_1d(params["s"]), np.atleast_1d(averages["s"]))
        params["W"][0, 0] = 77  # is lost
    assert same_bits(params["W"], trained["W"])
    assert same_bits(opt.state["W"]["param_avg"], averages["W"])
    assert addresses == [params["W"].ctypes.data, opt.state["W"]["param_avg"].ctypes.data]


def test_use_ema_restores_after_an_error_and_when_frozen_inside() -> None:
    p = draw(5)
    opt = RMSProp(p, ema_decay=0.5)
    opt.step(draw(5))
    before = p.copy()

    def evaluate() -> None:
        with opt.use_ema():
            p.flags.writeable = False
            raise KeyError

    with pytest.raises(KeyError):
        evaluate()
    assert same_bits(p, before)
    with pytest.raises(ValueError, match="'param' has become read-only"), opt.use_ema():
        pass
    assert same_bits(p, before)


@pytest.mark.parametrize(
    "action",
    [
        lambda opt: opt.step(np.ones(5, np.float32)),
        lambda opt: opt.accumulate(np.ones(5, np.float32)),
        lambda opt: opt.use_ema().__enter__(),
        lambda opt: opt.state_dict(),
        lambda opt: opt.save("never.npz"),
        lambda opt: setattr(opt, "lr", 0.5),
        lambda opt: opt.param_groups[0].update(ema_decay=0.0),
        lambda opt: opt.load_state_dict(
            RMSProp(np.ones(5, np.float32), ema_decay=0.5).state_dict()
        ),
        lambda opt: opt.add_param_group({"params": np.ones(2), "name": "more"}),
        lambda opt: opt.discard_accumulated(),
        copy.deepcopy,
    ],
)
def test_inside_use_ema_nothing_else_is_possible(action: Callable[[RMSProp], Any]) -> None:
    p = np.ones(5, np.float32)
    opt = RMSProp(p, ema_decay=0.5)
    opt.step(np.ones(5, np.float32))
    with opt.use_ema():
        inside = p.copy()
        with pytest.raises(RuntimeError, match=r"inside use_ema\(\)"):
            action(opt)
        assert same_bits(p, inside)
    opt.step(np.ones(5, np.float32))
    assert opt.step_count == 2


def test_a_plateau_inside_use_ema_is_not_lost() -> None:
    opt = RMSProp(np.ones(5), lr=0.5, ema_decay=0.5)
    plateau = schedules.ReduceOnPlateau(opt, patience=0)
    plateau.update(1.0)
    with opt.use_ema(), pytest.raises(RuntimeError, match="inside use_ema"):
        plateau.update(2.0)
    assert plateau.update(2.0)
    assert opt.lr == 0.05


def test_use_ema_undoes_what_an_interrupt_left_half_done(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = draw(3), draw(3)
    opt = RMSProp([{"params": a}, {"params": b}], ema_decay=0.5)
    opt.step([draw(3), draw(3)])
    before = [a.copy(), b.copy()]
    whole = ParamGroup.showing_averages

    def interrupted(group: ParamGroup) -> Any:
        if group is opt.param_groups[1]:
            raise KeyboardInterrupt
        return whole(group)

    monkeypatch.setattr(ParamGroup, "showing_averages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opt.use_ema().__enter__()
    assert [a.tobytes(), b.tobytes()] == [array.tobytes() for array in before]
    opt.step([draw(3), draw(3)])


def test_a_child_forked_inside_use_ema_is_inside_it_too() -> None:
    code = """
import os
import numpy as np
from fused_rmsprop import RMSProp
opt = RMSProp(np.ones(5), ema_decay=0.5)
opt.step(np.ones(5))
with opt.use_ema():
    child = os.fork()
    if child == 0:
        try:
            opt.step(np.ones(5))
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "7\n"


def test_ema_in_some_groups_turned_on_and_off() -> None:
    a, b = draw(4), draw(4)
    opt = RMSProp([{"params": a, "ema_decay": 0.5}, {"params": b}])
    opt.step([draw(4), draw(4)])
    kept = b.copy()
    with opt.use_ema():
        assert same_bits(b, kept)
    assert "param_avg" not in opt.state["1"]
    opt.param_groups[1]["ema_decay"] = 0.9
    assert same_bits(opt.state["1"]["param_avg"], b)
    opt.param_groups[0]["ema_decay"] = 0
    assert "param_avg" not in opt.state["0"]
    opt.param_groups[1]["ema_decay"] = 0
    with pytest.raises(ValueError, match="make the optimizer with ema_decay"), opt.use_ema():
        pass


def test_ema_of_a_leaf_without_gradient_stays() -> None:
    p = draw(4)
    opt = RMSProp([p], ema_decay=0.5)
    p += 1
    before = opt.state["0"]["param_avg"].copy()
    opt.step([None])
    assert same_bits(opt.state["0"]["param_avg"], before)


# What an optimizer tells


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_effective_lr(centered: bool, inside: bool) -> None:
    params = {"a": draw(3, 2), "b": draw(dtype=np.float64)}
    opt = RMSProp(params, lr=halved, eps=1e-3, centered=centered, eps_inside_sqrt=inside)
    opt.step({"a": draw(3, 2), "b": draw(dtype=np.float64)})
    for name, p in params.items():
        v = opt.state[name]["variance" if centered else "square_avg"]
        rate = opt.effective_lr(name)
        assert (rate.dtype, rate.shape) == (p.dtype, p.shape)
        den = np.sqrt(v + 1e-3) if inside else np.sqrt(v) + 1e-3
        np.testing.assert_allclose(rate, 0.05 / den, rtol=1e-6)
    with pytest.raises(KeyError, match="there is no parameter 'c'; there are a, b"):
        opt.effective_lr("c")


def test_observation_window_and_state_nbytes() -> None:
    p = np.ones((10, 10), np.float32)
    opt = RMSProp([p, np.ones(3)], alpha=0.9)
    assert opt.observation_window == pytest.approx(10)
    one = p.nbytes + 24
    assert opt.state_nbytes == one
    opt.param_groups[0].update(momentum=0.9, centered=True, ema_decay=0.9)
    assert opt.state_nbytes == 4 * one
    opt.accumulate([p.copy(), None])
    assert opt.state_nbytes == 5 * one
    opt.discard_accumulated()
    opt = RMSProp([{"params": p}, {"params": np.ones(2), "alpha": 0.5}])
    with pytest.raises(ValueError, match="differ in alpha"):
        _ = opt.observation_window


# Options


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


@pytest.mark.parametrize(
    ("name", "value"), [("initial_square_avg", 1.0), ("bias_correction", True)]
)
def test_what_the_state_began_with_is_fixed(name: str, value: Any) -> None:
    opt = RMSProp(np.ones(2))
    with pytest.raises(ValueError, match=f"{name} is fixed"):
        opt.param_groups[0][name] = value
    opt.param_groups[0].update(dict(opt.param_groups[0].options(), lr=0.5))
    assert opt.lr == 0.5


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


def test_from_preset() -> None:
    opt = RMSProp.from_preset("keras", np.ones(2), lr=0.5, momentum=0.9)
    group = opt.param_groups[0]
    assert {name: group[name] for name in PRESETS["keras"]} == {**PRESETS["keras"], "lr": 0.5}
    assert group["momentum"] == 0.9
    with pytest.raises(ValueError, match="no preset 'Kears'; is 'keras' meant. There are torch,"):
        RMSProp.from_preset("Kears", np.ones(2))
    with pytest.raises(TypeError, match=r"a str, not a ndarray: from_preset\(name, params\)"):
        RMSProp.from_preset(np.ones(2), "keras")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no option 'rho'; is alpha meant"):
        RMSProp.from_preset("keras", np.ones(2), rho=0.9)
    with pytest.raises(ValueError, match="'max_grad_norm': it belongs to the optimizer"):
        RMSProp([{"params": np.ones(2), "max_grad_norm": 1.0}])
    with pytest.raises(ValueError, match="has no option 'momentun'; is momentum meant"):
        RMSProp([{"params": np.ones(2), "momentun": 1.0}])
    for name in PRESETS:
        RMSProp.from_preset(name, np.ones(2, np.float32)).step(np.ones(2, np.float32))
