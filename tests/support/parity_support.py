"""The two optimizers behind one small interface, for tests that both must pass alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fused_rmsprop import RMSProp
from fused_rmsprop.options import GROUP_OPTIONS, OPTIMIZER_OPTIONS
from support import Array, needs_torch

torch = needs_torch()

from fused_rmsprop.torch import RMSprop  # noqa: E402

Grads = Sequence[Array | None]


class FrontEnd:
    """An optimizer of copies of some arrays, in one parameter group."""

    opt: Any
    arrays: list[Array]  # the parameters' memory

    def take(self, opt: Any) -> None:
        """Go on with a copy of the optimizer."""
        raise NotImplementedError

    def bind(self, grads: Grads) -> None:
        """Let ``opt.step()`` use these gradients; None stands for no gradient."""
        raise NotImplementedError

    def step(self, grads: Grads, **changes: Any) -> None:
        """Change options of the group and make a step; if it fails, the old ones are back."""
        before = self.options()
        self.opt.param_groups[0].update(changes)
        try:
            self._step(grads)
        except Exception:
            self.opt.param_groups[0].update(before)
            raise

    def _step(self, grads: Grads) -> None:
        raise NotImplementedError

    def states(self) -> list[dict[str, Array]]:
        """Copies of the state of each parameter, by its keys."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """The options of the group."""
        return {name: self.opt.param_groups[0][name] for name in GROUP_OPTIONS}

    def everything(self) -> list[Any]:
        """All that a refusal must leave as it was, for `same`."""
        opt = self.opt
        settings = [getattr(opt, name) for name in OPTIMIZER_OPTIONS]
        found = [opt.skipped_steps, opt.grad_norm]
        return [*(a.copy() for a in self.arrays), *self.states(), self.options(), settings, found]


class NumpyEnd(FrontEnd):
    """`fused_rmsprop.RMSProp`."""

    def __init__(self, arrays: Sequence[Array], **options: Any) -> None:
        self.arrays = [array.copy() for array in arrays]
        self.opt = RMSProp(self.arrays, **options)

    def take(self, opt: Any) -> None:
        self.opt, self.arrays = opt, opt.param_groups[0]["params"]

    def bind(self, grads: Grads) -> None:
        self.opt.bind_grads(list(grads))

    def _step(self, grads: Grads) -> None:
        self.opt.step(list(grads))

    def states(self) -> list[dict[str, Array]]:
        return [{k: v.copy() for k, v in state.items()} for state in self.opt.state.values()]


class TorchEnd(FrontEnd):
    """`fused_rmsprop.torch.RMSprop`."""

    def __init__(self, arrays: Sequence[Array], **options: Any) -> None:
        self.params = [torch.tensor(array, requires_grad=True) for array in arrays]
        self.arrays = [p.detach().numpy() for p in self.params]
        self.opt = RMSprop(self.params, **options)

    def take(self, opt: Any) -> None:
        self.opt, self.params = opt, opt.param_groups[0]["params"]
        self.arrays = [p.detach().numpy() for p in self.params]

    def bind(self, grads: Grads) -> None:
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = None if grad is None else torch.from_numpy(grad)

    def _step(self, grads: Grads) -> None:
        self.bind(grads)
        self.opt.step()

    def states(self) -> list[dict[str, Array]]:
        of = self.opt.state
        return [{k: v.numpy().copy() for k, v in of[p].items()} for p in self.params if p in of]


ENDS = (NumpyEnd, TorchEnd)


def outcome(action: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """The error of a call without the group's or the gradient's name; "" if there is none."""
    try:
        action(*args, **kwargs)
    except (TypeError, ValueError, RuntimeError, FloatingPointError) as error:
        message = re.sub(r"^param_groups\[0\]: ", "", str(error))
        message = re.sub(r"^(the gradient of \S+|grads\S*) (has|is) ", r"GRADIENT \2 ", message)
        return f"{type(error).__name__}: {message}"
    return ""


def same(a: Any, b: Any) -> bool:
    """Whether nested lists, dicts and arrays have equal values; NaN equals NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=True)
    return bool(a == b or (a != a and b != b))
