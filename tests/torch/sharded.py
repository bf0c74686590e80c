"""Two processes with shards of a model: options that need whole gradients are refused.

Run by test_shards.py: python sharded.py FILE, where FILE is for the processes to meet.
"""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from fused_rmsprop.torch import RMSprop

LIMITS: list[dict[str, Any]] = [
    {"max_grad_norm": 1.0},
    {"on_nonfinite": "skip"},
    {"on_nonfinite": "raise"},
]


def network(kind: str) -> Any:
    """The same model in both processes, sharded."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3)]
    module = torch.nn.Sequential(*layers)  # FSDP's clipping takes float32 alone
    if kind == "fully_shard":
        return fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    originals = kind == "FSDP with original parameters"
    return FullyShardedDataParallel(
        module, device_id=torch.device("cpu"), use_orig_params=originals
    )


def backward(module: Any, rank: int, step: int) -> None:
    """Gradients of data that differ from rank to rank."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(16, 20, generator=generator)
    module(x).square().sum().backward()


def clip(module: Any) -> Any:
    """As the error says."""
    if isinstance(module, FullyShardedDataParallel):
        return module.clip_grad_norm_(1.0)
    return torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)


def values(module: Any) -> list[torch.Tensor]:
    """What this process has."""
    local = (getattr(p, "to_local", lambda p=p: p)() for p in module.parameters())
    return [p.detach().clone() for p in local]


def train(kind: str, rank: int, make: type) -> list[torch.Tensor]:
    """Some plain steps, with clipping before each."""
    module = network(kind)
    opt = make(module.parameters(), lr=0.01, momentum=0.9)
    for step in range(6):
        opt.zero_grad()
        backward(module, rank, step)
        clip(module)
        opt.step()
    return values(module)


def refuse(kind: str, rank: int, limit: dict[str, Any]) -> None:
    """The step is refused in both processes, whether the limit was there or is set later."""
    for later in (False, True):
        module = network(kind)
        opt = RMSprop(module.parameters(), lr=0.01, **({} if later else limit))
        if later:
            backward(module, rank, 0)
            opt.step()
            opt.zero_grad()
            for name, value in limit.items():
                setattr(opt, name, value)
        backward(module, rank, 1)
        before, state = values(module), copy.deepcopy([*opt.state.values()])
        for _ in range(2):  # the second time as well
            with pytest.raises(ValueError, match=f"^{next(iter(limit))}=.* has only its shard"):
                opt.step()
        assert all(torch.equal(a, b) for a, b in zip(before, values(module), strict=True))
        assert str(state) == str([*opt.state.values()])
        for name in limit:
            setattr(opt, name, "propagate" if name == "on_nonfinite" else None)
        opt.step()
        assert not all(torch.equal(a, b) for a, b in zip(before, values(module), strict=True))


def work(rank: int, file: str) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=Path(file).as_uri(), rank=rank, world_size=2)
    for kind in ("FSDP", "FSDP with original parameters", "fully_shard"):
        ours, theirs = (train(kind, rank, make) for make in (RMSprop, torch.optim.RMSprop))
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        for limit in LIMITS:
            refuse(kind, rank, limit)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
    print("refused, and plain steps agree")
