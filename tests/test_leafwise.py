"""Steps leaf by leaf have the bits of steps of all leaves at once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, show_config
from leafwise_support import NAMES, assert_twins, gradients, make, nested
from reference import same_bits
from support import draw, halved, team, threaded

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all state": {"momentum": 0.9, "centered": True, "nesterov": True, "ema_decay": 0.9},
    "weight decay": {"weight_decay": 0.1, "maximize": True, "eps_inside_sqrt": True},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True, "initial_square_avg": 1.0},
    "corrected": {"bias_correction": True, "momentum": 0.5, "lr_in_momentum": True},
    "schedules": {"lr": halved, "momentum": lambda step: 0.5 / (1 + step)},
    "limited": {"max_grad_value": 0.3, "on_nonfinite": "raise"},
    "subnormal": {"flush_denormals": False, "lr": 1e-40},
    "flushed": {"flush_denormals": True, "lr": 1e-40},
    "team": {"threads": 2, "momentum": 0.9},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_bits_are_those_of_a_step(options: dict[str, Any], dtype: type[Any]) -> None:
    rng = np.random.default_rng(3)
    ours, twin = make(dtype, **options), make(dtype, **options)
    for i in range(6):
        names = [str(name) for name in rng.permutation(NAMES)]
        names = names[: len(names) - i % 4]  # some leaves have no update
        grads = gradients(ours[1], i, 1e-20 if i % 2 else 1.0)
        scale = 0.25 if i > 2 else 1.0
        with ours[0].leafwise(scale) as update:
            for name in names:
                update(name, grads[name])
        twin[0].step(nested(grads, names), scale)
        assert_twins(ours, twin)
        assert ours[0].grad_norm is None


def test_steps_and_blocks_alternate() -> None:
    ours, twin = make(momentum=0.9, lr=halved), make(momentum=0.9, lr=halved)
    for i in range(7):
        grads = gradients(ours[1], i)
        if i % 3 == 0:
            ours[0].step(nested(grads, NAMES))
        else:
            with ours[0].leafwise() as update:
                for name in NAMES:
                    update(name, grads[name])
        twin[0].step(nested(grads, NAMES))
        for opt, _ in (ours, twin):
            if i == 1:
                opt.load_state_dict(opt.state_dict())
            if i == 4:  # the state moves to other memory
                opt.param_groups[1].update(centered=True)
            if i == 5:
                opt.accumulate(nested(grads, NAMES))
                opt.discard_accumulated()
    assert_twins(ours, twin)


def test_leaves_of_a_group_that_came_later() -> None:
    p, new, twins = np.ones(3), np.ones(4), [np.ones(3), np.ones(4)]
    opt, twin = RMSProp([p]), RMSProp([{"params": a} for a in twins])
    for grads in ([np.ones(3), None], [np.full(3, 0.5), np.ones(4)]):
        with opt.leafwise() as update:
            if grads[1] is not None:
                update("new", grads[1])
            update("0", grads[0])
        twin.step(grads)
        if opt.step_count == 1:
            opt.add_param_group({"params": new, "name": "new"})
    assert same_bits(p, twins[0])
    assert same_bits(new, twins[1])


def test_a_team_updates_large_leaves() -> None:
    p = np.ones(100_000)
    opt = threaded(RMSProp([p, np.ones(1)], threads=2))
    with opt.leafwise() as update:
        update("1", np.ones(1))
        update("0", np.ones(p.size))
    assert opt.threads_used == team(2)


@pytest.mark.skipif(
    show_config("dicts")["threads"]["available"] < 2, reason="there is one thread only"
)
def test_the_number_of_threads_is_measured_for_the_block() -> None:
    opt = RMSProp([np.ones(400_000, np.float32), np.ones(500_000, np.float32)])
    grads = [np.full_like(p, 0.1) for p in opt.param_groups[0]["params"]]
    used: set[int] = set()
    deadline = time.monotonic() + 60
    while len(used) < 2:  # a trial compares both
        assert time.monotonic() < deadline, used
        in_block = set()
        with opt.leafwise() as update:
            for i, grad in enumerate(grads):
                update(str(i), grad)
                in_block.add(opt.threads_used)
        assert len(in_block) == 1
        used |= in_block


def test_a_scale_may_be_an_array_and_the_norm_is_unknown() -> None:
    p, twin = np.ones(3), np.ones(3)
    opt, other = RMSProp(p, on_nonfinite="raise"), RMSProp(twin)
    other.step(np.ones(3), grad_scale=0.5)
    with opt.leafwise(grad_scale=np.array(0.5)) as update:
        update("param", np.ones(3))
        assert opt.grad_norm is None
    assert opt.grad_norm is None
    assert same_bits(p, twin)


def test_a_single_array_and_a_subclass() -> None:
    class Own(RMSProp):
        pass

    p, twin = draw(5), draw(5)
    twin[:] = p
    opt = Own(p)
    with opt.leafwise() as update:
        update("param", np.ones(5, np.float32))
    RMSProp(twin).step(np.ones(5, np.float32))
    assert same_bits(p, twin)


def test_after_load(tmp_path: Any) -> None:
    p = draw(5)
    opt = RMSProp(p, momentum=0.9)
    opt.step(np.ones(5, np.float32))
    opt.save(tmp_path / "a.npz")
    copied = np.zeros_like(p)
    loaded = RMSProp.load(tmp_path / "a.npz", copied)
    with loaded.leafwise() as update:
        update("param", np.ones(5, np.float32))
    opt.step(np.ones(5, np.float32))
    assert same_bits(p, copied)
    assert loaded.step_count == 2


def test_gradients_in_another_memory_order() -> None:
    ours, twin = make(), make()
    for seed in (1, 2):
        grads = gradients(ours[1], seed)
        grads["body.W"] = np.ascontiguousarray(grads["body.W"])
        grads["head.b"] = np.repeat(grads["head.b"], 2)[::2]
        with ours[0].leafwise() as update:
            for name in NAMES:
                update(name, grads[name])
        twin[0].step(nested(grads, NAMES))
    assert_twins(ours, twin)


def test_bound_gradients() -> None:
    ours, twin = make(), make()
    bound = gradients(ours[1], 1)
    ours[0].bind_grads(nested(bound, NAMES[:4]))
    with ours[0].leafwise() as update:
        bound["body.W"] += 1  # the very arrays are read
        update("body.W")
        update("body.s", None)
        update("head.b", 2 * bound["head.b"])
        with pytest.raises(ValueError, match="bound gradient of .* is None: pass one") as caught:
            update("head.V")
        assert "params[1]['params']['V']" in str(caught.value)
    bound["head.b"] *= 2
    twin[0].step(nested(bound, ["body.W", "body.s", "head.b"]))
    assert_twins(ours, twin)
    ours[0].bind_grads(None)
    with (
        ours[0].leafwise() as update,
        pytest.raises(ValueError, match=r"pass it, update\(name, grad\), or bind"),
    ):
        update("head.V")
