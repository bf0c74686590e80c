"""What must be the same on all ranks, and the errors that one rank's gradients raise on all."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from fused_rmsprop import _core
from fused_rmsprop.base import nonfinite_error
from fused_rmsprop.checkpoint.state_dict import COUNTERS
from fused_rmsprop.groups.group import Group
from fused_rmsprop.groups.state import Array
from fused_rmsprop.mpi.whole import in_memory_order
from fused_rmsprop.options import OPTIMIZER_OPTIONS
from fused_rmsprop.values import as_flag, as_limit

if TYPE_CHECKING:
    from fused_rmsprop.mpi.optimizer import RMSProp

_MAY_DIFFER = ("threads",)


def check_settings(reduction: object, bucket_bytes: object, timeout: object, abort: object) -> None:
    """Raise an error unless the arguments of an optimizer over MPI are good."""
    if reduction not in ("ordered", "fast"):
        raise ValueError(f"reduction must be 'ordered' or 'fast', got {reduction!r}")
    if bucket_bytes is not None and (
        not isinstance(bucket_bytes, int) or isinstance(bucket_bytes, bool) or bucket_bytes < 1
    ):
        raise ValueError(f"bucket_bytes must be an int > 0 or None, got {bucket_bytes!r}")
    if timeout is not None and not as_limit("timeout", timeout):
        raise ValueError(f"timeout must be > 0 seconds or None, got {timeout!r}")
    as_flag("abort", abort)


def described(opt: RMSProp, groups: Sequence[Group]) -> dict[str, object]:
    """Structure, options and settings of new groups, by names."""
    found: dict[str, object] = {"the number of parameter groups": len(groups)}
    for i, group in enumerate(groups, len(opt._groups)):
        where = f"the parameters of group {i}" if len(groups) > 1 else "the parameters"
        found[where] = group.core.names
        for name, array in zip(group.core.names, group.core.arrays, strict=True):
            long = [axis for axis in range(array.ndim) if array.shape[axis] > 1]
            order = sorted(long, key=lambda axis: -array.strides[axis])
            layout = "" if order == long else f", axes in memory {order}"
            found[f"parameter {name!r}"] = f"{array.dtype} of shape {array.shape}{layout}"
        found |= {f"{name} of group {i}": value for name, value in group.values().items()}
    settings = {name: getattr(opt, name) for name in OPTIMIZER_OPTIONS if name not in _MAY_DIFFER}
    reduction = "ordered" if opt._traffic.ordered else "fast"
    buckets = {"reduction": reduction, "bucket_bytes": opt._bucket_bytes}
    return {**found, **settings, **buckets, "step_count": opt.step_count}


def crcs(groups: Sequence[Group]) -> dict[str, object]:
    """The checksums of the values of parameters, by names that say how to mend a difference."""
    return {
        f"the checksum of the values of {name!r} (initialize it from the same seed, or let rank 0 "
        "send its own: comm.Bcast(array))": zlib.crc32(array.ravel(order="K").view(np.uint8).data)
        for group in groups
        for name, array in zip(group.core.names, group.core.arrays, strict=True)
    }


def settings_of(opt: RMSProp) -> dict[str, object]:
    """What a step depends on beside the gradients, by names."""
    found: dict[str, object] = {
        **{name: getattr(opt, name) for name in OPTIMIZER_OPTIONS if name not in _MAY_DIFFER},
        **{name: getattr(opt._stepper, name) for name in COUNTERS},
        "warned_of_spreading": opt._stepper.warned_of_spreading,
        "frozen": opt.frozen,
    }
    for i, group in enumerate(opt._groups):
        found |= {f"{name} of group {i}": value for name, value in group.values().items()}
    return found


def raise_nonfinite(opt: RMSProp, step: _core.ShardedStep, of_sums: bool) -> NoReturn:
    """Raise the same `FloatingPointError` on all ranks."""
    kept = ", and the sums are kept: discard_accumulated() drops them" if of_sums else ""
    raise FloatingPointError(_told(opt, step, f"nothing has changed{kept}"))


def first_nonfinite(step: _core.ShardedStep, of_sums: bool) -> str:
    """The name of the gradient that a warning is about."""
    what, _, param, _ = step.gradient(_refused(step))
    return f"the accumulated gradient of {param}" if of_sums else what


def _refused(step: _core.ShardedStep) -> int:
    leaf = step.refused_by
    assert leaf is not None
    return leaf


def _told(opt: RMSProp, step: _core.ShardedStep, unchanged: str) -> str:
    """The message of the rank that knows most: whose own gradient, or part of the sum, it is."""
    ranks = opt._ranks
    what, grad, param, part = step.gradient(_refused(step))
    candidates = []
    if grad is not None and not np.isfinite(grad).all():
        candidates.append((0, 0.0, nonfinite_error(f"{what} of rank {ranks.rank}", grad)))
    if part is not None and part.size:
        finite = bool(np.isfinite(part).all())
        magnitude = float(np.abs(part).max()) if finite else 0.0
        where = f"the sum of the gradients of {param}, of which rank {ranks.rank} has a part,"
        whole = _in_place(opt, _refused(step), part)
        candidates.append((1 + finite, -magnitude, nonfinite_error(where, whole, unchanged)))
    mine = ""
    if candidates:
        level, magnitude, error = min(candidates, key=lambda c: c[:2])
        text = str(error).rsplit("; ", 1)[0]
        mine = f"{level} {magnitude:+.17e} {text}; {unchanged}"
    told = ranks.allgather_bytes(mine.encode(), "while a gradient was refused")
    ranks.complete()
    texts = [text.decode().split(" ", 2) for text in told if text]
    return min(texts, key=lambda t: (int(t[0]), float(t[1])))[2]


def _in_place(opt: RMSProp, leaf: int, part: Array) -> Array:
    """The part of a leaf that this rank has, among zeros: indices are then those of the leaf."""
    param = [array for group in opt._groups for array in group.core.arrays][leaf]
    first = int(np.concatenate([group.cuts for group in opt._groups])[leaf, opt._ranks.rank])
    whole = _core.zeros_in_order_of(param)
    in_memory_order(whole, param)[first : first + part.size] = part
    return whole
