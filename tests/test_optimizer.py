"""What `RMSProp` does around the step: structures, groups, state, options, resuming, copies."""

from __future__ import annotations

import copy
import pickle
import tempfile
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fused_rmsprop import RMSProp, rmsprop_step
from fused_rmsprop.param_group import ParamGroup
from reference import rmsprop, same_bits

Array = NDArray[Any]
RNG = np.random.default_rng(11)


def draw(*shape: int, dtype: type[Any] = np.float32) -> Array:
    return np.asarray(RNG.standard_normal(shape), dtype)


def test_the_defaults_are_torchs() -> None:
    group = RMSProp(np.ones(2)).param_groups[0]
    assert {k: v for k, v in group.items() if k != "params"} == {
        "lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0,
        "centered": False, "nesterov": False, "maximize": False, "eps_inside_sqrt": False,
        "lr_in_momentum": False, "decoupled_weight_decay": False, "initial_square_avg": 0.0,
        "bias_correction": False, "ema_decay": 0.0,
    }  # fmt: skip
    positional = RMSProp(np.ones(2), 0.1, 0.9, 1e-6, 0.02, 0.5, True)
    wanted = {"lr": 0.1, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.02, "momentum": 0.5}
    assert positional.param_groups[0].options().items() >= (wanted | {"centered": True}).items()


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (draw(3), ["param"]),
        ([draw(3), draw(2)], ["0", "1"]),
        ((draw(3), [draw(2), {"x": draw(1)}]), ["0", "1.0", "1.1.x"]),
        ({"l": {"W": draw(2, 2), "b": draw(2)}, 7: draw(1)}, ["l.W", "l.b", "7"]),
        ({"a": None, "b": draw(2), "c": []}, ["b"]),
        ([{"params": [draw(2)]}, {"params": {"W": draw(2)}, "name": "head"}], ["0.0", "head.W"]),
    ],
)
def test_structures_and_names(params: Any, names: list[str]) -> None:
    opt = RMSProp(params)
    assert sorted(opt.state) == sorted(names)


def test_params_are_updated_where_they_lie() -> None:
    weights = draw(4, 3)
    start = weights.copy()
    g = draw(4, 3)
    RMSProp({"W": weights}, lr=0.1).step({"W": g})
    state = {"square_avg": np.zeros_like(start)}
    expected, _ = rmsprop(start, g, state, lr=0.1, alpha=0.99, eps=1e-8)
    assert same_bits(weights, expected)


def test_memmap_and_shared_memory() -> None:
    g = draw(100)
    expected = np.ones(100, np.float32)
    RMSProp(expected).step(g)
    with tempfile.NamedTemporaryFile() as file:
        mapped = np.memmap(file.name, np.float32, "w+", shape=100)
        mapped[:] = 1
        RMSProp(mapped).step(g)
        mapped.flush()
        assert same_bits(np.fromfile(file.name, np.float32), expected)
    block = shared_memory.SharedMemory(create=True, size=400)
    try:
        shared = np.ndarray(100, np.float32, block.buf)
        shared[:] = 1
        RMSProp(shared).step(g)
        assert np.array_equal(shared, expected)
        del shared
    finally:
        block.close()
        block.unlink()


def test_none_leaves_are_left_alone() -> None:
    params = [draw(50_000), draw(4), draw(50_000), draw(3)]
    opt = RMSProp(params, momentum=0.5, threads=2)
    opt.step([np.ones_like(p) for p in params])
    before = [p.copy() for p in params]
    state_before = {k: {n: a.copy() for n, a in s.items()} for k, s in opt.state.items()}
    for frozen in ([0], [1], [3], [0, 3], [1, 2], [0, 1, 2, 3]):
        opt.step([None if i in frozen else np.ones_like(p) for i, p in enumerate(params)])
        for i in frozen:
            assert same_bits(params[i], before[i])
            assert all(same_bits(a, opt.state[str(i)][n]) for n, a in state_before[str(i)].items())
        before = [p.copy() for p in params]
        state_before = {k: {n: a.copy() for n, a in s.items()} for k, s in opt.state.items()}
    assert [int(opt.state[str(i)]["step"]) for i in range(4)] == [4, 4, 5, 4]
    nested = RMSProp({"a": [draw(2), draw(2)], "b": draw(1)})
    nested.step({"a": None, "b": np.ones(1, np.float32)})
    assert [int(s["step"]) for s in (nested.state["a.0"], nested.state["b"])] == [0, 1]


def test_bound_gradients() -> None:
    params, grads = {"W": draw(4), "b": draw(2)}, {"W": draw(4), "b": draw(2)}
    other = {k: v.copy() for k, v in params.items()}
    opt, plain = RMSProp(params, grads=grads), RMSProp(other)
    for _ in range(3):
        grads["W"] *= 0.5  # in place: the arrays are bound, not their values
        opt.step()
        plain.step(grads)
    opt.step(grads)
    plain.step(grads)
    assert all(same_bits(params[k], other[k]) for k in params)
    grads["W"] = draw(4)  # what is bound is the nest
    opt.step()
    plain.step(grads)
    assert all(same_bits(params[k], other[k]) for k in params)
    opt.bind_grads(None)
    with pytest.raises(ValueError, match="no gradients"):
        opt.step()


def test_gradients_in_another_order_or_strided() -> None:
    p, g = np.asfortranarray(draw(5, 6)), draw(5, 6)
    twin = p.copy(order="K")
    opt, other = RMSProp(p), RMSProp(twin)
    for layout in (np.ascontiguousarray(g), np.repeat(g, 2, axis=1)[:, ::2], g[::-1][::-1]):
        opt.step(layout)
        other.step(np.asfortranarray(g))
        assert same_bits(p, twin)


def test_groups_have_their_own_options() -> None:
    a, b, c = draw(4), draw(3), draw(2)
    start = [x.copy() for x in (a, b, c)]
    opt = RMSProp([{"params": a, "lr": 0.5}, {"params": [b], "momentum": 0.9}], lr=0.1)
    opt.add_param_group({"params": {"c": c}, "alpha": 0.5})
    grads = [np.ones(4, np.float32), [np.ones(3, np.float32)], {"c": np.ones(2, np.float32)}]
    opt.step(grads)
    for x, x0, options in zip(
        (a, b, c), start, ({"lr": 0.5}, {"momentum": 0.9}, {"alpha": 0.5}), strict=True
    ):
        zeros = {k: np.zeros_like(x) for k in ("square_avg", "momentum_buffer")}
        every: dict[str, Any] = {"lr": 0.1, "alpha": 0.99, "eps": 1e-8} | options
        assert same_bits(x, rmsprop(x0, np.ones_like(x), zeros, **every)[0])
    assert set(opt.state) == {"0", "1.0", "2.c"}
    with pytest.raises(ValueError, match="groups differ in lr"):
        _ = opt.lr
    opt.lr = 0.25
    assert opt.lr == 0.25
    assert [group["lr"] for group in opt.param_groups] == [0.25] * 3


def test_lr_is_set_for_all_groups_or_for_none() -> None:
    opt = RMSProp([{"params": draw(2, dtype=np.float64)}, {"params": draw(2)}])
    with pytest.raises(ValueError, match="overflows in float32"):
        opt.lr = 1e100
    assert opt.lr == 1e-2


def test_a_param_group_is_a_mapping() -> None:
    group = RMSProp({"W": draw(2)}, lr=0.5).param_groups[0]
    assert isinstance(group, ParamGroup)
    assert group["lr"] == 0.5
    assert set(group) == {"params", *RMSProp(np.ones(1)).defaults}
    assert len(group) == len(list(group))
    group["lr"] = np.float32(0.25)
    assert group["lr"] == 0.25
    with pytest.raises(ValueError, match="no option 'lrr'"):
        group["lrr"] = 1
    with pytest.raises(ValueError, match="cannot be replaced"):
        group["params"] = []
    with pytest.raises(TypeError, match="cannot be removed"):
        del group["lr"]


def test_options_changed_in_mid_run() -> None:
    p = draw(20)
    options: dict[str, Any] = {"lr": 0.01, "alpha": 0.9, "eps": 1e-8}
    expected = p.copy()
    state = {k: np.zeros_like(p) for k in ("square_avg", "momentum_buffer", "grad_avg")}
    opt = RMSProp(p, **options)
    for change in (
        {}, {"momentum": 0.9}, {"centered": True}, {"nesterov": True}, {"lr": 0.001},
        {"centered": False}, {"momentum": 0.0, "nesterov": False}, {"momentum": 0.5},
    ):  # fmt: skip
        if options.get("centered") and change.get("centered") is False:
            # The variance becomes the mean of squares again, about an average of zero.
            state["square_avg"] = state["square_avg"] + state["grad_avg"] * state["grad_avg"]
            state["grad_avg"] = np.zeros_like(p)
        options |= change
        opt.param_groups[0].update(change)
        for _ in range(2):
            g = draw(20)
            expected, state = rmsprop(expected, g, state, **options)
            opt.step(g)
            assert same_bits(p, expected)


def test_state_is_visible() -> None:
    opt = RMSProp({"W": np.asfortranarray(draw(4, 5))}, momentum=0.9, centered=True)
    state = opt.state["W"]
    assert set(state) == {"step", "variance", "momentum_buffer", "grad_avg"}
    kept = state["variance"]
    kept.flags.writeable = False  # that of a view: the memory is the optimizer's
    with pytest.raises(ValueError, match="resize"):
        kept.resize(3, refcheck=False)
    opt.step({"W": np.asfortranarray(draw(4, 5))})
    assert np.shares_memory(opt.state["W"]["variance"], kept)
    assert kept.any()
    assert kept.flags.f_contiguous
    assert state["step"].dtype == np.int64
    assert int(state["step"]) == 1
    with pytest.raises(TypeError):
        opt.state["W"]["variance"] = kept  # type: ignore[index]
    assert list(RMSProp([{"params": [draw(1), draw(1)]}, {"params": draw(1)}]).state) == [
        "0.0", "0.1", "1",
    ]  # fmt: skip


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_resuming_is_bit_identical(momentum: float, centered: bool) -> None:
    grads = [{"W": draw(300), "x": [draw(2, 3)]} for _ in range(20)]
    start: dict[str, Any] = {"W": draw(300), "x": [np.asfortranarray(draw(2, 3))]}
    straight = copy.deepcopy(start)
    opt = RMSProp(straight, lr=0.02, momentum=momentum, centered=centered)
    for g in grads[:10]:
        opt.step(g)
    saved = pickle.dumps((opt.state_dict(), straight))
    for g in grads[10:]:
        opt.step(g)

    state, params = pickle.loads(saved)
    resumed = RMSProp(params)  # the options come from the state
    resumed.load_state_dict(state)
    for g in grads[10:]:
        resumed.step(g)
    assert same_bits(params["W"], straight["W"])
    assert same_bits(params["x"][0], straight["x"][0])
    for name in opt.state:
        for key, array in opt.state[name].items():
            assert same_bits(resumed.state[name][key], array)


def test_a_state_dict_is_a_snapshot() -> None:
    opt = RMSProp({"W": draw(4)})
    saved = opt.state_dict()
    opt.step({"W": draw(4)})
    assert not saved["state"]["W"]["square_avg"].any()
    assert int(saved["state"]["W"]["step"]) == 0
    assert saved["param_groups"][0]["params"] == ["W"]


def test_a_state_dict_that_does_not_fit() -> None:
    opt = RMSProp({"W": draw(4), "b": draw(2)}, momentum=0.9)
    opt.step({"W": draw(4), "b": draw(2)})

    def refused(message: str, change: Any, error: type[Exception] = ValueError) -> None:
        saved = opt.state_dict()
        before = copy.deepcopy(saved)
        change(saved)
        with pytest.raises(error, match=message):
            opt.load_state_dict(saved)
        after = opt.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for name, state in before["state"].items():
            assert all(same_bits(state[k], after["state"][name][k]) for k in state)

    refused("this is a dict of param_groups, settings, counters", lambda s: s.pop("state"))
    refused("param_groups a list", lambda s: s.update(param_groups=3))
    refused("dicts with the key 'params'", lambda s: s.update(param_groups=[3]))
    refused("has 0 parameter groups, the optimizer 1", lambda s: s.update(param_groups=[]))
    refused(
        r"(?s)'W' is not in param_groups\[0\] of the state_dict.*'x' is in .* only",
        lambda s: s["param_groups"][0].update(params=["x", "b"]),
    )
    refused(r"state\['b'\] is missing", lambda s: s["state"].pop("b"))
    refused(r"state\['b'\]\['momentum_buffer'\] is missing",
            lambda s: s["state"]["b"].pop("momentum_buffer"))  # fmt: skip
    refused("lacks alpha", lambda s: s["param_groups"][0].pop("alpha"))
    refused("alpha must be", lambda s: s["param_groups"][0].update(alpha=2))
    refused("no option 'beta'", lambda s: s["param_groups"][0].update(beta=2))
    refused("float64 of shape", lambda s: s["state"]["b"].update(square_avg=np.ones(2)))
    refused("state is a dict", lambda s: s.update(state=3))
    refused("settings are flush_denormals, max_grad_norm", lambda s: s["settings"].clear())
    refused("max_grad_norm must be > 0", lambda s: s["settings"].update(max_grad_norm=-1))
    refused("on_nonfinite must be", lambda s: s["settings"].update(on_nonfinite=3))
    refused("counters are step_count", lambda s: s["counters"].update(more=3))
    for count in (-3, 2**63, True, 1.0):
        refused("step_count is an int >= 0",
                lambda s, count=count: s["counters"].update(step_count=count))  # fmt: skip
    refused("has a grad_sum, and nothing was accumulated",
            lambda s: s["state"]["b"].update(grad_sum=s["state"]["b"]["square_avg"]))  # fmt: skip
    refused("dicts with the key 'params', names", lambda s: s["param_groups"][0].update(params=5))
    for bad in (np.array([1, 2]), -1, np.uint64(2**64 - 1), 0.0):
        refused("not a number of steps", lambda s, bad=bad: s["state"]["b"].update(step=bad))
    refused("not an array", lambda s: s["state"]["b"].update(square_avg=[1, 2]))

    def two(saved: Any) -> None:
        saved["state"]["W"]["square_avg"] = np.ones(5, np.float32)
        saved["state"]["b"]["step"] = 0.5

    refused(r"(?s)'W'.*shape \(5,\).*'b'.*not a number of steps", two)


def test_copies() -> None:
    params = {"W": draw(30), "F": np.asfortranarray(draw(3, 4))}
    grads = {"W": draw(30), "F": np.asfortranarray(draw(3, 4))}
    opt = RMSProp(params, momentum=0.9, centered=True, grads=grads, threads=1, lr=0.3)
    opt.step()
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert repr(twin) == repr(opt)
        twin_params = twin.param_groups[0]["params"]
        assert not np.shares_memory(twin_params["W"], params["W"])
        assert all(same_bits(twin_params[k], params[k]) for k in params)
        twin.step()
    model, twin = copy.deepcopy((params, opt))
    assert twin.param_groups[0]["params"]["W"] is model["W"]
    opt.step()
    twin.step()
    assert all(same_bits(model[k], params[k]) for k in params)
    grouped = RMSProp([{"params": draw(2), "lr": 0.5, "name": "a"}, {"params": draw(3)}])
    assert repr(copy.deepcopy(grouped)) == repr(grouped)
    assert list(copy.deepcopy(grouped).state) == list(grouped.state)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RMSProp(np.ones(3, np.float32), eps=1e-40, flush_denormals=False),
        lambda: RMSProp([{"params": np.ones(3), "momentum": 0.9}], nesterov=True),
        lambda: RMSProp(
            [{"params": np.ones(3, np.float32), "eps": 1e-8}, {"params": np.ones(3)}], eps=1e-300
        ),
    ],
)
def test_copies_of_optimizers_whose_parts_need_each_other(make: Any) -> None:
    opt = make()
    assert repr(copy.deepcopy(opt)) == repr(opt)
    assert repr(pickle.loads(pickle.dumps(opt))) == repr(opt)


def test_copies_after_the_users_containers_changed() -> None:
    params = {"W": np.ones(3)}
    opt = RMSProp(params, grads={"W": np.ones(3)})
    trained = params["W"]
    params["b"] = np.zeros(2)
    assert opt.param_groups[0]["params"]["W"] is trained
    twin = copy.deepcopy(opt)
    opt.step()
    twin.step()
    assert same_bits(twin.param_groups[0]["params"]["W"], trained)
    opt.add_param_group({"params": np.ones(2)})
    with pytest.raises(ValueError, match="no gradients"):
        opt.step()
    twin = pickle.loads(pickle.dumps(opt))
    twin.step([{"W": np.ones(3)}, np.ones(2)])


def test_attributes_of_subclasses_are_copied() -> None:
    opt = Scheduled(np.ones(2))
    opt.epochs = 7
    assert pickle.loads(pickle.dumps(opt)).epochs == 7


class Scheduled(RMSProp):
    """An optimizer with an attribute of its own."""

    epochs: int


def test_options_are_not_attributes() -> None:
    opt = RMSProp(np.ones(2))
    with pytest.raises(AttributeError, match=r"param_groups\[0\]\['momentum'\] = 0.9"):
        opt.momentum = 0.9


def test_turning_centered_off_is_all_or_nothing() -> None:
    params = [np.zeros(2, np.float32), np.zeros(2, np.float32)]
    opt = RMSProp(params, centered=True)
    opt.step([np.ones(2, np.float32), np.full(2, 1e-25, np.float32)])
    with np.errstate(all="raise"):  # NumPy's setting is not ours to heed
        opt.param_groups[0]["centered"] = False
    assert set(opt.state["0"]) == {"step", "square_avg"}


def test_a_state_dict_fits_by_name() -> None:
    a, b = draw(2), draw(3)
    saved = RMSProp({"a": a, "b": b}).state_dict()
    RMSProp({"b": b, "a": a}).load_state_dict(saved)


def test_repr() -> None:
    opt = RMSProp({"W": np.ones((30, 50), np.float32), "b": np.ones(50, np.float32)}, lr=0.5)
    assert repr(opt) == (
        "RMSProp(lr=0.5, alpha=0.99, eps=1e-08; 2 arrays of 1,550 in all; "
        "flush_denormals=True, threads=None)"
    )
    opt.param_groups[0].update(momentum=0.9, centered=True)
    opt.max_grad_norm = 1
    assert repr(opt) == (
        "RMSProp(lr=0.5, alpha=0.99, eps=1e-08, momentum=0.9, centered=True; "
        "2 arrays of 1,550 in all; flush_denormals=True, max_grad_norm=1.0, threads=None)"
    )
    opt.add_param_group({"params": np.ones(3), "name": "head"})
    assert "\n  'head': lr=0.5" in repr(opt)


def test_threads_and_flush_denormals_can_be_changed() -> None:
    opt = RMSProp(draw(3), threads=2)
    assert opt.threads == 2
    opt.threads = None
    assert opt.threads is None
    opt.flush_denormals = False
    opt.param_groups[0]["eps"] = 1e-40
    with pytest.raises(ValueError, match="subnormal"):
        opt.flush_denormals = True
    assert opt.flush_denormals is False


def test_a_denormal_is_zero_or_is_not() -> None:
    tiny = np.full(100, 1e-40, np.float32)
    for flush in (True, False):
        p = np.zeros(100, np.float32)
        RMSProp(p, eps=1e-8, lr=1.0, flush_denormals=flush).step(tiny)
        assert p.any() != flush


def test_guard_bytes_around_params_and_state() -> None:
    options: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.9}
    options["centered"] = True
    names = ("param", "grad", "square_avg", "momentum_buffer", "grad_avg")
    for dtype in (np.float32, np.float64):
        for size in (*range(70), 1023, 1024, 1025, 50_001):
            buffers = {k: np.full(size + 40, 9, dtype) for k in names}
            start = {k: 16 + (5 * i + size) % 16 for i, k in enumerate(names)}
            arrays = {k: b[start[k] : start[k] + size] for k, b in buffers.items()}
            for k, array in arrays.items():
                array[...] = draw(size) if k in ("param", "grad") else abs(draw(size))
            before = {k: a.copy() for k, a in arrays.items()}
            state = {k: before[k] for k in names[2:]}
            expected, state = rmsprop(before["param"], before["grad"], state, **options)
            rmsprop_step(**(arrays | options), threads=2)
            assert same_bits(arrays["param"], expected)
            assert all(same_bits(arrays[k], state[k]) for k in names[2:])
            for k, buffer in buffers.items():
                assert (buffer[: start[k]] == 9).all()
                assert (buffer[start[k] + size :] == 9).all()


@pytest.mark.parametrize("threads", [1, 2, None])
def test_rmsprop_step_is_the_same_update(threads: int | None) -> None:
    options: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.9}
    options["centered"] = True
    p = np.asfortranarray(draw(300, 200))
    q = p.copy(order="K")
    state = {k: np.zeros_like(p) for k in ("square_avg", "momentum_buffer", "grad_avg")}
    opt = RMSProp(q, **options)
    for _ in range(3):
        g = draw(300, 200)
        rmsprop_step(p, g, **(state | options), threads=threads)
        opt.step(g)
    assert same_bits(p, q)
    assert same_bits(state["square_avg"], opt.state["param"]["variance"])
