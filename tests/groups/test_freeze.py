"""Parameters that are frozen by name: steps leave them alone; copies and files keep them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from reference import same_bits
from support import Array, both_dtypes, draw

Nest = dict[str, Any]


def network(dtype: Any = np.float32) -> Nest:
    shapes = {"W": (4, 3), "b": (3,)}
    layers = ("layer1", "layer2")
    return {k: {n: draw(*s, dtype=dtype) for n, s in shapes.items()} for k in layers}


def without_layer1(grads: Nest) -> Nest:
    return {**grads, "layer1": None}


def image(opt: RMSProp) -> list[Array]:
    params = [a for group in opt.param_groups for layer in group["params"].values()
              for a in layer.values()]  # fmt: skip
    return [*params, *(a for state in opt.state.values() for a in state.values())]


def same(a: RMSProp, b: RMSProp) -> bool:
    return all(same_bits(x, y) for x, y in zip(image(a), image(b), strict=True))


@both_dtypes
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9, "centered": True, "ema_decay": 0.5, "max_grad_norm": 1.0},
     {"bias_correction": True, "on_nonfinite": "raise"}],
)  # fmt: skip
def test_a_frozen_parameter_is_left_alone_as_with_a_gradient_of_none(
    dtype: str, options: dict[str, Any]
) -> None:
    params = network(dtype)
    opt, other = (RMSProp(copy.deepcopy(params), lr=0.1, **options) for _ in range(2))
    for turn in range(6):
        if turn == 2:
            opt.freeze("layer1.*")
        if turn == 4:
            opt.unfreeze("layer1.W", "layer1.b")
        grads = network(dtype)
        opt.step(grads)
        other.step(without_layer1(grads) if turn in (2, 3) else grads)
        assert same(opt, other)
        assert opt.grad_norm == other.grad_norm
    assert int(opt.state["layer1.W"]["step"]) == 4
    assert int(opt.state["layer2.W"]["step"]) == 6


@pytest.mark.parametrize("rubbish", [np.full((4, 3), np.nan, np.float32), np.ones(7), "x", 3])
def test_a_frozen_gradient_is_not_read(rubbish: Any) -> None:
    opt = RMSProp(network(), on_nonfinite="raise")
    opt.freeze("layer1.*")
    before = [a.copy() for a in opt.param_groups[0]["params"]["layer1"].values()]
    opt.step({"layer1": {"W": rubbish, "b": rubbish}, "layer2": network()["layer2"]})
    with pytest.raises(ValueError, match="'b'"):
        opt.step({"layer1": {"W": rubbish}, "layer2": network()["layer2"]})
    for a, b in zip(opt.param_groups[0]["params"]["layer1"].values(), before, strict=True):
        assert same_bits(a, b)
    opt.unfreeze()
    with pytest.raises((ValueError, TypeError, FloatingPointError), match="grads"):
        opt.step({"layer1": {"W": rubbish, "b": rubbish}, "layer2": network()["layer2"]})


def test_accumulate_leafwise_and_bound_gradients_ignore_it() -> None:
    params = network()
    opt, other = (RMSProp(copy.deepcopy(params), lr=0.1) for _ in range(2))
    opt.freeze("layer1.*")
    for _ in range(2):
        grads = network()
        opt.accumulate(grads)
        other.accumulate(without_layer1(grads))
    opt.step()
    other.step()
    assert same(opt, other)
    with opt.leafwise() as update, other.leafwise() as update_other:
        update("layer1.W", grads["layer1"]["W"])
        update("layer1.b")
        update("layer2.W", grads["layer2"]["W"])
        update_other("layer2.W", grads["layer2"]["W"])
        with pytest.raises(RuntimeError):
            opt.unfreeze()
    assert same(opt, other)
    assert len(opt.frozen) == 2
    opt.bind_grads(grads)
    opt.step()
    other.step(without_layer1(grads))
    assert same(opt, other)


def test_what_was_accumulated_before_waits_or_is_dropped() -> None:
    p = {"a": np.ones(2), "b": np.ones(2)}
    opt = RMSProp(p, lr=0.1)
    opt.accumulate({"a": np.ones(2), "b": np.ones(2)})
    opt.freeze("a")
    opt.step()
    assert p["a"].tolist() == [1.0, 1.0]
    assert p["b"][0] < 1.0
    opt.unfreeze()
    opt.accumulate({"a": None, "b": np.ones(2)})
    opt.step()
    assert p["a"].tolist() == [1.0, 1.0]


def test_averages_are_still_shown() -> None:
    p = np.ones(2)
    opt = RMSProp(p, lr=0.1, ema_decay=0.5)
    opt.step(np.ones(2))
    opt.freeze("param")
    trained = p.copy()
    with opt.use_ema():
        assert same_bits(p, opt.state["param"]["param_avg"])
        assert not same_bits(p, trained)
        with pytest.raises(RuntimeError, match="use_ema"):
            opt.unfreeze()
    assert same_bits(p, trained)
    assert opt.frozen == ("param",)


def test_names_come_before_patterns() -> None:
    opt: Any = RMSProp({"a*": np.ones(1), "ab": np.ones(1), "[x]": np.ones(1), "x": np.ones(1)})
    opt.freeze("a*", "[x]")
    assert opt.frozen == ("a*", "[x]")
    opt.freeze("?")
    assert opt.frozen == ("a*", "[x]", "x")
    opt.unfreeze("x", "[[]x]")
    assert opt.frozen == ("a*",)
    assert "1 of 4 arrays frozen" in repr(opt)
    assert "1 of 4 arrays frozen" in repr(opt.param_groups[0])
    opt.unfreeze()
    assert opt.frozen == ()
    assert "frozen" not in repr(opt)


def test_wrong_patterns_change_nothing() -> None:
    opt = RMSProp(network())
    for patterns in (("layer2.*", "layer3.*"), ("layer1.w",), ("layer2",)):
        with pytest.raises(KeyError, match=r"there is no parameter .*layer1\.W"):
            opt.freeze(*patterns)
    with pytest.raises(TypeError, match="a name or a pattern"):
        opt.freeze("layer1.W", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"opt.freeze\('\*'\) freezes all"):
        opt.freeze()
    assert opt.frozen == ()


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_copies_and_files_keep_it(tmp_path: Path, suffix: str) -> None:
    opt = RMSProp([{"params": network(), "name": "a"}, {"params": network()}], lr=0.1)
    opt.freeze("a.layer1.*")
    opt.step([network(), network()])
    path = tmp_path / f"checkpoint.{suffix}"
    opt.save(path)
    fresh: list[Nest] = [{"params": network(), "name": "a"}, {"params": network()}]
    loaded = RMSProp([dict(group) for group in fresh], lr=0.1)
    loaded.load_state_dict(opt.state_dict())
    for other in (
        copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), loaded, RMSProp.load(path, fresh),
    ):  # fmt: skip
        assert other.frozen == ("a.layer1.W", "a.layer1.b")
    state = opt.state_dict()
    del state["param_groups"][0]["frozen"]  # as in earlier files
    loaded.load_state_dict(state)
    assert loaded.frozen == ()


@pytest.mark.parametrize("frozen", [["x"], [3], "a", {"a": 1}])
def test_a_wrong_saved_list_is_refused(frozen: Any) -> None:
    opt = RMSProp({"a": np.ones(2)})
    state = opt.state_dict()
    state["param_groups"][0]["frozen"] = frozen
    with pytest.raises(ValueError, match="frozen"):
        opt.load_state_dict(state)
    assert opt.frozen == ()
