"""A warning when a variable was rebound, so that the optimizer trains an array nobody else has."""

import copy
import pickle
import sysconfig
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp

pytestmark = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="a Python without a GIL splits the counts of references",
)

TRAINED = r"only the optimizer refers to any more: {}\. .*W\[\.\.\.\] = "
READ = r"only the optimizer refers to any more: {}\. .*gW\[\.\.\.\] = "


def ones(*shape: int) -> Any:
    return np.ones(shape or (3,))


def step(opt: RMSProp, times: int, grads: Any = None) -> None:
    for _ in range(times):
        opt.step(grads)


@pytest.mark.parametrize(
    ("contain", "grads", "leaf"),
    [
        (lambda w, b: {"W": w, "b": b}, {"W": ones(), "b": ones()}, r"params\['W'\]"),
        (lambda w, b: [w, b], [ones(), ones()], r"params\[0\]"),
        (lambda w, b: {"l": [(w, b)]}, {"l": [[ones(), ones()]]}, r"params\['l'\]\[0\]\[0\]"),
        (
            lambda w, b: [{"params": [b]}, {"params": {"W": w}}],
            [[ones()], {"W": ones()}],
            r"params\[1\]\['params'\]\['W'\]",
        ),
    ],
    ids=["dict", "list", "nested", "groups"],
)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_rebound_variable_is_warned_of_once(
    contain: Any, grads: Any, leaf: str, steps: int
) -> None:
    w, b = ones(), ones()
    opt = RMSProp(contain(w, b))
    for _ in range(steps):
        opt.step(grads)
    w = w * 2
    kept = w.copy()
    with pytest.warns(UserWarning, match=TRAINED.format(leaf)) as warned:
        step(opt, 20 - steps, grads)
    assert len(warned) == 1
    assert warned[0].filename == __file__  # a line of the caller
    assert (b != 1).all()
    assert (w == kept).all()


def test_a_rebound_attribute_is_warned_of() -> None:
    m = SimpleNamespace(W=ones(), b=ones())
    opt = RMSProp({"W": m.W, "b": m.b})
    m.W = m.W * 2
    with pytest.warns(UserWarning, match=TRAINED.format(r"params\['W'\]")):
        opt.step({"W": ones(), "b": ones()})


def test_a_rebound_single_array_is_warned_of_once_it_was_seen() -> None:
    w = ones()
    opt = RMSProp(w)
    opt.step(ones())
    w = w * 2
    with pytest.warns(UserWarning, match=TRAINED.format("params")):
        opt.step(ones())
    assert (w < 2).all()


def test_a_rebound_container_is_warned_of_once_it_was_seen() -> None:
    params = {"W": ones(), "b": ones()}
    opt = RMSProp(params)
    opt.step({"W": ones(), "b": ones()})
    params = {name: 2 * array for name, array in params.items()}
    with pytest.warns(UserWarning, match=TRAINED.format(r"params\['W'\] \(and 1 more\)")):
        opt.step({"W": ones(), "b": ones()})
    assert params.keys() == {"W", "b"}


@pytest.mark.parametrize("steps", [0, 3])
def test_a_rebound_gradient_is_warned_of(steps: int) -> None:
    params, gw, gb = {"W": ones(), "b": ones()}, ones(), ones()
    opt = RMSProp(params, grads={"W": gw, "b": gb})
    if steps == 0:  # those of one look; before it, nobody has counted
        opt.step()
    for _ in range(steps):
        opt.step()
    gw = gw * 2
    with pytest.warns(UserWarning, match=READ.format(r"grads\['W'\]")) as warned:
        step(opt, 8)
    assert len(warned) == 1
    assert (gw == 2).all()


def test_a_rebound_variable_is_warned_of_on_entering_leafwise() -> None:
    w, b = ones(), ones()
    opt = RMSProp({"W": w, "b": b})
    w = w * 2
    with pytest.warns(UserWarning, match="only the optimizer") as warned, opt.leafwise() as update:
        update("b", ones())
    assert warned[0].filename == __file__
    assert (w == 2).all()


@pytest.mark.parametrize("accumulate", [False, True])
def test_as_an_error_the_warning_changes_nothing(accumulate: bool) -> None:
    w, b = ones(), ones()
    opt = RMSProp({"W": w, "b": b}, grads={"W": ones(), "b": ones()})
    w = w * 2
    before = opt.state_dict()["state"]["b"]["square_avg"], b.copy()
    if accumulate:
        opt.accumulate()
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="only the optimizer"):
                opt.step()
        assert (opt.state["b"]["square_avg"] == before[0]).all()
        assert (b == before[1]).all()
        assert opt.step_count == 0
    with pytest.warns(UserWarning, match="only the optimizer"):
        opt.step()
    assert opt.step_count == 1
    assert (b < 1).all()
    assert (w == 2).all()


def made() -> RMSProp:
    w = ones()
    return RMSProp({"W": w})


def view_of(array: Any) -> tuple[RMSProp, Any]:
    return RMSProp({"W": array}), array[1:]


def part_of(buffer: Any) -> tuple[RMSProp, Any]:
    w = buffer[:3].reshape(3, 1)[:, 0]
    return RMSProp({"W": w}), buffer


def memory_of(array: Any) -> tuple[RMSProp, Any]:
    return RMSProp({"W": array}), memoryview(array)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (RMSProp({"W": ones()}), None),
        lambda: view_of(ones()),
        lambda: part_of(ones(9)),
        lambda: memory_of(ones()),
        lambda: (copy.deepcopy(made()), None),
        lambda: (pickle.loads(pickle.dumps(made())), None),
        lambda: (copy.deepcopy(({"W": ones()}, made()))[1], None),
    ],
    ids=["never held", "view", "part", "memoryview", "deepcopy", "pickle", "pair"],
)
def test_no_warning_where_an_array_can_be_reached_or_never_was(make: Any) -> None:
    opt, _held = make()
    for _ in range(9):
        opt.step({"W": ones()})


@pytest.mark.parametrize(
    "read",
    [
        lambda opt: opt.param_groups[0]["params"],
        lambda opt: dict(opt.param_groups[0]),
        pickle.dumps,
    ],
    ids=["params", "dict", "pickle"],
)
def test_no_warning_where_the_user_reads_the_arrays_from_the_optimizer(read: Any) -> None:
    opt = made()
    read(opt)
    for _ in range(9):
        opt.step({"W": ones()})


def test_no_warning_for_gradients_beside_the_bound_ones() -> None:
    params = {"W": ones()}
    opt = RMSProp(params, grads={"W": ones()})
    opt.step({"W": ones()})
    for _ in range(9):
        opt.step()
