"""Code of users that runs at each operation of torch, also within a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support import needs
from torch_support import torch

TorchDispatchMode = needs("torch.utils._python_dispatch").TorchDispatchMode
TorchFunctionMode = needs("torch.overrides").TorchFunctionMode


def meddling(mode: type[Any], meddle: Callable[[], object]) -> Any:
    """A mode that meddles at each operation of torch."""

    class Meddling(mode):  # type: ignore[misc]
        at_work = False

        def run(self, func: Any, args: Any, kwargs: Any) -> Any:
            if not self.at_work:
                self.at_work = True
                meddle()
                self.at_work = False
            return func(*args, **(kwargs or {}))

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return self.run(func, args, kwargs)

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return self.run(func, args, kwargs)

    return Meddling()


def params_out_of_order(dtype: Any) -> list[Any]:
    """Parameters whose gradients lie in another order, so that a step copies them."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(4, 6, dtype=dtype, generator=generator) for _ in range(3)]
    for p in params:
        p.requires_grad_()
        p.grad = torch.randn(6, 4, dtype=dtype, generator=generator).t()
    return params
