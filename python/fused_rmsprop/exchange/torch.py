"""State from and to torch's RMSprop and optimizers written like it."""

from __future__ import annotations

from typing import Any

from fused_rmsprop.exchange.common import Exchange, Theirs, class_of
from fused_rmsprop.optimizer import RMSProp


def to_torch(opt: RMSProp, optimizer: Any) -> None:
    """Load the state of ``opt`` into a torch optimizer.

    Parameters
    ----------
    opt : RMSProp
        Not changed.
    optimizer : torch.optim.RMSprop
        Or `fused_rmsprop.torch.RMSprop`, or the variants in timm and Stable-Baselines3. Parameters
        are matched in order across all groups; ``load_state_dict`` casts to their dtypes. As in
        torch, a parameter that was never stepped gets no state.

    Raises
    ------
    TypeError, ValueError
        If either argument is not such an optimizer; if the number or shapes of the parameters
        differ; if momentum, centered or bias_correction (not in torch's own class) is on for one
        side only; if ``opt`` has accumulated gradients; if a momentum buffer would have to be
        divided by a learning rate of 0.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from fused_rmsprop import RMSProp, exchange
    >>> opt = RMSProp.from_preset("torch", np.ones(2))
    >>> opt.step(np.ones(2))
    >>> optimizer = torch.optim.RMSprop([torch.ones(2, requires_grad=True)])
    >>> exchange.to_torch(opt, optimizer)
    >>> optimizer.state_dict()["state"][0]["square_avg"]
    tensor([0.0100, 0.0100])
    >>> new = RMSProp.from_preset("torch", np.ones(2))
    >>> exchange.from_torch(new, optimizer)
    >>> new.state["param"]["square_avg"].round(3)
    array([0.01, 0.01])
    """
    import torch

    ours = Exchange(opt, _params(optimizer))
    state = {}
    for i, pair in enumerate(ours.pairs):
        arrays = pair.to_theirs(ours.count)
        if pair.state["step"] > 0 or any(array.any() for array in arrays.values()):
            state[i] = {key: torch.from_numpy(array) for key, array in arrays.items()}
            state[i]["step"] = torch.tensor(float(pair.state["step"]))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def from_torch(opt: RMSProp, optimizer: Any) -> None:
    """Load the state of a torch optimizer into ``opt``.

    `to_torch` describes the arguments and errors, and has an example; an incomplete state of a
    parameter raises a `ValueError` too. Parameters without state in torch are reset. `step_count`
    becomes the largest number of steps of any parameter. ``optimizer`` does not change.
    """
    import torch

    ours = Exchange(opt, _params(optimizer))
    state = optimizer.state_dict()["state"]
    found, steps = [], []
    for i, pair in enumerate(ours.pairs):
        entries = state.get(i) or {}
        keys = pair.theirs.keys if entries else []
        if missing := [key for key in keys if key not in entries]:
            raise ValueError(f"the state of {pair.theirs.name} lacks {', '.join(missing)}")
        found.append({k: entries[k].detach().to("cpu", torch.float64).numpy() for k in keys})
        steps.append(int(entries["step"]) if entries else 0)
    ours.load(found, steps, max(steps, default=0))


def _params(optimizer: Any) -> list[Theirs]:
    import torch

    options = {"alpha", "momentum", "centered"}
    if not isinstance(optimizer, torch.optim.Optimizer) or any(
        options - group.keys() for group in optimizer.param_groups
    ):
        raise TypeError(
            f"optimizer, the second argument, must be a torch.optim.RMSprop with its state "
            f"loaded, got {class_of(optimizer)}"
        )
    theirs = []
    for k, group in enumerate(optimizer.param_groups):
        # timm and fused_rmsprop.torch have more options than torch.
        inside = bool(group.get("lr_in_momentum"))
        on = {o: bool(group.get(o)) for o in ("momentum", "centered", "bias_correction")}
        for i, p in enumerate(group["params"]):
            name = f"param_groups[{k}]['params'][{i}]"
            if not p.is_floating_point():
                raise ValueError(f"torch's {name} is {p.dtype}: not a floating-point number")
            theirs.append(Theirs(name, tuple(p.shape), on, inside, bias_corrected=True))
    return theirs
