"""State from and to a framework: training goes on as if there had been no change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exchange_support import (
    BOTH,
    CENTERED,
    CORRECTED,
    CORRECTED_BOTH,
    COUNTED,
    MOMENTUM,
    NESTEROV,
    PLAIN,
    DropIn,
    Keras,
    Optax,
    Torch,
    assert_close,
    assert_same,
    case_id,
    in_dtype,
    make_ours,
    make_theirs,
    schedule,
    some_grads,
    some_params,
    step_ours,
)
from support import TOLERANCE, both_dtypes, run_python

CASES = [
    *((kind, options) for kind in (Torch, Keras) for options in (PLAIN, MOMENTUM, CENTERED, BOTH)),
    *((DropIn, options) for options in (PLAIN, {**BOTH, "nesterov": True})),
    (DropIn, {**CORRECTED, **BOTH}),
    (DropIn, {**MOMENTUM, "lr_in_momentum": True}),
    *((Optax, options) for options in (PLAIN, MOMENTUM, CENTERED, BOTH, NESTEROV, CORRECTED)),
    *((Optax, options) for options in (CORRECTED_BOTH, {**CORRECTED, **NESTEROV})),
    (Optax, {"lr": schedule}),
    (Optax, {"lr": schedule, **CORRECTED}),
    (Optax, {"how": "chain", **BOTH}),
    (Optax, {"how": "inject", **BOTH}),
    (Optax, {"how": "inject", "lr": schedule, **CORRECTED}),
]


# Where ours has the learning rate in the buffer, and where it has not; without one it is the same.
every_case = pytest.mark.parametrize(
    ("kind", "options", "inside"),
    [(*case, x) for case in CASES for x in ([False, True] if "momentum" in case[1] else [False])],
    ids=case_id,
)


@both_dtypes
@every_case
def test_they_go_on_where_ours_stopped(kind: Any, options: Any, inside: bool, dtype: str) -> None:
    with in_dtype(kind, dtype):
        opt, arrays = make_ours(kind, some_params(dtype), **{**options, "lr_in_momentum": inside})
        grads = some_grads(dtype)
        for g in grads[:8]:
            step_ours(opt, kind, g)
        theirs = make_theirs(kind, arrays, **options)
        before = opt.state_dict()
        theirs.take(opt)
        assert_same(opt.state_dict(), before)
        for g in grads[8:]:
            theirs.step(g)
            step_ours(opt, kind, g)
        assert_close(theirs.values(), arrays, TOLERANCE[dtype])


@both_dtypes
@every_case
def test_ours_goes_on_where_they_stopped(kind: Any, options: Any, inside: bool, dtype: str) -> None:
    with in_dtype(kind, dtype):
        theirs = make_theirs(kind, some_params(dtype), **options)
        grads = some_grads(dtype)
        for g in grads[:8]:
            theirs.step(g)
        opt, arrays = make_ours(kind, theirs.values(), **{**options, "lr_in_momentum": inside})
        before = theirs.state()
        theirs.give(opt)
        assert_same(theirs.state(), before)
        if kind is not Optax or options.get("how") == "inject" or options.keys() & COUNTED:
            assert opt.step_count == 8
            assert all(state["step"] == 8 for state in opt.state.values())
        for g in grads[8:]:
            theirs.step(g)
            step_ours(opt, kind, g)
        assert_close(arrays, theirs.values(), TOLERANCE[dtype])


@both_dtypes
@pytest.mark.parametrize("options", [PLAIN, MOMENTUM, BOTH], ids=case_id)
@pytest.mark.parametrize("kind", [Torch, DropIn, Keras, Optax], ids=case_id)
def test_there_and_back(kind: Any, options: Any, dtype: str) -> None:
    """The same bits, where nothing has to be computed; else to the last bits."""
    with in_dtype(kind, dtype):
        theirs, copied = (make_theirs(kind, some_params(dtype), **options) for _ in range(2))
        for g in some_grads(dtype):
            theirs.step(g)
        opt, _ = make_ours(kind, theirs.values(), **options)
        theirs.give(opt)
        copied.take(opt)
        again, _ = make_ours(kind, theirs.values(), **options)
        copied.give(again)
        if not options.get("centered"):
            # Without a count optax's steps are unknown, and none are counted on either way.
            assert_same(copied.state(), theirs.state())
            assert_same(again.state_dict(), opt.state_dict())
            return
        for name, state in opt.state.items():
            for key, array in state.items():
                rtol = 20 * float(
                    np.finfo(dtype).eps
                )  # of a variance that is not small beside the mean
                np.testing.assert_allclose(again.state[name][key], array, rtol=rtol)


def test_counts_follow_the_steps() -> None:
    for options in ({"lr": schedule}, {"lr": schedule, "how": "inject", **CORRECTED}):
        opt, _ = make_ours(Optax, some_params("float32"), **options)
        for g in some_grads("float32", 5):
            step_ours(opt, Optax, g)
        theirs = make_theirs(Optax, some_params("float32"), **options)
        theirs.take(opt)
        counts = [x for x in theirs.state() if x.dtype == np.int32]
        assert counts
        assert all(count == 5 for count in counts)

    keras = make_theirs(Keras, some_params("float32"))
    opt, _ = make_ours(Keras, some_params("float32"))
    for g in some_grads("float32", 5):
        step_ours(opt, Keras, g)
    keras.take(opt)
    assert int(keras.optimizer.iterations) == 5


def test_nothing_is_imported_before_it_is_needed() -> None:
    run_python(
        "import sys, fused_rmsprop, fused_rmsprop.exchange\n"
        "assert not {'torch', 'keras', 'jax', 'optax', 'tensorflow'} & set(sys.modules)"
    )
