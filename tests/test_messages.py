"""Mistakes of newcomers: each error says what was meant and what to write, and nothing changes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, autograd, rmsprop_step, schedules


def rmsprop_step_with(**options: Any) -> None:
    p, g, v = np.ones(2), np.ones(2), np.zeros(2)
    rmsprop_step(p, g, v, **{"lr": 0.1, "alpha": 0.9, "eps": 1e-8, **options})


NAMES = {
    "learning_rate": "is lr meant?",
    "rho": "is alpha meant?",
    "epsilon": "is eps meant?",
    "decay": "alpha=decay",
    "betas": "alpha=betas[1]",
    "amsgrad": "Adam's: leave it out",
    "dampening": "SGD's: leave it out",
    "clip": "max_grad_norm= clips by the norm",
    "use_ema": "ema_decay=0.99",
    "device": "leave it out",
    "momentun": "is momentum meant?",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("entry", ["RMSProp", "rmsprop_step"])
def test_names_of_other_libraries(entry: str, name: str) -> None:
    make: Any = partial(RMSProp, np.ones(2)) if entry == "RMSProp" else rmsprop_step_with
    with pytest.raises(TypeError) as caught:
        make(**{name: 0.1})
    assert str(caught.value).startswith(f"{entry} has no option '{name}'")
    assert NAMES[name] in str(caught.value)


SCHEDULES: list[tuple[Callable[..., Any], tuple[Any, ...], str, str]] = [
    (schedules.Cosine, (0.1,), "T_max", "transition_steps"),
    (schedules.Cosine, (0.1,), "decay_steps", "transition_steps"),
    (schedules.Cosine, (0.1,), "eta_min", "end_value"),
    (schedules.StepDecay, (0.1,), "step_size", "transition_steps"),
    (schedules.StepDecay, (0.1,), "gamma", "decay_rate"),
    (schedules.Exponential, (0.1,), "gamma", "decay_rate"),
    (schedules.Piecewise, ([0.1, 0.2],), "milestones", "boundaries"),
    (schedules.WarmupCosine, (0.1,), "num_warmup_steps", "warmup_steps"),
    (schedules.WarmupCosine, (0.1,), "decay_steps", "total_steps"),
    (schedules.OneCycle, (), "max_lr", "peak_value"),
    (schedules.Linear, (), "learning_rate", "init_value"),
    (schedules.ReduceOnPlateau, (None,), "patient", "patience"),
]


@pytest.mark.parametrize(("make", "args", "name", "meant"), SCHEDULES)
def test_names_of_other_schedules(
    make: Callable[..., Any], args: tuple[Any, ...], name: str, meant: str
) -> None:
    with pytest.raises(TypeError, match=f"has no argument '{name}'; is {meant} meant"):
        make(*args, **{name: 10})


def test_names_of_autograd() -> None:
    with pytest.raises(TypeError, match=r"has no option 'lr'; is step_size meant\?"):
        autograd.rmsprop(lambda x, i: x, 1.0, lr=0.1)  # type: ignore[call-arg]


def test_other_type_errors_and_signatures_stay() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'params'"):
        RMSProp()  # type: ignore[call-arg]
    assert [*inspect.signature(RMSProp).parameters][:3] == ["params", "lr", "alpha"]
    assert next(iter(inspect.signature(schedules.Cosine).parameters)) == "init_value"
    assert rmsprop_step.__doc__ is not None


BY_POSITION: list[tuple[Callable[..., Any], int, str]] = [
    (schedules.Cosine, 2, "Cosine(init_value, transition_steps=...)"),
    (schedules.StepDecay, 3, "StepDecay(init_value, decay_rate=..., transition_steps=...)"),
    (schedules.ReduceOnPlateau, 2, "ReduceOnPlateau(optimizer, mode=...)"),
    (RMSProp, 8, "momentum, centered, nesterov=...)"),
    (rmsprop_step, 4, "rmsprop_step(param, grad, square_avg, lr=..., alpha=..., eps=...)"),
]


@pytest.mark.parametrize(("make", "count", "words"), BY_POSITION)
def test_too_many_arguments_by_position(make: Callable[..., Any], count: int, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        make(*[0.1] * count)
    assert f"{make.__name__} takes only " in str(caught.value)
    assert str(caught.value).endswith(words)


ELSEWHERE = {
    "CosineAnnealingLR": "is Cosine or WarmupCosine meant",
    "StepLR": "is StepDecay meant",
    "MultiStepLR": "is Piecewise meant",
    "ReduceLROnPlateau": "is ReduceOnPlateau meant",
    "cosine_decay_schedule": "is Cosine meant",
    "exponential_decay": "is Exponential or StepDecay meant",
    "PolynomialDecay": "is Polynomial meant",
    "LambdaLR": "any other function of the step",
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_schedules_of_other_libraries(name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(schedules, name)
    assert ELSEWHERE[name] in str(caught.value)


COSINE = schedules.Cosine(0.1, transition_steps=10)


class Net:
    """A network whose arrays are its attributes."""

    def __init__(self) -> None:
        self.W = np.ones(2)
        self.parameters = {"W": self.W}


def swapped(opt: RMSProp) -> None:
    RMSProp(0.01, {"W": np.ones(2)})  # type: ignore[arg-type]


def grads_second(opt: RMSProp) -> None:
    RMSProp({"W": np.ones(2)}, {"W": np.ones(2)})  # type: ignore[arg-type]


def params_and_grads(opt: RMSProp) -> None:
    opt.step({"W": np.ones(2)}, {"W": np.ones(2)})  # type: ignore[arg-type]


def two_grads(opt: RMSProp) -> None:
    opt.step(np.ones(2), np.ones(2))


def set_attribute(name: str) -> Callable[[RMSProp], None]:
    return lambda opt: setattr(opt.param_groups[0], name, 0.5)


MISTAKES: list[tuple[Callable[[RMSProp], Any], type[Exception], str]] = [
    (swapped, TypeError, "RMSProp(params, lr=0.01)"),
    (grads_second, TypeError, "RMSProp(params, grads=grads)"),
    (params_and_grads, TypeError, "opt.step(grads)"),
    (two_grads, TypeError, "opt.step(grads)"),
    (lambda opt: opt.step({"W": [0.5, 0.5]}), ValueError, "np.array(numbers, param.dtype)"),
    (lambda opt: opt.step({"W": np.ones(2), "b": np.ones(2)}), ValueError, "add_param_group()"),
    (lambda opt: opt.step([np.ones(2)]), ValueError, "a dict of 1: 'W'"),
    (lambda opt: opt.step({"l.W": np.ones(2)}), ValueError, "its keys are 'l.W'"),
    (lambda opt: opt.step((0.5, {"W": np.ones(2)})), ValueError, "pass grads alone"),
    (lambda opt: opt.step(lambda: {"W": np.ones(2)}), ValueError, "call the function"),
    (lambda opt: opt.step({"W": lambda: np.ones(2)}), TypeError, "call the function"),
    (lambda opt: opt.accumulate((0.5, {"W": np.ones(2)})), ValueError, "pass grads alone"),
    (lambda opt: opt.bind_grads((0.5, {"W": np.ones(2)})), ValueError, "pass grads alone"),
    (lambda opt: RMSProp(Net()), TypeError, "vars(value)"),
    (lambda opt: RMSProp([Net()]), TypeError, "params[0] is a Net"),
    (lambda opt: opt.state[0], KeyError, "no parameter 0; there are W"),  # type: ignore[index]
    (lambda opt: opt.effective_lr(0), KeyError, "there are W"),  # type: ignore[arg-type]
    (lambda opt: opt.freeze(["W"]), TypeError, "freeze(*names)"),  # type: ignore[arg-type]
    (lambda opt: opt.freeze("no such"), KeyError, "there are W"),
    (
        lambda opt: schedules.ReduceOnPlateau(opt).step(0.5),  # type: ignore[attr-defined]
        AttributeError,
        "update(metric)",
    ),
    (lambda opt: schedules.plot(opt), TypeError, "plot(opt.param_groups[0]['lr'])"),  # type: ignore[arg-type]
    (lambda opt: schedules.plot([COSINE]), TypeError, "plot(*schedules)"),  # type: ignore[arg-type]
    (lambda opt: schedules.plot(COSINE, labels="x"), TypeError, "labels must be a list"),
    (lambda opt: schedules.plot(schedules.Cosine), TypeError, "pass an instance"),  # type: ignore[arg-type]
    (
        lambda opt: RMSProp.from_preset("torch", np.ones(2), rho=0.9),
        TypeError,
        "RMSProp has no option 'rho'; is alpha meant",
    ),
    (lambda opt: opt.step(), ValueError, "step(grads)"),
    (lambda opt: opt.zero_grad(), AttributeError, "delete the line"),  # type: ignore[attr-defined]
    (lambda opt: getattr(opt, "alpha"), AttributeError, "opt.param_groups[0]['alpha']"),  # noqa: B009
    (lambda opt: getattr(opt, "momentum"), AttributeError, "opt.param_groups[0]['momentum']"),  # noqa: B009
    (lambda opt: getattr(opt, "nonsense"), AttributeError, "no attribute 'nonsense'"),  # noqa: B009
    (lambda opt: setattr(opt, "alpha", 0.5), AttributeError, "opt.param_groups[0]['alpha'] = 0.5"),
    (lambda opt: getattr(opt.param_groups[0], "lr"), AttributeError, "group['lr']"),  # noqa: B009
    (set_attribute("lr"), AttributeError, "group['lr']"),
    (lambda opt: RMSProp([{"param": np.ones(2), "lr": 1.0}]), ValueError, "[{'params': ..."),
]


@pytest.mark.parametrize(("mistake", "error", "words"), MISTAKES)
def test_mistakes(mistake: Callable[[RMSProp], Any], error: type[Exception], words: str) -> None:
    param = np.ones(2)
    opt = RMSProp({"W": param})
    with pytest.raises(error) as caught:
        mistake(opt)
    assert words in str(caught.value)
    assert np.array_equal(param, np.ones(2))
    assert opt.step_count == 0
    assert opt.lr == 0.01
    opt.step({"W": np.ones(2)})


@pytest.mark.parametrize("count", [1, 2])
def test_a_loss_beside_a_list_of_gradients(count: int) -> None:
    for params in ([np.ones(2) for _ in range(count)], np.ones(2)):
        with pytest.raises(ValueError, match=r"of \(loss, grads\), pass grads alone"):
            RMSProp(params).step((np.float32(0.5), [np.ones(2)] * count))
    with pytest.raises(ValueError, match=r"of \(loss, grads\), pass grads alone"):
        RMSProp([{"params": np.ones(2)}]).step((0.5, [np.ones(2)]))


def test_no_gradient_is_not_a_loss() -> None:
    with pytest.raises(ValueError, match="the parameters there") as caught:
        RMSProp((np.ones(2), [np.ones(2)])).step((None, {"W": np.ones(2)}))
    assert "loss" not in str(caught.value)


def test_a_gradient_by_another_name() -> None:
    with pytest.raises(TypeError, match="is grad meant"):
        rmsprop_step_with(grads=np.ones(2))


def test_a_container_that_has_grown() -> None:
    params = [np.ones(1)]
    opt = RMSProp(params)
    params.append(np.ones(1))
    with pytest.raises(ValueError, match="had 1 when the optimizer was made.*a new optimizer"):
        opt.step([np.ones(1), np.ones(1)])


def test_an_update_without_a_gradient_says_what_to_do() -> None:
    opt = RMSProp({"W": np.ones(2)})
    with opt.leafwise() as update, pytest.raises(ValueError, match=r"pass it, update\(name, grad"):
        update("W", None)


def test_a_group_with_the_key_param() -> None:
    with pytest.raises(ValueError, match=r"params\[0\] has the key 'param'; is 'params' meant"):
        RMSProp([{"param": np.ones(2)}])


@pytest.mark.parametrize(
    ("name", "meant"),
    [("learning_rate", "lr"), ("rho", "alpha"), ("clipnorm", "max_grad_norm_per_array")],
)
def test_attributes_of_other_libraries(name: str, meant: str) -> None:
    opt = RMSProp(np.ones(2))
    with pytest.raises(AttributeError, match=f"there is no '{name}'; is {meant} meant"):
        getattr(opt, name)
    with pytest.raises(AttributeError, match=f"there is no '{name}' to set; is {meant} meant"):
        setattr(opt, name, 0.1)


def test_a_schedule_that_needs_the_optimizer() -> None:
    with pytest.raises(TypeError, match=r"make the optimizer first, .* ReduceOnPlateau\(opt\)"):
        RMSProp(np.ones(2), lr=schedules.ReduceOnPlateau)  # type: ignore[arg-type]


def test_scaling_rates_that_differ() -> None:
    opt = RMSProp([{"params": np.ones(2), "lr": 0.1}, {"params": np.ones(2), "lr": 0.2}])
    with pytest.raises(ValueError, match=r"opt.scale_lr\(factor\) multiplies all"):
        opt.lr *= 0.5


@pytest.mark.parametrize("name", ["T_max", "scheduler", "lr_decay", "milestones"])
def test_arguments_of_schedules(name: str) -> None:
    with pytest.raises(TypeError, match=f"no option '{name}': .*schedule"):
        RMSProp(np.ones(2), **{name: 1})  # type: ignore[arg-type]
