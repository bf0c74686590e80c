"""An optimizer of torch as HTML, as notebooks show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from fused_rmsprop.introspection.html import block, paragraph, table
from fused_rmsprop.options import GROUP_OPTIONS, OPTIMIZER_OPTIONS

_NAMES = ("params", "param_names")
_GROUP = ("group", "options", "parameters", "elements")
_PARAMETER = ("name", "shape", "dtype", "device", "state", "bytes", "step", "frozen")


def optimizer_html(optimizer: Any) -> str:
    """The settings, groups, parameters and state of an optimizer."""
    groups = optimizer.param_groups
    settings = [
        f"{name}={value!r}"
        for name, option in OPTIMIZER_OPTIONS.items()
        if (value := getattr(optimizer, name)) != option.default
    ]
    settings += ["in_backward=True"] if optimizer.in_backward else []
    tensors = [t for state in optimizer.state.values() for t in _tensors(state).values()]
    facts = f"{sum(map(_nbytes, tensors)):,} bytes of state", ", ".join(settings)
    return block(
        paragraph(type(optimizer).__name__, *facts),
        table(_GROUP, map(_group_row, range(len(groups)), groups), len(groups)),
        table(_PARAMETER, _parameter_rows(optimizer), sum(len(g["params"]) for g in groups)),
    )


def _group_row(index: int, group: dict[str, Any]) -> Sequence[object]:
    options = {k: float(v) if torch.is_tensor(v) else v for k, v in group.items()}
    shown = [f"{k}={v!r}" for k, v in options.items() if k not in _NAMES and _is_shown(k, v)]
    params = group["params"]
    elements = sum(p.numel() for p in params if not is_lazy(p))
    return index, ", ".join(shown), f"{len(params):,}", f"{elements:,}"


def _is_shown(name: str, value: Any) -> bool:
    option = GROUP_OPTIONS.get(name)
    if option is None:
        return value is not None and value is not False
    return option.in_repr or bool(value != option.default)


def _parameter_rows(optimizer: Any) -> Iterator[Sequence[object]]:
    for index, group in enumerate(optimizer.param_groups):
        names = group.get("param_names")
        for i, p in enumerate(group["params"]):
            name = names[i] if names else f"param_groups[{index}]['params'][{i}]"
            shape = "lazy" if is_lazy(p) else tuple(p.shape)
            state = optimizer.state.get(p, {})
            tensors = _tensors(state)
            nbytes = f"{sum(map(_nbytes, tensors.values())):,}" if tensors else ""
            step = f"{float(state['step']):g}" if "step" in state else ""
            frozen = "" if p.requires_grad else "frozen"
            yield name, shape, p.dtype, p.device, ", ".join(tensors), nbytes, step, frozen


def _tensors(state: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != "step" and torch.is_tensor(v)}


def _nbytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
