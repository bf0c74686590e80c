"""Interrupts at every place of each change of the drop-in: it goes on, nothing is half done."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from interrupt_support import interrupted_everywhere
from torch_support import RMSprop, TorchRMSprop, private, torch

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def grad_mode() -> Iterator[None]:
    """After a failure, the other tests begin with the mode that they expect."""
    yield
    torch.set_grad_enabled(True)


both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])

Values = dict[str, Any]


class Training(NamedTuple):
    """An optimizer and all that its owner has."""

    opt: Any
    params: list[Any]

    def values(self) -> Values:
        """Copies of all values, by the number of the parameter."""
        values: Values = {}
        for i, p in enumerate(self.params):
            values[f"{i}"] = p.detach().clone()
            for name, tensor in (self.opt.state.get(p) or {}).items():
                values[f"{i} {name}"] = tensor.clone()
        return values

    def made(self, steps: int) -> Training:
        """The same after some steps."""
        for _ in range(steps):
            for i, p in enumerate(self.params):
                p.grad = torch.full_like(p, 1.0 + i)
            self.opt.step()
        return self


def training(
    dtype: Any = torch.float32, steps: int = 2, count: int = 2, **options: Any
) -> Training:
    params = [torch.arange(1.0, 4.0, dtype=dtype).requires_grad_() for _ in range(count)]
    opt = RMSprop(params, lr=0.1, **{"ema_decay": 0.5, "momentum": 0.9, **options})
    return Training(opt, params).made(steps)


def same(a: Values, b: Values) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def check_it_goes_on(training: Training, *allowed: Values) -> None:
    """The values are among the allowed ones; the optimizer steps, saves and shows averages."""
    values = training.values()
    assert any(same(values, each) for each in allowed), values
    assert torch.is_grad_enabled()
    training.opt.load_state_dict(training.opt.state_dict())
    copy.copy(training.opt)
    training.opt.param_groups[0]["ema_decay"] = 0.5
    training.made(1)
    with training.opt.use_ema():
        pass
    assert not same(training.values(), values)


def interrupt(
    prepare: Callable[[], Training], act: Callable[[Training], Any], times: int = 1
) -> int:
    """Interrupt a change: afterwards the values are those before it, or those after it."""
    before = prepare().values()
    changed = prepare()
    act(changed)
    after = changed.values()
    return interrupted_everywhere(
        prepare, act, lambda t: check_it_goes_on(t, before, after), times=times
    )


@both_dtypes
@pytest.mark.parametrize("times", [1, 2])
def test_use_ema(dtype: Any, times: int) -> None:
    def act(training: Training) -> None:
        with training.opt.use_ema():
            assert all(torch.equal(p, training.opt.state[p]["param_avg"]) for p in training.params)

    assert interrupt(lambda: training(dtype), act, times) > 10


@both_dtypes
@pytest.mark.parametrize("options", [{}, {"centered": True, "max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("steps", [0, 2])
def test_steps(dtype: Any, options: Any, steps: int) -> None:
    def prepare() -> Training:
        made = training(dtype, steps, **options)
        for i, p in enumerate(made.params):
            p.grad = torch.full_like(p, 2.0 + i)
        return made

    assert interrupt(prepare, lambda t: t.opt.step()) > 3
    assert interrupt(prepare, lambda t: t.opt.step(lambda: t.params[0].sum())) > 10


@both_dtypes
@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.5},
        {"ema_decay": 0.0},
        {"centered": True},
        {"momentum": 0.0},
        {"alpha": torch.tensor(0.5)},
    ],
    ids=str,
)
def test_steps_with_changed_options(dtype: Any, change: Any) -> None:
    def prepare() -> Training:
        made = training(dtype)
        made.opt.param_groups[0].update(change)
        return made

    def act(training: Training) -> None:
        training.opt.step()

    before, changed = training(dtype).values(), prepare()
    act(changed)
    after = changed.values()

    def check(training: Training) -> None:
        check_it_goes_on(training, before, after)

    assert interrupted_everywhere(prepare, act, check) > 30


def test_an_option_that_comes_back_after_an_interrupt_is_used() -> None:
    """The kernel never steps with an option that the user has taken back."""

    def prepare() -> Training:
        made = training()
        made.opt.param_groups[0]["lr"] = 0.5
        return made

    expected = training().made(1).values()
    other = prepare().made(1).values()

    def check(training: Training) -> None:
        training.opt.param_groups[0]["lr"] = 0.1
        if all(training.opt.state[p]["step"] == 2 for p in training.params):
            training.made(1)
            assert same(training.values(), expected)
        else:
            assert same(training.values(), other)

    interrupted_everywhere(prepare, lambda t: t.opt.step(), check)


def test_steps_that_are_refused() -> None:
    def prepare() -> Training:
        made = training(steps=0, on_nonfinite="raise")
        for p in made.params:
            p.grad = torch.full_like(p, torch.nan)
        return made

    def act(training: Training) -> None:
        try:
            training.opt.step()
        except FloatingPointError:
            return

    assert interrupt(prepare, act) > 50


def test_steps_of_which_torch_does_a_part() -> None:
    """The kernel's part is done or not done; torch's own part is as torch leaves it."""

    def prepare() -> Training:
        made = training(steps=0, ema_decay=0.0)
        half = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
        made.opt.add_param_group({"params": [half]})
        for p in (*made.params, half):
            p.grad = torch.ones_like(p)
        return made

    before = prepare().values()
    after = prepare().made(0)
    after.opt.step()
    allowed = before, after.values()

    def check(training: Training) -> None:
        values = training.values()
        assert any(same(values, each) for each in allowed)
        assert torch.is_grad_enabled()
        training.opt.load_state_dict(training.opt.state_dict())
        training.opt.step()
        half = training.opt.param_groups[1]["params"][0]
        assert int(training.opt.state[half]["step"]) >= 1

    assert interrupted_everywhere(prepare, lambda t: t.opt.step(), check) > 100


@pytest.mark.parametrize("source", [RMSprop, TorchRMSprop])
@pytest.mark.parametrize("centered", [False, True])
def test_load_state_dict(source: Any, centered: bool) -> None:
    other = [torch.ones(3, requires_grad=True) for _ in range(2)]
    saved = Training(source(other, lr=0.5, momentum=0.9, centered=centered), other).made(3)
    state_dict = saved.opt.state_dict()
    for state in state_dict["state"].values():
        state["step"] = int(state["step"])  # as old versions of torch have it

    copied: list[Any] = []

    def act(training: Training) -> None:
        training.opt.load_state_dict(copied.pop())

    def prepare() -> Training:
        copied.append(copy.deepcopy(state_dict))
        return training(centered=centered)

    groups = prepare().opt.state_dict()["param_groups"]
    loaded = prepare()
    act(loaded)
    after = loaded.opt.state_dict()["param_groups"]
    allowed = prepare().values(), loaded.values()

    def check(training: Training) -> None:
        is_new = same(training.values(), allowed[1])
        assert training.opt.state_dict()["param_groups"] == (after if is_new else groups)
        check_it_goes_on(training, *allowed)

    assert interrupted_everywhere(prepare, act, check) > 100


def test_add_param_group() -> None:
    def act(training: Training) -> None:
        training.opt.add_param_group({"params": [torch.ones(3, requires_grad=True)], "lr": 0.3})

    def check(training: Training) -> None:
        keys = {frozenset(group) for group in training.opt.param_groups}
        assert len(keys) == 1
        assert len(training.opt.param_groups) in (1, 2)
        check_it_goes_on(training, before)

    before = training().values()
    assert interrupted_everywhere(training, act, check) > 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", 1.0),
        ("max_grad_value", 0.5),
        ("on_nonfinite", "skip"),
        ("flush_denormals", False),
        ("threads", 1),
    ],
)
def test_settings(name: str, value: Any) -> None:
    allowed = training().values()
    before = getattr(training().opt, name)

    def check(training: Training) -> None:
        assert getattr(training.opt, name) in (before, value)
        check_it_goes_on(training, allowed)

    assert interrupted_everywhere(training, lambda t: setattr(t.opt, name, value), check) > 1


def test_a_setting_that_decides_what_the_kernel_takes() -> None:
    def prepare() -> Training:
        return training(eps=1e-40, eps_inside_sqrt=True, flush_denormals=False)

    def check(training: Training) -> None:
        if training.opt.flush_denormals:
            with pytest.raises(ValueError, match="is not supported for"):
                training.made(1)
        else:
            training.made(1)

    def act(training: Training) -> None:
        training.opt.flush_denormals = True

    assert interrupted_everywhere(prepare, act, check) > 1


def deep_copy(opt: Any) -> None:
    with private.grad_mode(True):  # where a signal in the copy of a tensor does not end it
        copy.deepcopy(opt)


@pytest.mark.parametrize(
    "save",
    [
        lambda t: t.opt.state_dict(),
        lambda t: pickle.dumps(t.opt),
        lambda t: deep_copy(t.opt),
        lambda t: copy.copy(t.opt),
    ],
)
def test_saves_and_copies(save: Any) -> None:
    assert interrupt(lambda: training(count=1, centered=True), save) > 10
