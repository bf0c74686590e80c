"""Shares the cores of a machine among the processes that run there."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from mpi4py import MPI

from fused_rmsprop.mpi.ranks import Ranks


class Share(NamedTuple):
    """What a process has of its machine."""

    threads: int
    whole: bool  # all processes run there


def own_share(ranks: Ranks) -> Share:
    """How many threads a process has for itself: the cores of its affinity mask are shared evenly.

    Each core counts for the processes on this machine whose mask has it.
    """
    try:
        cores = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = [*range(os.cpu_count() or 1)]
    here = MPI.Get_processor_name()
    packed = json.dumps([here, cores]).encode()
    told = map(json.loads, ranks.allgather_bytes(packed, "where cores were shared"))
    masks = [mask for machine, mask in told if machine == here]
    share = sum(1 / sum(core in mask for mask in masks) for core in cores)
    return Share(max(1, int(share + 1e-6)), len(masks) == ranks.size)
