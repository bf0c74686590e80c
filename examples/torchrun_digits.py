"""Classify handwritten digits with a network whose parameters are split among processes.

    torchrun --nproc-per-node 2 examples/torchrun_digits.py

Each process has a shard of every parameter and of its state, and a part of every batch.
"""

import os
import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fused_rmsprop.torch import RMSprop


def join_processes():
    """Meet the processes that torchrun has started; without torchrun there is this one alone."""
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    return init_device_mesh("cpu", (dist.get_world_size(),))


def main(epochs=20, seed=0):
    """Train on four fifths of scikit-learn's digits and return the accuracy on the rest."""
    torch.set_num_threads(1)  # the layers are small, and each process has a core
    mesh = join_processes()
    rank, count = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(seed)  # all processes draw the same numbers
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = (torch.tensor(images, dtype=torch.float32) / 16)[order], torch.tensor(labels)[order]
    x, y, test_x, test_y = x[:1440], y[:1440], x[1440:], y[1440:]

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fully_shard(model, mesh=mesh)
    # The limit is that of the whole gradients, over all processes.
    optimizer = RMSprop(model.parameters(), lr=3e-3, alpha=0.9, max_grad_norm=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32):
            mine = batch[rank::count]
            loss = nn.functional.cross_entropy(model(x[mine]), y[mine])
            optimizer.zero_grad()
            loss.backward()  # takes the mean of the processes' gradients
            optimizer.step()
        scheduler.step()

    with torch.no_grad():
        score = (model(test_x).argmax(1) == test_y).float().mean().item()
        dist.all_reduce(loss)
    if rank == 0:
        print(
            f"{count} process{'es' * (count > 1)}, after {epochs} epochs: loss {loss / count:.4f}, "
            f"accuracy on unseen digits {score:.1%}"
        )
    dist.barrier()  # no process leaves while another needs it
    return score


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # At once: gloo's threads outlive dist.destroy_process_group(), too, and one that frees a tensor
    # while Python ends aborts the process (pytorch issue 190489).
    os._exit(0)
