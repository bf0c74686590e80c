"""Read `params`: one container of arrays, or a list of parameter groups."""

from __future__ import annotations

import reprlib
from collections.abc import ItemsView, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from fused_rmsprop import _core
from fused_rmsprop.options import GROUP_OPTIONS


def is_group(item: object) -> bool:
    """Whether this is a dict with parameters among its entries."""
    return isinstance(item, Mapping) and "params" in item


def is_list_of_groups(params: object) -> TypeGuard[list[dict[str, Any]]]:
    """Whether this is torch's list of dicts; an error if it only looks like one."""
    if _has_options(params):
        raise ValueError("parameter groups come in a list: [{'params': ..., 'lr': ...}]")
    if not _core.is_sequence(params):
        return False
    if params and all(isinstance(item, Mapping) and item.keys() == {"param"} for item in params):
        raise ValueError("params[0] has the key 'param'; is 'params' meant? [{'params': ...}]")
    if not any(is_group(item) or _has_options(item) for item in params):
        return False
    for i, item in enumerate(params):
        if not is_group(item):
            raise ValueError(
                f"params[{i}] is not a parameter group, a dict with the key 'params', "
                "but params looks like a list of such; write [{'params': ..., 'lr': ...}]"
            )
    return True


def _has_options(item: object) -> bool:
    """Whether a dict has values that only a parameter group has: numbers under options' names."""
    return isinstance(item, Mapping) and any(
        isinstance(item.get(name), (int, float)) for name in GROUP_OPTIONS
    )


def checked_container(params: object, root: str) -> object:
    """Refuse iterators and views, whose items gradients could not be matched with by position."""
    if params is None or isinstance(params, (str, bytes)):
        raise TypeError(f"{root} is {params!r}; pass an array, or a list, tuple or dict of arrays")
    if isinstance(params, Iterable) and not isinstance(params, (Sequence, Mapping)):
        if not hasattr(params, "__array__") and not hasattr(params, "__dlpack__"):
            container = "dict" if isinstance(params, ItemsView) else "list"
            raise TypeError(
                f"{root} is a {type(params).__name__}; pass a list, tuple or dict of arrays, "
                f"e.g. {container}({root}); torch's tensors are for fused_rmsprop.torch.RMSprop"
            )
    return params


def is_nest(value: object) -> bool:
    """Whether this is an array, or a container that may hold arrays, and no number."""
    return getattr(value, "ndim", 0) > 0 or isinstance(value, Mapping) or _core.is_sequence(value)


def check_order(params: object, lr: object) -> None:
    """Refuse an optimizer's first two arguments where arrays are in the place of the second."""
    if not is_nest(lr):
        return
    if isinstance(params, (int, float)):
        raise TypeError(f"the parameters come first: RMSProp(params, lr={params!r})")
    raise TypeError(
        f"lr must be a number, or a function of the step, got {reprlib.repr(lr)}; gradients belong "
        "to each step, opt.step(grads), or are bound once: RMSProp(params, grads=grads)"
    )
