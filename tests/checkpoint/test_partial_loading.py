"""Loading by name: what fits, under other names, and a report of the rest."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.checkpoint import LoadReport
from reference import same_bits

OPTIONS: dict[str, Any] = {"momentum": 0.5, "ema_decay": 0.9}


def saved_run(path: Path, **options: Any) -> tuple[dict[str, Any], RMSProp]:
    rng = np.random.default_rng(3)
    params: dict[str, Any] = {"W": rng.random((2, 3)), "b": rng.random(3), "old": rng.random(1)}
    opt = RMSProp(params, lr=0.125, **{**OPTIONS, **options})
    for _ in range(3):
        opt.step({name: rng.random(p.shape) for name, p in params.items()})
    opt.save(path)
    return params, opt


def same_state(a: RMSProp, one: str, b: RMSProp, other: str) -> bool:
    x, y = a.state[one], b.state[other]
    return x.keys() == y.keys() and all(
        same_bits(np.atleast_1d(x[k]), np.atleast_1d(y[k])) for k in x
    )


def test_a_file_in_part(path: Path) -> None:
    params, opt = saved_run(path)
    ours: dict[str, Any] = {"W": np.zeros((2, 3)), "b": np.full(4, 7.0), "new": np.full(2, 5.0)}
    other, report = RMSProp.load(path, ours, strict=False)
    assert report == LoadReport(["new"], ["old"], ["b"])
    assert same_bits(ours["W"], params["W"])
    assert same_state(other, "W", opt, "W")
    assert (ours["b"] == 7).all()
    assert (ours["new"] == 5).all()
    fresh = RMSProp({"b": ours["b"], "new": ours["new"]}, **OPTIONS)
    assert same_state(other, "new", fresh, "new")
    assert same_state(other, "b", fresh, "b")
    assert (other.step_count, other.lr) == (3, 0.125)
    other.step({name: np.ones_like(p) for name, p in ours.items()})
    assert int(other.state["new"]["step"]) == 1
    assert int(other.state["W"]["step"]) == 4
    with pytest.raises(ValueError, match=r"(?s)'new' is not in.*'old' is in.* only.*'b' is float"):
        RMSProp.load(path, ours)


def test_everything_fits(path: Path) -> None:
    params, opt = saved_run(path)
    ours = {name: np.zeros_like(p) for name, p in params.items()}
    other, report = RMSProp.load(path, ours, strict=False)
    assert report == LoadReport([], [], [])
    assert pickle.dumps(other.state_dict()) == pickle.dumps(opt.state_dict())


def test_a_state_dict_in_part(tmp_path: Path) -> None:
    _, opt = saved_run(tmp_path / "x.npz")
    saved = opt.state_dict()
    ours: dict[str, Any] = {"W": np.ones((2, 3), np.float32), "b": np.ones(3), "new": np.ones(1)}
    other = RMSProp(ours)
    other.step({name: np.ones_like(p) for name, p in ours.items()})
    before = {name: p.copy() for name, p in ours.items()}
    assert other.load_state_dict(saved, strict=False) == LoadReport(["new"], ["old"], ["W"])
    assert all(same_bits(ours[name], before[name]) for name in ours)
    assert same_state(other, "b", opt, "b")
    assert not other.state["new"]["square_avg"].any()  # as new, not as it was
    assert int(other.state["new"]["step"]) == 0
    assert opt.load_state_dict(saved) is None


@pytest.mark.parametrize("strict", [True, False])
def test_other_names(path: Path, strict: Any) -> None:
    params, opt = saved_run(path)
    mapping = {"W": "layer.W", "b": "W"}
    for rename in (
        mapping,
        lambda name: None if name == "old" else mapping.get(name, name),
    ):
        ours: dict[str, Any] = {"layer": {"W": np.zeros((2, 3))}, "W": np.zeros(3)}
        if not callable(rename):
            ours["old"] = np.zeros(1)
        loaded: Any = RMSProp.load(path, ours, strict=strict, rename=rename)
        other = loaded if strict else loaded[0]
        assert strict or loaded[1] == LoadReport([], [], [])
        assert same_bits(ours["layer"]["W"], params["W"])
        assert same_bits(ours["W"], params["b"])
        assert same_state(other, "W", opt, "b")


def test_names_that_rename_cannot_give(path: Path) -> None:
    params, _ = saved_run(path)
    before = pickle.dumps(params)
    for rename, error, message in (
        ({"W": "b"}, ValueError, "rename gives 'W' and 'b' the same name 'b'"),
        (lambda name: 3, TypeError, "rename must give a str, or None to leave 'W' out, got int"),
        ({"elsewhere": "x"}, ValueError, "rename has 'elsewhere', which no saved parameter"),
        (5, TypeError, "rename must be a mapping"),
    ):
        for strict in (True, False):
            with pytest.raises(error, match=message):
                RMSProp.load(path, params, strict=strict, rename=rename)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="strict must be True or False"):
        RMSProp.load(path, params, strict="no")  # type: ignore[call-overload]
    assert pickle.dumps(params) == before


def test_groups_in_other_numbers_keep_the_options_given(path: Path) -> None:
    _, opt = saved_run(path)
    ours = [
        {"params": {"W": np.zeros((2, 3))}, "name": "g", "lr": 0.5, **OPTIONS},
        {"params": {"b": np.zeros(3)}, "name": "h", "momentum": 0.5},
    ]
    names = {"W": "g.W", "b": "h.b"}
    other, report = RMSProp.load(path, ours, strict=False, rename=names)
    assert report == LoadReport([], ["old"], [])
    assert [group["lr"] for group in other.param_groups] == [0.5, 0.125]
    assert same_state(other, "g.W", opt, "W")
    assert other.step_count == 3


def test_state_that_the_options_do_not_suit_does_not_fit(path: Path) -> None:
    _, opt = saved_run(path, ema_decay=0.0)
    ours = [
        {"params": {"W": np.zeros((2, 3))}, "centered": True},
        {"params": {"b": np.zeros(3)}, "lr_in_momentum": True},
        {"params": {"old": np.zeros(1)}, "momentum": 0.0},
    ]
    other = RMSProp(ours)
    rename = {"W": "0.W", "b": "1.b", "old": "2.old"}
    report = other.load_state_dict(opt.state_dict(), strict=False, rename=rename)
    assert report == LoadReport([], [], ["0.W", "1.b"])
    assert int(other.state["2.old"]["step"]) == 3


@pytest.mark.parametrize("shape", [(2, 3), (7,)])
def test_a_load_of_nothing_warns(path: Path, shape: tuple[int, ...]) -> None:
    _, opt = saved_run(path)
    ours = {"W" if shape == (7,) else "new": np.ones(shape)}
    hint = "rename=" if "new" in ours else "strict=True"
    with pytest.warns(UserWarning, match=f"no parameter took.*of 1 .*'W'.*{hint}") as caught:
        RMSProp.load(path, ours, strict=False)
    assert caught[0].filename == __file__
    other = RMSProp(ours)
    before = pickle.dumps(other.state_dict())
    with pytest.raises(UserWarning, match="no parameter took"):  # warnings are errors
        other.load_state_dict(opt.state_dict(), strict=False)
    assert pickle.dumps(other.state_dict()) == before
    if "new" in ours:
        assert other.load_state_dict(opt.state_dict(), strict=False, rename={"W": "new"})


def test_accumulated_gradients_stay_with_what_fits(path: Path) -> None:
    params, opt = saved_run(path)
    opt.accumulate({name: np.ones_like(p) for name, p in params.items()})
    opt.save(path)
    ours = {"W": np.zeros((2, 3)), "new": np.full(2, 5.0)}
    other, _ = RMSProp.load(path, ours, strict=False)
    opt.step()
    other.step()
    assert same_bits(ours["W"], params["W"])
    assert (ours["new"] == 5).all()
    assert same_state(other, "W", opt, "W")


def test_buffers_of_momentum_that_was_turned_off_are_kept(path: Path) -> None:
    _, opt = saved_run(path)
    opt.param_groups[0]["momentum"] = 0.0
    opt.save(path)
    other, _ = RMSProp.load(path, {"W": np.zeros((2, 3)), "new": np.ones(2)}, strict=False)
    assert same_state(other, "W", opt, "W")
    assert not other.state["new"]["momentum_buffer"].any()


def test_frozen_parameters_stay_frozen_by_name() -> None:
    saved = RMSProp({"a": np.ones(2), "b": np.ones(3), "old": np.ones(1)})
    saved.freeze("a", "old")
    params = {"x": np.ones(2), "b": np.ones(3), "new": np.ones(4)}
    opt = RMSProp(params)
    opt.freeze("b", "new")
    opt.load_state_dict(saved.state_dict(), strict=False, rename={"a": "x"})
    assert opt.frozen == ("x", "new")


def test_options_follow_the_parameters_into_their_group() -> None:
    def groups(*order: str) -> list[dict[str, Any]]:
        sizes = {"body": 2, "head": 3, "tail": 1}
        return [{"params": {"W": np.zeros(sizes[n])}, "name": n} for n in order]

    body, head = groups("body", "head")
    old = RMSProp([{**body, "lr": 0.1, "alpha": 0.5}, {**head, "lr": 0.001, "momentum": 0.9}])
    old.step([{"W": np.ones(2)}, {"W": np.ones(3)}])
    file = io.BytesIO()
    old.save(file)
    file.seek(0)
    new, report = RMSProp.load(file, groups("head", "body"), strict=False)
    assert report == ([], [], [])
    assert [(g["lr"], g["alpha"]) for g in new.param_groups] == [(0.001, 0.99), (0.1, 0.5)]
    assert new.param_groups[0]["momentum"] == 0.9
    for name, state in old.state.items():
        assert all(same_bits(new.state[name][key], state[key]) for key in state)
    other = RMSProp([{**g, "lr": 7.0} for g in groups("tail", "body")])
    assert other.load_state_dict(old.state_dict(), strict=False) == (["tail.W"], ["head.W"], [])
    assert [g["lr"] for g in other.param_groups] == [7.0, 0.1]
