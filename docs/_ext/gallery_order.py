"""The order of the gallery: from the formula to its troubles. Scripts that it lacks come last."""

from __future__ import annotations

ORDER = (
    "from_scratch",
    "observation_window",
    "trajectories",
    "trajectories_animated",
    "trajectories_hard",
    "moving_target",
    "sparse_data",
    "vanishing_gradients",
    "rnn_gradients",
    "schedule",
    "oscillation",
    "constants",
    "field",
)


def position(file: str) -> tuple[int, str]:
    """Return the sorting key of a script, such as ``schedule.py``."""
    name = file.removesuffix(".py")
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name
