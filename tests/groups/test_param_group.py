"""Parameter groups: their options, as a mapping, changes in mid-run, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.groups.param_group import ParamGroup
from reference import initial_state, rmsprop, same_bits
from support import draw, halved


def test_groups_have_their_own_options() -> None:
    a, b, c = draw(4), draw(3), draw(2)
    start = [x.copy() for x in (a, b, c)]
    opt = RMSProp([{"params": a, "lr": 0.5}, {"params": [b], "momentum": 0.9}], lr=0.1)
    opt.add_param_group({"params": {"c": c}, "alpha": 0.5})
    grads = [np.ones(4, np.float32), [np.ones(3, np.float32)], {"c": np.ones(2, np.float32)}]
    opt.step(grads)
    for x, x0, options in zip(
        (a, b, c), start, ({"lr": 0.5}, {"momentum": 0.9}, {"alpha": 0.5}), strict=True
    ):
        zeros = {k: np.zeros_like(x) for k in ("square_avg", "momentum_buffer")}
        every: dict[str, Any] = {"lr": 0.1, "alpha": 0.99, "eps": 1e-8} | options
        assert same_bits(x, rmsprop(x0, np.ones_like(x), zeros, **every)[0])
    assert set(opt.state) == {"0", "1.0", "2.c"}
    with pytest.raises(ValueError, match="groups differ in lr"):
        _ = opt.lr
    opt.lr = 0.25
    assert opt.lr == 0.25
    assert [group["lr"] for group in opt.param_groups] == [0.25] * 3


def test_lr_is_set_for_all_groups_or_for_none() -> None:
    opt = RMSProp([{"params": draw(2, dtype=np.float64)}, {"params": draw(2)}])
    with pytest.raises(ValueError, match="overflows in float32"):
        opt.lr = 1e100
    assert opt.lr == 1e-2


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
    with pytest.warns(UserWarning, match="lr was the schedule"):
        opt.lr = 0.5
    assert opt.lr == 0.5


def test_a_param_group_is_a_mapping() -> None:
    group = RMSProp({"W": draw(2)}, lr=0.5).param_groups[0]
    assert isinstance(group, ParamGroup)
    assert group["lr"] == 0.5
    assert set(group) == {"params", *RMSProp(np.ones(1)).defaults}
    assert len(group) == len(list(group))
    group["lr"] = np.float32(0.25)
    assert group["lr"] == 0.25
    with pytest.raises(ValueError, match="no option 'lrr'"):
        group["lrr"] = 1
    with pytest.raises(ValueError, match="cannot be replaced"):
        group["params"] = []
    with pytest.raises(TypeError, match="cannot be removed"):
        del group["lr"]


def test_options_changed_in_mid_run() -> None:
    p = draw(20)
    options: dict[str, Any] = {"lr": 0.01, "alpha": 0.9, "eps": 1e-8}
    expected = p.copy()
    state = {k: np.zeros_like(p) for k in ("square_avg", "momentum_buffer", "grad_avg")}
    opt = RMSProp(p, **options)
    for change in (
        {}, {"momentum": 0.9}, {"centered": True}, {"nesterov": True}, {"lr": 0.001},
        {"centered": False}, {"momentum": 0.0, "nesterov": False}, {"momentum": 0.5},
    ):  # fmt: skip
        if options.get("centered") and change.get("centered") is False:
            # The variance becomes the mean of squares again, about an average of zero.
            state["square_avg"] = state["square_avg"] + state["grad_avg"] * state["grad_avg"]
            state["grad_avg"] = np.zeros_like(p)
        options |= change
        opt.param_groups[0].update(change)
        for _ in range(2):
            g = draw(20)
            expected, state = rmsprop(expected, g, state, **options)
            opt.step(g)
            assert same_bits(p, expected)


def test_turning_centered_off_is_all_or_nothing() -> None:
    params = [np.zeros(2, np.float32), np.zeros(2, np.float32)]
    opt = RMSProp(params, centered=True)
    opt.step([np.ones(2, np.float32), np.full(2, 1e-25, np.float32)])
    with np.errstate(all="raise"):  # NumPy's setting is not ours to heed
        opt.param_groups[0]["centered"] = False
    assert set(opt.state["0"]) == {"step", "square_avg"}


def test_options_that_give_the_state_its_meaning_are_fixed_after_the_first_step() -> None:
    p, q = np.ones(2), np.ones(2)
    opt = RMSProp(p, momentum=0.5)
    changes: dict[str, Any] = {"initial_square_avg": 4.0, "lr_in_momentum": True}
    opt.param_groups[0].update(changes)  # no step was made yet
    other = RMSProp(q, momentum=0.5, **changes)
    for optimizer in (opt, other):
        optimizer.step(np.ones(2))
    assert same_bits(p, q)
    for name, value, why in [
        ("initial_square_avg", 1.0, "the average began with it"),
        ("bias_correction", True, "kept divided"),
        ("lr_in_momentum", False, "the buffer holds steps with it"),
    ]:
        before = dict(opt.param_groups[0].options())
        with pytest.raises(ValueError, match=rf"param_groups\[0\]: {name} is fixed at .*{why}"):
            opt.param_groups[0][name] = value
        assert opt.param_groups[0].options() == before
    opt.param_groups[0].update(dict(opt.param_groups[0].options(), lr=0.5))
    assert opt.lr == 0.5


def test_lr_in_momentum_can_change_without_a_momentum_buffer() -> None:
    opt = RMSProp(np.ones(2))
    opt.step(np.ones(2))
    opt.param_groups[0]["lr_in_momentum"] = True
    opt.step(np.ones(2))


def test_groups() -> None:
    p, q = np.ones(3), np.ones(2)
    with pytest.raises(ValueError, match=r"params\[1\] is not a parameter group"):
        RMSProp([{"params": p}, q])
    with pytest.raises(
        ValueError, match="no option 'learning_rate'; is lr meant. The options are lr, alpha"
    ):
        RMSProp([{"params": p, "learning_rate": 0.1}])
    with pytest.raises(ValueError, match="called 'a.b' in state"):
        RMSProp({"a": {"b": p}, "a.b": q})
    with pytest.raises(ValueError, match=r"params\[0\] is not a parameter group"):
        RMSProp([{"param": [p], "lr": 0.1}])
    with pytest.raises(ValueError, match="parameter groups come in a list"):
        RMSProp({"params": [p], "lr": 0.1})
    with pytest.raises(ValueError, match=r"param_groups\[1\]: lr must be"):
        RMSProp([{"params": p}, {"params": q, "lr": -1}])
    opt = RMSProp([{"params": {"w": p}, "name": "head"}])
    for bad, error, message in [
        ({"params": {"w": p}}, ValueError, "share memory"),
        ({"params": {"w": q}, "name": "head"}, ValueError, "'head.w' in state"),
        ({"params": q, "lr": -1}, ValueError, "lr must be"),
        ({"weights": q}, TypeError, "dict with the key 'params'"),
        (q, TypeError, "dict with the key 'params'"),
    ]:
        with pytest.raises(error, match=message):
            opt.add_param_group(bad)  # type: ignore[arg-type]
        assert len(opt.param_groups) == 1
        opt.step([{"w": np.ones(3)}])
    opt.add_param_group({"params": q})
    for grads, message in [
        ({"w": p}, "grads is a dict; with parameter groups it is a list of one item per group"),
        ([{"w": p.copy()}], "grads has 1 items; there are 2 parameter groups"),
        ([{"w": np.ones(3)}, np.ones(3)], r"grads\[1\] has shape \(3,\), but params\[1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            opt.step(grads)
