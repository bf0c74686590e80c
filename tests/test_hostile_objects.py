"""Arrays that change under an optimizer, containers with code of their own, cycles: no harm."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, rmsprop_step
from reference import same_bits
from support import Array, both_dtypes, run_python

CHANGES: dict[str, Callable[[Array], None]] = {
    "dtype": lambda p: setattr(p, "dtype", np.int32),
    "wider dtype": lambda p: setattr(p, "dtype", np.complex64),
    "shape": lambda p: setattr(p, "shape", (p.size // 4, 4)),
    "smaller": lambda p: p.resize(8, refcheck=False),
    "larger": lambda p: p.resize(100_000, refcheck=False),
    "frozen": lambda p: setattr(p.flags, "writeable", False),
}
OPTIONS: list[dict[str, Any]] = [{}, {"momentum": 0.5, "centered": True, "ema_decay": 0.5}]


def restored(p: Array, dtype: Any, size: int) -> None:
    p.flags.writeable = True
    if p.nbytes != size * np.dtype(dtype).itemsize:
        p.resize(size * np.dtype(dtype).itemsize // p.itemsize, refcheck=False)
    setattr(p, "dtype", dtype)  # noqa: B010 (read-only for a type checker)
    p.shape = (size,)


@both_dtypes
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_array_is_refused_and_nothing_of_it_is_remembered(
    change: str, first: bool, options: dict[str, Any], dtype: str
) -> None:
    p, g = np.zeros(1000, dtype), np.ones(1000, dtype)
    opt, twin = RMSProp(p, **options), RMSProp(p.copy(), **options)
    for end in (opt, twin) if first else ():
        end.step(g)
    CHANGES[change](p)
    actions: list[Callable[[], None]] = [
        lambda: opt.step(g),
        lambda: opt.accumulate(g),
    ]
    if not options:  # the change needs new state
        actions.append(lambda: opt.param_groups[0].update(momentum=0.25, ema_decay=0.25))
    for action in actions:
        before = dict(opt.param_groups[0])
        with pytest.raises(ValueError, match="has (become read-only|been resized)"):
            action()
        assert dict(opt.param_groups[0]) == before
        assert opt.step_count == first
    if change in ("smaller", "larger"):
        return  # its values are lost, and its memory may be another
    restored(p, dtype, 1000)
    opt.discard_accumulated()
    opt.step(g)
    twin.step(g)
    assert same_bits(p, twin.param_groups[0]["params"])


def test_a_refused_change_of_options_is_in_no_checkpoint(tmp_path: Any) -> None:
    p = np.ones((2, 3))
    opt = RMSProp(p)
    p.shape = (6,)
    with pytest.raises(ValueError, match="reshaped"):
        opt.param_groups[0]["momentum"] = 0.5
    p.shape = (2, 3)
    assert opt.param_groups[0]["momentum"] == 0
    opt.save(tmp_path / "a.npz")
    RMSProp.load(tmp_path / "a.npz", np.ones((2, 3))).step(np.ones((2, 3)))


def test_nothing_of_the_state_can_be_resized() -> None:
    opt = RMSProp(np.ones((4, 3)), momentum=0.5)
    for array in opt.state["param"].values():
        owner: Any = array
        while isinstance(owner, np.ndarray):
            if owner.base is not None and not isinstance(owner.base, np.ndarray):
                assert not owner.flags.owndata
            owner = owner.base
        assert owner is not None, "an array owns the memory"
        with pytest.raises(ValueError, match=r"own|resize"):
            array.resize(100, refcheck=False)


@pytest.mark.parametrize("shape", [(), (0,), (5, 0), (3,), (4, 1, 3)])
def test_state_begins_at_a_cache_line_and_has_the_parameters_order(shape: tuple[int, ...]) -> None:
    for order in ("C", "F"):
        p = np.zeros(shape, np.float32, order=order)
        v = RMSProp(p).state["param"]["square_avg"]
        assert v.shape == p.shape
        assert v.ctypes.data % 64 == 0
        assert v.size == 0 or v.strides == p.strides


class Odd(np.matrix):  # its attributes can corrupt the memory of NumPy
    """Counts all accesses to its attributes."""

    asked = 0

    def __getattribute__(self, name: str) -> Any:
        Odd.asked += 1
        return super().__getattribute__(name)


def test_a_refused_gradient_is_not_touched() -> None:
    assert np.ma.__name__ == "numpy.ma"  # it is imported: its arrays are looked for
    p = np.zeros((2, 3))
    opt = RMSProp(p)
    for array in (np.zeros((3, 2)), np.zeros((2, 2)), np.zeros((2, 3), np.float32)):
        grad = array.view(Odd)
        Odd.asked = 0
        with pytest.raises((ValueError, TypeError)):
            opt.step(grad)
        with pytest.raises((ValueError, TypeError)):
            rmsprop_step(p, grad, np.zeros((2, 3)), lr=0.1, alpha=0.9, eps=1e-8)
        assert Odd.asked == 0


class Clearing:
    """A key that empties its dict when it is hashed, compared or shown."""

    def __init__(self, when: str) -> None:
        self.when, self.armed, self.container = when, False, {}  # type: ignore[var-annotated]

    def _run(self, what: str) -> None:
        if self.armed and what == self.when:
            self.container.clear()
            gc.collect()

    def __hash__(self) -> int:
        self._run("hash")
        return 1

    def __eq__(self, other: object) -> bool:
        self._run("eq")
        return self is other

    def __repr__(self) -> str:
        self._run("repr")
        return f"key{id(self)}"


@pytest.mark.parametrize("when", ["hash", "eq", "repr"])
@pytest.mark.parametrize("superfluous", [False, True])
def test_a_key_that_empties_its_dict(when: str, superfluous: bool) -> None:
    def dict_of(make: Callable[[], Any]) -> dict[Any, Any]:
        return {Clearing("never"): make(), key: make(), "b": make()}

    key = Clearing(when)
    params = {key: np.ones(3), "b": np.ones(3)}
    opt = RMSProp(params)
    grads = {key: np.ones(3), "b": np.ones(3)} | ({Clearing(when): 1} if superfluous else {})
    key.container, key.armed = grads, True
    with np.errstate(all="raise"):
        try:
            opt.step(grads)
        except ValueError:
            assert opt.step_count == 0
    key.armed = False
    key.container = dict_of(lambda: np.ones(3))
    hostile = key.container
    key.armed = True
    try:
        RMSProp(hostile)
    except ValueError as error:
        assert "went away" in str(error) or "no arrays" in str(error)  # noqa: PT017


class Owner(dict[Any, Any]):
    """A container of parameters that leads back to its optimizer."""


class OwnedArray(np.ndarray):
    """An array that leads back to its optimizer."""


def in_dict() -> tuple[Any, Any]:
    owner = Owner(w=np.ones(3))
    return owner, RMSProp(owner)


def in_array() -> tuple[Any, Any]:
    owner = np.ones(3).view(OwnedArray)
    return owner, RMSProp(owner)


def in_grads() -> tuple[Any, Any]:
    owner = Owner(w=np.ones(3))
    return owner, RMSProp({"w": np.ones(3)}, grads=owner)


def in_averages() -> tuple[Any, Any]:
    owner, opt = in_dict()
    opt.param_groups[0]["ema_decay"] = 0.5
    owner.averages = opt.use_ema()
    return owner, opt


def in_block() -> tuple[Any, Any]:
    owner, opt = in_dict()
    owner.block = opt.leafwise()
    return owner, opt


@pytest.mark.parametrize("make", [in_dict, in_array, in_grads, in_averages, in_block])
def test_a_cycle_through_an_optimizer_is_collected(make: Callable[[], tuple[Any, Any]]) -> None:
    owner, opt = make()
    owner.optimizer = opt
    if isinstance(owner, Owner):
        opt.step({"w": np.ones(3)})
    found = weakref.ref(owner)
    del owner, opt
    gc.collect()
    assert found() is None


NAMES = ["\ud800", "\U0001f600", "a.b", "", "'", "\x00"]


@pytest.mark.parametrize("name", NAMES)
def test_any_string_is_a_name(name: str, tmp_path: Any) -> None:
    params = [{"params": {name: np.ones(2)}, "name": name}, {"params": {"x": np.ones(1)}}]
    opt = RMSProp(params)
    opt.step([{name: np.ones(2)}, {"x": np.ones(1)}])
    full = f"{name}.{name}" if name else (name or "param")
    assert full in opt.state
    opt.param_groups[0].update(momentum=0.5, centered=True)
    with pytest.raises(ValueError, match="shape"):
        opt.step([{name: np.ones(3)}, {"x": np.ones(1)}])
    with pytest.raises(KeyError):
        opt.effective_lr(name + "?")
    opt.save(tmp_path / "a.npz")
    again = RMSProp.load(tmp_path / "a.npz", params)
    assert [*again.state] == [*opt.state]


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["step", "accumulate", "rmsprop_step", "ordered"])
def test_a_program_may_end_while_a_daemon_trains(entry: str) -> None:
    code = """
    import sys, threading, time
    import numpy as np
    from fused_rmsprop import RMSProp, rmsprop_step
    entry = sys.argv[1]
    p, g, v = (np.ones((1000, 300), np.float32) for _ in range(3))
    opt = RMSProp(p, threads=1)
    def train():
        while True:
            if entry == "step":
                opt.step(g)
            elif entry == "ordered":
                opt.step(np.asfortranarray(g))
            elif entry == "accumulate":
                opt.accumulate(g)
            else:
                rmsprop_step(p, g, v)
    for _ in range(1 if entry != "rmsprop_step" else 3):
        threading.Thread(target=train, daemon=True).start()
    time.sleep(0.3)
    """
    for _ in range(6):
        run_python(code, entry)


def test_a_state_that_consists_of_the_optimizers_own_arrays_is_loaded_as_it_was() -> None:
    opt = RMSProp({"a": np.zeros(2), "b": np.zeros(2)})
    opt.step({"a": np.ones(2), "b": np.full(2, 3.0)})
    saved = opt.state_dict()
    a, b = (opt.state[name]["square_avg"].copy() for name in "ab")
    saved["state"] = {"a": dict(opt.state["b"]), "b": dict(opt.state["a"])}
    opt.load_state_dict(saved)
    assert same_bits(opt.state["a"]["square_avg"], b)
    assert same_bits(opt.state["b"]["square_avg"], a)


class OddString(str):
    """A string whose hash does not work."""

    def __hash__(self) -> int:
        raise OSError


def test_a_name_with_code_of_its_own_becomes_a_plain_string() -> None:
    opt = RMSProp([{"params": np.ones(2), "name": OddString("x")}])
    opt.param_groups[0]["momentum"] = 0.5
    assert [*opt.state] == ["x"]
    assert "momentum_buffer" in opt.state["x"]


def test_the_initial_average_may_change_together_with_its_meaning() -> None:
    opt = RMSProp(np.ones(2), centered=True, initial_square_avg=0.5)
    opt.param_groups[0].update(centered=False, initial_square_avg=2.0)
    assert same_bits(opt.state["param"]["square_avg"], np.full(2, 2.0))


class Collecting(np.ndarray):
    """A gradient whose end looks for garbage."""

    def __del__(self) -> None:
        gc.collect()


class Emptying:
    """A key that empties its dict when it is compared with another key of its kind."""

    container: dict[Any, Any] | None = None

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        if self is not other and Emptying.container is not None:
            Emptying.container.clear()
        return self is other


def test_the_end_of_a_gradient_may_look_at_the_others() -> None:
    keys = [Emptying() for _ in range(4)]
    opt = RMSProp({key: np.ones(3) for key in keys})
    grads = {key: np.ones(3).view(Collecting) for key in keys}
    Emptying.container = grads
    try:
        with pytest.raises(ValueError, match="missing"):
            opt.step(grads)
    finally:
        Emptying.container = None
    assert opt.step_count == 0
