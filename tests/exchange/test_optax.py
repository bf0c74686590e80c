"""What is particular to the state of optax."""

from __future__ import annotations

import numpy as np
import pytest

from exchange_support import (
    CORRECTED,
    LR,
    Optax,
    assert_same,
    in_dtype,
    make_ours,
    make_theirs,
    refuse,
    schedule,
    some_grads,
    some_params,
    step_ours,
)
from fused_rmsprop import RMSProp, exchange
from support import needs


def test_bias_corrected_averages_of_optax_are_times_what_the_zeros_lack() -> None:
    with in_dtype(Optax, "float64"):
        opt, _ = make_ours(Optax, some_params("float64"), **CORRECTED)
        theirs = make_theirs(Optax, some_params("float64"), **CORRECTED)
        theirs.give(opt)  # before the first step there is nothing to divide by
        assert all(not state["square_avg"].any() for state in opt.state.values())
        for g in some_grads("float64", 3):
            step_ours(opt, Optax, g)
        theirs.take(opt)
        state = theirs.opt_state[0]
        assert int(state.count) == 3
        corrected = opt.state["layer.0.w"]["square_avg"]
        np.testing.assert_allclose(state.nu["layer"][0]["w"], corrected * (1 - 0.9**3), rtol=1e-14)


def test_without_a_count_in_optax_ours_stays() -> None:
    theirs = make_theirs(Optax, some_params("float32"))
    opt, _ = make_ours(Optax, some_params("float32"))
    step_ours(opt, Optax, some_grads("float32")[0])
    theirs.give(opt)
    assert opt.step_count == 1
    assert all(state["step"] == 1 for state in opt.state.values())
    assert all(not state["square_avg"].any() for state in opt.state.values())


def test_a_bare_array_is_param_in_optax() -> None:
    jax, optax = needs("jax"), needs("optax")
    opt_state = optax.rmsprop(LR).init(jax.numpy.zeros(3))
    opt = RMSProp.from_preset("optax", np.zeros(3))
    opt.step(np.ones(3))
    opt_state = exchange.to_optax(opt, opt_state)
    np.testing.assert_allclose(opt_state[0].nu, 0.1, rtol=1e-6)


def test_optax_refusals() -> None:
    jax, optax = needs("jax"), needs("optax")
    opt = RMSProp.from_preset("optax", np.zeros(2))
    params = jax.numpy.zeros(2)
    rmsprop = optax.rmsprop(LR)
    two = optax.chain(rmsprop, rmsprop)
    for transform, match in [
        (optax.adam(LR), "found: ScaleByAdamState"),
        (optax.sgd(LR), "found: none"),
        (two, "found: ScaleByRmsState, ScaleByRmsState"),
        (optax.chain(rmsprop, optax.ema(0.9)), r"opt_state\[1\].ema does not belong to optax"),
        (optax.MultiSteps(rmsprop, 2), "mini_step does not belong to optax.rmsprop"),
    ]:
        opt_state, before = transform.init(params), opt.state_dict()
        for call in (exchange.to_optax, exchange.from_optax):
            with pytest.raises(ValueError, match=match):
                call(opt, opt_state)
            assert_same(opt.state_dict(), before)


def test_optax_has_one_count() -> None:
    theirs = make_theirs(Optax, some_params("float32"), **CORRECTED)
    opt, _ = make_ours(Optax, some_params("float32"), **CORRECTED)
    step_ours(opt, Optax, {**some_grads("float32")[0], "a": None})
    refuse(theirs.take, opt, theirs, "'layer.0.a' has made 0 of 1 steps")

    theirs = make_theirs(Optax, some_params("float32"), lr=schedule, **CORRECTED)
    rms, rate, trace = theirs.opt_state
    theirs.opt_state = (rms, rate._replace(count=rate.count + 1), trace)
    opt, _ = make_ours(Optax, some_params("float32"), **CORRECTED)
    refuse(theirs.give, opt, theirs, r"the counts in opt_state differ: \[0, 1\]")
