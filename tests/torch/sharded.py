"""Processes with shards of a model: what the kernel steps, and what is refused.

Run by test_shards.py: python sharded.py COUNT FILE, where FILE is for the processes to meet.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from fused_rmsprop.monitor import Monitor
from fused_rmsprop.torch import RMSprop
from fused_rmsprop.torch.peers import Peers

LIMITS: list[dict[str, Any]] = [
    {"max_grad_norm": 1.0},
    {"max_grad_norm_per_array": 1.0},
    {"on_nonfinite": "skip"},
    {"on_nonfinite": "raise"},
]
#: A layer has several chunks in each process, another one has less rows than there are processes.
SIZES = (20, 900, 3)


def is_old(kind: str) -> bool:
    """Whether it is FSDP1."""
    return kind.startswith("FSDP")


def network(kind: str) -> Any:
    """The same model in all processes, sharded."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, SIZES[1]), torch.nn.Tanh(), torch.nn.Linear(SIZES[1], 3)]
    module = torch.nn.Sequential(*layers)  # FSDP's clipping takes float32 alone
    if not is_old(kind):
        count = dist.get_world_size()
        mesh = init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("replicate", "shard"))
        return fully_shard(
            module, mesh=mesh if kind == "HSDP" else init_device_mesh("cpu", (count,))
        )
    originals = kind == "FSDP with original parameters"
    return FullyShardedDataParallel(
        module, device_id=torch.device("cpu"), use_orig_params=originals
    )


def backward(module: Any, step: int) -> None:
    """Gradients of data that differ from rank to rank."""
    generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
    x = torch.randn(16, 20, generator=generator)
    module(x).square().sum().backward()


def clip(module: Any) -> Any:
    """As the error says."""
    if isinstance(module, FullyShardedDataParallel):
        return module.clip_grad_norm_(1.0)
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def local(tensor: Any) -> torch.Tensor:
    """What this process has."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def values(module: Any) -> list[torch.Tensor]:
    """What this process has of all parameters."""
    return [local(p).detach().clone() for p in module.parameters()]


def same(ours: Any, theirs: Any) -> bool:
    """Whether all tensors are equal."""
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def states(opt: Any) -> str:
    """The whole state in this process."""
    return str([{k: local(v).tolist() for k, v in s.items()} for s in opt.state.values()])


def plain_steps_agree_with_torch(kind: str) -> None:
    """With clipping before each, whose norm the option gives too."""
    trained = []
    for make, options in (
        (torch.optim.RMSprop, {}),
        (RMSprop, {}),
        *([] if is_old(kind) else [(RMSprop, {"max_grad_norm": 1.0})]),
    ):
        module = network(kind)
        opt = make(module.parameters(), lr=0.01, momentum=0.9, **options)
        for step in range(4):
            opt.zero_grad()
            backward(module, step)
            if options:
                copied = [p.grad.clone() for p in module.parameters()]
                norm = clip(module)
                for p, grad in zip(module.parameters(), copied, strict=True):
                    p.grad = grad
                opt.step()
                torch.testing.assert_close(torch.tensor(opt.grad_norm), norm, check_dtype=False)
            else:
                clip(module)
                opt.step()
        trained.append(values(module))
    for ours in trained[1:]:
        for p, q in zip(ours, trained[0], strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


def shards_have_the_bits_of_whole_tensors(kind: str) -> None:
    """Of parameters and state, for options of all kinds."""
    kinds: list[dict[str, Any]] = [
        {},
        {"momentum": 0.9, "centered": True, "nesterov": True, "ema_decay": 0.9},
        {"decoupled_weight_decay": True, "weight_decay": 0.1, "max_grad_value": 0.5},
    ]
    for options in kinds:
        module = network(kind)
        wholes = [p.full_tensor().detach().clone() for p in module.parameters()]
        opt = RMSprop(module.named_parameters(), lr=0.01, **options)
        assert {row.by for row in opt.explain()} == {"kernel"}
        other = RMSprop(wholes, lr=0.01, **options)
        for step in range(4):
            opt.zero_grad()
            backward(module, step)
            for p, q in zip(module.parameters(), wholes, strict=True):
                q.grad = p.grad.full_tensor()
            versions = [p._version for p in module.parameters()]
            opt.step()
            assert not any(opt._plan.for_torch)
            assert all(p._version > v for p, v in zip(module.parameters(), versions, strict=True))
            other.step()
        for p, q in zip(module.parameters(), wholes, strict=True):
            assert torch.equal(p.full_tensor(), q)
            assert opt.state[p].keys() == other.state[q].keys()
            for key, value in opt.state[p].items():
                assert isinstance(value, DTensor) is (key != "step")
                value = value.full_tensor() if isinstance(value, DTensor) else value
                assert torch.equal(value, other.state[q][key]), key


def limits_are_those_of_whole_gradients(kind: str) -> None:
    """Clipping each array as well, over gradients of very different sizes."""
    for options in ({"max_grad_norm_per_array": 0.1}, {"max_grad_norm": 1e-3}, LIMITS[2]):
        module = network(kind)
        wholes = [p.full_tensor().detach().clone() for p in module.parameters()]
        opt = RMSprop(module.parameters(), lr=0.01, **options)
        other = RMSprop(wholes, lr=0.01, **options)
        for step, scale in enumerate((1.0, 1e30, 1e-30)):
            backward(module, step)
            for p, q in zip(module.parameters(), wholes, strict=True):
                p.grad.mul_(scale)
                q.grad = p.grad.full_tensor()
            opt.step()
            other.step()
            assert opt.skipped_steps == other.skipped_steps
            if opt.grad_norm is not None:
                assert opt.grad_norm == pytest.approx(other.grad_norm, rel=1e-12)
            opt.zero_grad()
        for p, q in zip(module.parameters(), wholes, strict=True):
            torch.testing.assert_close(p.full_tensor(), q, rtol=1e-5, atol=1e-7)


def a_nan_of_one_process_is_known_to_all(kind: str) -> None:
    """Skipped, or an error in all of them; a warning where it spreads."""
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    for wrong in (torch.nan, torch.inf, 1e30):  # the last one overflows when it is squared
        for options in LIMITS:
            module = network(kind)
            opt = RMSprop(module.named_parameters(), lr=0.01, **options)
            backward(module, 0)
            opt.step()
            backward(module, 1)
            if rank == last:
                local(next(module.parameters()).grad)[0, 3] = wrong
            before, state = values(module), states(opt)
            if options == {"on_nonfinite": "raise"}:
                with pytest.raises(FloatingPointError, match="gradient of .* \\(0.weight\\) ") as e:
                    opt.step()
                assert ("in another process" in str(e.value)) is (rank != last or wrong == 1e30)
                assert ("at index (0, 3)" in str(e.value)) is (rank == last and wrong != 1e30)
            elif options == {"max_grad_norm": 1.0} and wrong != 1e30:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    with pytest.raises(RuntimeWarning, match="max_grad_norm"):
                        opt.step()
            elif options == {"on_nonfinite": "skip"}:
                opt.step()
                assert opt.skipped_steps == 1
            else:
                continue
            assert same(before, values(module))
            assert state == states(opt)


def refused(kind: str) -> None:
    """The step is refused in all processes, whether the limit was there or is set later."""
    for limit, later in ((limit, later) for limit in LIMITS for later in (False, True)):
        module = network(kind)
        opt = RMSprop(module.parameters(), lr=0.01, **({} if later else limit))
        if later:
            backward(module, 0)
            opt.step()
            opt.zero_grad()
            for name, value in limit.items():
                setattr(opt, name, value)
        backward(module, 1)
        before, state = values(module), copy.deepcopy([*opt.state.values()])
        for _ in range(2):  # the second time as well
            with pytest.raises(ValueError, match=f"^{next(iter(limit))}=.* has only its shard"):
                opt.step()
        assert same(before, values(module))
        assert str(state) == str([*opt.state.values()])
        for name in limit:
            setattr(opt, name, "propagate" if name == "on_nonfinite" else None)
        opt.step()
        assert not same(before, values(module))


def the_backward_pass_steps_shards(kind: str) -> None:
    """With the results of steps after it; limits are refused there."""
    trained = []
    for in_backward in (False, True):
        module = network(kind)
        opt = RMSprop(module.parameters(), lr=0.01, in_backward=in_backward)
        for step in range(3):
            opt.zero_grad()
            backward(module, step)
            if in_backward:
                assert all(p.grad is None for p in module.parameters())
            opt.step()
        trained.append(values(module))
    assert same(*trained)
    opt.max_grad_norm_per_array = 1.0
    assert {row.by for row in opt.explain()} == {"nobody"}
    with pytest.raises(ValueError, match="has only its shard"):
        backward(module, 3)


def monitors_observe_the_shard(kind: str) -> None:
    """Of each process, whoever steps it."""
    for in_backward in (False, True):
        module = network(kind)
        opt = RMSprop(module.named_parameters(), lr=0.01, in_backward=in_backward)
        monitor = Monitor(opt, every=1)
        for step in range(3):
            opt.zero_grad()
            backward(module, step)
            opt.step()
        assert monitor.history.steps.tolist() == [1, 2]
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    p = distribute_tensor(torch.randn(6, 8), mesh, [Shard(1)]).requires_grad_()
    p.grad = distribute_tensor(torch.randn(6, 8), mesh, [Shard(1)])
    q = local(p).detach().clone().requires_grad_()
    q.grad = local(p.grad)
    histories = []
    for param in (p, q):
        opt = RMSprop([("weight", param)])
        monitor = Monitor(opt, every=1)
        for _ in range(3):
            opt.step()
        histories.append(monitor.history.rows.tobytes())
    assert histories[0] == histories[1]


def whole_parameters_count_once(kind: str) -> None:
    """Beside shards; where processes have other gradients of them, all take the largest."""
    module = network(kind)
    beside = torch.full((5000,), 2.0, requires_grad=True)
    opt = RMSprop([*module.parameters(), beside], lr=0.01, max_grad_norm=1.0)
    for largest, lacks in ((3.0, False), (3.0, True), (2.0 + dist.get_world_size(), False)):
        opt.zero_grad()
        backward(module, 0)
        if lacks:
            module[0].bias.grad = None
        grads = [p.grad.full_tensor() for p in module.parameters() if p.grad is not None]
        squares = sum(grad.square().sum().item() for grad in grads)
        beside.grad = torch.full((5000,), 3.0 + (largest > 3.0) * dist.get_rank())
        opt.step()
        assert opt.grad_norm == pytest.approx((squares + 5000 * largest**2) ** 0.5, rel=1e-5)
    backward(module, 1)
    opt.on_nonfinite = "skip"
    if dist.get_rank() == 0:
        beside.grad[7] = torch.nan
    before = values(module)
    opt.step()
    assert opt.skipped_steps == 1
    assert same(before, values(module))
    other = torch.zeros(5000 * (1 + dist.get_rank()), requires_grad=True)
    other.grad = torch.ones_like(other)
    opt = RMSprop([*module.parameters(), other], max_grad_norm=1.0)
    with pytest.raises(RuntimeError, match="different sizes"):
        opt.step()


def chunks_are_in_the_order_of_processes() -> None:
    """For shards along every dimension of tensors and meshes."""
    count, rank = dist.get_world_size(), dist.get_rank()
    line = init_device_mesh("cpu", (count,))
    square = init_device_mesh("cpu", (2, count // 2))
    tensors = [
        (torch.zeros(3, 5000), line, [Shard(0)]),
        (torch.zeros(3, 9000), line, [Shard(1)]),
        (torch.zeros(10_000), line, [Replicate()]),
        (torch.zeros(5, 9000), square, [Shard(0), Shard(0)]),
        (torch.zeros(9, 9000), square, [Shard(1), Shard(0)]),
        (torch.zeros(2, 9000), square, [Replicate(), Shard(1)]),
    ]
    for chosen in ([0], [1, 0], [3], [5], [0, 2, 5, 1, 3, 4]):
        params = [distribute_tensor(*tensors[i]) for i in chosen]
        peers = Peers(params, RMSprop([torch.ones(1, requires_grad=True)])._stepper)
        peers._is_unmoved = lambda: True
        for p in params:
            p.grad = torch.zeros_like(p)
        numbers = [-(-p.to_local().numel() // 4096) for p in params]
        own = torch.tensor(
            [[1000.0 * rank + 100 * j + i, 1] for j, n in zip(chosen, numbers, strict=True)
             for i in range(n)], dtype=torch.float64,
        ).reshape(-1, 2)  # fmt: skip
        joined = peers.join(own.numpy())
        found = joined[:, 0].tolist()
        everyone: list[Any] = [None] * count
        dist.all_gather_object(everyone, dict(zip(chosen, numbers, strict=True)))
        expected = []
        for j in chosen:
            ranks = list(range(count))
            if tensors[j][2] == [Replicate()]:
                ranks = ranks[-1:]  # of others, all take the largest
            elif tensors[j][2][0] == Replicate():
                ranks = ranks[count // 2 :]
            expected += [1000.0 * r + 100 * j + i for r in ranks for i in range(everyone[r][j])]
        assert found == expected, (chosen, found, expected)
        assert peers.least(rank + 3) == 3


def work(rank: int, count: int, file: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=Path(file).as_uri(), rank=rank, world_size=count)
    for kind in ("FSDP", "FSDP with original parameters") if count == 2 else ():
        plain_steps_agree_with_torch(kind)
        refused(kind)
    for kind in ("fully_shard",) if count == 2 else ("fully_shard", "HSDP"):
        plain_steps_agree_with_torch(kind)
        shards_have_the_bits_of_whole_tensors(kind)
        limits_are_those_of_whole_gradients(kind)
        a_nan_of_one_process_is_known_to_all(kind)
        the_backward_pass_steps_shards(kind)
        monitors_observe_the_shard(kind)
        whole_parameters_count_once(kind)
    chunks_are_in_the_order_of_processes()
    dist.barrier()
    os._exit(0)  # torch 2.14's gloo now and then aborts in destroy_process_group()


if __name__ == "__main__":
    processes = int(sys.argv[1])
    torch.multiprocessing.spawn(work, (processes, sys.argv[2]), nprocs=processes)
    print("all agree")
