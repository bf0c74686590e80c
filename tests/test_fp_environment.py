"""The caller's floating-point environment changes no bit, and no entry changes the environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fp_environment_support import MODES, Environment, needs_fenv
from fused_rmsprop import RMSProp, rmsprop_step, schedules
from fused_rmsprop.monitor import Monitor
from fused_rmsprop.schedules import Constant
from reference import same_bits

pytestmark = needs_fenv


class Case:
    """An optimizer in mid-training and what its entries need."""

    def __init__(self, dtype: str, folder: Path) -> None:
        rng = np.random.default_rng(5)
        self.p, self.g, self.v = (rng.standard_normal(37).astype(dtype) for _ in range(3))
        self.v = self.v**2
        self.odd = [np.asarray(x, dtype) * self.g for x in (1, 1e30, np.nan, np.inf, 1)]
        self.opt = self.made()
        self.opt.step(self.g)
        self.state_dict = self.opt.state_dict()
        self.path = folder / "checkpoint.npz"
        self.opt.save(self.path)
        self.found: list[Any] = []

    def made(self) -> RMSProp:
        lr = schedules.Cosine(0.1, transition_steps=7)
        return RMSProp(self.p, lr, centered=True, momentum=0.7, ema_decay=0.3, max_grad_norm=0.1)

    def accumulated(self) -> None:
        for _ in range(3):
            self.opt.accumulate(self.g)
        self.opt.step()

    def observed(self) -> None:
        self.opt.max_grad_norm = None
        monitor = Monitor(self.opt, every=2, sample=16)
        for grad in self.odd:
            self.opt.step(grad)
            monitor.log(loss=0.1)
            with self.opt.leafwise() as update:
                update("param", self.g)
        self.found.append(monitor.history.rows)
        monitor.detach()
        self.found.append(monitor.history.rows)

    def averaged(self) -> None:
        with self.opt.use_ema():
            self.found.append(self.p.copy())

    def leafwise(self) -> None:
        self.opt.max_grad_norm, self.opt.max_grad_value = None, 0.2
        with self.opt.leafwise(0.3) as update:
            update("param", self.g)

    def results(self) -> list[Any]:
        arrays = [self.p, *self.opt.state["param"].values(), *self.found]
        return [np.asarray(array) for array in arrays] + [np.asarray(self.opt.grad_norm or 0.0)]


ENTRIES: dict[str, Callable[[Case], Any]] = {
    "constructor": lambda case: case.made(),
    "step": lambda case: case.opt.step(case.g),
    "scaled step": lambda case: case.opt.step(case.g, grad_scale=0.3),
    "leafwise": Case.leafwise,
    "monitor": Case.observed,
    "accumulate": Case.accumulated,
    "lr": lambda case: setattr(case.opt, "lr", Constant(0.3)),
    "scale_lr": lambda case: case.opt.scale_lr(0.3),
    "update": lambda case: case.opt.param_groups[0].update(centered=False, alpha=0.7),
    "current": lambda case: case.found.append(case.opt.param_groups[0].current()["lr"]),
    "effective_lr": lambda case: case.found.append(case.opt.effective_lr("param")),
    "window": lambda case: case.found.append(case.opt.observation_window),
    "state_dict": lambda case: case.found.append(case.opt.state_dict()["state"]["param"]["step"]),
    "load_state_dict": lambda case: case.opt.load_state_dict(case.state_dict),
    "save": lambda case: case.opt.save(case.path),
    "load": lambda case: RMSProp.load(case.path, case.p),
    "use_ema": Case.averaged,
    "rmsprop_step": lambda case: rmsprop_step(case.p, case.g, case.v, lr=0.3, alpha=0.7, eps=1e-3),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_has_the_same_bits_and_leaves_the_environment(
    entry: str, dtype: str, tmp_path: Path
) -> None:
    usual = Case(dtype, tmp_path)
    ENTRIES[entry](usual)
    for mode in MODES.values():
        for trapping in (False, True):
            case = Case(dtype, tmp_path)
            with Environment(mode, trapping):
                ENTRIES[entry](case)
            for one, other in zip(usual.results(), case.results(), strict=True):
                assert same_bits(one, other), (mode, trapping)


def test_the_environment_is_set_and_watched() -> None:
    thirds = []

    def divide() -> None:
        with Environment(MODES["up"], False):
            thirds.append(np.ones(1) / 3)

    with pytest.raises(AssertionError):
        divide()  # raises the flag of an inexact result
    assert thirds[0] > np.ones(1) / 3
