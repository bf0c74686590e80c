"""`RMSProp` and `fused_rmsprop.torch.RMSprop` accept, refuse and compute the same."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest

from fused_rmsprop.options import GROUP_OPTIONS, OPTIMIZER_OPTIONS
from parity_support import ENDS, NumpyEnd, outcome, same
from support import both_dtypes, draw

NAN, INF = float("nan"), float("inf")


def copied_by_pickle(opt: Any) -> Any:
    return pickle.loads(pickle.dumps(opt))


#: What the options begin with: nothing on, and all that have a state.
STARTS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "centered": True, "ema_decay": 0.5, "weight_decay": 0.1},
]
#: Values out of the bounds of the options that torch lacks. (It has errors of its own for others.)
WRONG: dict[str, list[Any]] = {
    "nesterov": ["yes", None, 2],
    "eps_inside_sqrt": ["no", None, 2],
    "lr_in_momentum": ["no", None, 2],
    "decoupled_weight_decay": ["no", None, 2],
    "initial_square_avg": [-1.0, NAN, INF, "1", None, True, 1j, lambda step: 1.0],
    "bias_correction": ["no", None, 2],
    "ema_decay": [1.0, -0.1, NAN, INF, "0.9", None, True, lambda step: 0.5],
}
WRONG_SETTINGS: dict[str, list[Any]] = {
    "max_grad_norm": [0.0, -1.0, NAN, "1", True],
    "max_grad_norm_per_array": [0.0, -1.0, NAN, "1", True],
    "max_grad_value": [0, -INF, NAN, "1", [1.0]],
    "on_nonfinite": ["ignore", "Skip", None, True],
    "flush_denormals": [0, 1, None, "yes"],
    "threads": [0, -1, 1.0, True, 1025, "2"],
}
#: Changes that are accepted or not, depending on the start and the steps before them.
CHANGES: list[dict[str, Any]] = [
    {"lr": 0.5},
    {"lr": 0.0},
    {"alpha": 0.5},
    {"alpha": 0.0},
    {"eps": 1e-2},
    {"weight_decay": 0.3},
    {"weight_decay": 0.0},
    {"momentum": 0.5},
    {"momentum": 0.0},
    {"centered": True},
    {"centered": False},
    {"nesterov": True},
    {"maximize": True},
    {"eps_inside_sqrt": True},
    {"lr_in_momentum": True},
    {"decoupled_weight_decay": True},
    {"initial_square_avg": 1.0},
    {"bias_correction": True},
    {"ema_decay": 0.9},
    {"ema_decay": 0.0},
    {},
    {"lr": 0.01, "alpha": 0.99, "nesterov": False, "initial_square_avg": 0.0},  # as they are
    {"nesterov": True, "momentum": 0.7},
    {"nesterov": True, "momentum": 0.0},
    {"initial_square_avg": 1.0, "bias_correction": True},
    {"initial_square_avg": -1.0, "bias_correction": True},
    {"initial_square_avg": 1e39},  # too large for float32
    {"bias_correction": True, "ema_decay": 1.0},
    {"centered": True, "momentum": 0.5, "ema_decay": 0.9, "weight_decay": 0.2, "maximize": True},
    {"centered": False, "momentum": 0.0, "ema_decay": 0.0, "lr": 0.1},
    {"lr": 0.5, "eps_inside_sqrt": "no"},
    {"lr": 0.5, "lr_in_momentum": True, "decoupled_weight_decay": True},
]


def gradients(dtype: str, steps: int) -> tuple[list[Any], list[list[Any]]]:
    """Parameters of several shapes, and gradients for each step."""
    shapes: list[tuple[int, ...]] = [(7, 5), (33,), ()]
    kind = np.dtype(dtype).type
    params = [draw(*shape, dtype=kind) for shape in shapes]
    return params, [[draw(*shape, dtype=kind) for shape in shapes] for _ in range(steps)]


def result(end: Any) -> list[Any]:
    """All that a training has led to; the parameters and their state to the last bit."""
    everything: list[Any] = end.everything()
    for part in everything:  # torch's has no buffer yet where momentum was off again at once
        if isinstance(part, dict) and not np.any(part.get("momentum_buffer", 0)):
            part.pop("momentum_buffer", None)
    return everything


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("steps_before", [0, 1])
@both_dtypes
def test_options_that_change_in_mid_training(dtype: str, steps_before: int, start: Any) -> None:
    params, grads = gradients(dtype, 4)
    for change in [*CHANGES, *({name: v} for name, values in WRONG.items() for v in values)]:
        errors, results = [], []
        for make in ENDS:
            end = make(params, **start)
            for step in range(steps_before):
                end.step(grads[step])
            before = end.everything()
            errors.append(outcome(end.step, grads[1], **change))
            assert not errors[-1] or same(end.everything(), before), (make, change)
            end.step(grads[2])
            end.step(grads[3])
            results.append(result(end))
        assert errors[0] == errors[1], change
        assert same(*results), change


@pytest.mark.parametrize("again", [copy.deepcopy, copied_by_pickle, "loaded"])
@pytest.mark.parametrize("name", ["bias_correction", "lr_in_momentum", "initial_square_avg"])
def test_options_stay_fixed_in_copies_and_after_loading(name: str, again: Any) -> None:
    errors = []
    for make in ENDS:
        end = make([draw(3)], momentum=0.5)
        end.step([draw(3)])
        if again == "loaded":
            end.opt.load_state_dict(end.opt.state_dict())
        else:
            end.take(again(end.opt))
        errors.append(outcome(end.step, [draw(3)], **{name: type(end.options()[name])(1)}))
    assert errors[0] == errors[1]
    assert f"{name} is fixed at" in errors[0]


def test_lr_in_momentum_is_free_until_a_step_with_momentum() -> None:
    grads, results = [draw(3) for _ in range(3)], []
    start = draw(3)
    for make in ENDS:
        end = make([start])
        end.step([grads[0]])
        end.opt.param_groups[0]["momentum"] = 0.5
        end.step([grads[1]], lr_in_momentum=True)
        assert "lr_in_momentum is fixed" in outcome(end.step, [grads[2]], lr_in_momentum=False)
        results.append([end.arrays, end.states()])
    assert same(*results)


def test_the_changes_leave_no_option_out() -> None:
    assert {name for change in CHANGES for name in change} == {*GROUP_OPTIONS}
    assert {*WRONG} == {name for name, option in GROUP_OPTIONS.items() if not option.in_torch}
    assert {*WRONG_SETTINGS} == {*OPTIMIZER_OPTIONS}


@pytest.mark.parametrize(
    "changes",
    [
        [{"momentum": 0.9}, {"momentum": 0.0}, {"momentum": 0.5}],
        [{"centered": True}, {"centered": False}, {"centered": True}],
        [{"ema_decay": 0.9}, {"ema_decay": 0.0}, {"ema_decay": 0.5}],
        [{"momentum": 0.9, "centered": True, "ema_decay": 0.9}, {"centered": False},
         {"ema_decay": 0.0, "momentum": 0.0}, {"centered": True, "momentum": 0.9}],
        [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.0, "nesterov": False},
         {"lr_in_momentum": True}, {"centered": True, "bias_correction": True}],
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [{}, {"momentum": 0.9, "centered": True, "ema_decay": 0.5}])
@both_dtypes
def test_options_turned_on_and_off_have_the_same_state(
    dtype: str, first: Any, changes: list[Any]
) -> None:
    params, grads = gradients(dtype, 3 * len(changes))
    numpy_end, torch_end = (make(params, alpha=0.8, **first) for make in ENDS)
    for i, change in enumerate(changes):
        for step in range(3 * i, 3 * i + 3):
            errors = [outcome(end.step, grads[step], **change) for end in (numpy_end, torch_end)]
            assert errors[0] == errors[1]
            assert same(result(numpy_end), result(torch_end)), (change, step)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_grad_norm": 0.5},
        {"max_grad_norm": INF, "max_grad_value": 0.1},
        {"max_grad_norm_per_array": 0.4, "max_grad_norm": 0.5},
        {"on_nonfinite": "skip"},
        {"on_nonfinite": "raise", "max_grad_norm": 1.0},
        {"flush_denormals": False, "threads": 2},
    ],
)
@pytest.mark.filterwarnings("ignore:.* clipping by max_grad_norm carries it:RuntimeWarning")
@both_dtypes
def test_settings_that_change_in_mid_training(dtype: str, settings: dict[str, Any]) -> None:
    params, grads = gradients(dtype, 8)
    grads[4][0][3, 2], grads[5][1][7] = NAN, INF
    grads[6][1] *= 1e-39
    ends = [make(params, lr=0.1, momentum=0.5) for make in ENDS]
    defaults = {name: OPTIMIZER_OPTIONS[name].default for name in settings}
    for step, grad in enumerate(grads):
        errors = []
        for end in ends:
            for name, value in {2: settings, 7: defaults}.get(step, {}).items():
                setattr(end.opt, name, value)
            errors.append(outcome(end.step, grad))
        assert errors[0] == errors[1]
        assert same(*map(result, ends)), step
    assert ends[0].opt.skipped_steps == 2 * (settings.get("on_nonfinite") == "skip")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(n, wrong) for table in (WRONG, WRONG_SETTINGS) for n, values in table.items()
     for wrong in values],
)  # fmt: skip
def test_values_out_of_bounds_have_the_same_message(name: str, wrong: Any) -> None:
    errors = [outcome(make, [np.ones(3)], **{name: wrong}) for make in ENDS]
    assert errors[0] == errors[1] != ""
    if name in OPTIMIZER_OPTIONS:
        for make in ENDS:
            end = make([np.ones(3)])
            before = end.everything()
            assert outcome(setattr, end.opt, name, wrong) == errors[0]
            assert same(end.everything(), before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({5: NAN}, "GRADIENT has 1 NaN or infinite element, the first at index (1, 1): nan"),
        ({5: INF, 6: NAN}, "2 NaN or infinite elements, the first at index (1, 1): inf"),
    ],
)
def test_a_gradient_that_is_not_finite_has_the_same_message(
    values: dict[int, float], message: str
) -> None:
    params = [draw(3), draw(3, 4)]
    wrong = [draw(3), draw(3, 4)]
    for index, value in values.items():
        wrong[1].flat[index] = value
    errors = []
    for make in ENDS:
        end = make(params, on_nonfinite="raise")
        end.step([draw(3), draw(3, 4)])
        before = end.everything()
        errors.append(outcome(end.step, wrong))
        assert same(end.everything(), before)
    assert errors[0] == errors[1]
    assert message in errors[0]


def test_a_gradient_that_overflows_when_it_is_scaled() -> None:
    """The drop-in does not scale: `GradScaler` does, and looks at the result itself."""
    end = NumpyEnd([draw(3)], on_nonfinite="raise")
    before = end.everything()
    message = outcome(end.opt.step, [np.full(3, 1e30, np.float32)], 1e30)
    assert "GRADIENT is finite, but overflows float32 when the step scales or squares it" in message
    assert same(end.everything(), before)


def test_use_ema_refuses_the_same() -> None:
    attempts: dict[str, Any] = {
        "step": lambda opt: opt.step(),
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "pickle": pickle.dumps,
        "use_ema": lambda opt: opt.use_ema().__enter__(),
    }
    errors = []
    for make in ENDS:
        end = make([draw(5)], ema_decay=0.5)
        end.bind([draw(5)])
        end.opt.step()
        trained = end.everything()
        with end.opt.use_ema():
            assert same(end.arrays[0], end.states()[0]["param_avg"])
            errors.append([outcome(attempt, end.opt) for attempt in attempts.values()])
        assert same(end.everything(), trained)
        with pytest.raises(KeyError), end.opt.use_ema():
            raise KeyError
        assert same(end.everything(), trained)
        end.opt.step()  # it is not inside any more
    assert errors[0] == errors[1]
    assert len({*errors[0]}) == 1
    assert "this optimizer is inside use_ema()" in errors[0][0]
    without = [outcome(attempts["use_ema"], make([draw(2)]).opt) for make in ENDS]
    assert without[0] == without[1]
    assert "there are no averages" in without[0]


def test_two_threads_are_refused_alike() -> None:
    texts = []
    for make in ENDS:
        end = make([np.ones(4_000_000, np.float32)], threads=1)
        end.bind([np.ones(4_000_000, np.float32)])
        errors: list[str] = []
        deadline = time.monotonic() + 60

        def steps(end: Any = end, errors: list[str] = errors, deadline: float = deadline) -> None:
            while not errors and time.monotonic() < deadline:
                if error := outcome(end.opt.step):
                    errors.append(error)

        threads = [threading.Thread(target=steps) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        texts.append({*errors})
    message = (
        "this optimizer is in the middle of a step, or of a change, in another thread"
        ": call it from one thread at a time, say under a threading.Lock()"
    )
    assert texts == [{f"RuntimeError: {message}"}] * 2
