"""Two processes train alike under DistributedDataParallel and ZeroRedundancyOptimizer.

Run by test_training.py: python distributed.py FILE, where FILE is for the processes to meet.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from fused_rmsprop.torch import RMSprop


def train(rank: int, zero: bool, optimizer_class: type) -> torch.Tensor:
    """The parameters after some steps on data that differ from rank to rank."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3)]
    network = DistributedDataParallel(torch.nn.Sequential(*layers).double())
    options = {"lr": 0.01, "momentum": 0.9}
    if zero:
        opt = ZeroRedundancyOptimizer(
            network.parameters(), optimizer_class=optimizer_class, **options
        )
    else:
        opt = optimizer_class(network.parameters(), **options)
    generator = torch.Generator().manual_seed(100 + rank)
    for _ in range(10):
        opt.zero_grad()
        x = torch.randn(16, 20, dtype=torch.float64, generator=generator)
        network(x).square().sum().backward()
        opt.step()
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


def work(rank: int, file: str) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=Path(file).as_uri(), rank=rank, world_size=2)
    for zero in (False, True):
        ours, theirs = (train(rank, zero, c) for c in (RMSprop, torch.optim.RMSprop))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        others = [torch.empty_like(ours) for _ in range(2)]
        dist.all_gather(others, ours)
        assert torch.equal(others[0], others[1])
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
    print("both agree")
