"""The average of the parameters, and `use_ema`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, schedules
from reference import same_bits
from support import draw, needs_fork, run_python


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
    with pytest.raises(ValueError, match="params has become read-only"), opt.use_ema():
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


@needs_fork
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
    assert run_python(code).stdout == "7\n"


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
