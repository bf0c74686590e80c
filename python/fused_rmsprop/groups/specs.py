"""Read `params`: one container of arrays, or a list of parameter groups."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Mapping
from typing import Any, TypeGuard

from fused_rmsprop.options import GROUP_OPTIONS


def is_group(item: object) -> bool:
    """Whether this is a dict with parameters among its entries."""
    return isinstance(item, Mapping) and "params" in item


def is_list_of_groups(params: object) -> TypeGuard[list[dict[str, Any]]]:
    """Whether this is torch's list of dicts; an error if it only looks like one."""
    if _has_options(params):
        raise ValueError("parameter groups come in a list: [{'params': ..., 'lr': ...}]")
    if not isinstance(params, (list, tuple)):
        return False
    if not any(is_group(item) or _has_options(item) for item in params):
        return False
    for i, item in enumerate(params):
        if not is_group(item):
            raise ValueError(
                f"params[{i}] is not a parameter group, a dict with the key 'params', "
                "but params looks like a list of such"
            )
    return True


def _has_options(item: object) -> bool:
    """Whether a dict has values that only a parameter group has: numbers under options' names."""
    return isinstance(item, dict) and any(
        isinstance(item.get(name), (int, float)) for name in GROUP_OPTIONS
    )


def checked_container(params: object, root: str) -> object:
    """Refuse iterators and views, whose items gradients could not be matched with by position."""
    if params is None or isinstance(params, (str, bytes)):
        raise TypeError(f"{root} is {params!r}; pass an array, or a list, tuple or dict of arrays")
    if isinstance(params, Iterable) and not isinstance(params, (list, tuple, dict)):
        if not hasattr(params, "__array__"):
            container = "dict" if isinstance(params, ItemsView) else "list"
            raise TypeError(
                f"{root} is a {type(params).__name__}; pass a list, tuple or dict of arrays, "
                f"e.g. {container}({root}); torch's tensors are for fused_rmsprop.torch.RMSprop"
            )
    return params
