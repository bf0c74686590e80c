"""Saves a sharded training by torch.distributed.checkpoint and goes on with it.

Run by test_distributed_checkpoint.py: python checkpointed.py COUNT FOLDER ("save" or "load"), with
COUNT 0 for a plain model without processes. FOLDER has the checkpoints and where processes meet.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fused_rmsprop.torch import RMSprop

#: By name, the optimizer and its options.
KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "plain": (RMSprop, {}),
    "limited": (RMSprop, {"max_grad_value": 0.5, "on_nonfinite": "raise"}),
    "all": (RMSprop, {"momentum": 0.9, "centered": True, "ema_decay": 0.9, "nesterov": True}),
    "torch's": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
}
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def make(name: str, seed: int) -> tuple[Any, Any]:
    """A model, sharded where there are processes, and its optimizer."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    if dist.is_initialized():
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer_class, options = KINDS[name]
    return model, optimizer_class(model.parameters(), lr=0.01 * (1 + seed), **options)


def train(model: Any, opt: Any, steps: range) -> None:
    """With gradients that do not depend on the processes."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in model.parameters():
            grad = torch.randn(p.shape, generator=generator)
            is_shard = isinstance(p, DTensor)
            p.grad = distribute_tensor(grad, p.device_mesh, p.placements) if is_shard else grad
        opt.step()
    opt.zero_grad()


def whole(model: Any, opt: Any) -> list[torch.Tensor]:
    """All parameters and their states."""
    tensors = []
    for p in model.parameters():
        state = opt.state[p]
        for tensor in (p, *(state[key] for key in sorted(state))):
            is_shard = isinstance(tensor, DTensor)
            tensors.append((tensor.full_tensor() if is_shard else tensor).detach().clone())
    return tensors


def save(name: str, folder: Path) -> None:
    """A checkpoint in the middle of a training, and where the training leads to."""
    model, opt = make(name, seed=0)
    train(model, opt, range(3))
    states = {"model": get_model_state_dict(model), "opt": get_optimizer_state_dict(model, opt)}
    dcp.save(states, checkpoint_id=folder / name)
    full = (
        get_model_state_dict(model, options=FULL),
        get_optimizer_state_dict(model, opt, options=FULL),
    )
    if dist.get_rank() == 0:
        torch.save(full, folder / f"{name}.full")
    train(model, opt, range(3, 6))
    if dist.get_rank() == 0:
        torch.save(whole(model, opt), folder / f"{name}.expected")
    else:
        whole(model, opt)


def load(name: str, folder: Path, is_full: bool) -> None:
    """The checkpoint gives the same training, by whichever optimizer wrote it."""
    model, opt = make(name, seed=1)
    options = StateDictOptions()
    if is_full:
        model_state, opt_state = torch.load(folder / f"{name}.full")
        if dist.is_initialized():
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            if dist.get_rank() > 0:
                model_state, opt_state = {}, {}
    else:
        model_state = get_model_state_dict(model)
        opt_state = get_optimizer_state_dict(model, opt)
        states = {"model": model_state, "opt": opt_state}
        dcp.load(states, checkpoint_id=folder / name, no_dist=not dist.is_initialized())
        model_state, opt_state = states["model"], states["opt"]
    set_model_state_dict(model, model_state, options=options)
    set_optimizer_state_dict(model, opt, opt_state, options=options)
    train(model, opt, range(3, 6))
    assert opt.param_groups[0]["lr"] == 0.01
    if isinstance(opt, RMSprop):
        assert {row.by for row in opt.explain()} == {"kernel"}
    expected = torch.load(folder / f"{name}.expected")
    for mine, theirs in zip(whole(model, opt), expected, strict=True):
        assert torch.equal(mine, theirs), name


def work(rank: int, count: int, folder: Path, action: str) -> None:
    """One of the processes, or the only one."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if count:
        meet = (folder / f"meet {action} {count}").as_uri()
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=count)
    for name in KINDS:
        if action == "save":
            save(name, folder)
        else:
            load(name, folder, is_full=False)
            load(name, folder, is_full=True)
    if count:
        dist.barrier()
        os._exit(0)  # gloo's threads outlive the group, and may abort the process as Python ends


if __name__ == "__main__":
    processes, place, action = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if processes:
        torch.multiprocessing.spawn(work, (processes, place, action), nprocs=processes)
    else:
        work(0, 0, place, action)
    print("done")
