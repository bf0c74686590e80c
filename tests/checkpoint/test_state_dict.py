"""`RMSProp.state_dict` and `load_state_dict`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from reference import same_bits
from support import draw


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_resuming_is_bit_identical(momentum: float, centered: bool) -> None:
    grads = [{"W": draw(300), "x": [draw(2, 3)]} for _ in range(20)]
    start: dict[str, Any] = {"W": draw(300), "x": [np.asfortranarray(draw(2, 3))]}
    straight = copy.deepcopy(start)
    opt = RMSProp(straight, lr=0.02, momentum=momentum, centered=centered)
    for g in grads[:10]:
        opt.step(g)
    saved = pickle.dumps((opt.state_dict(), straight))
    for g in grads[10:]:
        opt.step(g)

    state, params = pickle.loads(saved)
    resumed = RMSProp(params)  # the options come from the state
    resumed.load_state_dict(state)
    for g in grads[10:]:
        resumed.step(g)
    assert same_bits(params["W"], straight["W"])
    assert same_bits(params["x"][0], straight["x"][0])
    for name in opt.state:
        for key, array in opt.state[name].items():
            assert same_bits(resumed.state[name][key], array)


def test_a_state_dict_is_a_snapshot() -> None:
    opt = RMSProp({"W": draw(4)})
    saved = opt.state_dict()
    opt.step({"W": draw(4)})
    assert not saved["state"]["W"]["square_avg"].any()
    assert int(saved["state"]["W"]["step"]) == 0
    assert saved["param_groups"][0]["params"] == ["W"]


def test_a_state_dict_fits_by_name() -> None:
    a, b = draw(2), draw(3)
    saved = RMSProp({"a": a, "b": b}).state_dict()
    RMSProp({"b": b, "a": a}).load_state_dict(saved)


def test_a_state_dict_that_does_not_fit() -> None:
    opt = RMSProp({"W": draw(4), "b": draw(2)}, momentum=0.9)
    opt.step({"W": draw(4), "b": draw(2)})

    def refused(message: str, change: Any, error: type[Exception] = ValueError) -> None:
        saved = opt.state_dict()
        before = copy.deepcopy(saved)
        change(saved)
        with pytest.raises(error, match=message):
            opt.load_state_dict(saved)
        after = opt.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for name, state in before["state"].items():
            assert all(same_bits(state[k], after["state"][name][k]) for k in state)

    refused("this is a dict of param_groups, settings, counters", lambda s: s.pop("state"))
    refused("param_groups a list", lambda s: s.update(param_groups=3))
    refused("dicts with the key 'params'", lambda s: s.update(param_groups=[3]))
    refused("has 0 parameter groups, the optimizer 1", lambda s: s.update(param_groups=[]))
    refused(
        r"(?s)'W' is not in param_groups\[0\] of the state_dict.*'x' is in .* only",
        lambda s: s["param_groups"][0].update(params=["x", "b"]),
    )
    refused(r"state\['b'\] is missing", lambda s: s["state"].pop("b"))
    refused(r"state\['b'\]\['momentum_buffer'\] is missing",
            lambda s: s["state"]["b"].pop("momentum_buffer"))  # fmt: skip
    refused("lacks alpha", lambda s: s["param_groups"][0].pop("alpha"))
    refused("alpha must be", lambda s: s["param_groups"][0].update(alpha=2))
    refused("no option 'beta'", lambda s: s["param_groups"][0].update(beta=2))
    refused("float64 of shape", lambda s: s["state"]["b"].update(square_avg=np.ones(2)))
    refused("state is a dict", lambda s: s.update(state=3))
    refused("settings are max_grad_norm, max_grad_norm_per_array, max_grad_value", lambda s: s["settings"].clear())
    refused("max_grad_norm must be > 0", lambda s: s["settings"].update(max_grad_norm=-1))
    refused("on_nonfinite must be", lambda s: s["settings"].update(on_nonfinite=3))
    refused("counters are step_count", lambda s: s["counters"].update(more=3))
    for count in (-3, 2**63, True, 1.0):
        refused("step_count is an int >= 0",
                lambda s, count=count: s["counters"].update(step_count=count))  # fmt: skip
    refused("has a grad_sum, and nothing was accumulated",
            lambda s: s["state"]["b"].update(grad_sum=s["state"]["b"]["square_avg"]))  # fmt: skip
    refused("dicts with the key 'params', names", lambda s: s["param_groups"][0].update(params=5))
    masked: Any = np.ma.array(3, mask=True)
    for bad in (np.array([1, 2]), -1, np.uint64(2**64 - 1), 0.0, masked):
        refused("not a number of steps", lambda s, bad=bad: s["state"]["b"].update(step=bad))
    refused("not an array", lambda s: s["state"]["b"].update(square_avg=[1, 2]))

    def two(saved: Any) -> None:
        saved["state"]["W"]["square_avg"] = np.ones(5, np.float32)
        saved["state"]["b"]["step"] = 0.5

    refused(r"(?s)'W'.*shape \(5,\).*'b'.*not a number of steps", two)
