"""What belongs to an optimizer as a whole, which its compiled core keeps: limits and threads."""

from __future__ import annotations

from fused_rmsprop import _core
from fused_rmsprop.options import Number, as_limit, as_on_nonfinite, as_threads


class Settings:
    """Properties of an optimizer that steps through ``_stepper``."""

    _stepper: _core.StepRunner

    @property
    def threads(self) -> int | None:
        """The size of the team for large steps, or None for what measures fastest."""
        return self._stepper.threads or None

    @threads.setter
    def threads(self, value: int | None) -> None:
        self._stepper.threads = as_threads(value)

    @property
    def threads_used(self) -> int:
        """How many threads the last step used."""
        return self._stepper.threads_used

    @property
    def max_grad_norm(self) -> float | None:
        """What the 2-norm of all gradients together is limited to, or None."""
        return self._stepper.max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, value: Number | None) -> None:
        self._stepper.max_grad_norm = as_limit("max_grad_norm", value)

    @property
    def max_grad_value(self) -> float | None:
        """What each element of a gradient is limited to, or None."""
        return self._stepper.max_grad_value

    @max_grad_value.setter
    def max_grad_value(self, value: Number | None) -> None:
        self._stepper.max_grad_value = as_limit("max_grad_value", value)

    @property
    def on_nonfinite(self) -> str:
        """What a NaN or an infinity in a gradient does: "propagate", "skip" or "raise"."""
        return self._stepper.on_nonfinite

    @on_nonfinite.setter
    def on_nonfinite(self, value: str) -> None:
        self._stepper.on_nonfinite = as_on_nonfinite(value)

    @property
    def grad_norm(self) -> float | None:
        """The 2-norm of all gradients of the last step, scaled and limited but not yet clipped.

        None unless `max_grad_norm` is set or `on_nonfinite` asks for a check. The same bits for
        any number of threads on every instruction set.
        """
        return self._stepper.grad_norm

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out because a gradient was not finite."""
        return self._stepper.skipped_steps
