"""What `RMSProp` does around the step: structures, state, gradients, copies, readings."""

from __future__ import annotations

import copy
import pickle
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from reference import rmsprop, same_bits
from support import draw, halved


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (draw(3), ["param"]),
        ([draw(3), draw(2)], ["0", "1"]),
        ((draw(3), [draw(2), {"x": draw(1)}]), ["0", "1.0", "1.1.x"]),
        ({"l": {"W": draw(2, 2), "b": draw(2)}, 7: draw(1)}, ["l.W", "l.b", "7"]),
        ({"a": None, "b": draw(2), "c": []}, ["b"]),
        ([{"params": [draw(2)]}, {"params": {"W": draw(2)}, "name": "head"}], ["0.0", "head.W"]),
    ],
)
def test_structures_and_names(params: Any, names: list[str]) -> None:
    opt = RMSProp(params)
    assert sorted(opt.state) == sorted(names)


def test_params_are_updated_where_they_lie() -> None:
    weights = draw(4, 3)
    start = weights.copy()
    g = draw(4, 3)
    RMSProp({"W": weights}, lr=0.1).step({"W": g})
    state = {"square_avg": np.zeros_like(start)}
    expected, _ = rmsprop(start, g, state, lr=0.1, alpha=0.99, eps=1e-8)
    assert same_bits(weights, expected)


def test_memmap_and_shared_memory(tmp_path: Path) -> None:
    g = draw(100)
    expected = np.ones(100, np.float32)
    RMSProp(expected).step(g)
    mapped = np.memmap(tmp_path / "params", np.float32, "w+", shape=100)
    mapped[:] = 1
    RMSProp(mapped).step(g)
    mapped.flush()
    assert same_bits(np.fromfile(tmp_path / "params", np.float32), expected)
    block = shared_memory.SharedMemory(create=True, size=400)
    try:
        shared = np.ndarray(100, np.float32, block.buf)
        shared[:] = 1
        RMSProp(shared).step(g)
        assert np.array_equal(shared, expected)
        del shared
    finally:
        block.close()
        block.unlink()


def test_none_leaves_are_left_alone() -> None:
    params = [draw(50_000), draw(4), draw(50_000), draw(3)]
    opt = RMSProp(params, momentum=0.5, threads=2)
    opt.step([np.ones_like(p) for p in params])
    before = [p.copy() for p in params]
    state_before = {k: {n: a.copy() for n, a in s.items()} for k, s in opt.state.items()}
    for frozen in ([0], [1], [3], [0, 3], [1, 2], [0, 1, 2, 3]):
        opt.step([None if i in frozen else np.ones_like(p) for i, p in enumerate(params)])
        for i in frozen:
            assert same_bits(params[i], before[i])
            assert all(same_bits(a, opt.state[str(i)][n]) for n, a in state_before[str(i)].items())
        before = [p.copy() for p in params]
        state_before = {k: {n: a.copy() for n, a in s.items()} for k, s in opt.state.items()}
    assert [int(opt.state[str(i)]["step"]) for i in range(4)] == [4, 4, 5, 4]
    nested = RMSProp({"a": [draw(2), draw(2)], "b": draw(1)})
    nested.step({"a": None, "b": np.ones(1, np.float32)})
    assert [int(s["step"]) for s in (nested.state["a.0"], nested.state["b"])] == [0, 1]


def test_bound_gradients() -> None:
    params, grads = {"W": draw(4), "b": draw(2)}, {"W": draw(4), "b": draw(2)}
    other = {k: v.copy() for k, v in params.items()}
    opt, plain = RMSProp(params, grads=grads), RMSProp(other)
    for _ in range(3):
        grads["W"] *= 0.5  # in place: the arrays are bound, not their values
        opt.step()
        plain.step(grads)
    opt.step(grads)
    plain.step(grads)
    assert all(same_bits(params[k], other[k]) for k in params)
    grads["W"] = draw(4)  # what is bound is the nest
    opt.step()
    plain.step(grads)
    assert all(same_bits(params[k], other[k]) for k in params)
    opt.bind_grads(None)
    with pytest.raises(ValueError, match="no gradients"):
        opt.step()


def test_gradients_in_another_order_or_strided() -> None:
    p, g = np.asfortranarray(draw(5, 6)), draw(5, 6)
    twin = p.copy(order="K")
    opt, other = RMSProp(p), RMSProp(twin)
    for layout in (np.ascontiguousarray(g), np.repeat(g, 2, axis=1)[:, ::2], g[::-1][::-1]):
        opt.step(layout)
        other.step(np.asfortranarray(g))
        assert same_bits(p, twin)


def test_state_is_visible() -> None:
    opt = RMSProp({"W": np.asfortranarray(draw(4, 5))}, momentum=0.9, centered=True)
    state = opt.state["W"]
    assert set(state) == {"step", "variance", "momentum_buffer", "grad_avg"}
    kept = state["variance"]
    kept.flags.writeable = False  # that of a view: the memory is the optimizer's
    with pytest.raises(ValueError, match="resize"):
        kept.resize(3, refcheck=False)
    opt.step({"W": np.asfortranarray(draw(4, 5))})
    assert np.shares_memory(opt.state["W"]["variance"], kept)
    assert kept.any()
    assert kept.flags.f_contiguous
    assert state["step"].dtype == np.int64
    assert int(state["step"]) == 1
    with pytest.raises(TypeError):
        opt.state["W"]["variance"] = kept  # type: ignore[index]
    assert list(RMSProp([{"params": [draw(1), draw(1)]}, {"params": draw(1)}]).state) == [
        "0.0", "0.1", "1",
    ]  # fmt: skip


def test_copies() -> None:
    params = {"W": draw(30), "F": np.asfortranarray(draw(3, 4))}
    grads = {"W": draw(30), "F": np.asfortranarray(draw(3, 4))}
    opt = RMSProp(params, momentum=0.9, centered=True, grads=grads, threads=1, lr=0.3)
    opt.step()
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert repr(twin) == repr(opt)
        twin_params = twin.param_groups[0]["params"]
        assert not np.shares_memory(twin_params["W"], params["W"])
        assert all(same_bits(twin_params[k], params[k]) for k in params)
        twin.step()
    model, twin = copy.deepcopy((params, opt))
    assert twin.param_groups[0]["params"]["W"] is model["W"]
    opt.step()
    twin.step()
    assert all(same_bits(model[k], params[k]) for k in params)
    grouped = RMSProp([{"params": draw(2), "lr": 0.5, "name": "a"}, {"params": draw(3)}])
    assert repr(copy.deepcopy(grouped)) == repr(grouped)
    assert list(copy.deepcopy(grouped).state) == list(grouped.state)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RMSProp(np.ones(3, np.float32), eps=1e-40, flush_denormals=False),
        lambda: RMSProp([{"params": np.ones(3), "momentum": 0.9}], nesterov=True),
        lambda: RMSProp(
            [{"params": np.ones(3, np.float32), "eps": 1e-8}, {"params": np.ones(3)}], eps=1e-300
        ),
    ],
)
def test_copies_of_optimizers_whose_parts_need_each_other(make: Any) -> None:
    opt = make()
    assert repr(copy.deepcopy(opt)) == repr(opt)
    assert repr(pickle.loads(pickle.dumps(opt))) == repr(opt)


def test_copies_after_the_users_containers_changed() -> None:
    params = {"W": np.ones(3)}
    opt = RMSProp(params, grads={"W": np.ones(3)})
    trained = params["W"]
    params["b"] = np.zeros(2)
    assert opt.param_groups[0]["params"]["W"] is trained
    twin = copy.deepcopy(opt)
    opt.step()
    twin.step()
    assert same_bits(twin.param_groups[0]["params"]["W"], trained)
    opt.add_param_group({"params": np.ones(2)})
    with pytest.raises(ValueError, match="no gradients"):
        opt.step()
    twin = pickle.loads(pickle.dumps(opt))
    twin.step([{"W": np.ones(3)}, np.ones(2)])


def test_attributes_of_subclasses_are_copied() -> None:
    opt = Scheduled(np.ones(2))
    opt.epochs = 7
    assert pickle.loads(pickle.dumps(opt)).epochs == 7


class Scheduled(RMSProp):
    """An optimizer with an attribute of its own."""

    epochs: int


def test_repr() -> None:
    opt = RMSProp({"W": np.ones((30, 50), np.float32), "b": np.ones(50, np.float32)}, lr=0.5)
    assert repr(opt) == (
        "RMSProp(lr=0.5, alpha=0.99, eps=1e-08; 2 arrays of 1,550 in all; "
        "flush_denormals=True, threads=None)"
    )
    opt.param_groups[0].update(momentum=0.9, centered=True)
    opt.max_grad_norm = 1
    assert repr(opt) == (
        "RMSProp(lr=0.5, alpha=0.99, eps=1e-08, momentum=0.9, centered=True; "
        "2 arrays of 1,550 in all; max_grad_norm=1.0, flush_denormals=True, threads=None)"
    )
    opt.add_param_group({"params": np.ones(3), "name": "head"})
    assert "\n  'head': lr=0.5" in repr(opt)


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
