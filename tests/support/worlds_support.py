"""Optimizers of both front ends with the operations that faults are injected into.

A world is an optimizer, its parameters and its files, the same each time it is made. An operation
is a list of calls: after a fault, the world is as after some number of them.
"""

from __future__ import annotations

import copy
import os
import pickle
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attack_support import Image, image_of
from fused_rmsprop import RMSProp

Array = NDArray[Any]
FORMATS = ("npz", "safetensors")
WARM_STEPS = 2
FLAT: dict[str, Any] = {"alpha": 0.9}
FULL: dict[str, Any] = {"momentum": 0.9, "centered": True, "nesterov": True, "ema_decay": 0.9}


def lr_at(step: int) -> float:
    """A schedule of ``lr``."""
    return 0.01 / (1 + step)


def momentum_at(step: int) -> float:
    """A schedule of ``momentum``."""
    return 0.5 + 0.1 / (1 + step)


class Operation(NamedTuple):
    """Calls of a world's methods on an optimizer with these options."""

    name: str
    calls: tuple[str, ...]
    options: dict[str, Any] = FLAT
    grouped: bool = False


#: Short calls are repeated: after a fault, some of them were made.
_STEP = ("step",) * 10

STEPS = (
    Operation("step", _STEP),
    Operation("step, the first", ("step",) * 3, FULL),
    Operation("step with schedules", _STEP, {"lr": lr_at, "momentum": momentum_at}),
    Operation("step of groups", _STEP, {"momentum": 0.9}, True),
    Operation("step of everything", _STEP, {**FULL, "bias_correction": True}),
    Operation("step clipped", _STEP, {"max_grad_norm": 0.5, "max_grad_value": 1.0}),
    Operation("step skipped", ("step_nonfinite", "step") * 3, {"on_nonfinite": "skip"}),
    Operation("step raising", ("step_nonfinite", "step") * 3, {"on_nonfinite": "raise"}),
    Operation("step in another order", ("step_transposed",) * 5, {"momentum": 0.9}),
)
CHANGES = (
    Operation("change of a group", ("update_group", "step"), {"alpha": 0.9}, True),
    Operation("change of lr", ("set_lr", "step"), {"alpha": 0.9}, True),
    Operation("no longer centered", ("center_off", "step"), FULL),
    Operation("new group", ("add_group", "step"), {"momentum": 0.9}, True),
    Operation("settings", ("set_norm", "set_value", "set_flush", "step")),
)
STATE = (
    Operation("state_dict", ("state_dict",), FULL, True),
    Operation("load_state_dict", ("load_state_dict",), FULL, True),
    Operation("load_state_dict, other options", ("load_state_dict",), {"alpha": 0.5}),
    Operation("use_ema", ("use_ema", "step"), FULL, True),
    Operation("pickle", ("pickle",), FULL, True),
    Operation("deepcopy", ("deepcopy",), FULL),
)
NUMPY_ALONE = (
    Operation("accumulate", ("accumulate", "accumulate", "step_accumulated") * 2),
    Operation("accumulate, discard", ("accumulate", "discard", "step") * 2),
    Operation("bound gradients", ("bind", *("step_bound",) * 6, "unbind")),
    Operation("leafwise", ("leafwise",) * 10, FULL),
    Operation("freeze", ("freeze", "step", "unfreeze", "step"), FULL),
)
FILES = tuple(Operation(f"save {f}", (f"save_{f}",), FULL, True) for f in FORMATS)
LOADS = tuple(Operation(f"load {f}", (f"load_{f}",), FULL, True) for f in FORMATS)


@lru_cache(maxsize=512)
def _draw(seed: int, shape: tuple[int, ...], dtype: str) -> Array:
    array = np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)
    array.flags.writeable = False
    return array


class World:
    """An optimizer, its parameters and a folder; see the subclasses."""

    operations: tuple[Operation, ...]

    def __init__(self, operation: Operation, folder: Path, size: int = 1000) -> None:
        self.folder = folder
        self.path = folder / "checkpoint.npz"
        self.operation = operation
        self.shapes = [
            ((5, 3), "float32"),
            ((7,), "float64"),
            ((), "float32"),
            ((size,), "float32"),
        ]
        self.params = [_draw(i, *shape).copy() for i, shape in enumerate(self.shapes)]
        self.make()
        for _ in range(0 if "first" in operation.name else WARM_STEPS):
            self.step()

    def call(self, index: int) -> None:
        """The call of the operation with that index."""
        getattr(self, self.operation.calls[index])()

    def grads(self, seed: int) -> list[Array]:
        """The same gradients for the same seed."""
        return [_draw(100 + 10 * seed + i, *shape) for i, shape in enumerate(self.shapes)]

    def make(self) -> None:
        """Make the optimizer."""
        raise NotImplementedError

    def step(self) -> None:
        """A plain step."""
        raise NotImplementedError

    def image(self) -> Image:
        """All that a fault must leave as before or as after."""
        raise NotImplementedError

    def go_on(self) -> Image:
        """Step, save, load and step: what an undisturbed twin does with the same bits."""
        raise NotImplementedError


class NumpyWorld(World):
    """`fused_rmsprop.RMSProp`."""

    operations = (*STEPS, *NUMPY_ALONE, *CHANGES, *STATE, *FILES, *LOADS)

    def make(self) -> None:
        self.opt = RMSProp(self.nest(self.params, True), **self.operation.options)
        self.saved = self.opt.state_dict()
        self.loaded: list[Array] = []
        name = self.operation.name
        if name.startswith(("save ", "load ")):
            self.path = self.folder / f"checkpoint.{name.split()[1]}"
            for old in self.folder.iterdir():
                old.unlink()
            self.step()
            self.opt.save(self.path)
            if name.startswith("load "):
                self.loaded = [np.zeros_like(p) for p in self.params]
        if "other options" in name:
            other = RMSProp(self.nest([p.copy() for p in self.params], True), **FULL)
            other.step(self.nest(self.grads(5)))
            self.saved = other.state_dict()

    def nest(self, leaves: list[Array], as_params: bool = False) -> Any:
        """Arrays in the structure of the parameters."""
        if not self.operation.grouped:
            return {"w": leaves[:2], "rest": {"s": leaves[2], "v": leaves[3]}}
        groups: list[Any] = [{"w": leaves[0], "b": leaves[1]}, [leaves[2]], leaves[3], *leaves[4:]]
        if not as_params:
            return groups
        return [{"params": g, "lr": 0.01 * (i + 1)} for i, g in enumerate(groups)]

    def step(self) -> None:
        self.opt.step(self.nest(self.grads(self.opt.step_count)))

    def grads(self, seed: int) -> list[Array]:
        later = self.opt.param_groups[3:]
        return [*super().grads(seed), *(_draw(8, g["params"].shape, "float64") for g in later)]

    def step_nonfinite(self) -> None:
        grads = [g.copy() for g in self.grads(3)]
        grads[3][500:] = np.inf
        with suppress(FloatingPointError):
            self.opt.step(self.nest(grads))

    def step_transposed(self) -> None:
        grads = self.grads(self.opt.step_count)
        grads[0] = np.asfortranarray(grads[0])
        self.opt.step(self.nest(grads))

    def leafwise(self) -> None:
        with self.opt.leafwise() as update:  # one leaf: the step is made or not made
            update("w.0", self.grads(self.opt.step_count)[0])

    def freeze(self) -> None:
        self.opt.freeze("w.*", "rest.v")

    def unfreeze(self) -> None:
        self.opt.unfreeze("w.?")

    def accumulate(self) -> None:
        self.opt.accumulate(self.nest(self.grads(self.opt.step_count)))

    def step_accumulated(self) -> None:
        self.opt.step()

    def discard(self) -> None:
        self.opt.discard_accumulated()

    def bind(self) -> None:
        self.opt.bind_grads(self.nest(self.grads(4)))

    def step_bound(self) -> None:
        self.opt.step()

    def unbind(self) -> None:
        self.opt.bind_grads(None)

    def update_group(self) -> None:
        self.opt.param_groups[1].update(lr=0.5, momentum=0.9, ema_decay=0.5, weight_decay=0.1)

    def set_lr(self) -> None:
        self.opt.lr = lr_at

    def center_off(self) -> None:
        self.opt.param_groups[0]["centered"] = False

    def add_group(self) -> None:
        new = _draw(9, (4, 4), "float64").copy()
        self.opt.add_param_group({"params": new, "lr": 0.3, "ema_decay": 0.5})

    def set_norm(self) -> None:
        self.opt.max_grad_norm = 0.7

    def set_value(self) -> None:
        self.opt.max_grad_value = 0.9

    def set_flush(self) -> None:
        self.opt.flush_denormals = False

    def state_dict(self) -> None:
        self.opt.state_dict()

    def load_state_dict(self) -> None:
        self.opt.load_state_dict(self.saved)

    def use_ema(self) -> None:
        with self.opt.use_ema():
            sum(float(p.sum()) for p in self.params)

    def pickle(self) -> None:
        pickle.loads(pickle.dumps(self.opt))

    def deepcopy(self) -> None:
        copy.deepcopy(self.opt)

    def save_npz(self) -> None:
        self.opt.save(self.path)

    save_safetensors = save_npz

    def load_npz(self) -> None:
        RMSProp.load(self.path, self.nest(self.loaded, True))

    load_safetensors = load_npz

    def all_params(self) -> list[Array]:
        """The parameters, those of a group that came later included."""
        groups = self.opt.param_groups
        return [*self.params, *(g["params"] for g in groups[3:])]

    def image(self) -> Image:
        image = image_of(params=self.all_params(), loaded=self.loaded, opt=self.opt.state_dict())
        if self.operation.name.startswith("save"):
            image |= self.file_image()
        return image

    def file_image(self) -> Image:
        """The contents of the file, and what else is in the folder."""
        params = [np.zeros_like(p) for p in self.params]
        loaded = RMSProp.load(self.path, self.nest(params, True))
        return image_of(file=loaded.state_dict(), filed=params)

    def go_on(self) -> Image:
        if self.opt.state_dict()["counters"]["accumulated"]:
            self.step_accumulated()
        for _ in range(2):
            self.step()
        path = self.folder / "later.npz"
        self.opt.save(path)
        params = [np.zeros_like(p) for p in self.all_params()]
        functions = {"lr": lr_at} if self.opt.param_groups[0]["lr"] is lr_at else {}
        if self.opt.param_groups[0]["momentum"] is momentum_at:
            functions["momentum"] = momentum_at
        loaded = RMSProp.load(path, self.nest(params, True), **functions)
        os.unlink(path)
        loaded.step(self.nest(self.grads(6)))
        if self.operation.name.startswith("save "):  # another save removes the leftovers of a fault
            self.opt.save(self.path)
        if self.loaded:
            self.load_npz()
        later = image_of(opt=loaded.state_dict(), params=params, folder=os.listdir(self.folder))
        return {f"later {key}": value for key, value in later.items()} | self.image()
