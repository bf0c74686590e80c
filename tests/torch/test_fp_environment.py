"""The caller's floating-point environment changes no bit of a step, and no entry changes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fp_environment_support import MODES, Environment, needs_fenv
from torch_support import RMSprop, attributes, torch

pytestmark = needs_fenv


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Torch's threads have environments of their own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Case:
    """An optimizer in mid-training and what its entries need."""

    def __init__(self, dtype: Any) -> None:
        generator = torch.Generator().manual_seed(5)
        other = torch.float64 if dtype == torch.float32 else torch.float32
        tensors = [torch.randn(7, 6, dtype=t, generator=generator) for t in (dtype, dtype, other)]
        tensors.append(torch.randn(11, 2, dtype=dtype, generator=generator)[:, ::2])  # torch's
        self.params = [tensor.requires_grad_() for tensor in tensors]
        for p in self.params:
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        self.params[1].grad = self.params[1].grad.t().contiguous().t()  # copied into order
        self.opt = self.made(3)
        self.opt.step()
        self.saved = self.opt.state_dict()
        other_dtype = {**self.saved, "state": dict(self.saved["state"])}
        for key, state in self.saved["state"].items():
            rounded = {k: (v / 3).double() for k, v in state.items() if k != "step"}
            other_dtype["state"][key] = {**state, **rounded}
        self.of_other_dtype = other_dtype
        self.lr = torch.tensor(0.3)
        self.found: list[Any] = []

    def made(self, count: int, **options: Any) -> Any:
        options = {"lr": 0.1, "momentum": 0.7, "ema_decay": 0.3, "max_grad_norm": 0.1, **options}
        return RMSprop(self.params[:count], centered=True, **options)

    def first_step(self, **options: Any) -> None:
        self.opt = self.made(3, **options)
        self.opt.step()

    def changed(self, **options: Any) -> None:
        self.opt.param_groups[0].update(options)
        self.opt.step()

    def clipped(self) -> None:
        self.opt.max_grad_norm = 0.3
        self.opt.step()

    def loaded(self, saved: Any) -> None:
        self.opt.load_state_dict(saved)
        self.opt.step()

    def averaged(self) -> None:
        with self.opt.use_ema():
            self.found += [p.detach().clone() for p in self.params]

    def shared(self) -> None:
        for state in self.opt.state.values():  # as torch has it
            state["square_avg"] = state.pop("variance")
        self.opt.share_memory()

    def added(self) -> None:
        with pytest.raises(ValueError, match="lr must be"):
            self.opt.add_param_group({"params": self.params[3:], "lr": float("nan")})

    def noted(self) -> None:
        attributes._meant.cache_clear()
        self.opt.note = 1

    def averages_of_moved(self) -> None:
        with self.opt.use_ema():
            self.params[0].data = torch.zeros(7, 6, dtype=self.params[2].dtype)

    def states(self) -> None:
        self.found += [t for s in self.opt.state_dict()["state"].values() for t in s.values()]

    def results(self) -> list[Any]:
        states = [t for state in self.opt.state.values() for t in state.values()]
        norm = torch.tensor(self.opt.grad_norm or 0.0, dtype=torch.float64)
        return [t.detach() for t in (*self.params, *states, *self.found, norm)]


ENTRIES: dict[str, Callable[[Case], Any]] = {
    "constructor": lambda case: case.made(4, initial_square_avg=0.3),
    "step": lambda case: case.opt.step(),
    "first step": Case.first_step,
    "another lr": lambda case: case.changed(lr=0.3),
    # From the start: a step after a change compares the tensor with the number before, by torch.
    "lr in a tensor": lambda case: case.first_step(lr=case.lr),
    "not centered": lambda case: case.changed(centered=False),
    "max_grad_norm": Case.clipped,
    "state_dict": Case.states,
    "load_state_dict": lambda case: case.loaded(case.saved),
    "load_state_dict that rounds": lambda case: case.loaded(case.of_other_dtype),
    "use_ema": Case.averaged,
    "use_ema of moved parameters": Case.averages_of_moved,
    "share_memory": Case.shared,
    "add_param_group with a NaN": Case.added,
    "attribute": Case.noted,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_has_the_same_bits_and_leaves_the_environment(entry: str, dtype: Any) -> None:
    usual = Case(dtype)
    ENTRIES[entry](usual)
    for mode in MODES.values():
        for trapping in (False, True):
            case = Case(dtype)
            with Environment(mode, trapping):
                ENTRIES[entry](case)
            for one, other in zip(usual.results(), case.results(), strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other), (mode, trapping)


# Torch computes its own part of a step in the caller's environment, as in its own optimizer: it
# raises flags, would trap, and rounds as the caller wants. What is compared is torch's own step.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_torch_gets_its_part_of_a_step_as_usual(dtype: Any, mode: str) -> None:
    results = []
    for make in (RMSprop, torch.optim.RMSprop):
        case = Case(dtype)
        p = case.params[3]
        opt: Any = make([p], lr=0.1)
        with pytest.raises(AssertionError), Environment(MODES[mode], False):
            opt.step()
        results.append(p.detach())
    assert torch.equal(*results)
