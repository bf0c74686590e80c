"""The schedules by themselves: values, arguments, copies, refusals."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, schedules
from fused_rmsprop.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Join,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    ReduceOnPlateau,
    Scaled,
    Schedule,
    StepDecay,
    WarmupCosine,
)
from support import ROOT, values

DOC = (ROOT / "docs/schedules.md").read_text(encoding="utf-8")


EVERY: list[tuple[Schedule, str]] = [
    (Constant(0.1), "Constant(value=0.1)"),
    (
        Linear(0.1, end_value=0, transition_steps=10),
        "Linear(init_value=0.1, end_value=0.0, transition_steps=10, transition_begin=0)",
    ),
    (
        Polynomial(0.1, transition_steps=10, power=2),
        "Polynomial(init_value=0.1, end_value=0.0, transition_steps=10, power=2.0, "
        "transition_begin=0)",
    ),
    (
        Exponential(0.1, decay_rate=0.5, transition_steps=10),
        "Exponential(init_value=0.1, decay_rate=0.5, transition_steps=10, transition_begin=0, "
        "end_value=None)",
    ),
    (
        StepDecay(0.1, decay_rate=0.5, transition_steps=10, end_value=0.01),
        "StepDecay(init_value=0.1, decay_rate=0.5, transition_steps=10, transition_begin=0, "
        "end_value=0.01)",
    ),
    (Piecewise([0.1, 0.01], boundaries=[10]), "Piecewise(values=(0.1, 0.01), boundaries=(10,))"),
    (
        Cosine(0.1, transition_steps=10),
        "Cosine(init_value=0.1, end_value=0.0, transition_steps=10, exponent=1.0, "
        "transition_begin=0)",
    ),
    (
        WarmupCosine(0.1, warmup_steps=5, total_steps=10),
        "WarmupCosine(peak_value=0.1, warmup_steps=5, total_steps=10, init_value=0.0, "
        "end_value=0.0, exponent=1.0)",
    ),
    (
        OneCycle(0.1, total_steps=10),
        "OneCycle(peak_value=0.1, total_steps=10, pct_start=0.3, anneal_strategy='cos', "
        "div_factor=25.0, final_div_factor=10000.0, three_phase=False)",
    ),
    (Scaled(Constant(0.1), factor=2), "Scaled(schedule=Constant(value=0.1), factor=2.0)"),
    (InverseSqrt(0.1, warmup_steps=5), "InverseSqrt(peak_value=0.1, warmup_steps=5)"),
    (
        Join([Constant(0.1), Constant(0.2)], boundaries=[5]),
        "Join(schedules=(Constant(value=0.1), Constant(value=0.2)), boundaries=(5,))",
    ),
]


each = pytest.mark.parametrize("schedule", [x for x, _ in EVERY], ids=lambda x: type(x).__name__)


def test_every_schedule_is_tested() -> None:
    classes = {getattr(schedules, name) for name in schedules.__all__}
    assert {type(schedule) for schedule, _ in EVERY} == classes - {
        Schedule,
        ReduceOnPlateau,
        schedules.plot,
    }


@pytest.mark.parametrize(("schedule", "text"), EVERY, ids=lambda x: type(x).__name__)
def test_a_repr_is_what_makes_an_equal_one(schedule: Schedule, text: str) -> None:
    assert repr(schedule) == text
    again = eval(text, vars(schedules))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert len({schedule, again, Constant(0.123)}) == 2


@each
def test_pickles_and_copies_are_equal(schedule: Schedule) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(schedule, protocol)) == schedule
    assert copy.deepcopy(schedule) == schedule


@each
def test_schedules_are_immutable(schedule: Schedule) -> None:
    with pytest.raises(FrozenInstanceError):
        schedule.init_value = 1.0  # type: ignore[attr-defined]


@each
def test_values_are_floats_that_rmsprop_takes(schedule: Schedule) -> None:
    opt = RMSProp(np.zeros(3))
    for step in (0, 1, 9, 10, 11, 10**6, 2**63 - 1):
        rate = schedule(step)
        assert type(rate) is float
        assert 0 <= rate < 1
        opt.lr = rate
        assert opt.lr == rate


@each
def test_whatever_is_a_whole_number_is_a_step(schedule: Schedule) -> None:
    steps = (np.int8(7), np.uint64(7), np.array(7), RMSProp(np.zeros(1)).state["param"]["step"] + 7)
    assert {schedule(step) for step in steps} == {schedule(7)}


@each
@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (-1, ValueError, "step must be >= 0 and < 2**63, got -1"),
        (2**63, ValueError, "step must be >= 0 and < 2**63, got 9223372036854775808"),
        (1.0, TypeError, "step must be an int, got 1.0; write 1"),
        (1.5, TypeError, "step must be an int, got 1.5"),
        (True, TypeError, "step must be an int, got True"),
        ("1", TypeError, "step must be an int, got '1'"),
        (None, TypeError, "step must be an int, got None"),
        ([0, 1, 2], TypeError, "step must be an int, got [0, 1, 2]"),
    ],
    ids=repr,
)
def test_what_is_no_step(schedule: Schedule, step: Any, error: Any, message: str) -> None:
    with pytest.raises(error) as caught:
        schedule(step)
    assert str(caught.value) == message


ENDS: list[tuple[Schedule, list[tuple[int, float]]]] = [
    (Linear(0.1, end_value=0.3, transition_steps=7), [(0, 0.1), (7, 0.3), (8, 0.3)]),
    (
        Linear(0.1, end_value=0.3, transition_steps=7, transition_begin=3),
        [(0, 0.1), (3, 0.1), (10, 0.3), (99, 0.3)],
    ),
    (Polynomial(0.3, end_value=0.1, transition_steps=7, power=3), [(0, 0.3), (7, 0.1), (8, 0.1)]),
    (
        Cosine(0.3, end_value=0.1, transition_steps=7, transition_begin=2),
        [(0, 0.3), (2, 0.3), (9, 0.1), (10**9, 0.1)],
    ),
    (Exponential(0.8, decay_rate=0.5, transition_steps=4), [(0, 0.8), (4, 0.4), (12, 0.1)]),
    (StepDecay(0.8, decay_rate=0.5, transition_steps=4), [(3, 0.8), (4, 0.4), (7, 0.4), (8, 0.2)]),
    (Piecewise([0.1, 0.7, 0.2], boundaries=[3, 4]), [(2, 0.1), (3, 0.7), (4, 0.2), (99, 0.2)]),
    (Piecewise([0.1], boundaries=[]), [(0, 0.1), (99, 0.1)]),
    (
        WarmupCosine(0.3, warmup_steps=3, total_steps=7, end_value=0.1),
        [(0, 0.0), (3, 0.3), (7, 0.1), (8, 0.1)],
    ),
    (WarmupCosine(0.3, warmup_steps=0, total_steps=7), [(0, 0.3), (7, 0.0)]),
    (
        OneCycle(0.5, total_steps=20, div_factor=10, final_div_factor=5),
        [(0, 0.05), (5, 0.5), (19, 0.01), (20, 0.01), (99, 0.01)],
    ),
    (
        OneCycle(0.5, total_steps=20, div_factor=10, final_div_factor=5, three_phase=True),
        [(0, 0.05), (5, 0.5), (10, 0.05), (19, 0.01)],
    ),
    (InverseSqrt(0.5, warmup_steps=4), [(0, 0.125), (3, 0.5), (15, 0.25), (399, 0.05)]),
    (InverseSqrt(0.5, warmup_steps=1), [(0, 0.5), (3, 0.25)]),
    (Join([Constant(0.1), Constant(0.2)], boundaries=[3]), [(2, 0.1), (3, 0.2)]),
    (Join([Cosine(0.3, transition_steps=4)] * 2, boundaries=[5]), [(4, 0), (5, 0.3), (9, 0)]),
]


@pytest.mark.parametrize(("schedule", "expected"), ENDS, ids=lambda x: type(x).__name__)
def test_ends_and_corners_are_exact(schedule: Schedule, expected: list[tuple[int, float]]) -> None:
    assert [(step, schedule(step)) for step, _ in expected] == expected


FALLING: list[tuple[Schedule, int]] = [
    (Linear(0.3, end_value=0.1, transition_steps=1000), 1000),
    (Polynomial(0.3, end_value=0.1, transition_steps=1000, power=0.5), 1000),
    (Polynomial(0.3, transition_steps=1000, power=3), 1000),
    (Cosine(0.3, end_value=0.1, transition_steps=1000), 1000),
    (Cosine(0.3, transition_steps=1000, exponent=0.7), 1000),
    (Exponential(0.3, decay_rate=0.99, transition_steps=7), 5000),
    (InverseSqrt(0.3, warmup_steps=1), 1000),
    (WarmupCosine(0.3, warmup_steps=0, total_steps=1000), 1000),
]


@pytest.mark.parametrize(("schedule", "steps"), FALLING, ids=lambda x: type(x).__name__)
def test_falling_schedules_fall_at_every_step(schedule: Schedule, steps: int) -> None:
    assert (np.diff(values(schedule, steps + 1)) < 0).all()


def test_rising_schedules_rise_to_the_peak_and_fall_from_there() -> None:
    for schedule, peak, last in (
        (WarmupCosine(0.3, warmup_steps=50, total_steps=200), 50, 200),
        (InverseSqrt(0.3, warmup_steps=51), 50, 200),
        (OneCycle(0.3, total_steps=201, pct_start=51 / 201), 50, 200),
        (OneCycle(0.3, total_steps=201, pct_start=51 / 201, three_phase=True), 50, 200),
    ):
        rates = values(schedule, last + 1)
        assert rates.argmax() == peak
        assert (np.diff(rates[: peak + 1]) > 0).all()
        assert (np.diff(rates[peak:]) < 0).all()
        assert rates[peak] == pytest.approx(0.3, rel=1e-12)


def test_the_inverse_square_root_is_the_papers() -> None:
    d_model, warmup_steps = 512, 400
    schedule = InverseSqrt((d_model * warmup_steps) ** -0.5, warmup_steps=warmup_steps)
    step_num = np.arange(1, 5001)
    expected = d_model**-0.5 * np.minimum(step_num**-0.5, step_num * warmup_steps**-1.5)
    np.testing.assert_allclose(values(schedule, 5000), expected, rtol=1e-14)


def test_what_grows_without_an_end_grows_to_infinity() -> None:
    assert Exponential(0.1, decay_rate=2, transition_steps=1)(5000) == math.inf
    assert Exponential(0.0, decay_rate=2, transition_steps=1)(5000) == 0.0
    assert StepDecay(0.1, decay_rate=2, transition_steps=1, end_value=3)(5000) == 3.0


def test_arguments_are_kept_in_their_plain_form() -> None:
    numbers: Any = np.float32(0.5), np.int64(4)
    schedule = Linear(numbers[0], end_value=0, transition_steps=numbers[1])
    assert [type(x) for x in vars(schedule).values()] == [float, float, int, int]
    piecewise = Piecewise(np.array([0.5, 0.25]), boundaries=np.array([3]))  # type: ignore[arg-type]
    assert piecewise == Piecewise((0.5, 0.25), boundaries=(3,))


def test_only_the_first_argument_goes_without_a_name() -> None:
    with pytest.raises(TypeError, match=r"by position: Linear\(init_value, end_value="):
        Linear(0.1, 0.0, 100)  # type: ignore[call-arg]


def test_a_subclass_may_have_arguments_of_its_own() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Named(Constant):
        label: str = ""

    assert Named(0.1, "x")(3) == 0.1


REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Constant(-0.1), ValueError, "Constant: value must be >= 0 and finite, got -0.1"),
    (lambda: Constant(math.nan), ValueError, "Constant: value must be >= 0 and finite, got nan"),
    (lambda: Constant("0.1"), TypeError, "Constant: value must be a number, got '0.1'"),  # type: ignore[arg-type]
    (
        lambda: Linear(math.inf, end_value=0, transition_steps=1),
        ValueError, "Linear: init_value must be >= 0 and finite, got inf",
    ),
    (
        lambda: Linear(0.1, end_value=-1, transition_steps=1),
        ValueError, "Linear: end_value must be >= 0 and finite, got -1",
    ),
    (
        lambda: Linear(0.1, end_value=None, transition_steps=1),  # type: ignore[arg-type]
        TypeError, "Linear: end_value must be a number, got None",
    ),
    (
        lambda: Linear(0.1, end_value=0, transition_steps=0),
        ValueError, "Linear: transition_steps must be >= 1 and < 2**63, got 0",
    ),
    (
        lambda: Linear(0.1, end_value=0, transition_steps=1e3),  # type: ignore[arg-type]
        TypeError, "Linear: transition_steps must be an int, got 1000.0; write 1000",
    ),
    (
        lambda: Cosine(0.1, transition_steps=10, transition_begin=-1),
        ValueError, "Cosine: transition_begin must be >= 0 and < 2**63, got -1",
    ),
    (
        lambda: Cosine(0.1, transition_steps=10, exponent=0),
        ValueError, "Cosine: exponent must be > 0 and finite, got 0",
    ),
    (
        lambda: Polynomial(0.1, transition_steps=10, power=-1),
        ValueError, "Polynomial: power must be > 0 and finite, got -1",
    ),
    (
        lambda: Exponential(0.1, transition_steps=10, decay_rate=0),
        ValueError, "Exponential: decay_rate must be > 0 and finite, got 0",
    ),
    (
        lambda: Exponential(0.1, transition_steps=10, decay_rate=0.5, end_value=0.2),
        ValueError,
        "Exponential: with decay_rate=0.5 the value falls, so end_value must be <= "
        "init_value=0.1, got 0.2",
    ),
    (
        lambda: StepDecay(0.1, transition_steps=10, decay_rate=2, end_value=0.05),
        ValueError,
        "StepDecay: with decay_rate=2.0 the value rises, so end_value must be >= "
        "init_value=0.1, got 0.05",
    ),
    (
        lambda: Piecewise([0.1, 0.2], boundaries=[1, 2]),
        ValueError,
        "Piecewise: 2 boundaries need 3 values, got 2",
    ),
    (
        lambda: Piecewise([0.1, -0.2], boundaries=[1]),
        ValueError, "Piecewise: values[1] must be >= 0 and finite, got -0.2",
    ),
    (
        lambda: Piecewise([0.1, 0.2, 0.3], boundaries=[5, 5]),
        ValueError, "Piecewise: boundaries must be strictly increasing, got [5, 5]",
    ),
    (
        lambda: Piecewise([0.1, 0.2], boundaries=[0]),
        ValueError, "Piecewise: boundaries[0] must be >= 1 and < 2**63, got 0",
    ),
    (
        lambda: Piecewise([0.1, 0.2], boundaries={5: 0.1}),  # type: ignore[arg-type]
        TypeError, "Piecewise: boundaries must be a list or tuple, got {5: 0.1}",
    ),
    (
        lambda: Piecewise(0.1, boundaries=[]),  # type: ignore[arg-type]
        TypeError, "Piecewise: values must be a list or tuple, got 0.1",
    ),
    (
        lambda: WarmupCosine(0.1, warmup_steps=10, total_steps=10),
        ValueError,
        "WarmupCosine: total_steps includes the warm-up, so it must be > warmup_steps=10, got 10",
    ),
    (
        lambda: OneCycle(0.1, total_steps=10, pct_start=1.0),
        ValueError, "OneCycle: pct_start must be > 0 and < 1, got 1.0",
    ),
    (
        lambda: OneCycle(0.1, total_steps=3),
        ValueError,
        "OneCycle: no step is left for the rise: pct_start * total_steps must be > 1, got 0.3 * 3; "
        "use Cosine to fall only",
    ),
    (
        lambda: OneCycle(0.1, total_steps=10, pct_start=0.6, three_phase=True),
        ValueError, "OneCycle: pct_start must be at most 0.5 with three_phase, got 0.6",
    ),
    (
        lambda: OneCycle(0.1, total_steps=10, anneal_strategy="cosine"),
        ValueError, "OneCycle: anneal_strategy must be 'cos' or 'linear', got 'cosine'",
    ),
    (
        lambda: OneCycle(0.1, total_steps=10, three_phase=1),  # type: ignore[arg-type]
        TypeError, "OneCycle: three_phase must be True or False, got 1",
    ),
    (
        lambda: InverseSqrt(0.1, warmup_steps=0),
        ValueError, "InverseSqrt: warmup_steps must be >= 1, got 0",
    ),
    (
        lambda: Join([0.1, Constant(0.1)], boundaries=[1]),  # type: ignore[list-item]
        TypeError,
        "Join: schedules[0] must be a function of the step, got 0.1; "
        "use Constant for a number",
    ),
    (
        lambda: Join([], boundaries=[]),
        ValueError, "Join: 0 boundaries need 1 schedules, got 0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), REFUSED, ids=[r[2][:60] for r in REFUSED])
def test_refusals_name_the_argument_and_the_value(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


def test_the_examples_of_the_doc_run() -> None:
    for example in re.findall(r"```python\n(.*?)```", DOC, re.DOTALL):
        names: dict[str, Any] = {}
        exec(example, names)
        if "target" in names:
            assert abs(names["w"] - names["target"]).max() < 1e-3
        if "plateau" in names:
            assert names["opt"].lr == 0.05
    for name in schedules.__all__:
        assert name == "Schedule" or f"| `{name}(" in DOC
