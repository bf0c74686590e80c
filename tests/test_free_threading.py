"""Optimizers in several threads at once, with a GIL or, if Python has none, without."""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, rmsprop_step
from support import Array, run_python

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
STEPS = 200
BUSY = (
    "this optimizer is in the middle of a step, or of a change, in another thread"
    ": call it from one thread at a time, say under a threading.Lock()"
)
CHANGED = "was changed again and again while its functions of the step were asked"
# A step of the larger size releases the GIL.
sizes = pytest.mark.parametrize("size", [10, 20_000])


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    """With a GIL, threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*bodies: Callable[[], Any]) -> list[Any]:
    """Start all together, each in a thread of its own; return the results, or raise an error."""
    start = threading.Barrier(len(bodies))

    def run(body: Callable[[], Any]) -> Any:
        start.wait()
        return body()

    with ThreadPoolExecutor(len(bodies)) as pool:
        return [done.result() for done in [pool.submit(run, body) for body in bodies]]


def refused(call: Callable[[], Any]) -> bool:
    """Whether the call was refused because of another thread; other errors are raised."""
    try:
        call()
    except RuntimeError as error:
        if str(error) != BUSY and CHANGED not in str(error):
            raise
        return True
    return False


def parameters(size: int) -> dict[str, Array]:
    return {
        "a": np.linspace(-1, 1, size, dtype=np.float32),
        "b": np.linspace(1, 2, size // 2),
    }


def gradients(params: dict[str, Array], scale: float = 1.0) -> dict[str, Array]:
    return {name: (np.cos(np.arange(p.size)) * scale).astype(p.dtype) for name, p in params.items()}


def after(steps: int, size: int, **options: Any) -> dict[str, Array]:
    """The parameters after so many steps in one thread."""
    params = parameters(size)
    opt = RMSProp(params, threads=1, **options)
    for _ in range(steps):
        opt.step(gradients(params))
    return params


def assert_same(params: dict[str, Array], expected: dict[str, Array]) -> None:
    for name, p in params.items():
        np.testing.assert_array_equal(p, expected[name])


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has a GIL that cannot be switched off")
def test_the_gil_stays_off() -> None:
    code = "import sys, fused_rmsprop; assert not sys._is_gil_enabled()"
    run_python(code)


@sizes
def test_an_optimizer_in_each_thread(size: int) -> None:
    options: dict[str, Any] = {"momentum": 0.9, "centered": True, "max_grad_norm": 1.0}
    all_params = [parameters(size) for _ in range(4)]

    def train(params: dict[str, Array]) -> None:
        opt, grads = RMSProp(params, **options), gradients(params)
        for _ in range(STEPS):
            opt.step(grads)

    at_once(*[partial(train, params) for params in all_params])
    expected = after(STEPS, size, **options)
    for params in all_params:
        assert_same(params, expected)


@sizes
def test_one_optimizer_in_several_threads(size: int) -> None:
    """Each call steps, or is refused and changes nothing."""
    params = parameters(size)
    opt, grads = RMSProp(params, momentum=0.9), gradients(params)

    def train() -> int:
        return sum(not refused(lambda: opt.step(grads)) for _ in range(STEPS))

    stepped = sum(at_once(train, train, train))
    assert stepped >= 1
    assert [int(state["step"]) for state in opt.state.values()] == [stepped, stepped]
    assert_same(params, after(stepped, size, momentum=0.9))


@sizes
def test_updating_the_leaves_of_one_block_in_several_threads(size: int) -> None:
    """Each leaf is updated once; each other call is refused and changes nothing."""
    params = parameters(size)
    opt, grads = RMSProp(params, momentum=0.9), gradients(params)
    for _ in range(STEPS // 4):
        with opt.leafwise() as update:

            def train(name: str, update: Any = update) -> None:
                while refused(lambda: update(name, grads[name])):
                    pass

            at_once(partial(train, "a"), partial(train, "b"))
    assert [int(state["step"]) for state in opt.state.values()] == [STEPS // 4, STEPS // 4]
    assert_same(params, after(STEPS // 4, size, momentum=0.9))


@sizes
def test_accumulating_in_several_threads(size: int) -> None:
    """None is lost, not even among the first ones, which need an array for the sum."""
    for _ in range(30):
        params, expected = parameters(size), parameters(size)
        opt, alone = RMSProp(params), RMSProp(expected, threads=1)
        grads = gradients(params)

        def add(opt: RMSProp = opt, grads: dict[str, Array] = grads) -> int:
            return sum(not refused(lambda: opt.accumulate(grads)) for _ in range(5))

        added = sum(at_once(add, add))
        for _ in range(added):
            alone.accumulate(grads)
        opt.step()
        alone.step()
        assert_same(params, expected)


@sizes
def test_reading_while_another_thread_steps(size: int) -> None:
    params = parameters(size)
    opt, grads = RMSProp(params, max_grad_norm=1e9), gradients(params)
    done = threading.Event()

    def train() -> None:
        for _ in range(STEPS):
            while refused(lambda: opt.step(grads)):
                pass
        done.set()

    opt.step(grads)
    norm = opt.grad_norm

    def look() -> None:
        while not done.is_set():
            assert opt.grad_norm == norm
            assert opt.skipped_steps == 0
            assert opt.threads_used >= 1
            assert "max_grad_norm" in repr(opt)
            assert opt.param_groups[0]["lr"] == 0.01
            assert list(opt.state) == ["a", "b"]
            assert 0 <= int(opt.state["a"]["step"]) <= STEPS + 1

    def save() -> None:
        while not done.is_set():
            refused(opt.state_dict)

    at_once(train, look, look, save)
    assert_same(params, after(STEPS + 1, size, max_grad_norm=1e9))


@sizes
@pytest.mark.parametrize("lr", [0.01, lambda step: 0.01], ids=["number", "function"])
def test_changing_options_while_another_thread_steps(size: int, lr: Any) -> None:
    """Each step takes the options before or after a change; these give the same bits."""
    params = parameters(size)
    opt, grads = RMSProp(params, lr=lr), gradients(params)
    done = threading.Event()

    def train() -> None:
        for _ in range(STEPS):
            while refused(lambda: opt.step(grads)):
                pass
        done.set()

    def change() -> None:
        while not done.is_set():
            for norm, value, threads in ((None, None, 1), (1e9, 1e9, 2)):
                refused(partial(setattr, opt, "max_grad_norm", norm))
                refused(partial(setattr, opt, "max_grad_value", value))
                refused(partial(setattr, opt, "threads", threads))
                refused(lambda: opt.param_groups[0].update(lr=lr))
                assert opt.max_grad_norm in (None, 1e9)

    at_once(train, change, change)
    assert_same(params, after(STEPS, size))


@sizes
def test_gradients_whose_containers_another_thread_changes(size: int) -> None:
    """A step sees the container as it was at some moment, or raises and changes nothing."""
    params = list(parameters(size).values())
    grads = list(gradients(parameters(size)).values())
    by_name: dict[str, Any] = {"a": grads[0], "b": grads[1]}
    lists, dicts = RMSProp(params), RMSProp(parameters(size))
    done = threading.Event()

    def train() -> int:
        stepped = 0
        for _ in range(STEPS):
            for opt, nest in ((lists, grads), (dicts, by_name)):
                try:
                    opt.step(nest)
                except ValueError:
                    continue
                stepped += opt is lists
        done.set()
        return stepped

    def change() -> None:
        extra = grads[1]
        while not done.is_set():
            grads.append(extra.copy())
            grads.pop()
            by_name["c"] = extra.copy()
            del by_name["c"]
            by_name["b"] = extra.copy()

    stepped = at_once(train, change)[0]
    assert [int(state["step"]) for state in lists.state.values()] == [stepped, stepped]
    assert_same(dict(zip("ab", params, strict=True)), after(stepped, size))


@sizes
def test_single_steps_in_each_thread(size: int) -> None:
    def train() -> Array:
        p = parameters(size)["a"]
        g, v = gradients({"a": p})["a"], np.zeros_like(p)
        for _ in range(STEPS):
            rmsprop_step(p, g, v, lr=0.01, alpha=0.99, eps=1e-8)
        return p

    expected = train()
    for p in at_once(train, train, train):
        np.testing.assert_array_equal(p, expected)


def test_making_and_dropping_optimizers_in_threads() -> None:
    """Registration, garbage collection and the first step's allocation meet in all threads."""

    def live() -> None:
        for i in range(50):
            params = parameters(10 + i)
            opt = RMSProp(params, momentum=0.9)
            opt.step(gradients(params))
            opt.param_groups[0]["momentum"] = 0.5
            opt.load_state_dict(opt.state_dict())

    at_once(live, live, live, live)
