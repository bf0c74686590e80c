"""A monitor changes nothing, takes any optimizer that fits, and can be read, copied and ended."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import pickle
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, rmsprop_step, schedules
from fused_rmsprop.monitor import Monitor
from support import Array, both_dtypes, draw, halved, needs_fork

OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "nesterov": True},
    {"centered": True, "weight_decay": 0.1, "decoupled_weight_decay": True},
    {"bias_correction": True, "ema_decay": 0.9, "eps_inside_sqrt": True},
    {"max_grad_norm": 0.5, "on_nonfinite": "skip"},
    {"max_grad_norm_per_array": 0.5, "max_grad_value": 0.7, "maximize": True},
    {"lr": schedules.Cosine(0.1, transition_steps=9), "momentum": halved},
    {"momentum": 0.5, "lr_in_momentum": True, "initial_square_avg": 1.0, "weight_decay": 0.01},
]


def some(dtype: Any) -> dict[str, Any]:
    return {"W": draw(70, 40, dtype=dtype), "b": [draw(40, dtype=dtype), draw(dtype=dtype)]}


def leaves(nest: dict[str, Any]) -> list[Array]:
    return [nest["W"], *nest["b"]]


def by_step(opt: RMSProp, grads: dict[str, Any]) -> None:
    opt.step(grads, grad_scale=0.5)


def by_sums(opt: RMSProp, grads: dict[str, Any]) -> None:
    opt.accumulate(grads)
    opt.accumulate(grads)
    opt.step()


def by_leaf(opt: RMSProp, grads: dict[str, Any]) -> None:
    with opt.leafwise() as update:
        for name, grad in zip(("b.1", "W"), (grads["b"][1], grads["W"]), strict=True):
            update(name, grad)


WAYS = [by_step, by_sums, by_leaf]


@both_dtypes
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize("way", WAYS)
def test_steps_have_the_same_bits(
    way: Callable[..., None], options: dict[str, Any], dtype: Any
) -> None:
    if way is by_leaf and ("max_grad_norm" in options):
        with pytest.raises(ValueError, match="leafwise"):
            way(RMSProp(some(dtype), **options), some(dtype))
        return
    start, grads = some(dtype), [some(dtype) for _ in range(25)]
    grads[7]["b"] = None if way is by_step else grads[7]["b"]
    ends = []
    for every in (0, 1, 3, 10):
        params = copy.deepcopy(start)
        opt = RMSProp(params, **options)
        monitor = Monitor(opt, every=every, sample=50) if every else None
        for grad in grads:
            way(opt, grad)
        state = [array.tobytes() for each in opt.state.values() for array in each.values()]
        bits = [leaf.tobytes() for leaf in leaves(params)]
        ends.append((bits, state, opt.step_count, opt.grad_norm))
        if monitor is not None:
            monitor.detach()
            assert monitor.history.steps.tolist() == list(range(1, 26, every))
    assert ends[1:] == ends[:1] * 3


def test_only_optimizers_of_this_package_are_observed() -> None:
    with pytest.raises(
        TypeError, match=r"observes fused_rmsprop\.RMSProp or .* got a builtins\.dict"
    ):
        Monitor({})
    model = types.SimpleNamespace(parameters=list)
    with pytest.raises(TypeError, match=r"pass the optimizer of this model, Monitor\(optimizer\)"):
        Monitor(model)
    opt = RMSProp(np.ones(3))
    for arguments, error, message in (
        ({"every": 0}, ValueError, "every must be >= 1"),
        ({"every": 2.5}, TypeError, "every must be an int"),
        ({"sample": 3}, ValueError, "sample must be >= 16"),
        ({"max_points": 1}, ValueError, "max_points must be >= 16"),
        ({"names": ["a"]}, TypeError, "names are for torch"),
        ({"evry": 2}, TypeError, "is every meant"),
    ):
        with pytest.raises(error, match=message):
            Monitor(opt, **arguments)
        assert opt._stepper.samplers == []


def test_a_step_that_is_refused_raises_the_same_error_and_is_no_observation() -> None:
    params = {"W": np.ones(3), "b": np.ones(2)}
    opt = RMSProp(params, on_nonfinite="raise")
    good = {"W": np.ones(3), "b": np.ones(2)}
    with Monitor(opt, every=1) as monitor:
        opt.step(good)
        for bad, error in (
            ({"W": np.ones(3)}, ValueError),
            ({"W": np.ones(3, np.float32), "b": np.ones(2)}, TypeError),
            ({"W": np.ones(3), "b": np.array([1, np.nan])}, FloatingPointError),
            (None, ValueError),
        ):
            before = copy.deepcopy(params)
            with pytest.raises(error) as with_monitor:
                opt.step(bad)
            np.testing.assert_equal(params, before)
            with pytest.raises(error) as without:
                RMSProp(params, on_nonfinite="raise").step(bad)
            assert str(with_monitor.value) == str(without.value)
        opt.step(good)
        with pytest.raises(TypeError, match="grad_scale"):
            opt.step(good, grad_scale="2")  # type: ignore[arg-type]
        opt.step(good)
    assert monitor.history.steps.tolist() == [1, 2, 3]
    assert not np.isnan(monitor.history["reversed"][:2]).any()


def test_an_optimizer_takes_several_monitors_and_lets_each_go() -> None:
    opt = RMSProp(np.ones(3), lr=0.1)
    first, second = Monitor(opt, every=1), Monitor(opt, every=4)
    for _ in range(8):
        opt.step(np.ones(3))
    first.detach()
    first.detach()
    for _ in range(8):
        opt.step(np.ones(3))
    second.detach()
    opt.step(np.ones(3))
    assert first.history.steps.tolist() == [*range(1, 9)]
    assert second.history.steps.tolist() == [1, 5, 9, 13]
    assert opt._stepper.samplers == []


def test_a_subclass_is_observed_inside_its_own_step() -> None:
    class Descending(RMSProp):
        def step(self, loss: Any) -> None:  # type: ignore[override]
            super().step(2 * loss)

    opt = Descending(np.ones(3))
    with Monitor(opt) as monitor:
        opt.step(np.full(3, 2.0))
    assert monitor.history["grad_rms"].tolist() == [[4.0]]


def test_copies_and_pickles_are_not_observed() -> None:
    opt = RMSProp(np.ones(3), lr=0.1)
    monitor = Monitor(opt, every=1)
    opt.step(np.ones(3))
    opt.step(np.ones(3))
    for copied in (pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)):
        assert copied._stepper.samplers == []
        copied.step(np.ones(3))
    assert len(monitor.history.steps) == 1  # the second is not complete
    for copied in (pickle.loads(pickle.dumps(monitor)), copy.deepcopy(monitor)):
        assert "detached" in repr(copied)
        np.testing.assert_array_equal(copied.history.rows, monitor.history.rows)
        assert copied.history.leaves == monitor.history.leaves
    opt.step(np.ones(3))
    assert len(monitor.history.steps) == 2
    monitor.detach()
    assert len(monitor.history.steps) == 3  # the last without its next update
    assert np.isnan(monitor.history["reversed"][-1]).all()


def test_memory_is_bounded_and_points_are_evenly_spaced() -> None:
    opt = RMSProp(np.ones(3))
    with Monitor(opt, every=1, max_points=20) as monitor:
        for step in range(1000):
            opt.step(np.full(3, 1.0 + step))
            monitor.log(loss=step + 1)
            assert len(monitor.history.steps) <= 21
    history = monitor.history
    assert history.steps[0] == 1
    assert history.steps[-1] == 1000
    assert set(np.diff(history.steps)[:-1].tolist()) == {64}
    np.testing.assert_allclose(history["grad_rms"][:, 0], history.steps)
    loss = history.logged["loss"]
    assert len(loss.steps) <= 21
    np.testing.assert_allclose(loss.values[:-1], loss.steps[:-1] - 31.5)  # of 64 values each


def test_another_thread_reads_while_the_training_goes_on() -> None:
    opt = RMSProp({"W": np.ones((50, 50)), "b": np.ones(50)}, lr=0.01)
    monitor = Monitor(opt, every=1, max_points=50)
    done, errors = threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            while not done.is_set():
                history = monitor.history
                assert len(history.steps) == len(history.rows) == len(history.option("lr"))
                assert (np.diff(history.steps) > 0).all()
                pickle.dumps(monitor)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    grads = {"W": np.ones((50, 50)), "b": np.ones(50)}
    for step in range(1500):
        opt.step(grads)
        monitor.log(loss=float(step))
    done.set()
    thread.join()
    assert not errors
    assert opt.step_count == 1500


def test_a_monitor_that_fails_ends_with_a_warning_and_the_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("no memory")

    for part, method in (("_statistics", "points"), ("_observer", "take"), ("_store", "add")):
        opt = RMSProp(np.ones(3), lr=0.1)
        monitor = Monitor(opt, every=1, callback=lambda step, values: None)
        opt.step(np.ones(3))
        monkeypatch.setattr(getattr(monitor, part), method, broken)
        with pytest.warns(
            RuntimeWarning, match="goes on without it: MemoryError: no memory"
        ) as seen:
            opt.step(np.ones(3))
        assert seen[0].filename == __file__
        assert opt.step_count == 2
        assert not monitor.is_observing
        opt.step(np.ones(3))
        monitor.log(loss=1.0)  # ends no training
        assert opt._stepper.samplers == []


def test_a_monitor_that_fails_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = RMSProp(np.ones(3), lr=0.1)
    monitor = Monitor(opt, every=1)
    for step in range(30):
        opt.step(np.ones(3))
        monitor.log(loss=float(step))
    with pytest.warns(RuntimeWarning, match="goes on without it: ValueError: of its own"):
        monitor._fail(ValueError("of its own"))
    assert monitor.history.steps.tolist() == [*range(1, 31)]
    assert monitor.history.logged["loss"].values.tolist() == [*range(30)]


def test_a_monitor_made_in_the_middle_of_a_step_counts_as_the_optimizer() -> None:
    opt = RMSProp({"a": np.ones(3), "b": np.ones(3)})
    with opt.leafwise() as update:
        update("a", np.ones(3))
        monitor = Monitor(opt, every=1)
        update("b", np.ones(3))
    opt.step({"a": np.ones(3), "b": np.ones(3)})
    monitor.detach()
    assert monitor.history.steps.tolist() == [2]


def test_no_update_is_compared_with_one_of_another_state() -> None:
    p = np.ones(3)
    opt = RMSProp(p, lr=0.1)
    saved = opt.state_dict()
    with Monitor(opt, every=10) as monitor:
        opt.step(np.ones(3))
        opt.load_state_dict(saved)
        opt.step(-np.ones(3))
    assert np.isnan(monitor.history["reversed"]).all()


def test_an_interrupt_of_a_monitor_leaves_the_step_made_and_loses_nothing() -> None:
    before = np.geterr()
    opt = RMSProp(np.ones(3), lr=0.1)
    monitor = Monitor(opt, every=1, callback=lambda step, values: None)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    opt.step(np.ones(3))
    for part, method in (("_statistics", "points"), ("_observer", "take"), ("_store", "add")):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(getattr(monitor, part), method, interrupted)
            with pytest.raises(KeyboardInterrupt):
                opt.step(np.ones(3))
        assert np.geterr() == before
    assert opt.step_count == 4
    opt.step(np.ones(3))
    assert monitor.history.steps.tolist() == [1, 2, 3, 4]


def step_often(opt: RMSProp, grads: Any) -> None:
    for _ in range(20):
        opt.step(grads)


def test_a_rebound_variable_is_still_warned_of() -> None:
    w = np.ones(3)
    opt = RMSProp([w], lr=0.0)
    monitor = Monitor(opt, every=1)
    opt.step([np.ones(3)])
    w = w * 2
    with pytest.warns(UserWarning, match="only the optimizer refers to any more") as seen:
        step_often(opt, [np.ones(3)])
    assert seen[0].filename == __file__
    assert w[0] == 2
    monitor.detach()


def test_a_group_that_is_added_later_is_not_observed() -> None:
    opt = RMSProp([{"params": np.ones(3)}], lr=0.1)
    with Monitor(opt, every=1) as monitor:
        opt.step([np.ones(3)])
        opt.add_param_group({"params": np.ones(2)})
        opt.step([np.ones(3), np.full(2, 9.0)])
        with opt.leafwise() as update:
            update("1", np.ones(2))
            update("0", np.ones(3))
    assert monitor.history.names == ("0",)
    assert monitor.history["grad_rms"].ravel().tolist() == [1, 1, 1]


def test_a_state_that_is_loaded_meanwhile_counts() -> None:
    opt = RMSProp(np.ones(3), on_nonfinite="skip")
    for _ in range(5):
        opt.step(np.ones(3))
    saved = opt.state_dict()
    opt.step(np.full(3, np.nan))
    with Monitor(opt, every=1) as monitor:
        opt.step(np.ones(3))
        monitor.log(loss=1.0)
        opt.load_state_dict(saved)
        monitor.log(loss=2.0)
        opt.step(np.ones(3))
    assert monitor.history.steps.tolist() == [6, 5]
    assert monitor.history.logged["loss"].steps.tolist() == [6, 4]


@pytest.mark.parametrize("inside", [False, True])
def test_a_cycle_through_a_monitor_is_collected(inside: bool) -> None:
    opt = RMSProp(np.ones(3))
    monitor = Monitor(opt)
    opt.step(np.ones(3))
    if inside:
        block = opt.leafwise()
        block.__enter__()
        monitor.block = block  # type: ignore[attr-defined]
        del block
    ends = weakref.ref(opt), weakref.ref(monitor)
    del opt, monitor
    gc.collect()
    assert [end() for end in ends] == [None, None]


def test_averages_and_changes_of_options_are_as_without_a_monitor() -> None:
    p = np.ones(3)
    opt = RMSProp(p, lr=0.1, ema_decay=0.5)
    with Monitor(opt, every=1) as monitor:
        opt.step(np.ones(3))
        with opt.use_ema(), pytest.raises(RuntimeError, match="use_ema"):
            opt.step(np.ones(3))
        opt.param_groups[0]["centered"] = True
        opt.param_groups[0]["momentum"] = 0.5
        opt.lr = 0.05
        opt.step(np.ones(3))
    assert monitor.history.option("lr").ravel().tolist() == [0.1, 0.05]
    assert monitor.history.option("momentum").ravel().tolist() == [0.0, 0.5]


def test_no_warning_comes_from_odd_numbers() -> None:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for value, size in itertools.product((0.0, np.nan, np.inf, 1e300), (1, 0, 40)):
            opt = RMSProp([np.full(size, 1e308), np.ones(1)], lr=0.1)
            with Monitor(opt, every=1, sample=16) as monitor:
                for _ in range(3):
                    opt.step([np.full(size, value), np.zeros(1)])
            assert len(monitor.history.steps) == 3


def test_the_plain_function_has_no_monitor() -> None:
    with pytest.raises(TypeError, match="observes"):
        Monitor(rmsprop_step)


def test_a_rebound_gradient_is_still_warned_of() -> None:
    g = np.ones(3)
    opt = RMSProp({"W": np.ones(3)}, grads={"W": g})
    monitor = Monitor(opt, every=1)
    opt.step()
    opt.step()
    g = g * 2
    with pytest.warns(UserWarning, match="a bound gradient that only the optimizer refers to"):
        step_often(opt, None)
    assert g[0] == 2
    monitor.detach()


def test_gradients_are_read_once() -> None:
    class Grads(Mapping[str, Array]):
        made = 0

        def __getitem__(self, key: str) -> Array:
            self.made += 1
            return np.full(3, float(self.made))

        def __iter__(self) -> Any:
            return iter(["W"])

        def __len__(self) -> int:
            return 1

        def __contains__(self, key: object) -> bool:
            return key == "W"

    opt, grads = RMSProp({"W": np.ones(3)}), Grads()
    with Monitor(opt, every=1) as monitor:
        for _ in range(3):
            opt.step(grads)
    assert grads.made == 3
    assert monitor.history["grad_rms"].ravel().tolist() == [1, 2, 3]


def test_a_thread_may_detach_at_any_time() -> None:
    p, errors = np.ones(3), list[BaseException]()
    opt = RMSProp(p)
    done = threading.Event()

    def attach() -> None:
        try:
            while not done.is_set():
                Monitor(opt, every=1).detach()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=attach)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(3000):
            opt.step(np.ones(3))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not errors
    assert opt.step_count == 3000


def test_skipped_steps_have_places_of_their_own() -> None:
    opt = RMSProp(np.ones(2), on_nonfinite="skip")
    with Monitor(opt, every=1) as monitor:
        for g in (1.0, np.nan, np.nan, 1.0):
            opt.step(np.full(2, g))
    assert monitor.history.steps.tolist() == [1, 2, 3, 4]
    assert monitor.history["nonfinite_grad"].ravel().tolist() == [0, 1, 1, 0]


def test_detaching_within_a_block_leaves_the_others_their_schedule() -> None:
    opt = RMSProp({"W": np.ones(3)})
    first, second = Monitor(opt, every=10), Monitor(opt, every=10)
    for step in range(25):
        with opt.leafwise() as update:
            update("W", np.ones(3))
            if step == 0:
                second.detach()
    assert first.history.steps.tolist() == [1, 11, 21]


def test_errors_of_an_update_are_those_without_a_monitor() -> None:
    messages = []
    for observed in (False, True):
        opt = RMSProp({"W": np.ones(3)})
        monitor = Monitor(opt) if observed else None
        with opt.leafwise() as update:
            for arguments in (("W", np.ones(3), 1.0), ("V", np.ones(3)), ("W",), (), (1,)):
                with pytest.raises((TypeError, KeyError, ValueError)) as raised:
                    update(*arguments)
                messages.append(str(raised.value))
        assert monitor is None or monitor.is_observing
    assert messages[:5] == messages[5:]


@needs_fork
def test_a_child_steps_though_a_thread_was_reading() -> None:
    opt = RMSProp(np.ones(3))
    monitor = Monitor(opt, every=1)
    opt.step(np.ones(3))
    with monitor._lock, monitor._store._lock:
        child = os.fork()
        if child == 0:  # its locks are its own
            opt.step(np.ones(3))
            opt.step(np.ones(3))
            os._exit(0 if len(monitor.history.steps) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a dying one
def test_interrupts_neither_silence_a_monitor_nor_lock_the_optimizer() -> None:
    """Real signals at any place; the slow tests of interrupts go to every one."""
    signal = pytest.importorskip("signal")
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs POSIX timers")
    rng = np.random.default_rng(0)
    g = np.ones(3)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for trial in range(200):
            opt = RMSProp({"a": g.copy()})
            monitor = Monitor(opt, every=1)
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(5e-5, 4e-4))
                for _ in range(10000):
                    if trial % 2:
                        opt.step({"a": g})
                    else:
                        with opt.leafwise() as update:
                            update("a", g)
            except KeyboardInterrupt:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            steps = opt.step_count
            for _ in range(4):
                opt.step({"a": g})
            assert opt.step_count == steps + 4
            assert monitor.history.steps[-1] >= opt.step_count - 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
