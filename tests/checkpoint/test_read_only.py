"""Optimizers that are unpickled with read-only arrays: they can be read, and steps are refused."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fused_rmsprop import RMSProp

Pair = tuple[Any, RMSProp]


def out_of_band(pair: Pair, _folder: Path) -> Pair:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(pair, protocol=5, buffer_callback=buffers.append)
    model, opt = pickle.loads(data, buffers=[bytes(b.raw()) for b in buffers])
    return model, opt


def memory_mapped(pair: Pair, folder: Path) -> Pair:
    """As joblib does it: every array of a pickle becomes a read-only memory map."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, np.ndarray) or value.size == 0:
                return None
            name = str(folder / f"{id(value)}.bin")
            mapped: Any = np.memmap(name, value.dtype, "w+", shape=value.shape or (1,))
            mapped[...] = value
            return name, value.dtype.str, value.shape

    class Unpickler(pickle.Unpickler):
        arrays: ClassVar[dict[str, Any]] = {}

        def persistent_load(self, value: Any) -> Any:
            name, dtype, shape = value
            if name not in self.arrays:
                mapped: Any = np.memmap(name, dtype, "r", shape=shape or (1,))
                self.arrays[name] = mapped.reshape(shape)
            return self.arrays[name]

    path = folder / "pickle"
    with path.open("wb") as file:
        Pickler(file, protocol=5).dump(pair)
    with path.open("rb") as saved:
        model, opt = Unpickler(saved).load()
    return model, opt


def by_joblib(pair: Pair, folder: Path) -> Pair:
    joblib = pytest.importorskip("joblib")
    joblib.dump(pair, folder / "joblib")
    model, opt = joblib.load(folder / "joblib", mmap_mode="r")
    return model, opt


OPTIONS: list[dict[str, Any]] = [{}, {"momentum": 0.9, "centered": True, "ema_decay": 0.5}]
ways = pytest.mark.parametrize("way", [out_of_band, memory_mapped, by_joblib])
options = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "all state"])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def trained(options: dict[str, Any], dtype: Any) -> tuple[Pair, Any]:
    rng = np.random.default_rng(3)
    params = {"W": rng.normal(size=(50, 4)).astype(dtype), "b": np.zeros(4, dtype)}
    grads = {name: np.ones_like(p) for name, p in params.items()}
    opt = RMSProp(params, **options)
    opt.step(grads)
    return (params, opt), grads


@ways
@options
@dtypes
def test_it_can_be_read_and_not_stepped(
    way: Callable[..., Pair], options: dict[str, Any], dtype: Any, tmp_path: Path
) -> None:
    pair, grads = trained(options, dtype)
    model, opt = way(pair, tmp_path)
    assert not model["W"].flags.writeable
    assert all(
        array.flags.writeable
        for state in opt.state.values()
        for key, array in state.items()
        if key != "step"
    )
    before = {name: array.copy() for name, array in model.items()}
    counted = pickle.dumps(opt.state_dict())

    def leafwise() -> None:
        with opt.leafwise() as update:
            update("W", grads["W"])

    def averages() -> None:
        with opt.use_ema():
            pass

    writers = [lambda: opt.step(grads), lambda: opt.accumulate(grads), leafwise]
    for write in (*writers, *([averages] if options else [])):
        with pytest.raises(
            ValueError,
            match=r"params\['W'\] is read-only: it was unpickled .*"
            r"model, opt = copy\.deepcopy\(\(model, opt\)\)",
        ):
            write()
    assert all((model[name] == before[name]).all() for name in model)

    opt.save(tmp_path / "saved.npz")
    opt.effective_lr("W")
    again = pickle.loads(pickle.dumps(opt))
    assert again.step_count == 1
    opt.param_groups[0]["lr"] = 0.1
    assert (opt.state_dict()["state"]["W"]["step"] == 1).all()
    assert counted


@ways
@options
@dtypes
def test_a_deep_copy_trains_on(
    way: Callable[..., Pair], options: dict[str, Any], dtype: Any, tmp_path: Path
) -> None:
    pair, grads = trained(options, dtype)
    model, opt = copy.deepcopy(way(pair, tmp_path))
    alone = copy.deepcopy(way(pair, tmp_path)[1])
    for twin in (pair[1], opt, alone):
        twin.step(grads)
    arrays = alone.param_groups[0]["params"]
    if way is by_joblib:  # which does not keep the identity of arrays
        model = opt.param_groups[0]["params"]
    for name, param in pair[0].items():
        assert (model[name] == param).all()
        assert (arrays[name] == param).all()


def test_construction_refuses_a_read_only_array() -> None:
    array = np.ones(3)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="params is read-only"):
        RMSProp(array)
