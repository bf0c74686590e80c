"""Tells the processes that have the shards of a model the norms of whole gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.torch import private
from fused_rmsprop.torch.shards import is_dtensor, needs_whole_gradients, shape_at, shard_dims

#: An error of parameters that do not hold still.
CHANGED = "parameters or their state changed during the step"

#: By chunk, its sum of squares and whether all is finite; or other numbers of a process.
Rows = NDArray[np.float64]


class Peers:
    """The other processes with shards of these parameters, as a step of the kernel asks them.

    All processes make the same calls, for parameters in the same order. What several processes
    have whole (plain tensors, and the replicated dimensions of a mesh) counts once. Should they
    differ there, all take the largest sums, so that they decide alike.
    """

    def __init__(self, params: Sequence[Any], stepper: _core.TorchStepper) -> None:
        self._params = params
        self._is_unmoved = stepper.is_unmoved
        self._own = [_chunks(private.local_of(p).shape) for p in params]
        of_part: dict[Any, list[int]] = {}
        for i, p in enumerate(params):
            of_part.setdefault(_part_of(p), []).append(i)
        self._meshes = list(dict.fromkeys(part[0] for part in of_part if part is not None))
        self._agrees = len(of_part) == 1 and all(len(d) == m.ndim for m, d in of_part)
        #: The number of chunks of each parameter in all processes.
        self.chunks = list(self._own)
        parts = []
        for part, indices in of_part.items():
            if part is not None and part[1]:
                counts = _counts(part, [params[i] for i in indices])
                for i, total in zip(indices, counts.sum(0).tolist(), strict=True):
                    self.chunks[i] = total
                parts.append((*part, indices, counts))
            else:
                parts.append((None, (), indices, np.array([[self._own[i] for i in indices]])))
        self._parts = [_Part(self, *part) for part in parts]

    def join(self, own: Rows) -> Rows:
        """The rows of all chunks, from those of the gradients that this process has."""
        rows = self._placed(own)
        whole = np.empty((sum(self.chunks), 2))
        for part in self._parts:
            whole[part.places] = part.join(rows)
        if not self._agrees:
            for mesh in self._meshes:
                whole = _agreed(mesh, whole)
        if not self._is_unmoved():  # other code ran meanwhile
            raise RuntimeError(CHANGED)
        return whole

    def least(self, value: int) -> int:
        """The least of the processes' values."""
        for mesh in self._meshes:
            value = int(_gathered(mesh, range(mesh.ndim), np.array([[float(value)]])).min())
        return value

    def rows_of(self, indices: Iterable[int], counts: Sequence[int]) -> NDArray[np.intp]:
        """The places of some parameters' chunks, where each parameter has so many."""
        starts = np.cumsum([0, *counts])
        return _ranges((starts[i], starts[i + 1]) for i in indices)

    def own_rows(self, indices: Iterable[int]) -> NDArray[np.intp]:
        """The same in this process alone."""
        return self.rows_of(indices, self._own)

    def _placed(self, own: Rows) -> Rows:
        """With rows of zero for the parameters that have no gradient here."""
        if len(own) == sum(self._own):
            return own
        rows = np.tile([0.0, 1.0], (sum(self._own), 1))
        rows[np.repeat([p.grad is not None for p in self._params], self._own)] = own
        return rows


class _Part:
    """The parameters that the same dimensions of a mesh split, or that none does."""

    def __init__(
        self,
        peers: Peers,
        mesh: Any,
        dims: tuple[int, ...],
        indices: list[int],
        counts: NDArray[np.intp],
    ) -> None:
        # `counts` has a row for each process that has a shard, a column for each parameter.
        self._mesh, self._dims = mesh, dims
        self._own = peers.own_rows(indices)
        self.places = peers.rows_of(indices, peers.chunks)
        self._room = int(counts.sum(1).max(initial=1))  # all must send as many rows
        begins = np.cumsum(counts, axis=1) - counts + self._room * np.arange(len(counts))[:, None]
        ends = begins + counts
        self._order = _ranges(zip(begins.T.flat, ends.T.flat, strict=True))

    def join(self, rows: Rows) -> Rows:
        """The rows of these parameters, in their order, from the own rows of all."""
        sent = np.zeros((self._room, 2))
        sent[: len(self._own)] = rows[self._own]
        gathered = sent if self._mesh is None else _gathered(self._mesh, self._dims, sent)
        return gathered.reshape(-1, 2)[self._order]


def _part_of(param: Any) -> tuple[Any, tuple[int, ...]] | None:
    """The mesh of a DTensor and the dimensions of the mesh that split it; None without a mesh."""
    if not is_dtensor(param):
        return None
    dims = tuple(i for i, dim in enumerate(shard_dims(param)) if dim is not None)
    return param.device_mesh, dims


def _counts(part: tuple[Any, tuple[int, ...]], params: list[Any]) -> NDArray[np.intp]:
    """The number of chunks of each parameter in each process that has a shard."""
    mesh, dims = part
    ranges = [range(mesh.size(i)) if i in dims else (0,) for i in range(mesh.ndim)]
    return np.array([[_chunks(shape_at(p, at)) for p in params] for at in product(*ranges)])


def _chunks(shape: Sequence[int]) -> int:
    return -(-prod(shape) // _core.chunk_size)


def _ranges(pairs: Iterable[tuple[Any, Any]]) -> NDArray[np.intp]:
    """All the numbers from the first to the second of each pair."""
    return np.concatenate([np.empty(0, np.intp), *(np.arange(*pair) for pair in pairs)])


def _gathered(mesh: Any, dims: Iterable[int], rows: Rows) -> Rows:
    """The rows of all processes along some dimensions of a mesh; all must have as many."""
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    for dim in sorted(dims, reverse=True):
        if mesh.size(dim) == 1:
            tensor = tensor[None]
            continue
        at = [*mesh.get_coordinate()]
        at[dim] = slice(None)
        group = mesh.get_group(dim)
        received = [torch.empty_like(tensor) for _ in range(mesh.size(dim))]
        dist.all_gather(received, tensor, group=group)
        ranks = mesh.mesh[tuple(at)].tolist()
        tensor = torch.stack([received[dist.get_group_rank(group, rank)] for rank in ranks])
    array: Rows = tensor.numpy()
    return array


def _agreed(mesh: Any, rows: Rows) -> Rows:
    """What all processes of a mesh take if they have come to different rows."""
    every = range(mesh.ndim)
    lengths = _gathered(mesh, every, np.array([float(len(rows))]))
    if lengths.min() != lengths.max():
        raise RuntimeError(
            "the processes have parameters of different sizes, so that no norm is theirs together; "
            "make the optimizer without max_grad_norm, max_grad_norm_per_array and on_nonfinite"
        )
    all_rows = _gathered(mesh, every, rows).reshape(-1, len(rows), 2)
    return np.stack([all_rows[..., 0].max(0), all_rows[..., 1].min(0)], axis=1)


def set_peers(
    stepper: _core.TorchStepper, params: Sequence[Any], groups: list[dict[str, Any]]
) -> bool:
    """Let a stepper ask other processes if it steps shards and needs whole gradients; if it does.

    ``params`` are those that it steps, in order, of these groups.
    """
    if not (needs_whole_gradients(stepper, groups) and any(map(is_dtensor, params))):
        stepper.set_peers([], None, None)
        return False
    peers = Peers(params, stepper)
    stepper.set_peers(peers.chunks, peers.join, peers.least)
    return True
