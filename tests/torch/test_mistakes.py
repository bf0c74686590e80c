"""Mistaken names and arguments: the error tells what to write, and nothing has changed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from fused_rmsprop import RMSProp, schedules
from torch_support import (
    ALL_BY_TORCH,
    RMSprop,
    TorchRMSprop,
    attributes,
    params_of,
    torch,
)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("learning_rate", "is lr meant"),
        ("rho", "is alpha meant"),
        ("epsilon", "is eps meant"),
        ("decay", "decay is alpha=decay"),
        ("max_norm", "is max_grad_norm meant"),
        ("global_clipnorm", "is max_grad_norm meant"),
        ("clipnorm", "max_grad_norm_per_array"),
        ("betas", r"Adam's: there is one average here, alpha=betas\[1\]"),
        ("amsgrad", "Adam"),
        ("fused", "leave it out: every step is fused"),
        ("clip", "max_grad_norm= clips"),
        ("clipvalue", "is max_grad_value meant"),
        ("dampening", "SGD's"),
        ("device", "leave it out"),
        ("use_ema", "ema_decay"),
        ("grads", "p.grad in torch"),
        ("momentun", "is momentum meant"),
        ("max_grad_nrom", "is max_grad_norm meant"),
        ("nonsense", "The options are"),
    ],
)
def test_unknown_arguments(name: str, hint: str) -> None:
    for cls in (RMSprop, type("Mine", (RMSprop,), {})):
        with pytest.raises(TypeError, match=rf"has no option '{name}'.*{hint}"):
            cls(params_of([1.0]), **{name: 1})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("learning_rate", "write 'lr'"),
        ("epsilon", "write 'eps'"),
        ("rho", "write 'alpha'"),
        ("alhpa", "write 'alpha'"),
        ("momentun", "write 'momentum'"),
        ("max_norm", r"RMSprop\(params, max_grad_norm=...\)"),
        ("clipnorm", r"RMSprop\(params, max_grad_norm_per_array=...\)"),
        ("in_backwards", r"RMSprop\(params, in_backward=...\)"),
        ("betas", "Adam's"),
    ],
)
def test_mistaken_options_in_groups(name: str, hint: str) -> None:
    (p, q) = params_of([1.0], [2.0])
    with pytest.raises(ValueError, match=rf"param_groups\[0\] has no option '{name}': .*{hint}"):
        RMSprop([{"params": [p], name: 1}])
    opt = RMSprop([p])
    with pytest.raises(ValueError, match=rf"param_groups\[1\] has no option '{name}'"):
        opt.add_param_group({"params": [q], name: 1})
    assert len(opt.param_groups) == 1
    for _ in range(2):
        opt.param_groups[0][name] = 1
        with pytest.raises(ValueError, match=rf"param_groups\[0\] has no option '{name}'"):
            opt.step()
        assert p.item() == 1
        del opt.param_groups[0][name]
        opt.step()
        p.detach().fill_(1)


def test_keys_of_others_in_groups() -> None:
    (p,) = params_of([1.0])
    names: list[Any] = [
        *("my_note", "lr_scale", "foreach", "name", "_alpha", 7),
        *("device", "clip", "scheduler", "eta_min", "T_max", "total_steps", "fused", "center"),
    ]
    opt = RMSprop([{"params": [p], "momentum": 0.9, **dict.fromkeys(names)}])
    opt.step()
    torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, 10)
    torch.optim.lr_scheduler.CyclicLR(opt, 0.1, 0.2)
    torch.optim.swa_utils.SWALR(opt, 0.1)
    opt.step()
    RMSprop(opt.param_groups).step()
    opt.param_groups[0]["note"] = 1
    opt.step()
    assert opt.param_groups[0]["my_note"] is None


def test_keys_of_a_loaded_state_stay() -> None:
    (p,) = params_of([1.0])
    saved = TorchRMSprop([{"params": [p], "decoupled_decay": True, "rho": 0.5}]).state_dict()
    opt = RMSprop([p])
    opt.load_state_dict(saved)
    opt.step()
    torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, 10)
    opt.step()
    opt.param_groups[0]["epsilon"] = 1e-3
    with pytest.raises(ValueError, match=r"param_groups\[0\] has no option 'epsilon'"):
        opt.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_schedule_that_ends_at_zero_may_miss_it(dtype: Any) -> None:
    ours, theirs = params_of([1.0]), params_of([1.0])
    least = 0.0
    for start in (1 / 3, 0.1, 0.7):
        for length in (3, 5, 50):
            ends = []
            for params, cls in ((ours, RMSprop), (theirs, TorchRMSprop)):
                params[0].data = torch.ones_like(params[0], dtype=dtype)
                opt = cls(params, lr=0.1)
                scheduler = torch.optim.lr_scheduler.LinearLR(opt, start, 0.0, length)
                for _ in range(length + 2):
                    params[0].grad = torch.ones_like(params[0])
                    opt.step()
                    scheduler.step()
                least = min(least, opt.param_groups[0]["lr"])
                ends.append(params[0].item())
            assert ends[0] == pytest.approx(ends[1], rel=1e-6)
    assert least < 0


OUT_OF_BOUNDS: list[tuple[str, Any, str]] = [
    ("lr", -1.0, ">= 0"),
    ("lr", float("nan"), ">= 0"),
    ("alpha", -2.0, ">= 0 and <= 1"),
    ("alpha", 2.0, ">= 0 and <= 1"),
    ("eps", -1.0, ">= 0"),
    ("weight_decay", -1.0, ">= 0"),
    ("momentum", -1.0, ">= 0"),
]


@ALL_BY_TORCH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "value", "bounds"), OUT_OF_BOUNDS)
def test_options_of_groups_out_of_bounds(name: str, value: Any, bounds: str, dtype: Any) -> None:
    p = torch.ones(2, dtype=dtype, requires_grad=True)
    p.grad = torch.ones_like(p)
    message = rf"param_groups\[0\]: {name} must be {bounds}, got {value}"
    with pytest.raises(ValueError, match=message):
        RMSprop([{"params": [p], name: value}])
    with pytest.raises(ValueError, match=rf"{message}|Invalid {name}|Invalid (learning|epsilon)"):
        RMSprop([p], **{name: value})
    opt = RMSprop([p])
    for given in (value, torch.tensor(value)) if name == "lr" else (value,):
        opt.step()
        before = str(opt.state_dict()["state"]), p.tolist()
        opt.param_groups[0][name] = given
        for _ in range(2):
            with pytest.raises(ValueError, match=message.split(", got", maxsplit=1)[0]):
                opt.step()
        assert (str(opt.state_dict()["state"]), p.tolist()) == before
        opt.param_groups[0][name] = opt.defaults[name]
    opt.step()
    opt.in_backward = True
    opt.param_groups[0][name] = value
    opt.zero_grad()
    with pytest.raises(ValueError, match=message):
        p.sum().backward()


def test_params_that_are_none() -> None:
    (p,) = params_of([1.0])
    with pytest.raises(KeyError, match="needs the key 'params'; 'param' is not it"):
        RMSprop([{"param": [p]}])
    with pytest.raises(TypeError, match="the parameters come first"):
        RMSprop(0.01, [p])
    net = torch.nn.Linear(1, 1)
    for wrong in (net, net.parameters, net.state_dict(), {"params": [p]}):
        with pytest.raises(TypeError, match=r"^params must be .*RMSprop\(model.parameters\(\)\)"):
            RMSprop(wrong)
        with pytest.raises(TypeError, match=r"^param_groups\[0\]\['params'\] must be .*"):
            RMSprop([{"params": wrong}])
    for good in (torch.nn.ParameterList([torch.nn.Parameter(p)]), {p: "its name"}):
        assert len(RMSprop(good).param_groups[0]["params"]) == 1
        assert len(RMSprop([{"params": good}]).param_groups[0]["params"]) == 1


def test_an_lr_that_requires_a_gradient_warns_of_nothing() -> None:
    lr = torch.tensor(0.1, requires_grad=True)
    assert RMSprop(params_of([1.0]), lr=lr, differentiable=True).param_groups[0]["lr"] is lr


@pytest.mark.parametrize("lr", [lambda t: 0.1, schedules.Cosine(0.1, transition_steps=100)])
def test_a_function_for_lr_names_torchs_scheduler(lr: Any) -> None:
    message = r"lr_scheduler.LambdaLR\(optimizer, schedule\)"
    (p,) = params_of([1.0])
    with pytest.raises(TypeError, match=message):
        RMSprop([p], lr=lr)
    with pytest.raises(TypeError, match=message):
        RMSprop([{"params": [p], "lr": lr}])
    with pytest.raises(TypeError, match=r"^param_groups\[0\]\['centered'\] must be a number"):
        RMSprop([{"params": [p], "centered": lr}])
    opt = RMSprop([p])
    opt.param_groups[0]["lr"] = lr
    with pytest.raises(TypeError, match=message):
        opt.step()
    assert p.item() == 1.0


def test_the_way_that_the_message_names() -> None:
    (p,) = params_of([1.0])
    opt = RMSprop([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, schedules.Cosine(0.1, transition_steps=100))
    opt.step()
    scheduler.step()
    assert opt.param_groups[0]["lr"] == schedules.Cosine(0.1, transition_steps=100)(1)


def test_attributes_that_are_mistaken_options() -> None:
    opt = RMSprop(params_of([1.0]))
    for name in ("lr", "alpha", "eps", "momentum", "learning_rate", "rho", "alhpa", "foreach"):
        with pytest.raises(AttributeError, match=r"no effect; set optimizer.param_groups\[0\]\['"):
            setattr(opt, name, 0.1)
    for name in ("max_grad_nrom", "max_gradnorm", "on_non_finite", "in_backwards", "clipnorm"):
        with pytest.raises(AttributeError, match="no effect; set optimizer.(max|on|in)_"):
            setattr(opt, name, 1)
    for name in ("lr", "learning_rate", "rho", "alpha"):
        with pytest.raises(AttributeError, match="has no attribute.*it is optimizer.param_groups"):
            getattr(opt, name)
    with pytest.raises(AttributeError, match=r"it is optimizer.max_grad_norm"):
        _ = opt.max_norm
    assert not hasattr(opt, "lr")


def test_attributes_of_the_numpy_class() -> None:
    opt = RMSprop(params_of([1.0]))
    numpys = {name for name in dir(RMSProp) if name[0] != "_"} - {*dir(opt)}
    assert attributes._NUMPYS.keys() <= numpys
    for name, instead in attributes._NUMPYS.items():
        with pytest.raises(AttributeError) as caught:
            getattr(opt, name)
        assert instead in str(caught.value)


def test_a_state_that_looking_for_it_made() -> None:
    opt = RMSprop(params_of([1.0], [2.0]))
    opt.step()
    opt.state["of a user"] = torch.ones(2)
    before = str(opt.state_dict())
    assert not opt.state[0]  # as in torch, whose state is a defaultdict
    mine = opt.state.setdefault("mine", {})
    assert str({**opt.state_dict()}).replace(", 'mine': {}", "") == before
    assert opt.state["mine"] is mine


def test_attributes_of_others_pass() -> None:
    opt = RMSprop(params_of([1.0]))
    for name in (
        *("found_inf", "grad_scale", "is_wrapped", "note", "_alpha", "gamma", "param_names"),
        *("scheduler", "device", "lrs", "clip", "step_size", "grad_clip", "max_norm", "beta2"),
    ):
        setattr(opt, name, 1)
        assert getattr(opt, name) == 1
    opt.max_grad_norm = 2.0

    class Mine(RMSprop):
        def __init__(self, params: Any, lr: float) -> None:
            self.lr = lr
            super().__init__(params, lr=lr)

    mine = Mine(params_of([1.0]), 0.5)
    mine.alpha = 1
    assert mine.lr == 0.5
    assert pickle.loads(pickle.dumps(opt)).max_grad_norm == 2.0


def test_gradients_are_no_closure() -> None:
    (p,) = params_of([1.0])
    opt = RMSprop([p])
    with pytest.raises(TypeError, match="gradients are read from each parameter: p.grad"):
        opt.step([torch.ones(1)])
    with pytest.raises(TypeError, match=r"^RMSprop\.step\(\) got an unexpected .* 'grads'"):
        opt.step(grads=[torch.ones(1)])
    assert p.item() == 1.0


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("other", ["Adam", "AdamW", "SGD", "Adagrad", "Adamax", "NAdam"])
def test_the_state_of_another_optimizer(other: str, strict: bool) -> None:
    (p,) = params_of([1.0, 2.0])
    options = {"momentum": 0.9} if other == "SGD" else {}
    theirs = getattr(torch.optim, other)([p], **options)
    theirs.step()
    opt = RMSprop([p])
    opt.step()
    before = str(opt.state_dict())
    with pytest.raises(ValueError, match="is not RMSprop's: it has .*, and no square_avg"):
        opt.load_state_dict(theirs.state_dict(), strict=strict)
    assert str(opt.state_dict()) == before


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("other", ["Adam", "SGD", "Adadelta", "ASGD"])
def test_the_state_of_another_optimizer_without_a_step(other: str, strict: bool) -> None:
    (p,) = params_of([1.0])
    saved = getattr(torch.optim, other)([p], lr=0.5).state_dict()
    opt = RMSprop([p], lr=0.25)
    before = str(opt.state_dict())
    with pytest.raises(ValueError, match=r"is not RMSprop's: it lacks .*another optimizer saved"):
        opt.load_state_dict(saved, strict=strict)
    assert str(opt.state_dict()) == before
    opt.step()


def test_a_state_with_notes_of_the_user() -> None:
    (p,) = params_of([1.0])
    opt = RMSprop([p])
    opt.step()
    opt.load_state_dict({**opt.state_dict(), "settings": {}, "counters": {"epoch": 3}})


def test_what_is_no_state_dict() -> None:
    (p,) = params_of([1.0])
    opt = RMSprop([p])
    for file in ("file.pt", Path("file.pt")):
        with pytest.raises(TypeError, match=r"load_state_dict\(torch.load\('file.pt'\)\)"):
            opt.load_state_dict(file)
    for wrong in ({"optimizer": opt.state_dict()}, torch.nn.Linear(1, 1).state_dict()):
        with pytest.raises(KeyError, match="'state' is missing .* whose keys are"):
            opt.load_state_dict(wrong)
