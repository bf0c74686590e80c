"""What is particular to the state of torch."""

from __future__ import annotations

import numpy as np
import pytest

from exchange_support import (
    BOTH,
    MOMENTUM,
    Torch,
    make_ours,
    make_theirs,
    refuse,
    some_grads,
    some_params,
    step_ours,
)
from fused_rmsprop import RMSProp, exchange
from support import needs_torch


def test_parameters_without_a_step_have_no_state_in_torch() -> None:
    opt, arrays = make_ours(Torch, some_params("float64"), **BOTH, initial_square_avg=0.25)
    theirs = make_theirs(Torch, arrays, **BOTH)
    step_ours(opt, Torch, {**some_grads("float64")[0], "a": None})
    theirs.take(opt)
    assert set(theirs.optimizer.state_dict()["state"]) == {0, 1, 2, 3}  # "a" begins at 0.25

    opt, arrays = make_ours(Torch, some_params("float64"), **BOTH)
    step_ours(opt, Torch, {**some_grads("float64")[0], "a": None})
    theirs = make_theirs(Torch, arrays, **BOTH)
    theirs.step(some_grads("float64")[1])
    theirs.take(opt)
    assert set(theirs.optimizer.state_dict()["state"]) == {0, 1, 3}

    back, _ = make_ours(Torch, arrays, **BOTH, initial_square_avg=0.25)
    for g in some_grads("float64"):
        step_ours(back, Torch, g)
    theirs.give(back)
    assert [int(state["step"]) for state in back.state.values()] == [1, 1, 0, 1]
    assert (back.state["a"]["variance"] == 0.25).all()
    assert not back.state["a"]["grad_avg"].any()
    assert not back.state["a"]["momentum_buffer"].any()
    assert back.step_count == 1


def test_groups_are_matched_in_order() -> None:
    torch = needs_torch()
    a, b, c = (np.full(3, x) for x in (1.0, 2.0, 3.0))
    opt = RMSProp([{"params": [a, b]}, {"params": [c], "centered": True, "momentum": 0.5}])
    opt.step([[a * 0.1, b * 0.2], [c * 0.3]])
    tensors = [torch.tensor(x, requires_grad=True) for x in (a, b, c)]
    special = {"params": tensors[2:], "centered": True, "momentum": 0.5}
    optimizer = torch.optim.RMSprop([{"params": [t]} for t in tensors[:2]] + [special])
    exchange.to_torch(opt, optimizer)
    state = optimizer.state_dict()["state"]
    assert list(state[2]) == ["momentum_buffer", "grad_avg", "square_avg", "step"]
    np.testing.assert_array_equal(state[1]["square_avg"], opt.state["0.1"]["square_avg"])
    m, q = opt.state["1.0"]["grad_avg"], opt.state["1.0"]["variance"]
    np.testing.assert_allclose(state[2]["square_avg"], q + m * m, rtol=1e-15)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_rounded_to_and_exact_from(half: str) -> None:
    torch = needs_torch()
    opt, arrays = make_ours(Torch, some_params("float32"), **MOMENTUM)
    for g in some_grads("float32", 3):
        step_ours(opt, Torch, g)
    params = [torch.from_numpy(a).to(getattr(torch, half)) for a in arrays.values()]
    optimizer = torch.optim.RMSprop(params, alpha=0.9, **MOMENTUM)
    exchange.to_torch(opt, optimizer)
    for i, state in enumerate(opt.state.values()):
        for key in ("square_avg", "momentum_buffer"):
            found = optimizer.state_dict()["state"][i][key]
            assert found.dtype == getattr(torch, half)
            assert torch.equal(found, torch.from_numpy(np.array(state[key])).to(found.dtype))
    exchange.from_torch(opt, optimizer)
    for i, state in enumerate(opt.state.values()):
        found = optimizer.state_dict()["state"][i]["square_avg"]
        np.testing.assert_array_equal(state["square_avg"], found.float().numpy())


def test_what_cancelled_below_zero_is_zero() -> None:
    torch = needs_torch()
    optimizer = torch.optim.RMSprop([torch.zeros(1)], centered=True)
    state = {"step": 3, "square_avg": torch.tensor([0.9]), "grad_avg": torch.tensor([1.0])}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {0: state}, "param_groups": groups})
    opt = RMSProp(np.zeros(1), centered=True)
    exchange.from_torch(opt, optimizer)
    assert opt.state["param"]["variance"] == 0


def test_the_learning_rate_in_a_buffer_is_that_of_the_next_step() -> None:
    opt, arrays = make_ours(Torch, some_params("float64"), **MOMENTUM, lr_in_momentum=True)
    theirs = make_theirs(Torch, arrays, **MOMENTUM)
    step_ours(opt, Torch, some_grads("float64")[0])
    buffers = [state["momentum_buffer"].copy() for state in opt.state.values()]
    opt.lr = lambda step: 0.5 if step == 1 else 2.0
    theirs.take(opt)
    for i, buffer in enumerate(buffers):
        found = theirs.optimizer.state_dict()["state"][i]["momentum_buffer"]
        np.testing.assert_array_equal(found, buffer / 0.5)
    theirs.step(some_grads("float64")[1])
    theirs.give(opt)  # two steps
    found = theirs.optimizer.state_dict()["state"][0]["momentum_buffer"]
    np.testing.assert_array_equal(opt.state["w"]["momentum_buffer"], found * 2.0)


def test_torch_refusals() -> None:
    torch = needs_torch()
    opt, arrays = make_ours(Torch, some_params("float32"), **MOMENTUM)
    theirs = make_theirs(Torch, arrays, **MOMENTUM)
    theirs.step(some_grads("float32")[0])
    del theirs.optimizer.state[theirs.params["scale"]]["momentum_buffer"]
    refuse(theirs.give, opt, theirs, r"the state of param_groups.* lacks momentum_buffer")

    opt = RMSProp(np.zeros(2))
    optimizer = torch.optim.RMSprop([torch.zeros(2, dtype=torch.complex64)])
    for call in (exchange.to_torch, exchange.from_torch):
        with pytest.raises(ValueError, match="complex64: not a floating-point number"):
            call(opt, optimizer)
