"""The running averages of the drop-in's parameters: `use_ema`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from fused_rmsprop import _core
from fused_rmsprop.base import NO_AVERAGES


class Averages:
    """An optimizer of torch that can show its parameters' averages."""

    state: Any
    param_groups: Any
    _stepper: _core.TorchStepper

    def use_ema(self) -> AbstractContextManager[None]:
        """Inside a ``with``, the parameters hold their running averages.

        Their trained values come back at the end, also after an error. A parameter without a
        gradient so far has no average and stays as it is. Values written meanwhile are lost; the
        optimizer refuses to step, to be saved, loaded and copied.

        Raises
        ------
        ValueError
            If no parameter group has an ``ema_decay``.
        RuntimeError
            If it is in use already.

        Examples
        --------
        >>> import torch
        >>> from fused_rmsprop.torch import RMSprop
        >>> p = torch.ones(1, requires_grad=True)
        >>> optimizer = RMSprop([p], lr=0.1, ema_decay=0.5)
        >>> p.sum().backward()
        >>> optimizer.step()
        >>> with optimizer.use_ema():
        ...     print(round(p.item(), 3))
        0.5
        >>> print(round(p.item(), 3))
        0.0
        """
        self._with_averages()  # so that a mistake is an error here, and not of the `with`
        return _core.ShownAverages(self._stepper, self._averages)

    def _with_averages(self) -> list[dict[str, Any]]:
        groups = [group for group in self.param_groups if group["ema_decay"]]
        if not groups:
            raise ValueError(NO_AVERAGES)
        return groups

    def _averages(self) -> list[tuple[Any, Any]]:
        return [
            (p, state["param_avg"])
            for group in self._with_averages()
            for p in group["params"]
            if "param_avg" in (state := self.state.get(p, {}))
        ]
