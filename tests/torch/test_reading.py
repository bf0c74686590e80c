"""How the drop-in reads tensors that have changed since the last step."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from typing import Any

import pytest

from torch_support import (
    RMSprop,
    TorchRMSprop,
    assert_close,
    private,
    set_grads,
    some_params,
    torch,
)


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


@pytest.mark.parametrize("shift", [0, 1])
def test_a_gradient_in_the_memory_of_the_parameter(shift: int) -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        memory = torch.arange(1.0, 9.0, dtype=torch.float64)
        p = memory[shift : shift + 7].detach().requires_grad_()
        p.grad = memory[:7] if make is RMSprop else memory[:7].clone()  # torch refuses a shift
        make([p], lr=0.1).step()
        values.append(p.detach())
    assert_close(values[0], values[1], torch.float64)


@pytest.mark.parametrize("c_functions", [True, False])
def test_autograd_notices_the_change(c_functions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "hidden", frozenset() if c_functions else frozenset(private.NAMES))
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
        monkeypatch.setattr(
            private, "hidden", frozenset() if c_functions else frozenset(private.NAMES)
        )
        params = some_params(torch.float32)
        opt = RMSprop(params, centered=True)
        for step in range(3):
            set_grads(params, step)
            opt.step()
        values.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*values, strict=True))


def test_a_parameter_that_is_transposed_where_it_lies() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3).requires_grad_()
        opt: Any = make([p], lr=0.1)
        for step in range(4):
            if step == 2:
                address = p.data_ptr()
                p.data = p.data.t()
                assert p.data_ptr() == address
            p.grad = torch.arange(9.0, dtype=torch.float64).reshape(3, 3) - step
            opt.step()
        values.append(p.detach())
    assert_close(values[0], values[1], torch.float64)


def test_a_gradient_without_memory() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        opt: Any = make([p], lr=0.1)
        p.grad = torch.ones_like(p)
        opt.step()
        p.grad = torch._efficientzerotensor(3, dtype=torch.float64)
        opt.step()
        values.append(opt.state[p]["square_avg"])
    assert_close(values[0], values[1], torch.float64)


def test_a_number_of_steps_that_is_none() -> None:
    p = torch.ones(3, requires_grad=True)
    opt = RMSprop([p])
    p.grad = torch.ones(3)
    opt.step()
    before = p.detach().clone()
    for wrong in (torch.zeros(2), torch.zeros(0)):
        opt.state[p]["step"] = wrong
        with pytest.raises(TypeError, match="step must be a number or a tensor of one"):
            opt.step()
    assert torch.equal(p, before)
    opt.state[p]["step"] = torch.zeros(1, 1)
    opt.step()
    assert opt.state[p]["step"].item() == 1


def test_a_number_of_steps_on_another_device() -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    opt = RMSprop([p])
    with torch.device("meta"):  # where new tensors would be
        opt.step()
    assert opt.state[p]["step"].item() == 1


def test_state_that_became_shorter() -> None:
    p = torch.ones(4, requires_grad=True)
    p.grad = torch.ones(4)
    opt = RMSprop([p])
    opt.step()
    before = p.detach().clone()
    opt.state[p]["square_avg"].resize_(2)
    with pytest.raises(RuntimeError, match="square_avg has shape"):
        opt.step()
    assert torch.equal(p, before)


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


@pytest.mark.parametrize("large", ["read as it is", "copied into order"])
def test_gradients_that_another_thread_drops(large: str) -> None:
    """What lets other threads in, a large step or a copy, holds on to all that has been read."""
    shape = (2000, 1500)
    interval = sys.getswitchinterval()
    values = []
    for dropping in (False, True):
        small, p = torch.ones(1000, requires_grad=True), torch.ones(shape, requires_grad=True)
        opt = RMSprop([small, p], lr=0.1)
        begin = threading.Event()
        kept: list[Any] = []

        def drop(begin: Any = begin, kept: Any = kept, small: Any = small, p: Any = p) -> None:
            begin.wait()
            small.grad = None
            kept.append(torch.full((1000,), torch.nan))  # in the memory that became free
            if large == "read as it is":
                p.grad = None  # its memory is unmapped

        generator = torch.Generator().manual_seed(0)
        for step in range(4):
            small.grad = torch.randn(1000, generator=generator)
            p.grad = torch.randn(shape, generator=generator)
            if large == "copied into order":
                p.grad = torch.randn(shape[::-1], generator=generator).t()
            if step == 0 or not dropping:  # later steps read gradients in C++ alone
                opt.step()
                continue
            dropper = threading.Thread(target=drop)
            dropper.start()
            time.sleep(0.05)  # it waits now, and does not ask for the GIL at the old interval
            try:
                sys.setswitchinterval(60)  # others run when the step lets them, and only then
                begin.set()
                opt.step()
            finally:
                sys.setswitchinterval(interval)
            dropper.join()
            begin.clear()
            assert small.grad is None
        values.append((small.detach(), p.detach()))
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))


@pytest.mark.parametrize("torch_too", [False, True])
def test_a_step_in_another_thread_is_refused(torch_too: bool) -> None:
    p = torch.ones(4_000_000, requires_grad=True)
    half = torch.ones(5, dtype=torch.bfloat16, requires_grad=True)  # is torch's to step
    for q in (p, half):
        q.grad = torch.ones_like(q)
    opt = RMSprop([half, p] if torch_too else [p])
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
    assert all(state["step"] == 401 - len(errors) for state in opt.state.values())
    assert {*errors} <= {
        (
            "this optimizer is in the middle of a step, or of a change, in another thread"
            ": call it from one thread at a time, say under a threading.Lock()"
        )
    }
    assert errors


class Meddler(torch.Tensor):
    """A parameter that torch steps, and that meddles with others while it is stepped."""

    meddle: Any = None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if cls.meddle:
            meddle, cls.meddle = cls.meddle, None
            meddle()
        with torch._C._DisableTorchDispatch():
            return func(*args, **(kwargs or {}))


def test_memory_that_torchs_part_of_a_step_moves() -> None:
    results = []
    for meddling in (False, True):
        q = torch.nn.Parameter(torch.ones(1000))
        other = torch.Tensor._make_subclass(Meddler, torch.ones(3), True)
        opt = RMSprop([q, other], foreach=False)
        for step in range(3):
            q.grad, other.grad = torch.full((1000,), step + 1.0), torch.ones(3)

            def move() -> None:
                q.data = q.detach().clone()  # noqa: B023
                state = opt.state[q]  # noqa: B023
                state["square_avg"].set_(state["square_avg"].clone())

            Meddler.meddle = move if meddling and step > 0 else None
            opt.step()
        results.append(q.detach())
    assert torch.equal(*results)


def unaligned(tensor: Any) -> Any:
    """A tensor of the same values at an address that is no multiple of an element's size."""
    memory = bytearray(2) + tensor.detach().numpy().tobytes()
    moved = torch.frombuffer(memory, dtype=tensor.dtype, offset=2).reshape(tensor.shape)
    assert moved.data_ptr() % tensor.element_size() == 2
    return moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "what", ["param", "later", "grad", "square_avg", "momentum_buffer", "step"]
)
@pytest.mark.parametrize("c_functions", [True, False])
def test_tensors_that_are_not_aligned(
    dtype: Any, what: str, c_functions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters fall back to torch; state and gradients are copied."""
    monkeypatch.setattr(private, "hidden", frozenset() if c_functions else frozenset(private.NAMES))
    results = []
    for make in (RMSprop, TorchRMSprop):
        p, q = (torch.arange(1.0, 6.0, dtype=dtype).requires_grad_() for _ in range(2))
        if what == "param":
            p = unaligned(p).requires_grad_()
        opt: Any = make([p, q], lr=0.1, momentum=0.9)
        for step in range(4):
            if step == 2 and what == "later":
                p.data = unaligned(p)
            for leaf in (p, q):
                leaf.grad = torch.full_like(leaf, step - 3.5)
            if what == "grad":
                p.grad = unaligned(p.grad)
            opt.step()
            if step == 1 and what in opt.state[p]:
                opt.state[p][what] = unaligned(opt.state[p][what])
        if make is RMSprop:
            assert bool(opt._plan.for_torch[0]) is (what in ("param", "later"))
        results.append([p, q, *(opt.state[p][name] for name in opt.state[p])])
    for mine, other in zip(*results, strict=True):
        assert_close(mine.detach(), other.detach(), dtype)


def test_averages_of_a_parameter_that_is_not_aligned_any_more() -> None:
    p = torch.arange(1.0, 6.0).requires_grad_()
    p.grad = torch.ones(5)
    opt = RMSprop([p], lr=0.1, ema_decay=0.5)
    opt.step()
    p.data = unaligned(p)
    trained = p.detach().clone()
    with opt.use_ema():
        assert torch.equal(p, opt.state[p]["param_avg"])
    assert torch.equal(p, trained)


def test_state_that_is_to_be_negated() -> None:
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    p.grad = torch.ones(1, dtype=torch.float64)
    opt = RMSprop([p], lr=0.1)
    opt.step()
    square_avg = opt.state[p]["square_avg"]
    opt.state[p]["square_avg"] = torch.complex(square_avg, -square_avg).conj().imag
    assert opt.state[p]["square_avg"].is_neg()
    twin = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    other = RMSprop([twin], lr=0.1)
    for _ in range(2):
        twin.grad = torch.ones(1, dtype=torch.float64)
        other.step()
    opt.step()
    assert torch.equal(p, twin)


def test_the_state_of_a_parameter_that_got_another_shape_is_refused() -> None:
    p = torch.ones(1, 3, requires_grad=True)
    optimizer = RMSprop([p], momentum=0.5)
    p.grad = torch.ones(1, 3)
    optimizer.step()
    p.data = torch.ones(2, 3)
    p.grad = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match=r"square_avg has shape \(1, 3\), and its parameter"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2, 3))
    del optimizer.state[p]
    optimizer.step()
