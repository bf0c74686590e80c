"""A monitor observes the range of elements that its rank steps, skipped steps too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp as OneProcess
from fused_rmsprop.monitor import Monitor
from support import needs

MPI = needs("mpi4py.MPI", reason="needs mpi4py")

from fused_rmsprop.mpi import RMSProp  # noqa: E402


@pytest.mark.parametrize("policy", ["skip", "propagate"])
def test_one_rank_is_observed_as_one_process(policy: str) -> None:
    histories = []
    for kind, own in ((OneProcess, {}), (RMSProp, {"comm": MPI.COMM_SELF})):
        p = np.ones(9000)
        opt: Any = kind(p, max_grad_norm=1.0, on_nonfinite=policy, **own)
        opt._stepper.warned_of_spreading = True
        with Monitor(opt, every=1) as monitor:
            for step in range(6):
                grad = np.full(9000, float(step + 1))
                if step == 3:
                    grad[:] = np.nan
                opt.step(grad)
        histories.append(monitor.history)
    one, over_mpi = histories
    assert one.steps.tolist() == over_mpi.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert one.leaves[0].name == over_mpi.leaves[0].name
    np.testing.assert_array_equal(one.rows, over_mpi.rows)
    assert np.nan_to_num(one["nonfinite_grad"]).any()
