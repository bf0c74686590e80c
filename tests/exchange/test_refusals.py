"""Optimizers that do not fit are refused, and nothing has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exchange_support import (
    CENTERED,
    CORRECTED,
    MOMENTUM,
    Keras,
    Optax,
    Torch,
    case_id,
    make_ours,
    make_theirs,
    refuse,
    refuse_both,
    some_grads,
    some_params,
    step_ours,
)
from support import needs, needs_torch

# The options of ours, those of the other, and the refusal.
Refusal = tuple[dict[str, Any], dict[str, Any], str]


ONE_SIDED: list[Refusal] = [
    (MOMENTUM, {}, r"momentum is on for '.*' in opt only"),
    ({}, MOMENTUM, r"momentum is on for '.*' in the other optimizer only"),
    (CENTERED, {}, r"centered is on for '.*' in opt only"),
    ({}, CENTERED, r"centered is on for '.*' in the other optimizer only"),
    (CORRECTED, {}, r"bias_correction is on for '.*' in opt only"),
]


ONE_SIDED_OPTAX: list[Refusal] = [
    ({}, CORRECTED, r"bias_correction is on for '.*' in the other optimizer only")
]


ONE_SIDED_KERAS: list[Refusal] = [
    ({"ema_decay": 0.5}, {}, r"ema_decay is on for 'w' in opt only"),
    ({}, {"ema_decay": 0.5}, r"ema_decay is on for 'w' in the other optimizer only"),
]


@pytest.mark.parametrize(
    ("kind", "mine", "others", "match"),
    [
        *((kind, *refusal) for kind in (Torch, Keras, Optax) for refusal in ONE_SIDED),
        *((Optax, *refusal) for refusal in ONE_SIDED_OPTAX),
        *((Keras, *refusal) for refusal in ONE_SIDED_KERAS),
    ],
)
def test_options_on_one_side_only_are_refused(
    kind: Any, mine: dict[str, Any], others: dict[str, Any], match: str
) -> None:
    opt, arrays = make_ours(kind, some_params("float32"), **mine)
    theirs = make_theirs(kind, arrays, **others)
    step_ours(opt, kind, some_grads("float32")[0])
    theirs.step(some_grads("float32")[1])
    refuse_both(opt, theirs, match)


@pytest.mark.parametrize("kind", [Torch, Keras, Optax], ids=case_id)
def test_other_parameters_are_refused(kind: Any) -> None:
    params = some_params("float32")
    fewer = {name: a for name, a in params.items() if name != "scale"}
    opt, _ = make_ours(kind, params)
    step_ours(opt, kind, some_grads("float32")[0])
    match = "layer.0.scale" if kind is Optax else "opt has 4 parameters, the other optimizer 3"
    refuse_both(opt, make_theirs(kind, fewer), match)
    # The last in every order, so that those before it would have been changed.
    reshaped = {**params, "w": params["w"].T.copy(), "scale": np.zeros(1, np.float32)}
    match = r"has shape \(.*\), its counterpart .* has shape \("
    refuse_both(opt, make_theirs(kind, reshaped), match)


@pytest.mark.parametrize("kind", [Torch, Keras, Optax], ids=case_id)
def test_accumulated_gradients_are_refused(kind: Any) -> None:
    opt, arrays = make_ours(kind, some_params("float32"))
    grads = some_grads("float32")[0]
    opt.accumulate({"layer": [grads]} if kind is Optax else grads)
    refuse_both(opt, make_theirs(kind, arrays), "accumulated gradients")


@pytest.mark.parametrize("kind", [Torch, Keras, Optax], ids=case_id)
def test_a_learning_rate_of_zero_cannot_be_divided_by(kind: Any) -> None:
    options = {**MOMENTUM, "lr_in_momentum": not kind.inside}
    opt, arrays = make_ours(kind, some_params("float32"), **options)
    theirs = make_theirs(kind, arrays, **MOMENTUM)
    step_ours(opt, kind, some_grads("float32")[0])
    theirs.step(some_grads("float32")[1])
    opt.lr = 0.0
    refuse(theirs.give if kind.inside else theirs.take, opt, theirs, "learning rate")


@pytest.mark.parametrize("kind", [Torch, Keras, Optax], ids=case_id)
def test_what_is_no_optimizer_is_refused(kind: Any) -> None:
    theirs = make_theirs(kind, some_params("float32"))
    for call in (theirs.take, theirs.give):
        with pytest.raises(TypeError, match="opt, the first argument, must be a .*RMSProp, got"):
            call({})
    if kind is not Optax:
        opt, _ = make_ours(kind, some_params("float32"))
        if kind is Torch:
            theirs.optimizer = needs_torch().optim.SGD(theirs.params.values())
        else:
            theirs.optimizer = needs("keras").optimizers.SGD()
        for call in (theirs.take, theirs.give):
            with pytest.raises(TypeError, match=r"the second argument, .*RMSprop.*, got a .*SGD"):
                call(opt)
