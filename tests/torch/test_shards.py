"""Parameters of which a process has only a shard."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fused_rmsprop import _core
from fused_rmsprop.monitor import Monitor
from support import run_script
from torch_support import Peers, RMSprop, TorchRMSprop, private, torch


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes(count: int, tmp_path: Path) -> None:
    script = Path(__file__).parent / "sharded.py"
    assert run_script(script, count, tmp_path / "meet") == "all agree\n"


def marked(with_grad: bool) -> Any:
    """A parameter as FSDP marks it; the other process may have a gradient."""
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3) if with_grad else None
    p._fsdp_flattened = True
    return p


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", 1.0),
        ("max_grad_norm_per_array", 1.0),
        ("on_nonfinite", "skip"),
        ("on_nonfinite", "raise"),
    ],
)
def test_limits_of_whole_gradients_are_refused(name: str, value: Any, with_grad: bool) -> None:
    p, q = torch.ones(2, requires_grad=True), marked(with_grad)
    p.grad = torch.ones(2)
    opt = RMSprop([("whole", p), ("part", q)], **{name: value})
    for _ in range(2):
        with pytest.raises(ValueError, match="shard") as error:
            opt.step()
        assert str(error.value).startswith(
            f"{name}={value!r} needs the whole gradient of param_groups[0]['params'][1] (part), "
        )
        assert "model.clip_grad_norm_(1.0)" in str(error.value)
    assert p.tolist() == [1.0, 1.0]
    assert not opt.state


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_limit_of_each_element_is_not_refused(in_backward: bool) -> None:
    q = marked(True)
    opt = RMSprop([q], max_grad_value=0.5)
    opt.step()
    assert q[0] < 1
    opt.on_nonfinite = "raise"
    opt.in_backward = in_backward
    with pytest.raises(ValueError, match="on_nonfinite='raise' needs the whole gradient"):
        opt.step()


def test_without_the_private_name_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "hidden", frozenset({"_fsdp_flattened"}))
    RMSprop([marked(True)], max_grad_norm=1.0).step()


@pytest.fixture
def mesh() -> Iterator[Any]:
    """A mesh of this process alone."""
    dist = pytest.importorskip("torch.distributed")
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no torch.distributed with gloo")
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def shard(mesh: Any, *placements: Any, dtype: Any = None) -> Any:
    """A DTensor with a gradient of the same placements."""
    from torch.distributed.tensor import DTensor, Shard

    def distributed(tensor: Any) -> Any:
        return DTensor.from_local(tensor, mesh, placements or [Shard(0)])

    generator = torch.Generator().manual_seed(0)
    values, grads = (torch.randn(4, 6, generator=generator, dtype=dtype) for _ in range(2))
    p = distributed(values).requires_grad_()
    p.grad = distributed(grads)
    return p


def local(tensor: Any) -> Any:
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor.detach()


@pytest.mark.parametrize("c_functions", [True, False])
def test_the_kernel_steps_a_shard_in_its_own_memory(
    c_functions: bool, mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not c_functions:
        monkeypatch.setattr(private, "hidden", frozenset(_core.torch_private_names()))
    p = shard(mesh)
    q = local(p).clone().requires_grad_()
    q.grad = local(p.grad)
    address, version, below = local(p).data_ptr(), p._version, private.local_of(p)._version
    opt, other = (RMSprop([t], momentum=0.9, centered=True, ema_decay=0.5) for t in (p, q))
    (row,) = opt.explain()
    assert (row.by, row.why) == ("kernel", "torch.float32 in CPU memory, a shard of a DTensor")
    for _ in range(3):
        opt.step()
        other.step()
    assert torch.equal(local(p), q)
    assert local(p).data_ptr() == address
    assert p._version > version
    assert private.local_of(p)._version > below
    for key, value in other.state[q].items():
        mine = opt.state[p][key]
        assert torch.equal(local(mine), value)
        if key != "step":
            assert (mine.placements, mine.device_mesh) == (p.placements, p.device_mesh)
    trained = local(p).clone()
    with opt.use_ema():
        assert torch.equal(local(p), local(opt.state[p]["param_avg"]))
    assert torch.equal(local(p), trained)
    assert_same_state(copy.deepcopy(opt).state_dict(), opt.state_dict())


def assert_same_state(ours: Any, theirs: Any) -> None:
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in theirs["state"].items():
        assert ours["state"][index].keys() == state.keys()
        for key, value in state.items():
            assert torch.equal(local(ours["state"][index][key]), local(value))


@pytest.mark.parametrize("centered", [False, True])
def test_state_goes_to_torch_and_back(centered: bool, mesh: Any) -> None:
    trained = []
    for makes in ((RMSprop,) * 3, (RMSprop, TorchRMSprop, RMSprop), (TorchRMSprop, RMSprop) * 2):
        p = shard(mesh, dtype=torch.float64)
        state: Any = None
        for make in makes[:3]:
            opt: Any = make([p], momentum=0.9, centered=centered)
            if state is not None:
                opt.load_state_dict(state)
            opt.step()
            opt.step()
            state = opt.state_dict()
        assert set(state["state"][0]) >= {"step", "square_avg", "momentum_buffer"}
        trained.append(local(p))
    for others in trained[1:]:
        torch.testing.assert_close(others, trained[0], rtol=1e-9, atol=1e-12)


def test_what_is_not_a_plain_shard_goes_to_torch(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    other_grad = shard(mesh)
    other_grad.grad = other_grad.grad.redistribute(mesh, [Replicate()])
    longer = DTensor.from_local(torch.ones(3), mesh, [Shard(0)], shape=(5,), stride=(1,))
    cases = {
        "placements": [shard(mesh, Partial()), shard(mesh, _StridedShard(0, split_factor=1))],
        "its gradient is not split": [other_grad],
        "torch.chunk": [longer.requires_grad_()],
        "float16": [shard(mesh, dtype=torch.float16)],
    }
    for why, params in cases.items():
        for p in params:
            (row,) = RMSprop([p, torch.ones(1, requires_grad=True)]).explain()[:1]
            assert row.by == "torch"
            assert why in row.why
    theirs = shard(mesh)
    theirs.grad = other_grad.grad
    for p, make in ((other_grad, RMSprop), (theirs, TorchRMSprop)):
        opt: Any = make([p])
        opt.step()
    assert torch.equal(local(other_grad), local(theirs))
    (row,) = RMSprop([other_grad], max_grad_norm=1.0).explain()
    assert row.by == "nobody"
    monkeypatch.setattr(private, "hidden", frozenset({"_local_tensor"}))
    (row,) = RMSprop([shard(mesh)]).explain()
    assert (row.by, row.why) == ("torch", "its class DTensor is unknown")


def test_a_gradient_may_change_its_placements(mesh: Any) -> None:
    from torch.distributed.tensor import Replicate

    ours, theirs = shard(mesh), shard(mesh)
    optimizers: list[Any] = [RMSprop([ours]), TorchRMSprop([theirs])]
    for place in (None, Replicate(), None):
        for p, opt in zip((ours, theirs), optimizers, strict=True):
            p.grad = shard(mesh).grad
            if place is not None:
                p.grad = p.grad.redistribute(mesh, [place])
            opt.step()
        assert place is None or any(optimizers[0]._plan.for_torch)
    torch.testing.assert_close(local(ours), local(theirs))
    assert optimizers[0].state[ours]["step"] == 3


def test_gradients_of_other_orders_and_dtypes_are_copied(mesh: Any) -> None:
    p, q = shard(mesh), shard(mesh)
    grad = local(q.grad).clone().t().contiguous().t()
    q.grad = type(q).from_local(grad, mesh, q.placements)
    assert local(q.grad).stride() != local(q).stride()
    for param in (p, q):
        RMSprop([param]).step()
    assert torch.equal(local(p), local(q))


@pytest.mark.parametrize("c_functions", [True, False])
def test_a_gradient_that_is_still_on_its_way_is_waited_for(
    c_functions: bool, mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    if not c_functions:
        monkeypatch.setattr(private, "hidden", frozenset(_core.torch_private_names()))
    p, q = shard(mesh), shard(mesh)
    for param in (p, q):
        opt = RMSprop([param])
        opt.step()
        if param is q:
            q.grad._local_tensor = AsyncCollectiveTensor(local(q.grad))
        opt.step()
        assert not any(opt._plan.for_torch)
    assert torch.equal(local(p), local(q))


def test_a_shard_that_moves_is_found_again(mesh: Any) -> None:
    p, q = shard(mesh), shard(mesh)
    for param in (p, q):
        opt = RMSprop([param])
        opt.step()
        if param is q:
            q._local_tensor = private.local_of(q).clone()
            opt.state[q]["square_avg"]._local_tensor = local(opt.state[q]["square_avg"]).clone()
        opt.step()
    assert torch.equal(local(p), local(q))


def test_a_state_that_is_not_split_is_refused(mesh: Any) -> None:
    p = shard(mesh)
    opt = RMSprop([p])
    opt.step()
    opt.state[p]["square_avg"] = local(opt.state[p]["square_avg"])
    before = local(p).clone()
    with pytest.raises(RuntimeError, match="square_avg is a plain tensor, and its parameter a DT"):
        opt.step()
    assert torch.equal(local(p), before)


def test_a_state_of_other_placements_is_brought_to_the_parameters(mesh: Any) -> None:
    from torch.distributed.tensor import Replicate

    p, q = shard(mesh), shard(mesh)
    for param in (p, q):
        opt = RMSprop([param])
        opt.step()
        if param is q:
            state = opt.state[q]
            state["square_avg"] = state["square_avg"].redistribute(mesh, [Replicate()])
        opt.step()
    assert torch.equal(local(p), local(q))
    assert opt.state[q]["square_avg"].placements == q.placements


def test_what_moves_while_processes_talk_stops_the_step(mesh: Any) -> None:
    p = shard(mesh)
    opt = RMSprop([p], max_grad_norm=1e-3)
    opt.step()
    moved: Any = []

    peers = Peers([p], opt._stepper)

    def join(own: Any) -> Any:
        p._local_tensor = private.local_of(p).clone()
        moved.append(local(p).clone())
        return peers.join(own)

    opt._stepper.set_peers(peers.chunks, join, peers.least)
    with pytest.raises(RuntimeError, match="changed during the step"):
        opt.step()
    assert torch.equal(local(p), moved[0])


def test_monitors_see_of_a_shard_what_they_see_of_a_tensor(mesh: Any) -> None:
    histories = []
    for sharded in (False, True):
        p = shard(mesh)
        q = p if sharded else local(p).clone().requires_grad_()
        opt = RMSprop([("weight", q)])
        monitor = Monitor(opt, every=1)
        for _ in range(4):
            q.grad = p.grad if sharded else local(p.grad)
            opt.step()
        histories.append(monitor.history)
    assert histories[0].rows.tobytes() == histories[1].rows.tobytes()
    assert len(histories[1].steps) == 3
