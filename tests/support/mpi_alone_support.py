"""MPI and an optimizer over it in the process of the tests; without MPI, the file is skipped."""

from __future__ import annotations

import pytest

pytest.importorskip("mpi4py", reason="needs mpi4py")
try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    pytest.skip(f"needs an MPI library: {error}", allow_module_level=True)

from fused_rmsprop.mpi import RankError, RMSProp, checks
from fused_rmsprop.mpi.cores import own_share
from fused_rmsprop.mpi.parts import CHUNK, Parts, cut
from fused_rmsprop.mpi.ranks import Ranks

__all__ = [
    "CHUNK",
    "MPI",
    "Parts",
    "RMSProp",
    "RankError",
    "Ranks",
    "checks",
    "cut",
    "own_share",
]
