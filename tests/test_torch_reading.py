"""How the drop-in reads tensors: whatever has become of them since the last step."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the tests of fused_rmsprop.torch need torch")

from test_torch import assert_close, set_grads, some_params  # noqa: E402

import fused_rmsprop.torch as door  # noqa: E402
from fused_rmsprop.torch import RMSprop  # noqa: E402

TorchRMSprop = torch.optim.RMSprop


def test_a_gradient_that_is_to_be_negated() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        for size in (1, 3):
            p = torch.zeros(size, dtype=torch.float64, requires_grad=True)
            p.grad = torch.full((size,), 1j, dtype=torch.complex128).conj().imag
            assert p.grad.is_neg()
            make([p], lr=0.1).step()
            values.append(p.detach())
    assert all(torch.equal(a, b) for a, b in zip(values[:2], values[2:], strict=True))
    assert torch.all(values[0] > 0)


def test_a_gradient_that_is_the_parameter() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
        p.grad = p.detach()
        make([p], lr=0.1).step()
        values.append(p.detach())
    assert_close(values[0], values[1], torch.float64)


@pytest.mark.parametrize("c_functions", [True, False])
def test_autograd_notices_the_change(c_functions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_C_FUNCTIONS", c_functions)
    p, unused = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    loss = (p**2).sum()
    loss.backward(retain_graph=True)
    opt = RMSprop([p, unused])
    versions = []
    for _ in range(3):
        opt.step()
        versions.append((p._version, unused._version))
    assert versions == [(1, 0), (2, 0), (3, 0)]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "disturb",
    [
        lambda opt, p: setattr(opt, "state", defaultdict(dict)),
        lambda opt, p: opt.state.clear(),
        lambda opt, p: opt.state.pop(p),
        lambda opt, p: opt.state.update({p: {}}),
        lambda opt, p: opt.state[p].update(square_avg=torch.zeros(6, 4).t()),
        lambda opt, p: opt.state[p]["square_avg"].zero_(),
        lambda opt, p: opt.state[p]["square_avg"].set_(torch.ones(6, 4, dtype=p.dtype).t()),
        lambda opt, p: setattr(opt.state[p]["square_avg"], "data", torch.ones(6, 4).double().t()),
        lambda opt, p: opt.state[p]["square_avg"].share_memory_(),
        lambda opt, p: opt.state[p]["step"].share_memory_().add_(5),
        lambda opt, p: p.share_memory_(),
        lambda opt, p: p.set_(p.data.clone()),
        lambda opt, p: p.copy_(torch.ones(4, 6)),
        lambda opt, p: setattr(p, "data", p.data.clone()),
        lambda opt, p: setattr(p, "data", p.data.to(memory_format=torch.contiguous_format)),
        lambda opt, p: opt.param_groups[0]["params"].append(torch.ones(2, requires_grad=True)),
        lambda opt, p: opt.param_groups[0].update(params=[p]),
    ],
)
def test_changes_behind_its_back_are_noticed(disturb: Any) -> None:
    results = []
    for make in (RMSprop, TorchRMSprop):
        generator = torch.Generator().manual_seed(0)
        p = torch.randn(6, 4, dtype=torch.float64, generator=generator).t().requires_grad_()
        q = torch.randn(5, dtype=torch.float64, generator=generator).requires_grad_()
        opt: Any = make([p, q], lr=0.1)
        for step in range(6):
            if step == 3:
                with torch.no_grad():
                    disturb(opt, p)
                if opt.state.get(p):
                    opt.state[p]["square_avg"] = opt.state[p]["square_avg"].double()
            for leaf in opt.param_groups[0]["params"]:
                leaf.grad = torch.randn(leaf.shape, generator=generator).to(leaf.dtype)
            opt.step()
        results.append((p.detach(), q.detach()))
    for mine, other in zip(*results, strict=True):
        assert_close(mine, other, torch.float64)


def test_without_torchs_c_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a torch goes through that lacks one of them."""
    values = []
    for c_functions in (True, False):
        monkeypatch.setattr(door, "_C_FUNCTIONS", c_functions)
        params = some_params(torch.float32)
        opt = RMSprop(params, centered=True)
        for step in range(3):
            set_grads(params, step)
            opt.step()
        values.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*values, strict=True))


def test_a_gradient_without_memory() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        opt: Any = make([p], lr=0.1)
        for grad in (torch.ones(3), torch._efficientzerotensor(3)):
            p.grad = grad.to(torch.float64)
            opt.step()
        values.append(p.detach())
    assert_close(values[0], values[1], torch.float64)


def test_memory_of_a_parameter_that_moves_at_every_step() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(1000, dtype=torch.float64, requires_grad=True)
        opt: Any = make([p], lr=0.1, momentum=0.9)
        for step in range(8):
            p.data = p.data.clone()
            if step:
                opt.state[p]["unrelated"] = torch.ones(step)
            p.grad = torch.full_like(p, step - 3.0)
            opt.step()
        values.append(p.detach())
    assert_close(values[0], values[1], torch.float64)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_gradient_that_another_thread_drops(transposed: bool) -> None:
    """A step without the GIL holds on to what it reads, and so does one that copies."""
    size = 1500  # squared, 9 MB: such a step lets other threads in
    values = []
    for dropping in (False, True):
        p = torch.ones(size, size, requires_grad=True)
        opt = RMSprop([p], lr=0.1)
        stop = threading.Event()

        def drop(p: Any = p, stop: Any = stop) -> None:
            while not stop.is_set():
                if p.grad is not None:
                    p.grad = None
                    torch.full((size, size), torch.nan)  # takes the memory that became free

        dropper = threading.Thread(target=drop)
        generator = torch.Generator().manual_seed(0)
        if dropping:
            dropper.start()
        for _ in range(20):
            grad = torch.randn(size, size, generator=generator)
            p.grad = grad.t() if transposed else grad
            del grad
            opt.step()
        stop.set()
        if dropping:
            dropper.join()
        values.append(p.detach())
    # Where the gradient was gone before the step read it, the step left the parameter alone.
    assert not values[1].isnan().any()
    assert torch.isfinite(values[0]).all()


def test_a_step_in_another_thread_is_refused() -> None:
    p = torch.ones(4_000_000, requires_grad=True)
    p.grad = torch.ones_like(p)
    opt = RMSprop([p])
    opt.step()
    errors: list[str] = []

    def steps() -> None:
        for _ in range(200):
            try:
                opt.step()
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=steps) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opt.state[p]["step"] == 401 - len(errors)
    assert {*errors} <= {"this optimizer is in the middle of a step in another thread"}
    assert errors
