"""The world of the torch drop-in; see `worlds_support`."""

from __future__ import annotations

import copy
import io
import pickle
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from attack_support import Image, image_of
from fused_rmsprop.groups.state import KINDS
from fused_rmsprop.options import OPTIMIZER_OPTIONS
from fused_rmsprop.torch import RMSprop
from worlds_support import CHANGES, FLAT, FULL, STATE, STEPS, Operation, World

torch.set_num_threads(1)  # a forked child of torch's own threads hangs
RMSprop([torch.ones(1)])  # torch imports much at its first use: once, not in each forked child

_SCHEDULED = Operation("step with a changed lr", ("set_lr", "step", "set_lr", "step"), FLAT, True)


@lru_cache(maxsize=512)
def _grad(seed: int, shape: tuple[int, ...], dtype: Any) -> Any:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


class TorchWorld(World):
    """`fused_rmsprop.torch.RMSprop`."""

    operations = tuple(
        _SCHEDULED if "schedules" in operation.name else operation
        for operation in (*STEPS, *CHANGES, *STATE)
    )

    def make(self) -> None:
        torch.set_grad_enabled(True)
        self.tensors = [torch.from_numpy(p).requires_grad_() for p in self.params]
        self.opt = RMSprop(self.groups(self.tensors), **self.operation.options)
        self.saved: Any = None
        if "load" in self.operation.name:
            options = FULL if "other options" in self.operation.name else self.operation.options
            tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in self.params]
            other = RMSprop(self.groups(tensors), **options)
            self.set_grads(tensors, 5)
            other.step()
            self.saved = other.state_dict()

    def groups(self, tensors: list[Any]) -> list[Any]:
        if not self.operation.grouped:
            return tensors[:4]
        lists = (tensors[:2], tensors[2:3], tensors[3:4], *([t] for t in tensors[4:]))
        return [{"params": p, "lr": 0.01 * (i + 1)} for i, p in enumerate(lists)]

    def set_grads(self, tensors: list[Any], seed: int) -> None:
        for i, tensor in enumerate(tensors):
            tensor.grad = _grad(10 * seed + i, tuple(tensor.shape), tensor.dtype)

    def step(self) -> None:
        self.set_grads(self.tensors, self.count())
        self.opt.step()

    def count(self) -> int:
        """The steps that were made."""
        return int(self.opt.state.get(self.tensors[0], {}).get("step", 0))

    def step_nonfinite(self) -> None:
        self.set_grads(self.tensors, 3)
        self.tensors[3].grad = torch.full_like(self.tensors[3], torch.inf)
        with suppress(FloatingPointError):
            self.opt.step()

    def step_transposed(self) -> None:
        self.set_grads(self.tensors, 3)
        self.tensors[0].grad = self.tensors[0].grad.t().contiguous().t()
        self.opt.step()

    def update_group(self) -> None:
        self.opt.param_groups[1].update(lr=0.5, momentum=0.9, ema_decay=0.5, weight_decay=0.1)

    def set_lr(self) -> None:
        lr = 0.01 / (1 + self.count())
        self.opt.param_groups[0]["lr"] = lr

    def center_off(self) -> None:
        self.opt.param_groups[0]["centered"] = False

    def add_group(self) -> None:
        if len(self.tensors) == 4:
            self.tensors.append(torch.ones(4, 4, dtype=torch.float64, requires_grad=True))
        self.opt.add_param_group({"params": self.tensors[4], "lr": 0.3, "ema_decay": 0.5})

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
            sum(float(p.detach().sum()) for p in self.tensors)

    def pickle(self) -> None:
        pickle.loads(pickle.dumps(self.opt))

    def deepcopy(self) -> None:
        copy.deepcopy(self.opt)

    def image(self) -> Image:
        opt = self.opt
        groups = [{**g, "params": len(g["params"])} for g in opt.param_groups]
        given = {name: getattr(opt, name) for name in OPTIMIZER_OPTIONS}
        return image_of(
            params=[p for g in opt.param_groups for p in g["params"]],
            state=[self.state_of(p, group) for group in opt.param_groups for p in group["params"]],
            groups=groups,
            settings=given,
            skipped=opt.skipped_steps,
            # After a signal in a copy, torch itself leaves the mode off.
            grad_mode=self.operation.name == "deepcopy" or torch.is_grad_enabled(),
        )

    def state_of(self, p: Any, group: dict[str, Any]) -> dict[str, Any]:
        """The state that matters: made by a step, and needed by the options.

        A step that fails may leave initial state, or drop state that changed options no longer
        need.
        """
        found = self.opt.state.get(p, {})
        state = {key: t.detach() for key, t in found.items() if torch.is_tensor(t)}
        if not float(found.get("step", 0)) > 0:
            return {}
        if "variance" in state and not group["centered"]:
            state["square_avg"] = state["variance"] + state["grad_avg"] * state["grad_avg"]
        if group["centered"] and "variance" in state:
            state.pop("square_avg", None)
        for kind in KINDS:
            if kind.option and not group[kind.option] and not kind.kept:
                state.pop(kind.name, None)
        if not group["centered"]:
            state.pop("variance", None)
        if "momentum_buffer" in state and not state["momentum_buffer"].any():
            del state["momentum_buffer"]
        if "param_avg" in state and torch.equal(state["param_avg"], p.detach()):
            del state["param_avg"]
        return state

    def go_on(self) -> Image:
        for _ in range(2):
            self.step()
        file = io.BytesIO()
        torch.save({"opt": self.opt.state_dict(), "params": self.tensors}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        options = {name: getattr(self.opt, name) for name in OPTIMIZER_OPTIONS}
        twin = TorchWorld.__new__(TorchWorld)
        twin.operation, twin.tensors = self.operation, saved["params"]
        count = sum(len(g["params"]) for g in self.opt.param_groups)
        twin.opt = RMSprop(
            self.groups(twin.tensors[:count]),
            **self.operation.options,
            **{
                name: value for name, value in options.items() if name not in self.operation.options
            },
        )
        for name, value in options.items():
            setattr(twin.opt, name, value)
        twin.opt.load_state_dict(saved["opt"])
        twin.step()
        later = {f"later {key}": value for key, value in twin.image().items()}
        return later | self.image()
