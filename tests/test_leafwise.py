"""Steps leaf by leaf: `RMSProp.leafwise`."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from interrupt_support import interrupted_everywhere
from reference import same_bits
from support import Array, draw, halved, read_only, run_python, threaded

NAMES = ["body.W", "body.s", "body.0", "head.b", "head.V"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all state": {"momentum": 0.9, "centered": True, "nesterov": True, "ema_decay": 0.9},
    "weight decay": {"weight_decay": 0.1, "maximize": True, "eps_inside_sqrt": True},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True, "initial_square_avg": 1.0},
    "corrected": {"bias_correction": True, "momentum": 0.5, "lr_in_momentum": True},
    "schedules": {"lr": halved, "momentum": lambda step: 0.5 / (1 + step)},
    "limited": {"max_grad_value": 0.3, "on_nonfinite": "raise"},
    "subnormal": {"flush_denormals": False, "lr": 1e-40},
    "flushed": {"flush_denormals": True, "lr": 1e-40},
    "team": {"threads": 2, "momentum": 0.9},
}


def make(dtype: type[Any] = np.float32, **options: Any) -> tuple[RMSProp, dict[str, Array]]:
    """An optimizer of two groups, always with the same values, and its arrays by their names."""
    rng = np.random.default_rng(7)
    shapes = [(13, 5), (), (0, 3), (700,), (4, 3, 2)]
    arrays = [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    arrays[0] = np.asfortranarray(arrays[0])
    w, s, empty, b, v = arrays
    groups: list[dict[str, Any]] = [
        {"params": {"W": w, "s": s, "0": empty, "none": None}, "name": "body"},
        {"params": {"b": b, "V": v}, "name": "head", "lr": 0.5, "alpha": 0.5},
    ]
    if "lr" in options:
        del groups[1]["lr"]
    return threaded(RMSProp(groups, **options)), dict(zip(NAMES, arrays, strict=True))


def gradients(params: dict[str, Array], seed: int, scale: float = 1.0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(scale * rng.standard_normal(p.shape), p.dtype)
        for name, p in params.items()
    }


def nested(grads: dict[str, Array], names: Sequence[str]) -> Any:
    """The gradients of these leaves as step() takes them."""
    w, s, empty, b, v = (grads[name] if name in names else None for name in NAMES)
    return [{"W": w, "s": s, "0": empty, "none": None}, {"b": b, "V": v}]


def assert_twins(
    one: tuple[RMSProp, dict[str, Array]], other: tuple[RMSProp, dict[str, Array]]
) -> None:
    assert one[0].step_count == other[0].step_count
    for name in NAMES:
        a, b = ({**opt.state[name], "param": params[name]} for opt, params in (one, other))
        assert a.keys() == b.keys()
        for key in a:
            assert same_bits(np.atleast_1d(a[key]), np.atleast_1d(b[key])), (name, key)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_bits_are_those_of_a_step(options: dict[str, Any], dtype: type[Any]) -> None:
    rng = np.random.default_rng(3)
    ours, twin = make(dtype, **options), make(dtype, **options)
    for i in range(6):
        names = [str(name) for name in rng.permutation(NAMES)]
        names = names[: len(names) - i % 4]  # some leaves have no update
        grads = gradients(ours[1], i, 1e-20 if i % 2 else 1.0)
        scale = 0.25 if i > 2 else 1.0
        with ours[0].leafwise(scale) as update:
            for name in names:
                update(name, grads[name])
        twin[0].step(nested(grads, names), scale)
        assert_twins(ours, twin)
        assert ours[0].grad_norm is None


def test_steps_and_blocks_alternate() -> None:
    ours, twin = make(momentum=0.9, lr=halved), make(momentum=0.9, lr=halved)
    for i in range(7):
        grads = gradients(ours[1], i)
        if i % 3 == 0:
            ours[0].step(nested(grads, NAMES))
        else:
            with ours[0].leafwise() as update:
                for name in NAMES:
                    update(name, grads[name])
        twin[0].step(nested(grads, NAMES))
        for opt, _ in (ours, twin):
            if i == 1:
                opt.load_state_dict(opt.state_dict())
            if i == 4:  # the state moves to other memory
                opt.param_groups[1].update(centered=True)
            if i == 5:
                opt.accumulate(nested(grads, NAMES))
                opt.discard_accumulated()
    assert_twins(ours, twin)


def test_a_team_updates_large_leaves() -> None:
    p = np.ones(100_000)
    opt = threaded(RMSProp([p, np.ones(1)], threads=2))
    with opt.leafwise() as update:
        update("1", np.ones(1))
        update("0", np.ones(p.size))
    assert opt.threads_used == 2


def test_a_single_array_and_a_subclass() -> None:
    class Own(RMSProp):
        pass

    p, twin = draw(5), draw(5)
    twin[:] = p
    opt = Own(p)
    with opt.leafwise() as update:
        update("param", np.ones(5, np.float32))
    RMSProp(twin).step(np.ones(5, np.float32))
    assert same_bits(p, twin)


def test_after_load(tmp_path: Any) -> None:
    p = draw(5)
    opt = RMSProp(p, momentum=0.9)
    opt.step(np.ones(5, np.float32))
    opt.save(tmp_path / "a.npz")
    copied = np.zeros_like(p)
    loaded = RMSProp.load(tmp_path / "a.npz", copied)
    with loaded.leafwise() as update:
        update("param", np.ones(5, np.float32))
    opt.step(np.ones(5, np.float32))
    assert same_bits(p, copied)
    assert loaded.step_count == 2


def test_gradients_in_another_memory_order() -> None:
    ours, twin = make(), make()
    for seed in (1, 2):
        grads = gradients(ours[1], seed)
        grads["body.W"] = np.ascontiguousarray(grads["body.W"])
        grads["head.b"] = np.repeat(grads["head.b"], 2)[::2]
        with ours[0].leafwise() as update:
            for name in NAMES:
                update(name, grads[name])
        twin[0].step(nested(grads, NAMES))
    assert_twins(ours, twin)


def test_bound_gradients() -> None:
    ours, twin = make(), make()
    bound = gradients(ours[1], 1)
    ours[0].bind_grads(nested(bound, NAMES[:4]))
    with ours[0].leafwise() as update:
        bound["body.W"] += 1  # the very arrays are read
        update("body.W")
        update("body.s", None)
        update("head.b", 2 * bound["head.b"])
        with pytest.raises(ValueError, match="bound gradient of .* is None: pass one") as caught:
            update("head.V")
        assert "params[1]['params']['V']" in str(caught.value)
    bound["head.b"] *= 2
    twin[0].step(nested(bound, ["body.W", "body.s", "head.b"]))
    assert_twins(ours, twin)
    ours[0].bind_grads(None)
    with (
        ours[0].leafwise() as update,
        pytest.raises(ValueError, match=r"pass it, update\(name, grad\), or bind"),
    ):
        update("head.V")


BAD_GRADS: dict[str, tuple[Callable[[RMSProp, dict[str, Array]], Any], Any, str]] = {
    "type": (lambda opt, p: 1.5, TypeError, "is a float, not a NumPy array"),
    "dtype": (lambda opt, p: np.ones((4, 3, 2)), TypeError, "has dtype float64, but"),
    "shape": (lambda opt, p: p["body.W"], ValueError, r"has shape \(13, 5\), but"),
    "transposed": (lambda opt, p: p["head.V"].copy().T, ValueError, "it looks transposed"),
    "parameter": (lambda opt, p: p["head.V"], ValueError, "shares memory with params"),
    "state": (lambda opt, p: opt.state["head.V"]["square_avg"], ValueError, "shares memory with"),
}


@pytest.mark.parametrize(("bad", "error", "message"), BAD_GRADS.values(), ids=BAD_GRADS)
def test_a_bad_gradient_changes_nothing_and_can_be_replaced(
    bad: Callable[[RMSProp, dict[str, Array]], Any], error: type[Exception], message: str
) -> None:
    ours, twin = make(), make()
    grads = gradients(ours[1], 1)
    with ours[0].leafwise() as update:
        update("head.b", grads["head.b"])
        before = ours[1]["head.V"].copy()
        with pytest.raises(error, match=message) as caught:
            update("head.V", bad(*ours))
        assert str(caught.value).startswith("grads[1]['V'] ")
        assert same_bits(ours[1]["head.V"], before)
        update("head.V", grads["head.V"])
    twin[0].step(nested(grads, ["head.b", "head.V"]))
    assert_twins(ours, twin)


def test_a_parameter_that_has_become_read_only() -> None:
    opt, params = make()
    before = params["head.b"].copy()
    with opt.leafwise() as update:
        params["head.b"].flags.writeable = False
        with pytest.raises(ValueError, match=r"params\[1\].*'b'\] has become read-only"):
            update("head.b", before)
    assert same_bits(params["head.b"], before)


def test_a_read_only_gradient_is_read() -> None:
    ours, twin = make(), make()
    grads = gradients(ours[1], 1)
    with ours[0].leafwise() as update:
        update("head.b", read_only(grads["head.b"]))
    twin[0].step(nested(grads, ["head.b"]))
    assert_twins(ours, twin)


def test_a_parameter_that_was_replaced_is_refused_on_entering() -> None:
    params = {"W": np.ones(2), "b": np.ones(2)}
    opt = RMSProp(params)
    params["b"] = np.ones(2)
    with pytest.raises(ValueError, match="is not the array any more"), opt.leafwise():
        pass
    assert opt.step_count == 0


def test_names() -> None:
    class Name(str):
        def __hash__(self) -> int:
            raise AssertionError

    opt = RMSProp({"layer3": {"W": np.ones(2), "b": np.ones(2)}, "\ud800": np.ones(1)})
    with opt.leafwise() as update:
        with pytest.raises(KeyError, match="no parameter 'Layer3.W'; is 'layer3.W' meant"):
            update("Layer3.W", np.ones(2))
        with pytest.raises(KeyError, match="no parameter 'x'; there are layer3.W, layer3.b"):
            update("x", np.ones(2))
        with pytest.raises(TypeError, match=r"named by a str, as in opt\.state, not by a int"):
            update(0, np.ones(2))  # type: ignore[arg-type]
        update(Name("layer3.W"), np.ones(2))
        update("\ud800", np.ones(1))
        with pytest.raises(ValueError, match=r"'W'\] has been updated .* already: add up"):
            update("layer3.W", np.ones(2))
    assert [int(state["step"]) for state in opt.state.values()] == [1, 0, 1]


def test_a_gradient_that_is_not_finite() -> None:
    options: dict[str, Any] = {"on_nonfinite": "raise", "momentum": 0.9}
    ours, twin = make(**options), make(**options)
    grads = gradients(ours[1], 1)
    wrong = grads["head.b"].copy()
    wrong[5] = np.nan

    def block() -> None:
        with ours[0].leafwise() as update:
            update("body.W", grads["body.W"])
            update("head.b", wrong)

    with pytest.raises(FloatingPointError, match=r"index \(5,\): nan; its leaf has not") as caught:
        block()
    assert str(caught.value).startswith("grads[1]['b'] has 1 NaN")
    twin[0].step(nested(grads, ["body.W"]))
    assert_twins(ours, twin)


REFUSED: dict[str, tuple[Callable[[RMSProp], Any], str]] = {
    "norm": (lambda opt: setattr(opt, "max_grad_norm", 1.0), "set max_grad_norm = None"),
    "infinite norm": (lambda opt: setattr(opt, "max_grad_norm", np.inf), "max_grad_value, which"),
    "skip": (lambda opt: setattr(opt, "on_nonfinite", "skip"), "'raise' or 'propagate'"),
    "accumulated": (lambda opt: opt.accumulate(np.ones(2)), r"discard_accumulated\(\) drops them"),
}


@pytest.mark.parametrize(("prepare", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_on_entering(prepare: Callable[[RMSProp], Any], message: str) -> None:
    opt = RMSProp(np.ones(2), lr=halved)
    prepare(opt)
    block = opt.leafwise()
    with pytest.raises(ValueError, match=message), block:
        pass
    assert opt.step_count == 0
    opt.max_grad_norm, opt.on_nonfinite = None, "raise"
    opt.discard_accumulated()
    with block as update:  # it was not entered
        update("param", np.ones(2))
    assert opt.step_count == 1


def test_a_bad_scale_and_a_bad_schedule() -> None:
    opt = RMSProp(np.ones(2), lr=lambda step: 0.1 if step == 0 else -1)
    with pytest.raises(ValueError, match="grad_scale"):
        opt.leafwise(0.0)
    with opt.leafwise():
        pass
    with pytest.raises(ValueError, match=r"by lr\(1\)"):
        opt.leafwise()
    assert opt.step_count == 1


def test_a_step_between_the_call_and_the_block() -> None:
    scheduled, plain = RMSProp(np.ones(2), lr=halved), RMSProp(np.ones(2))
    for opt in (scheduled, plain):
        block = opt.leafwise()
        opt.step(np.ones(2))
        if opt is scheduled:
            with pytest.raises(RuntimeError, match=r"another step .*leafwise\(\) again"), block:
                pass
        else:
            with block:
                pass
    assert (scheduled.step_count, plain.step_count) == (1, 2)


def test_functions_of_the_step_are_asked_once() -> None:
    asked = []

    def lr(step: int) -> float:
        asked.append(step)
        return 0.1

    opt = RMSProp([np.ones(1), np.ones(1)], lr=lr)
    asked.clear()
    for _ in range(2):
        with opt.leafwise() as update:
            update("0", np.ones(1))
            update("1", np.ones(1))
    assert asked in ([0, 1], [1])


def test_settings_hold_to_the_end_of_the_block() -> None:
    ours, twin = make(max_grad_value=0.1), make(max_grad_value=0.1)
    grads = gradients(ours[1], 1)
    with ours[0].leafwise() as update:
        update("head.b", grads["head.b"])
        ours[0].max_grad_value = None
        ours[0].on_nonfinite = "raise"
        update("head.V", np.full_like(grads["head.V"], np.inf))
    twin[0].step(nested({**grads, "head.V": np.full((4, 3, 2), np.inf, np.float32)}, NAMES[3:]))
    assert_twins(ours, twin)


def test_an_exception_in_the_block() -> None:
    ours, twin = make(), make()
    grads = gradients(ours[1], 1)

    def block(*names: str) -> None:
        with ours[0].leafwise() as update:
            for name in names:
                update(name, grads[name])
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        block()
    assert_twins(ours, twin)
    with pytest.raises(KeyError, match="mine"):
        block("head.b", "body.s")
    twin[0].step(nested(grads, ["head.b", "body.s"]))
    assert_twins(ours, twin)


def test_a_block_is_entered_once_and_then_left() -> None:
    opt = RMSProp(np.ones(2))
    block = opt.leafwise()
    enter: Any = block.__enter__
    update: Any = block
    with pytest.raises(RuntimeError, match="updates need the with block"):
        update("param", np.ones(2))
    with block, pytest.raises(RuntimeError, match="entered only once"):
        enter()
    with pytest.raises(RuntimeError, match="entered only once"):
        enter()
    with pytest.raises(RuntimeError, match=r"has been left.* call opt\.leafwise\(\) for the next"):
        update("param", np.ones(2))
    block.__exit__(None, None, None)
    assert opt.step_count == 1  # also without any update


@pytest.mark.parametrize(
    "action",
    [
        lambda opt: opt.step(np.ones(5)),
        lambda opt: opt.accumulate(np.ones(5)),
        lambda opt: opt.discard_accumulated(),
        lambda opt: opt.leafwise().__enter__(),
        lambda opt: opt.use_ema().__enter__(),
        lambda opt: opt.state_dict(),
        lambda opt: opt.load_state_dict(RMSProp(np.ones(5)).state_dict()),
        lambda opt: opt.save("never.npz"),
        lambda opt: opt.bind_grads(None),
        lambda opt: setattr(opt, "lr", 0.5),
        lambda opt: setattr(opt, "flush_denormals", False),
        lambda opt: opt.param_groups[0].update(momentum=0.5),
        lambda opt: opt.add_param_group({"params": np.ones(2), "name": "more"}),
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
    ],
)
def test_nothing_else_is_possible_meanwhile(action: Callable[[RMSProp], Any]) -> None:
    p = np.ones(5)
    opt = RMSProp(p, ema_decay=0.5)
    with opt.leafwise() as update:
        with pytest.raises(RuntimeError, match=r"inside leafwise\(\).*: leave the with block"):
            action(opt)
        update("param", np.ones(5))
        assert opt.lr == 0.01
        assert int(opt.state["param"]["step"]) == 1
    opt.step(np.ones(5))
    assert opt.step_count == 2


def test_a_block_inside_use_ema_is_refused() -> None:
    opt = RMSProp(np.ones(5), ema_decay=0.5)
    with opt.use_ema(), pytest.raises(RuntimeError, match=r"inside use_ema\(\)"), opt.leafwise():
        pass


def test_a_forked_child_is_inside_the_block_too() -> None:
    code = """
import os
import numpy as np
from fused_rmsprop import RMSProp

def refused():
    try:
        opt.step([np.ones(5), np.ones(5)])
    except RuntimeError as error:
        return "inside leafwise()" in str(error)

params = [np.ones(5), np.ones(5)]
opt = RMSProp(params)
with opt.leafwise() as update:
    update("0", np.ones(5))
    child = os.fork()
    refused_inside = refused()
    update("1", np.ones(5))
opt.step([np.ones(5), np.ones(5)])
twins = [np.ones(5), np.ones(5)]
twin = RMSProp(twins)
for _ in range(2):
    twin.step([np.ones(5), np.ones(5)])
same = all((p == t).all() for p, t in zip(params, twins))
code = 7 if refused_inside and same and opt.step_count == 2 else 1
if child == 0:
    os._exit(code)
print(code, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code).stdout == "7 7\n"


def test_another_thread_during_an_update() -> None:
    """It can neither update nor leave; the update that runs leaves then."""
    p = np.ones(4_000_000, np.float32)
    g, small = np.ones_like(p), np.ones(2)

    def refused(call: Callable[..., object], *args: object) -> bool:
        try:
            call(*args)
        except RuntimeError as error:
            return "in the middle of a step, or of a change, in another thread" in str(error)
        return False

    met: list[bool] = []
    deadline = time.monotonic() + 60
    while met != [True, True] and time.monotonic() < deadline:
        opt = RMSProp([p, np.ones(2)], threads=1)
        block = opt.leafwise()
        update = block.__enter__()
        first = p[0]
        thread = threading.Thread(target=update, args=("0", g))
        thread.start()
        while p[0] == first:
            time.sleep(1e-5)
        # Both are too late if the update has ended.
        met = [refused(update, "1", small), refused(block.__exit__, None, None, None)]
        thread.join()
        opt.step([g, small])
        assert opt.step_count == 2
        assert int(opt.state["0"]["step"]) == 2
    assert met == [True, True]


def test_several_threads_take_turns() -> None:
    ours, twin = make(), make()
    grads = gradients(ours[1], 1)
    with ours[0].leafwise() as update:
        for name in NAMES:
            thread = threading.Thread(target=update, args=(name, grads[name]))
            thread.start()
            thread.join()
    twin[0].step(nested(grads, NAMES))
    assert_twins(ours, twin)


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("updates", [0, 1])
def test_a_dropped_block_lets_go_of_the_optimizer(updates: int, cycle: bool) -> None:
    class Holder:
        pass

    opt = RMSProp(np.ones(2))
    held: Any = Holder()
    held.block = opt.leafwise()
    held.update = held.block.__enter__()
    if updates:
        held.update("param", np.ones(2))
    held.itself = held if cycle else None
    with pytest.raises(RuntimeError, match="inside leafwise"):
        opt.step(np.ones(2))
    del held
    gc.collect()
    opt.step(np.ones(2))
    assert opt.step_count == updates + 1


def test_gradients_are_not_kept() -> None:
    opt = RMSProp([np.ones(2)], grads=[np.ones(2)])
    bound = opt._stepper.bound
    grad = np.ones(2)
    counts = gc.get_referrers(grad), gc.get_referrers(bound[0])  # type: ignore[index]
    with opt.leafwise() as update:
        update("0", grad)
    assert [len(found) for found in counts] == [
        len(gc.get_referrers(grad)),
        len(gc.get_referrers(bound[0])),  # type: ignore[index]
    ]


@pytest.mark.parametrize(
    ("times", "every"),
    [(1, 7), *(pytest.param(*p, marks=pytest.mark.slow) for p in ((1, 1), (2, 5)))],
)
def test_an_interrupted_block(times: int, every: int) -> None:
    """Each leaf is updated or not, the step counts if one is, and the optimizer can go on."""
    options: dict[str, Any] = {"momentum": 0.5, "centered": True, "lr": halved}
    names = ["head.b", "body.s"]
    grads = gradients(make()[1], 1)

    def act(subject: tuple[RMSProp, dict[str, Array]]) -> None:
        with subject[0].leafwise() as update:
            for name in names:
                update(name, grads[name])

    def check(subject: tuple[RMSProp, dict[str, Array]]) -> None:
        opt = subject[0]
        steps = [int(opt.state[name]["step"]) for name in names]
        assert steps in ([0, 0], [1, 0], [1, 1])
        assert opt.step_count in (steps[0], 1)
        twin = make(**options)
        if opt.step_count:
            twin[0].step(nested(grads, names[: sum(steps)]))
        twin[0].step(nested(grads, NAMES))
        opt.step(nested(grads, NAMES))
        assert_twins(subject, twin)

    found = interrupted_everywhere(lambda: make(**options), act, check, times=times, every=every)
    assert found > 0
