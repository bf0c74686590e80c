"""Steps leaf by leaf, as a method of `RMSProp`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from numpy.typing import NDArray

from fused_rmsprop import _core
from fused_rmsprop.base import nonfinite_error, unknown_name
from fused_rmsprop.groups.grouped import GroupedOptimizer
from fused_rmsprop.values import Number, as_scale


class LeafwiseOptimizer(GroupedOptimizer):
    """An optimizer of parameter groups that can step leaf by leaf."""

    def leafwise(self, grad_scale: Number = 1.0) -> AbstractContextManager[_core.Leafwise]:
        """Make one step in the course of a ``with``: each leaf as soon as its gradient is complete.

        Its gradient is then still in the processor's cache, and its memory is free for the next.
        That can pay if one layer's arrays fit the last-level cache and all layers' do not.
        Otherwise prefer `step`, one call and one parallel pass. The result is, bit for bit, that of
        one `step` with the same gradients, and None for leaves without an update.

        Parameters
        ----------
        grad_scale : float
            As for `step`.

        Returns
        -------
        context manager
            Its target is a function ``update(name, grad=None)``, which steps the leaf of that name
            in `state`, once in a block, in any order. `grad` is as for `step`; None: the bound
            gradient as of the beginning of the block, and an error if there is none. A leaf
            without a gradient has no update.

        Raises
        ------
        ValueError
            On entering, with `max_grad_norm`, with ``on_nonfinite="skip"`` or after `accumulate`:
            those need all gradients before the first update. From ``update``, if the gradient
            does not fit as for `step`, none is bound, or the leaf was updated before.
        TypeError, KeyError
            From ``update``, if the gradient does not fit, or no leaf has that name.
        FloatingPointError
            With ``on_nonfinite="raise"``, from ``update``, if the gradient is NaN or infinite.
        RuntimeError
            If a block is entered twice, after another step that its functions of the step were
            not asked for, or inside another block; from ``update`` outside the block, or while
            another thread updates.

        Notes
        -----
        After any of these errors the leaf has not changed; leaves that were updated before stay
        updated. The block counts as one step in `step_count`, unless an exception leaves it before
        the first update; each leaf's own ``step`` counts at its update.

        Options and settings are those of the beginning of the block. Until its end the optimizer
        refuses to step, to accumulate, to be saved, and changes of its groups, `lr` among them.
        `grad_norm` is None afterwards, and `threads_used` is that of the last update.

        Examples
        --------
        >>> import numpy as np
        >>> from fused_rmsprop import RMSProp
        >>> params = {"W1": np.ones((2, 2)), "W2": np.ones((2, 2))}
        >>> opt = RMSProp(params, lr=0.01, alpha=0.9)
        >>> x, dy = np.ones((1, 2)), np.ones((1, 2))
        >>> h = x @ params["W1"]
        >>> with opt.leafwise() as update:
        ...     dh = dy @ params["W2"].T  # before W2 changes
        ...     update("W2", h.T @ dy)
        ...     update("W1", x.T @ dh)
        >>> print(params["W1"].round(3))
        [[0.968 0.968]
         [0.968 0.968]]
        >>> opt.step_count
        1
        """
        if getattr(grad_scale, "ndim", 0) > 0 or isinstance(grad_scale, (list, tuple, dict)):
            raise TypeError(
                "leafwise() takes no gradients: with opt.leafwise() as update: update(name, grad)"
            )
        scale = as_scale("grad_scale", grad_scale)
        scheduled = [group for group in self._groups if group.scheduled]
        after = self._stepper.step_count if scheduled else -1
        for group in scheduled:
            group.follow_schedules()
        return self._stepper.leafwise(scale, after, unknown_name, _nonfinite)


def _nonfinite(what: str, grad: NDArray[Any]) -> FloatingPointError:
    unchanged = "its leaf has not changed, and those updated before it stay updated"
    return nonfinite_error(what, grad, unchanged)
