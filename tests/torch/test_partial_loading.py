"""`load_state_dict` by name: strict or not, renamed, all or nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from torch_support import RMSprop, TorchRMSprop, set_grads, torch


def trained(names: Mapping[str, tuple[int, ...]], cls: Any = RMSprop, **options: Any) -> Any:
    """An optimizer of named parameters after a step; the state of each is its own."""
    params = {n: torch.ones(shape, requires_grad=True) for n, shape in names.items()}
    opt = cls(params.items(), **options)
    for i, p in enumerate(params.values()):
        p.grad = torch.full_like(p, i + 1.0)
    opt.step()
    return opt, params


def moments(opt: Any, params: dict[str, Any]) -> dict[str, Any]:
    return {n: opt.state[p]["square_avg"] for n, p in params.items() if p in opt.state}


SMALL: dict[str, tuple[int, ...]] = {"a": (2,), "b": (3,)}


@pytest.mark.parametrize("cls", [RMSprop, TorchRMSprop])
def test_takes_what_fits_by_name(cls: Any) -> None:
    saver, saved_params = trained({"gone": (4,), "b": (3,), "a": (2,), "c": (5,)}, cls, lr=0.5)
    params = {
        n: torch.ones(s, requires_grad=True) for n, s in {**SMALL, "c": (6,), "new": (1,)}.items()
    }
    opt = RMSprop(params.items())
    report = opt.load_state_dict(saver.state_dict(), strict=False)
    assert report == (["new"], ["gone"], ["c"])
    assert report.missing == ["new"]
    theirs = moments(saver, saved_params)
    loaded = moments(opt, params)
    assert loaded.keys() == {"a", "b"}
    assert all(torch.equal(loaded[n], theirs[n]) for n in loaded)
    assert opt.param_groups[0]["lr"] == 0.5  # as many groups
    assert opt.param_groups[0]["param_names"] == [*params]
    for p in params.values():
        p.grad = torch.ones_like(p)
    opt.step()


def test_other_numbers_of_groups_keep_the_options_here() -> None:
    saver, _ = trained(SMALL, lr=0.5)
    a, b = (torch.ones(n, requires_grad=True) for n in (2, 3))
    opt = RMSprop([{"params": [("b", b)]}, {"params": [("a", a)], "lr": 0.25}], lr=0.125)
    assert opt.load_state_dict(saver.state_dict(), strict=False) == ([], [], [])
    assert [group["lr"] for group in opt.param_groups] == [0.125, 0.25]
    assert {*moments(opt, {"a": a, "b": b})} == {"a", "b"}
    with pytest.raises(ValueError, match="1 parameter groups, the optimizer 2; strict=False"):
        opt.load_state_dict(saver.state_dict(), rename=str)


def test_without_names_positions_are_the_names() -> None:
    saver, saved_params = trained(SMALL)
    a, b, c = (torch.ones(n, requires_grad=True) for n in (2, 4, 1))
    opt = RMSprop([a, b, c])
    report = opt.load_state_dict(saver.state_dict(), strict=False)
    assert report == (["2"], [], ["1"])
    assert torch.equal(opt.state[a]["square_avg"], saver.state[saved_params["a"]]["square_avg"])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "rename", [{"x.a": "a", "x.b": "b"}, lambda name: name.removeprefix("x.")], ids=["dict", "def"]
)
def test_rename(rename: Any, strict: bool) -> None:
    saver, saved_params = trained({"x.b": (3,), "x.a": (2,)})
    opt, params = trained(SMALL)
    report = opt.load_state_dict(saver.state_dict(), strict=strict, rename=rename)
    assert report == (None if strict else ([], [], []))
    for name in SMALL:
        theirs = saver.state[saved_params[f"x.{name}"]]["square_avg"]
        assert torch.equal(opt.state[params[name]]["square_avg"], theirs)
    assert opt.param_groups[0]["param_names"] == ["a", "b"]


def assert_refused(opt: Any, error: Any, message: str, state: Any, **how: Any) -> None:
    before, saved = str(opt.state_dict()), copy.deepcopy(state)
    with pytest.raises(error, match=message):
        opt.load_state_dict(state, **how)
    assert str(opt.state_dict()) == before
    assert str(state) == str(saved)
    assert not opt._optimizer_load_state_dict_pre_hooks


def test_refusals_change_nothing() -> None:
    state = trained({"a": (2,), "b": (4,), "z": (1,)})[0].state_dict()
    opt, _ = trained(SMALL)
    message = r"does not fit \(unexpected: q; unfitting: b\)"
    assert_refused(opt, ValueError, message, state, rename={"z": "q"})
    assert_refused(opt, ValueError, "the same name 'a'", state, rename=lambda _: "a", strict=False)
    assert_refused(opt, TypeError, "rename must give a str, or None", state, rename=lambda _: 3)
    assert_refused(opt, TypeError, "rename must be a mapping", state, rename=3)
    assert_refused(opt, TypeError, "strict must be", state, strict="no")
    broken = copy.deepcopy(state)
    broken["state"][0]["step"] = "x"
    assert_refused(opt, TypeError, r"\(a\): step", broken, strict=False)


def test_dropped_names_are_not_unexpected() -> None:
    state = trained({**SMALL, "z": (1,)})[0].state_dict()
    opt, _ = trained(SMALL)
    drop = {"a": "a", "b": "b"}.get
    assert opt.load_state_dict(state, rename=drop, strict=True) is None
    assert opt.load_state_dict(state, rename=drop, strict=False) == ([], [], [])


@pytest.mark.parametrize("option", ["lr_in_momentum", "bias_correction"])
def test_state_of_another_formula_is_refused(option: str) -> None:
    """The groups keep their options, which would give the state another meaning."""
    saver, _ = trained(SMALL, momentum=0.5, **{option: True})
    a, b = (torch.ones(n, requires_grad=True) for n in (2, 3))
    opt = RMSprop([{"params": [("a", a)]}, {"params": [("b", b)]}], momentum=0.5)
    assert_refused(opt, ValueError, option, saver.state_dict(), strict=False)


@pytest.mark.parametrize("names", [{"x": (2,)}, {"a": (7,)}])
def test_a_load_of_nothing_warns(names: Any) -> None:
    state = trained(SMALL)[0].state_dict()
    opt, _ = trained(names)
    assert_refused(opt, UserWarning, "no parameter took", state, strict=False)  # an error here
    hint = "rename=" if "x" in names else "strict=True"
    with pytest.warns(UserWarning, match=f"no parameter took.*of 1 .*'b'.*{hint}") as caught:
        opt.load_state_dict(state, strict=False)
    assert caught[0].filename == __file__
    with pytest.raises(TypeError, match=r"RMSprop.load_state_dict .*'stric'; is strict meant"):
        opt.load_state_dict(state, stric=False)


def test_hooks_of_the_user_come_first() -> None:
    saver, _ = trained({"old": (2,)})
    opt, params = trained({"a": (2,), "b": (3,)})

    def renamed(_: Any, state: Any) -> Any:
        state = copy.deepcopy(state)
        state["param_groups"][0]["param_names"] = ["a"]
        return state

    with opt.register_load_state_dict_pre_hook(renamed):
        assert opt.load_state_dict(saver.state_dict(), strict=False) == (["b"], [], [])
    assert {*moments(opt, params)} == {"a"}


def test_a_rename_that_no_saved_name_has_is_refused() -> None:
    model = torch.nn.Linear(2, 2)
    saved = RMSprop(model.named_parameters()).state_dict()
    for optimizer, rename in (
        (RMSprop(model.parameters()), {"weight": "bias", "bias": "weight"}),
        (RMSprop(model.named_parameters()), {"wieght": "weight"}),
    ):
        for strict in (True, False):
            with pytest.raises(ValueError, match="which no saved parameter is called"):
                optimizer.load_state_dict(saved, strict=strict, rename=rename)


def test_options_follow_the_parameters_into_their_group() -> None:
    body, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)

    def group(name: str, part: Any, **options: Any) -> dict[str, Any]:
        return {"params": [(f"{name}.{n}", p) for n, p in part.named_parameters()], **options}

    old = RMSprop([group("body", body, lr=0.1, alpha=0.5), group("head", head, lr=0.001)])
    set_grads([*body.parameters(), *head.parameters()], 0)
    old.step()
    new = RMSprop([group("head", head), group("body", body)])
    assert new.load_state_dict(old.state_dict(), strict=False) == ([], [], [])
    assert [(g["lr"], g["alpha"]) for g in new.param_groups] == [(0.001, 0.99), (0.1, 0.5)]
    other = RMSprop([group("tail", torch.nn.Linear(1, 1), lr=7.0), group("body", body)])
    other.load_state_dict(old.state_dict(), strict=False)
    assert [g["lr"] for g in other.param_groups] == [7.0, 0.1]
