"""Looks at an optimizer of torch: who steps its parameters, its options, names it does not have."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

from fused_rmsprop.introspection.html import or_none
from fused_rmsprop.options import OPTIMIZER_OPTIONS
from fused_rmsprop.torch.attributes import no_attribute
from fused_rmsprop.torch.explanation import Explanation, explanation
from fused_rmsprop.torch.html import optimizer_html
from fused_rmsprop.torch.plan import EXTRA_OPTIONS


class Inspected:
    """An optimizer of torch that tells about itself."""

    param_groups: Any
    in_backward: Any

    def explain(self) -> Explanation:
        """Tell for each parameter who steps it, the kernel or torch, and why.

        It describes the next ``step()`` with the parameters and options as they are now, and
        changes nothing. A parameter without a gradient is judged as if it had one.

        Returns
        -------
        Explanation
            A tuple of ``(name, by, why)`` in the order of the parameters, which prints as a table.
            ``by`` is "kernel", "torch" or "nobody".

        Examples
        --------
        >>> import torch
        >>> from fused_rmsprop.torch import RMSprop
        >>> model = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
        >>> optimizer = RMSprop(model.named_parameters())
        >>> optimizer.explain()[0].by
        'torch'
        """
        return explanation(self)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            for name, value in sorted(group.items()):
                option = EXTRA_OPTIONS.get(name)
                if name != "params" and (option is None or value != option.default):
                    shown = reprlib.repr(value) if name == "param_names" else value
                    lines.append(f"    {name}: {shown}")
        active = {
            name: value
            for name, option in OPTIMIZER_OPTIONS.items()
            if (value := getattr(self, name)) != option.default
        }
        if self.in_backward:
            active["in_backward"] = True
        if active:
            lines += ["All Groups", *(f"    {n}: {v}" for n, v in sorted(active.items()))]
        return "\n".join([*lines, ")"])

    def _repr_html_(self) -> str | None:
        return or_none(optimizer_html, self)

    if not TYPE_CHECKING:  # which knows the attributes that there are

        def __getattr__(self, name: str) -> Any:  # called only for others
            if hasattr(type(self), name):
                return object.__getattribute__(self, name)  # the property's own error
            raise no_attribute(self, name)
