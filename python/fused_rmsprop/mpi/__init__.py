"""RMSProp for data-parallel training over MPI: each process holds its share of the state.

Needs mpi4py and an MPI library: ``pip install 'fused-rmsprop[mpi]'``.
"""

from __future__ import annotations

try:
    from mpi4py import MPI as _mpi  # noqa: F401, N811
except (ImportError, RuntimeError) as error:  # no mpi4py, or no MPI library that it can load
    raise ImportError(
        "fused_rmsprop.mpi needs mpi4py and an MPI library: pip install 'fused-rmsprop[mpi]' "
        "installs both; on a cluster, pip install mpi4py, which finds the cluster's own library"
    ) from error

from fused_rmsprop.introspection import show_public
from fused_rmsprop.mpi.optimizer import RMSProp
from fused_rmsprop.mpi.ranks import RankError

__all__ = ["RMSProp", "RankError"]

show_public(__name__)
