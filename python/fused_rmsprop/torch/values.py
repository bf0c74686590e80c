"""Reads numbers that users and saved states give, as Python's numbers or as tensors of one."""

from __future__ import annotations

import math
import reprlib
from typing import Any

import numpy as np
import torch

from fused_rmsprop.fp_environment import in_fp_environment
from fused_rmsprop.values import LARGEST_STEP_COUNT


def as_number(name: str, value: Any) -> float:
    """``value`` as a float."""
    check_not_a_function(name, value)
    try:
        if not isinstance(value, (str, bytes, bytearray)):
            return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} is too large for a float") from error
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{name} must be a number or a tensor of one, got {reprlib.repr(value)}")


def check_not_a_function(name: str, value: Any) -> None:
    """Raise an error that names torch's schedulers if ``value`` is a function of the step."""
    if callable(value):
        raise TypeError(
            f"{name} must be a number or a tensor of one, got a function; torch's schedulers "
            "change options: for lr, make the optimizer with lr=1.0 and "
            "torch.optim.lr_scheduler.LambdaLR(optimizer, schedule), "
            "and call its step() after optimizer.step()"
        )


@in_fp_environment
def check_bounds(group: dict[str, Any], where: str) -> None:
    """Refuse options of a group that torch's constructor refuses, and ``alpha > 1``.

    torch looks at its arguments alone, not at groups. With such an alpha, averages turn negative.
    """
    initial_lr = as_number("initial_lr", group.get("initial_lr", 0))  # of torch's schedulers
    for name in ("lr", "alpha", "eps", "weight_decay", "momentum"):
        # Schedulers that end at 0 can miss it by some roundings.
        least = -1e-9 * abs(initial_lr) if name == "lr" else 0.0
        most = 1.0 if name == "alpha" else math.inf
        if not least <= as_number(name, group[name]) <= most:
            bounds = ">= 0 and <= 1" if name == "alpha" else ">= 0"
            raise ValueError(f"{where}: {name} must be {bounds}, got {group[name]}")


def check_count(name: str, value: Any) -> None:
    """Raise an error unless ``value`` is a whole number of steps that a training can reach."""
    number: Any = value
    if torch.is_tensor(value):
        if value.device.type == "meta":  # it has no value yet
            return
        number = value.item() if value.numel() == 1 else None
    if not isinstance(number, (int, float, np.integer, np.floating)) or isinstance(number, bool):
        raise TypeError(f"{name} must be a number of steps, got {reprlib.repr(value)}")
    if not 0 <= number <= LARGEST_STEP_COUNT or number % 1:
        raise ValueError(
            f"{name} must be a whole number of steps from 0 to 2**53, got {reprlib.repr(value)}"
        )


def check_tensor(name: str, value: Any) -> None:
    """Raise an error unless ``value`` is a tensor."""
    if not torch.is_tensor(value):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
