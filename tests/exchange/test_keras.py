"""What is particular to the state of Keras."""

from __future__ import annotations

import numpy as np
import pytest

from exchange_support import (
    Keras,
    assert_close,
    make_ours,
    make_theirs,
    some_grads,
    some_params,
    step_ours,
)
from fused_rmsprop import RMSProp, exchange
from support import needs


def test_averages_of_the_parameters_are_those_of_keras() -> None:
    opt, arrays = make_ours(Keras, some_params("float32"), ema_decay=0.7)
    theirs = make_theirs(Keras, arrays, ema_decay=0.7)
    grads = some_grads("float32")
    for g in grads[:8]:
        step_ours(opt, Keras, g)
    for variable, array in zip(theirs.variables, arrays.values(), strict=True):
        variable.assign(array.copy())
    theirs.take(opt)
    for g in grads[8:]:
        step_ours(opt, Keras, g)
        theirs.step(g)
    expected = {name: state["param_avg"].copy() for name, state in opt.state.items()}
    back, _ = make_ours(Keras, arrays, ema_decay=0.7)
    theirs.give(back)
    assert_close({k: s["param_avg"] for k, s in back.state.items()}, expected, 1e-6)


def test_keras_refusals() -> None:
    keras = needs("keras")
    opt = RMSProp.from_preset("keras", np.zeros(2))
    accumulating = keras.optimizers.RMSprop(gradient_accumulation_steps=2)
    accumulating.build([keras.Variable(np.zeros(2))])
    for call in (exchange.to_keras, exchange.from_keras):
        with pytest.raises(ValueError, match="has not been built"):
            call(opt, keras.optimizers.RMSprop())
        with pytest.raises(ValueError, match="gradient_accumulation_steps"):
            call(opt, accumulating)
