"""The options of the NumPy class, which torch's optimizer does not have."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import fused_rmsprop
from fused_rmsprop.options import GROUP_OPTIONS
from fused_rmsprop.values import as_flag
from torch_support import RMSprop, params_of, torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extra", [{}, {"momentum": 0.9, "centered": True}])
@pytest.mark.parametrize(
    "own",
    [
        {"eps_inside_sqrt": True},
        {"lr_in_momentum": True, "decoupled_weight_decay": True, "weight_decay": 0.1},
        {"initial_square_avg": 1.0, "eps_inside_sqrt": True},
        {"bias_correction": True},
        {"ema_decay": 0.9},
        {"max_grad_norm": 0.5},
        {"max_grad_value": 0.1, "on_nonfinite": "skip", "flush_denormals": False},
        {"max_grad_norm": 2.0, "max_grad_value": 0.5, "ema_decay": 0.5, "weight_decay": 0.1},
    ],
)
def test_the_options_of_the_numpy_class(dtype: Any, extra: Any, own: Any) -> None:
    shapes = [(300,), (3, 4), ()]
    generator = torch.Generator().manual_seed(5)
    params = [torch.randn(s, dtype=dtype, generator=generator).requires_grad_() for s in shapes]
    arrays = [p.detach().numpy().copy() for p in params]
    opt = RMSprop(params, lr=0.01, **extra, **own)
    theirs = fused_rmsprop.RMSProp(arrays, lr=0.01, **extra, **own)
    for step in range(6):
        for p in params:
            p.grad = torch.randn(p.shape, dtype=dtype, generator=generator)
        if step == 2:
            params[1].grad = None
        if step == 4 and opt.on_nonfinite == "skip":
            params[1].grad[0, 1] = torch.inf
        opt.step()
        theirs.step([None if p.grad is None else p.grad.numpy() for p in params])
        assert opt.grad_norm == theirs.grad_norm
    assert opt.skipped_steps == theirs.skipped_steps
    for p, array, state in zip(params, arrays, theirs.state.values(), strict=True):
        assert np.array_equal(p.detach().numpy(), array)
        assert opt.state[p].keys() == state.keys()
        for key, value in state.items():
            assert np.array_equal(opt.state[p][key].numpy(), value)


def test_own_options_in_groups_copies_and_state_dicts() -> None:
    p, q = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    opt = RMSprop([p], eps_inside_sqrt=True)
    opt.add_param_group({"params": [q], "eps_inside_sqrt": False, "bias_correction": True})
    groups = [(g["eps_inside_sqrt"], g["bias_correction"]) for g in opt.param_groups]
    assert groups == [(True, False), (False, True)]
    assert copy.deepcopy(opt).param_groups[1]["bias_correction"] is True
    with pytest.raises(ValueError, match="it has no meaning with initial_square_avg=1"):
        opt.add_param_group({"params": [torch.ones(1)], "bias_correction": True,
                             "initial_square_avg": 1.0})  # fmt: skip
    assert len(opt.param_groups) == 2
    with pytest.raises(ValueError, match="initial_square_avg must be >= 0"):
        RMSprop([p], initial_square_avg=-1.0)
    fresh = RMSprop([p, q], eps_inside_sqrt=True)
    fresh.load_state_dict(torch.optim.RMSprop([p, q]).state_dict())
    assert fresh.param_groups[0]["eps_inside_sqrt"] is True
    fresh = RMSprop([{"params": [p, q], "eps_inside_sqrt": True, "initial_square_avg": 0.5}])
    fresh.load_state_dict(torch.optim.RMSprop([p, q]).state_dict())
    group = fresh.param_groups[0]
    assert (group["eps_inside_sqrt"], group["initial_square_avg"]) == (True, 0.5)
    p.grad = torch.ones(3)
    for change in ({"eps_inside_sqrt": "no"}, {"bias_correction": True},
                   {"initial_square_avg": 1e39}):  # fmt: skip
        before = dict(group)
        group.update(change)
        with pytest.raises((TypeError, ValueError), match=next(iter(change))):
            fresh.step()
        assert (p == 1).all()
        assert not fresh.state
        group.update(before)
    half = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    half.grad = torch.ones_like(half)
    with pytest.raises(ValueError, match="eps_inside_sqrt is not supported for"):
        RMSprop([half], eps_inside_sqrt=True).step()
    assert (half == 1).all()


def test_nesterov_is_checked() -> None:
    p = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="nesterov needs momentum"):
        RMSprop([p], nesterov=True)
    with pytest.raises(TypeError, match="nesterov must be True or False"):
        RMSprop([p], momentum=0.9, nesterov=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads must be"):
        RMSprop([p], threads=0)
    opt = RMSprop(
        [torch.ones(2, dtype=torch.bfloat16, requires_grad=True)], momentum=0.9, nesterov=True
    )
    opt.param_groups[0]["params"][0].grad = torch.ones(2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="nesterov is not supported for"):
        opt.step()


def test_averages_are_shown_and_hidden_again() -> None:
    p, q = params_of([1.0, 2.0], [5.0])
    unused = torch.ones(2, requires_grad=True)
    opt = RMSprop([p, q, unused], lr=0.1, ema_decay=0.5)
    opt.step()
    opt.step()
    trained, average = p.detach().clone(), opt.state[p]["param_avg"].clone()
    with opt.use_ema():
        assert torch.equal(p, average)
        assert torch.equal(unused, torch.ones(2))
        with pytest.raises(RuntimeError, match=r"inside use_ema\(\)"):
            opt.step()
        with pytest.raises(RuntimeError, match=r"inside use_ema\(\)"), opt.use_ema():
            pass
    assert torch.equal(p, trained)
    with pytest.raises(KeyError), opt.use_ema():
        raise KeyError
    assert torch.equal(p, trained)
    assert torch.equal(opt.state[p]["param_avg"], average)
    opt.step()
    with pytest.raises(ValueError, match="there are no averages"), RMSprop([p]).use_ema():
        pass
    with opt.use_ema(), pytest.raises(RuntimeError, match=r"inside use_ema\(\)"):
        copy.deepcopy(opt)
    with pytest.raises(RuntimeError, match="size"), opt.use_ema():
        p.data = torch.ones(5, dtype=torch.float64)
    p.data, p.grad = trained.clone(), trained.clone()
    opt.step()  # it is not inside any more


def test_an_average_that_was_turned_off_is_not_shown() -> None:
    p, q = params_of([1.0], [2.0])
    opt = RMSprop([{"params": [p]}, {"params": [q]}], lr=0.1, ema_decay=0.5)
    opt.step()
    opt.step()
    opt.param_groups[1]["ema_decay"] = 0.0
    before = q.detach().clone()
    with opt.use_ema():
        assert torch.equal(q, before)


def test_averages_turned_on_and_off() -> None:
    (p,) = params_of([1.0, 2.0])
    opt = RMSprop([p], lr=0.1)
    opt.step()
    opt.param_groups[0]["ema_decay"] = 0.5
    start = p.detach().clone()
    opt.step()
    assert torch.equal(opt.state[p]["param_avg"], (start + p.detach()) / 2)
    opt.state[p]["param_avg"] = opt.state[p]["param_avg"].repeat(2, 1).t()[:, 0]  # with gaps
    opt.step()
    opt.param_groups[0]["ema_decay"] = 0
    opt.step()
    assert "param_avg" not in opt.state[p]


def test_settings_are_copied_and_can_be_changed() -> None:
    (p,) = params_of([1.0])
    settings: dict[str, Any] = {
        "max_grad_norm": 1.0,
        "max_grad_value": 2.0,
        "on_nonfinite": "skip",
        "flush_denormals": False,
        "threads": 2,
    }
    opt = RMSprop([p], ema_decay=0.9, **settings)
    p.grad[0] = torch.nan
    opt.step()
    for copied in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert {name: getattr(copied, name) for name in settings} == settings
        assert copied.skipped_steps == 1
        assert copied.param_groups[0]["ema_decay"] == 0.9
    opt.flush_denormals = True
    opt.max_grad_norm = None
    assert (opt.flush_denormals, opt.max_grad_norm) == (True, None)


def test_flush_denormals_decides_what_the_kernel_takes() -> None:
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    opt = RMSprop([p], eps=1e-40, eps_inside_sqrt=True)
    with pytest.raises(ValueError, match="is not supported for"):
        opt.step()
    opt.flush_denormals = False
    opt.step()
    opt.flush_denormals = True
    with pytest.raises(ValueError, match="is not supported for"):
        opt.step()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_grad_norm": 0}, "max_grad_norm must be > 0, or None"),
        ({"max_grad_value": -1.0}, "max_grad_value must be > 0, or None"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite must be one of 'propagate', 'skip', 'raise'"),
        ({"ema_decay": 1.0}, "ema_decay must be >= 0 and < 1, got 1"),
        ({"flush_denormals": 1}, "flush_denormals must be True or False"),
    ],
)
def test_wrong_settings_are_refused(settings: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        RMSprop([torch.ones(1)], **settings)


def test_settings_of_the_whole_optimizer_are_refused_in_groups() -> None:
    with pytest.raises(ValueError, match="max_grad_norm belongs to the whole optimizer"):
        RMSprop([{"params": [torch.ones(1)], "max_grad_norm": 1.0}])


@pytest.mark.parametrize("wrong", ["0.1", None, torch.ones(2)])
def test_wrong_numbers_in_groups_are_refused_by_name(wrong: Any) -> None:
    (p,) = params_of([1.0])
    opt = RMSprop([p])
    opt.param_groups[0]["lr"] = wrong
    with pytest.raises(TypeError, match="lr must be a number or a tensor of one, got"):
        opt.step()


def test_the_refusal_says_which_parameter_and_why() -> None:
    p, q = params_of([1.0], [1.0])
    half = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    half.grad = torch.ones_like(half)
    opt = RMSprop([("head", p), ("body", half)], ema_decay=0.9)
    with pytest.raises(ValueError, match=r"\['params'\]\[1\] \(body\), .* it is torch.bfloat16"):
        opt.step()
    with pytest.raises(ValueError, match="the kernel needs eps > 0, and it is 0"):
        RMSprop([q], eps=0, max_grad_value=1.0).step()
    with pytest.raises(ValueError, match="capturable is set"):
        RMSprop([q], capturable=True, on_nonfinite="skip").step()


def test_a_setting_of_the_whole_optimizer_in_a_group_is_refused_at_any_time() -> None:
    (p,) = params_of([1.0, 2.0])
    opt = RMSprop([p])
    opt.step()
    opt.param_groups[0]["max_grad_norm"] = 1.0
    with pytest.raises(ValueError, match=r"param_groups\[0\]: max_grad_norm belongs to the whole"):
        opt.step()
    del opt.param_groups[0]["max_grad_norm"]
    opt.step()


@pytest.mark.parametrize("centered", [None, "yes", -1, 1, []])
def test_torch_takes_anything_for_a_flag(centered: Any) -> None:
    (p,), (q,) = params_of([1.0, 2.0]), params_of([1.0, 2.0])
    RMSprop([p], centered=centered).step()
    RMSprop([q], centered=bool(centered)).step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("momentum", [lambda t: 0.9, "x", None])
def test_a_momentum_that_is_no_number_is_named(momentum: Any) -> None:
    (p,) = params_of([1.0, 2.0])
    opt = RMSprop([p])
    opt.param_groups[0]["momentum"] = momentum
    with pytest.raises(TypeError, match=r"momentum('\])? must be a number or a tensor"):
        opt.step()


def test_a_closure_is_not_called_inside_use_ema() -> None:
    (p,) = params_of([1.0, 2.0])
    opt = RMSprop([p], ema_decay=0.5)
    opt.step()
    called: list[int] = []
    with opt.use_ema(), pytest.raises(RuntimeError, match="inside use_ema"):
        opt.step(lambda: called.append(1))
    assert not called


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": "0.1"},
        {"lr": lambda step: 0.1},
        {"lr": torch.ones(2)},
        {"alpha": None},
        {"momentum": "x", "nesterov": True},
        {"bias_correction": True},
        {"lr_in_momentum": True},
        {"ema_decay": 2.0},
        {"max_grad_norm": 1.0},
        {"eps_inside_sqrt": "\ud800"},
        {"\ud800": 1, "momentum": None},
        {"weight_decay": 10**400},
    ],
    ids=[str(i) for i in range(12)],
)
def test_a_refused_option_that_is_put_right_leaves_nothing(wrong: Any) -> None:
    results = []
    for meddled in (False, True):
        p, q = params_of([1.0, 2.0], [3.0])
        opt = RMSprop([{"params": [p]}, {"params": [q], "lr": 0.3}], momentum=0.9)
        opt.step()
        if meddled:
            group = opt.param_groups[1]
            before, saved = dict(group), opt.state_dict()["state"][0]["square_avg"].clone()
            opt.param_groups[0]["lr"] = 0.5
            group.update(wrong)
            with pytest.raises((TypeError, ValueError)):
                opt.step()
            assert torch.equal(opt.state_dict()["state"][0]["square_avg"], saved)
            opt.param_groups[0]["lr"] = 0.01
            group.clear()
            group.update(before)
        opt.step()
        results.append((p.detach(), q.detach()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("lr", [torch.tensor(0.1, dtype=torch.float64), np.array(0.1)])
def test_options_whose_values_change_where_they_lie_are_read_at_every_step(lr: Any) -> None:
    results = []
    for changing in (True, False):
        (p,) = params_of([1.0, 2.0])
        opt = RMSprop([p], lr=0.1)
        if changing:
            opt.param_groups[0]["lr"] = lr
        opt.step()
        opt.step()
        if changing:
            lr[...] = 0.5
        else:
            opt.param_groups[0]["lr"] = float(lr)
        opt.step()
        results.append(p.detach())
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "act",
    [
        lambda opt: opt.state_dict(),
        lambda opt: opt.load_state_dict(
            {"state": {}, "param_groups": [{**opt.defaults, "params": [0]}]}
        ),
        lambda opt: opt.add_param_group({"params": [torch.ones(1)]}),
        lambda opt: pickle.dumps(opt),
        lambda opt: copy.copy(opt),
        lambda opt: opt.step(),
    ],
)
def test_averages_are_not_saved_in_the_place_of_parameters(act: Any) -> None:
    (p,) = params_of([1.0, 2.0])
    opt = RMSprop([p], lr=0.1, ema_decay=0.5)
    opt.step()
    with opt.use_ema(), pytest.raises(RuntimeError, match="inside use_ema"):
        act(opt)
    assert len(opt.param_groups) == 1
    opt.step()
    assert opt.state[p]["step"] == 2


@pytest.mark.parametrize("name", [n for n, o in GROUP_OPTIONS.items() if o.read is not as_flag])
def test_a_number_that_is_too_large_is_refused_as_in_the_numpy_class(name: str) -> None:
    too_large: Any = {name: 10**400}
    with pytest.raises(ValueError, match=f"{name} is too large for a float"):
        fused_rmsprop.RMSProp(np.ones(2), **too_large)
    (p,) = params_of([1.0, 2.0])
    opt = RMSprop([p])
    opt.step()
    before = p.detach().clone()
    opt.param_groups[0].update(too_large)
    with pytest.raises(ValueError, match=f"{name} is too large for a float"):
        opt.step()
    assert torch.equal(p, before)
