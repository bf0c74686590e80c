"""Processes that train one model, and its state, in shared memory (Hogwild, A3C)."""

from __future__ import annotations

from typing import Any

import pytest

from support import fork_and_spawn, run_script
from torch_support import ALL_BY_TORCH, RMSprop, TorchRMSprop, assert_close, torch

OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"centered": True},
    {"centered": True, "momentum": 0.9},
]
TORCHS_KEYS = ("step", "square_avg", "grad_avg", "momentum_buffer")


def shared_as_torch_has_it(opt: Any, dtype: Any) -> None:
    """As A3C's SharedRMSprop does."""
    for group in opt.param_groups:
        for p in group["params"]:
            opt.state[p] = {name: torch.zeros_like(p).share_memory_() for name in TORCHS_KEYS[1:]}
            opt.state[p]["step"] = torch.zeros(1).share_memory_()


def made(dtype: Any, make: Any = RMSprop, **options: Any) -> tuple[Any, list[Any]]:
    params = [torch.ones(3, dtype=dtype), torch.ones(2, 3, dtype=dtype).t()]
    params = [p.requires_grad_() for p in params]
    for p in params:
        p.grad = torch.full_like(p, 0.5)
    return make(params, lr=0.1, **options), params


def identities(opt: Any) -> list[int]:
    return [t.data_ptr() for state in opt.state.values() for t in state.values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_shared_state_in_torchs_form_is_never_replaced(options: Any, dtype: Any) -> None:
    opt, params = made(dtype, **options)
    other, others = made(dtype, TorchRMSprop, **options)
    for each in (opt, other):
        shared_as_torch_has_it(each, dtype)
    before = [{**state} for state in opt.state.values()]
    for _ in range(3):
        opt.step()
        other.step()
    for state, old in zip(opt.state.values(), before, strict=True):
        for key in state:
            assert state[key] is old[key]
            assert state[key].is_shared()
        assert float(state["step"]) == 3
        assert state["square_avg"].abs().sum() > 0
    for p, q in zip(params, others, strict=True):
        assert_close(p.detach(), q.detach(), dtype)


def other_order(opt: Any, p: Any) -> None:
    opt.state[p]["square_avg"] = torch.zeros(3, 2, dtype=p.dtype).share_memory_()


def whole_count(opt: Any, p: Any) -> None:
    opt.state[p]["step"] = torch.zeros((), dtype=torch.int64).share_memory_()


@pytest.mark.parametrize("change", [other_order, whole_count])
def test_what_the_kernel_would_bring_into_its_form(change: Any) -> None:
    opt, params = made(torch.float64)
    opt.share_memory()
    change(opt, params[1])
    before = identities(opt)
    opt.step()
    opt.step()
    assert identities(opt) == before
    assert int(opt.state[params[1]]["step"]) == 2
    opt.max_grad_norm = 1.0
    with pytest.raises(ValueError, match=r"shared memory .*optimizer\.share_memory\(\)"):
        opt.step()
    opt.share_memory()
    opt.step()
    assert opt._plan.by_kernel_alone


def test_a_state_that_would_have_to_grow_is_refused() -> None:
    opt, params = made(torch.float64)
    opt.share_memory()
    opt.param_groups[0]["momentum"] = 0.9
    before = identities(opt)
    with pytest.raises(RuntimeError, match=r"another momentum_buffer, which each .*share_memory"):
        opt.step()
    assert identities(opt) == before
    assert params[0].tolist() == [1.0, 1.0, 1.0]
    opt.share_memory()
    opt.step()
    assert all(state["momentum_buffer"].is_shared() for state in opt.state.values())


def test_the_kernels_form_is_not_given_up_either() -> None:
    opt, _ = made(torch.float64, centered=True)
    opt.share_memory()
    opt.param_groups[0]["alpha"] = 1.0  # which torch steps
    with pytest.raises(RuntimeError, match="another square_avg, which each process"):
        opt.step()
    opt.param_groups[0]["alpha"] = 0.9
    opt.step()


@ALL_BY_TORCH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [*OPTIONS, {"in_backward": True, "centered": True}], ids=str)
def test_share_memory_keeps_the_bits(options: Any, dtype: Any) -> None:
    results = []
    for sharing in (True, False):
        opt, params = made(dtype, **options)
        opt.step()
        if sharing:
            opt.share_memory()
            before = identities(opt)
        for _ in range(2):
            for p in params:
                p.grad = torch.full_like(p, 0.25)
            opt.step()
        if sharing:
            assert identities(opt) == before
            assert all(t.is_shared() for state in opt.state.values() for t in state.values())
        results.append([p.detach() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_lazy_parameter_has_no_state_to_share() -> None:
    layer = torch.nn.LazyLinear(2)
    opt = RMSprop(layer.parameters())
    with pytest.raises(ValueError, match=r"\[0\].* has no shape yet.*share_memory"):
        opt.share_memory()
    assert not opt.state


WORKERS = """
import sys
import torch
from fused_rmsprop.torch import RMSprop

def work(params, opt):
    torch.set_num_threads(1)
    for _ in range(5):
        for p in params:
            p.grad = torch.full_like(p, 0.5)
        opt.step()

if __name__ == "__main__":
    for options in ({}, {"momentum": 0.9}, {"centered": True, "momentum": 0.9}):
        params = [torch.ones(3), torch.ones(2, 3, dtype=torch.float64).t()]
        params = [p.share_memory_().requires_grad_() for p in params]
        opt = RMSprop(params, lr=0.01, **options)
        opt.share_memory()
        before = [t.clone() for state in opt.state.values() for t in state.values()]
        context = torch.multiprocessing.get_context(sys.argv[1])
        for count in (1, 2):  # one after the other: nothing is lost
            worker = context.Process(target=work, args=(params, opt))
            worker.start()
            worker.join()
            assert worker.exitcode == 0
            assert all(int(state["step"]) == 5 * count for state in opt.state.values())
        # A constant gradient has, centered, no variance but that of the start.
        after = [t for state in opt.state.values() for t in state.values()]
        assert not any(torch.equal(a, b) for a, b in zip(before, after))
        assert all(bool((p < 1).all()) for p in params)
        work(params, opt)
        assert all(int(state["step"]) == 15 for state in opt.state.values())
        reference = [p.detach().clone().fill_(1).requires_grad_() for p in params]
        alone = RMSprop(reference, lr=0.01, **options)
        for _ in range(3):
            work(reference, alone)
        assert all(torch.equal(p, q) for p, q in zip(params, reference))
    print("all changed")
"""


@pytest.mark.slow
@fork_and_spawn
def test_workers_step_one_model(method: str, tmp_path: Any) -> None:
    script = tmp_path / "workers.py"
    script.write_text(WORKERS, encoding="utf-8")
    assert run_script(script, method) == "all changed\n"


def test_share_memory_makes_no_state_for_frozen_parameters() -> None:
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    optimizer = RMSprop(model.parameters())
    optimizer.share_memory()
    assert [*optimizer.state] == [model.weight]
    model.bias.grad = torch.ones(1)  # which a step would use
    optimizer.share_memory()
    assert optimizer.state[model.bias]["square_avg"].is_shared()


def test_a_shared_state_has_no_graph() -> None:
    opt, params = made(torch.float64, centered=True)
    for p in params:
        opt.state[p] = {name: torch.zeros_like(p) for name in TORCHS_KEYS[1:]}
        opt.state[p] |= {"step": torch.zeros(1), "square_avg": p.square()}
    opt.share_memory()
    assert not any(opt.state[p]["variance"].requires_grad for p in params)


def test_share_memory_in_the_middle_of_a_step_is_refused() -> None:
    opt, _ = made(torch.float64)
    with opt._stepper.claim(), pytest.raises(RuntimeError, match="in the middle of a step"):
        opt.share_memory()
    assert not opt.state
