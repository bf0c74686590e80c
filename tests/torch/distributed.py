"""Processes train alike under DistributedDataParallel and ZeroRedundancyOptimizer.

Run by test_training.py: python distributed.py COUNT FILE ("ddp" or "zero"), where FILE is for the
processes to meet.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fused_rmsprop.torch import RMSprop


def train(zero: bool, optimizer_class: type, clips: bool = False) -> torch.Tensor:
    """The parameters after some steps on data that differ from rank to rank."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3)]
    network = DistributedDataParallel(torch.nn.Sequential(*layers).double())
    options: dict[str, Any] = {"lr": 0.01, "momentum": 0.9}
    clips_itself = clips and not zero and optimizer_class is RMSprop
    opt: Any
    if zero:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        opt = ZeroRedundancyOptimizer(
            network.parameters(), optimizer_class=optimizer_class, **options
        )
        assert isinstance(opt.optim, optimizer_class)
    elif clips_itself:
        opt = RMSprop(network.parameters(), max_grad_norm=1.0, on_nonfinite="raise", **options)
    else:
        opt = optimizer_class(network.parameters(), **options)
    if optimizer_class is RMSprop:
        assert {row.by for row in (opt.optim if zero else opt).explain()} == {"kernel"}
    generator = torch.Generator().manual_seed(100 + dist.get_rank())
    for _ in range(10):
        opt.zero_grad()
        x = torch.randn(16, 20, dtype=torch.float64, generator=generator)
        network(x).square().sum().backward()
        if clips and not clips_itself:
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        opt.step()
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


def work(rank: int, count: int, file: str, kind: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=Path(file).as_uri(), rank=rank, world_size=count)
    for clips in (False, True):
        makes = (RMSprop, torch.optim.RMSprop)
        ours, theirs = (train(kind == "zero", make, clips) for make in makes)
        # clip_grad_norm_ adds 1e-6 to the norm.
        rtol = 1e-5 if clips and kind == "ddp" else 1e-9
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol / 1000)
        others = [torch.empty_like(ours) for _ in range(count)]
        dist.all_gather(others, ours)
        assert all(torch.equal(ours, other) for other in others)
    dist.barrier()
    os._exit(0)  # torch 2.14's gloo now and then aborts in destroy_process_group()


if __name__ == "__main__":
    processes = int(sys.argv[1])
    torch.multiprocessing.spawn(work, (processes, *sys.argv[2:]), nprocs=processes)
    print("all agree")
