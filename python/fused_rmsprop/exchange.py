"""The state of an `RMSProp` from and to the optimizers of torch, Keras 3 and optax.

Only state moves: averages, momentum buffers, numbers of steps. Options and the parameters' values
stay as they are: both sides must have been made with options of the same meaning, which
`RMSProp.from_preset` gives. What does not fit is refused before anything has changed. Each function
imports its framework when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fused_rmsprop.optimizer import RMSProp
from fused_rmsprop.options import options_at
from fused_rmsprop.param_group import Array

__all__ = ["from_keras", "from_optax", "from_torch", "to_keras", "to_optax", "to_torch"]


def to_torch(opt: RMSProp, optimizer: Any) -> None:
    """Give the state of ``opt`` to an optimizer of torch.

    Parameters
    ----------
    opt : RMSProp
        Is left as it is.
    optimizer : torch.optim.RMSprop
        Or `fused_rmsprop.torch.RMSprop`, or timm's or Stable-Baselines3's variant. Parameters are
        matched in their order, over all groups; its ``load_state_dict`` casts to their dtypes. One
        that was never stepped gets no state, as in torch.

    Raises
    ------
    TypeError
        If either is not such an optimizer.
    ValueError
        If the numbers or shapes of the parameters differ; if momentum, centered or bias_correction,
        which torch's own class lacks, is on for one side only; if ``opt`` has accumulated
        gradients; if a momentum buffer would have to be divided by a learning rate of 0.

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
    """
    import torch

    saved, pairs = _paired(opt, _of_torch(optimizer))
    state = {}
    for i, pair in enumerate(pairs):
        arrays = _given(pair, saved["counters"]["step_count"])
        if pair.state["step"] > 0 or any(array.any() for array in arrays.values()):
            state[i] = {key: torch.from_numpy(array) for key, array in arrays.items()}
            state[i]["step"] = torch.tensor(float(pair.state["step"]))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def from_torch(opt: RMSProp, optimizer: Any) -> None:
    """Take over the state of an optimizer of torch.

    Parameters
    ----------
    opt : RMSProp
        Parameters without state in torch get that of the beginning. `step_count` becomes the
        largest number of steps of a parameter.
    optimizer : torch.optim.RMSprop
        As for `to_torch`. Is left as it is.

    Raises
    ------
    TypeError, ValueError
        As from `to_torch`, and if the state of a parameter is incomplete.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from fused_rmsprop import RMSProp, exchange
    >>> w = torch.ones(2, requires_grad=True)
    >>> optimizer = torch.optim.RMSprop([w])
    >>> w.sum().backward()
    >>> optimizer.step()
    >>> opt = RMSProp.from_preset("torch", w.detach().numpy())
    >>> exchange.from_torch(opt, optimizer)
    >>> opt.state["param"]["square_avg"].round(3)
    array([0.01, 0.01], dtype=float32)
    """
    import torch

    saved, pairs = _paired(opt, _of_torch(optimizer))
    state = optimizer.state_dict()["state"]
    steps = [int(state[i]["step"]) if state.get(i) else 0 for i in range(len(pairs))]
    saved["counters"]["step_count"] = max(steps, default=0)
    for i, pair in enumerate(pairs):
        found = state.get(i) or {}
        if lacking := [key for key in _keys(pair.theirs) if found and key not in found]:
            raise ValueError(f"the state of {pair.theirs.name} lacks {', '.join(lacking)}")
        arrays = {
            key: found[key].detach().to("cpu", torch.float64).numpy()
            for key in _keys(pair.theirs)
            if found
        }
        _take(pair, arrays, steps[i], max(steps))
    opt.load_state_dict(saved)


def to_keras(opt: RMSProp, optimizer: Any) -> None:
    """Give the state of ``opt`` to an optimizer of Keras 3.

    Parameters
    ----------
    opt : RMSProp
        Is left as it is.
    optimizer : keras.optimizers.RMSprop
        It must have been built. Its variables are matched with the parameters in the order in which
        it was built with them. ``iterations`` become `step_count`; the averages of ``use_ema`` are
        those of `ema_decay`.

    Raises
    ------
    TypeError
        If either is not such an optimizer.
    ValueError
        As from `to_torch`; also if averages of the parameters are on for one side only, and if
        ``optimizer`` has not been built, or accumulates gradients.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from fused_rmsprop import RMSProp, exchange
    >>> opt = RMSProp.from_preset("keras", np.ones(2))
    >>> opt.step(np.ones(2))
    >>> optimizer = keras.optimizers.RMSprop()
    >>> optimizer.build([keras.Variable(np.ones(2))])
    >>> exchange.to_keras(opt, optimizer)
    >>> int(optimizer.iterations)
    1
    """
    theirs, variables = _of_keras(optimizer)
    saved, pairs = _paired(opt, theirs)
    count = saved["counters"]["step_count"]
    given = [_given(pair, count) for pair in pairs]
    optimizer.iterations.assign(count)
    for i, arrays in enumerate(given):
        for key, array in arrays.items():
            variables[key][i].assign(array)


def from_keras(opt: RMSProp, optimizer: Any) -> None:
    """Take over the state of an optimizer of Keras 3.

    Parameters
    ----------
    opt : RMSProp
        `step_count`, and the number of steps of each parameter, become the ``iterations``.
    optimizer : keras.optimizers.RMSprop
        As for `to_keras`. Is left as it is.

    Raises
    ------
    TypeError, ValueError
        As from `to_keras`.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from fused_rmsprop import RMSProp, exchange
    >>> w = keras.Variable(np.ones(2), dtype="float32")
    >>> optimizer = keras.optimizers.RMSprop()
    >>> optimizer.apply([keras.ops.ones(2)], [w])
    >>> opt = RMSProp.from_preset("keras", np.array(keras.ops.convert_to_numpy(w)))
    >>> exchange.from_keras(opt, optimizer)
    >>> opt.state["param"]["square_avg"].round(3)
    array([0.1, 0.1], dtype=float32)
    """
    import keras

    theirs, variables = _of_keras(optimizer)
    saved, pairs = _paired(opt, theirs)
    count = saved["counters"]["step_count"] = int(optimizer.iterations)
    for i, pair in enumerate(pairs):
        arrays = {
            key: np.asarray(keras.ops.convert_to_numpy(variables[key][i]), np.float64)
            for key in _keys(pair.theirs)
        }
        _take(pair, arrays, count, count)
    opt.load_state_dict(saved)


def to_optax(opt: RMSProp, opt_state: Any) -> Any:
    """Make a state of ``optax.rmsprop`` of that of ``opt``.

    Parameters
    ----------
    opt : RMSProp
        Is left as it is.
    opt_state : pytree
        What ``init`` or ``update`` of ``optax.rmsprop(...)`` returned, alone or inside
        ``optax.chain`` and ``optax.inject_hyperparams``. Is left as it is. Parameters are matched
        by name: the keys that lead to them, joined by dots.

    Returns
    -------
    pytree
        Of the same structure and dtypes. Where optax keeps a count of steps, it is `step_count`.

    Raises
    ------
    TypeError
        If ``opt`` is not an `RMSProp`.
    ValueError
        If ``opt_state`` is not such a state, or has state of other transformations; if the names or
        shapes of the parameters differ; if momentum, centered or bias_correction is on for one side
        only; if ``opt`` has accumulated gradients; with bias_correction, for which optax has one
        count, if a parameter was not stepped every time.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, optax
    >>> from fused_rmsprop import RMSProp, exchange
    >>> opt = RMSProp.from_preset("optax", {"w": np.ones(2)})
    >>> opt.step({"w": np.ones(2)})
    >>> opt_state = optax.rmsprop(1e-3).init({"w": jnp.ones(2)})
    >>> opt_state = exchange.to_optax(opt, opt_state)
    >>> print(opt_state[0].nu["w"])
    [0.1 0.1]
    """
    import jax

    leaves, theirs, structure = _of_optax(opt_state)
    saved, pairs = _paired(opt, theirs, by_name=True)
    count = saved["counters"]["step_count"]
    for pair in pairs:
        if pair.options["bias_correction"] and pair.state["step"] != count:
            raise ValueError(
                f"{pair.name!r} has made {pair.state['step']} of {count} steps; with "
                "bias_correction optax has one count for all parameters"
            )
    given = {pair.name: _given(pair, count) for pair in pairs}
    new = []
    for field, name, leaf in leaves:
        if field in _OPTAX:
            key, sign = _OPTAX[field]
            leaf = _like(leaf, sign * given[name][key])
        elif field == "count":
            leaf = _like(leaf, count)
        new.append(leaf)
    return jax.tree_util.tree_unflatten(structure, new)


def from_optax(opt: RMSProp, opt_state: Any) -> None:
    """Take over a state of ``optax.rmsprop``.

    Parameters
    ----------
    opt : RMSProp
        `step_count`, and the number of steps of each parameter, become the count in ``opt_state``.
        With neither a schedule nor bias_correction nor ``inject_hyperparams`` there is none: they
        stay as they are.
    opt_state : pytree
        As for `to_optax`.

    Raises
    ------
    TypeError, ValueError
        As from `to_optax`; also if there are different counts in ``opt_state``, or a momentum
        buffer would have to be divided by a learning rate of 0.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, optax
    >>> from fused_rmsprop import RMSProp, exchange
    >>> rmsprop = optax.rmsprop(1e-3)
    >>> _, opt_state = rmsprop.update(jnp.ones(2), rmsprop.init(jnp.ones(2)))
    >>> opt = RMSProp.from_preset("optax", np.ones(2))
    >>> exchange.from_optax(opt, opt_state)
    >>> opt.state["param"]["square_avg"].round(3)
    array([0.1, 0.1])
    """
    leaves, theirs, _ = _of_optax(opt_state)
    saved, pairs = _paired(opt, theirs, by_name=True)
    counts = {int(leaf) for field, _, leaf in leaves if field == "count"}
    if len(counts) > 1:
        raise ValueError(f"the counts in opt_state differ: {sorted(counts)}")
    arrays: dict[str, dict[str, Array]] = {pair.name: {} for pair in pairs}
    for field, name, leaf in leaves:
        if field in _OPTAX:
            key, sign = _OPTAX[field]
            arrays[name][key] = sign * np.asarray(leaf, np.float64)
    for count in counts:
        saved["counters"]["step_count"] = count
    for pair in pairs:
        steps = max(counts, default=int(pair.state["step"]))
        _take(pair, arrays[pair.name], steps, saved["counters"]["step_count"])
    opt.load_state_dict(saved)


# What the other optimizers have.


class _Theirs(NamedTuple):
    """A parameter of the other optimizer."""

    name: str
    shape: tuple[int, ...]
    on: dict[str, bool]  # the options that decide which state there is
    lr_in_momentum: bool = True
    corrected: bool = False  # averages with bias_correction are kept divided, as ours are


#: Fields of optax's states: what they are here, and with which sign.
_OPTAX = {"nu": ("square_avg", 1), "mu": ("grad_avg", 1), "trace": ("momentum_buffer", -1)}
_OPTAX_STATES = (
    *("ScaleByRmsState", "ScaleByRmsWithCountState"),
    *("ScaleByRStdDevState", "ScaleByRStdDevWithCountState"),
)


def _of_torch(optimizer: Any) -> list[_Theirs]:
    import torch

    options = {"alpha", "momentum", "centered"}
    if not isinstance(optimizer, torch.optim.Optimizer) or any(
        options - group.keys() for group in optimizer.param_groups
    ):
        raise TypeError(f"optimizer must be a torch.optim.RMSprop, got {_kind(optimizer)}")
    theirs = []
    for k, group in enumerate(optimizer.param_groups):
        # Options of timm's class, and of ours for torch.
        inside = bool(group.get("lr_in_momentum", False))
        on = {
            "momentum": group["momentum"] > 0,
            "centered": bool(group["centered"]),
            "bias_correction": bool(group.get("bias_correction", False)),
        }
        for i, p in enumerate(group["params"]):
            name = f"param_groups[{k}]['params'][{i}]"
            if not p.is_floating_point():
                raise ValueError(f"torch's {name} is {p.dtype}: not a floating-point number")
            theirs.append(_Theirs(name, tuple(p.shape), on, inside, corrected=True))
    return theirs


def _of_keras(optimizer: Any) -> tuple[list[_Theirs], dict[str, Any]]:
    """The parameters, and the variables for each kind of state."""
    import keras

    if not isinstance(optimizer, keras.optimizers.RMSprop):
        raise TypeError(f"optimizer must be a keras.optimizers.RMSprop, got {_kind(optimizer)}")
    if not optimizer.built:
        raise ValueError("optimizer has not been built: optimizer.build(variables)")
    if optimizer.gradient_accumulation_steps:
        raise ValueError("optimizer has gradient_accumulation_steps, which cannot be exchanged")
    on = {
        "momentum": optimizer.momentum > 0,
        "centered": bool(optimizer.centered),
        "bias_correction": False,
        "ema_decay": bool(optimizer.use_ema),
    }
    variables = {
        "square_avg": optimizer._velocities,
        "momentum_buffer": optimizer._momentums,
        "grad_avg": optimizer._average_gradients,
        "param_avg": optimizer._model_variables_moving_average if optimizer.use_ema else [],
    }
    return [_Theirs(v.path, tuple(v.shape), on) for v in optimizer._velocities], variables


def _of_optax(opt_state: Any) -> tuple[list[tuple[str, str, Any]], list[_Theirs], Any]:
    """The leaves, each with its field and its parameter's name; the parameters; the structure."""
    import jax

    def has_nu(node: Any) -> bool:
        return "nu" in getattr(node, "_fields", ())

    nodes = [node for node in jax.tree_util.tree_leaves(opt_state, is_leaf=has_nu) if has_nu(node)]
    if len(nodes) != 1 or type(nodes[0]).__name__ not in _OPTAX_STATES:
        found = ", ".join(type(node).__name__ for node in nodes) or "none"
        raise ValueError(f"opt_state must have one state of optax.rmsprop; found: {found}")
    with_paths, structure = jax.tree_util.tree_flatten_with_path(opt_state)
    leaves = [(*_place(path), leaf) for path, leaf in with_paths]
    on = {
        "momentum": any(field == "trace" for field, _, _ in leaves),
        "centered": "mu" in nodes[0]._fields,
        "bias_correction": "count" in nodes[0]._fields,
    }
    theirs = [_Theirs(name, np.shape(leaf), on) for field, name, leaf in leaves if field == "nu"]
    return leaves, theirs, structure


def _place(path: Sequence[Any]) -> tuple[str, str]:
    """The field of one of optax's states that a leaf is in, and the name of its parameter."""
    for i, key in enumerate(path):
        field = getattr(key, "name", "")
        if field in ("count", "hyperparams"):
            return field, ""
        if field in _OPTAX:
            names = [getattr(k, "key", getattr(k, "idx", getattr(k, "name", k))) for k in path]
            return field, ".".join(map(str, names[i + 1 :])) or "param"
    raise ValueError(f"opt_state{''.join(map(str, path))} is no state of optax.rmsprop")


def _like(leaf: Any, value: Any) -> Any:
    """The value as an array of jax's, of the dtype of a leaf and where it is."""
    import jax

    return jax.device_put(np.asarray(value, leaf.dtype), getattr(leaf, "sharding", None))


def _kind(value: object) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


# What is common to them. Arrays pass in double, under the names of torch's state: square_avg is the
# average about zero, centered or not.


class _Pair(NamedTuple):
    """A parameter of ours, and its counterpart."""

    name: str
    options: dict[str, Any]  # of its group
    state: dict[str, Array]  # in the state_dict
    theirs: _Theirs

    @property
    def second_moment(self) -> Array:
        return self.state["variance" if self.options["centered"] else "square_avg"]


def _paired(
    opt: RMSProp, theirs: Sequence[_Theirs], by_name: bool = False
) -> tuple[dict[str, Any], list[_Pair]]:
    """A state_dict of ours, and what of it belongs to which of their parameters."""
    if not isinstance(opt, RMSProp):
        raise TypeError(f"opt must be a fused_rmsprop.RMSProp, got {_kind(opt)}")
    saved = opt.state_dict()
    if saved["counters"]["accumulated"] > 0:
        raise ValueError("opt has accumulated gradients: step, or discard_accumulated, first")
    ours = {name: group for group in saved["param_groups"] for name in group["params"]}
    names = [other.name for other in theirs] if by_name else list(ours)
    if sorted(names) != sorted(ours):
        raise ValueError(f"opt has the parameters {list(ours)}, the other optimizer {names}")
    if len(names) != len(theirs):
        raise ValueError(f"opt has {len(ours)} parameters, the other optimizer {len(theirs)}")
    pairs = [
        _Pair(name, ours[name], saved["state"][name], other)
        for name, other in zip(names, theirs, strict=True)
    ]
    for pair in pairs:
        _check(pair)
    return saved, pairs


def _check(pair: _Pair) -> None:
    if (shape := pair.second_moment.shape) != pair.theirs.shape:
        raise ValueError(
            f"{pair.name!r} is of shape {shape}, its counterpart "
            f"{pair.theirs.name} of shape {pair.theirs.shape}"
        )
    for option, theirs in pair.theirs.on.items():
        ours = pair.options[option]
        if (callable(ours) or ours > 0) != theirs:
            where = "the other optimizer" if theirs else "opt"
            raise ValueError(f"{option} is on for {pair.name!r} in {where} only")


def _keys(theirs: _Theirs) -> list[str]:
    """The arrays that the other optimizer keeps."""
    options = {"momentum_buffer": "momentum", "grad_avg": "centered", "param_avg": "ema_decay"}
    return ["square_avg", *(key for key, option in options.items() if theirs.on.get(option))]


@np.errstate(all="ignore")
def _given(pair: _Pair, count: int) -> dict[str, Array]:
    """New arrays for the other optimizer after ``count`` steps."""
    arrays = {key: pair.state[key].astype(np.float64) for key in _keys(pair.theirs)[1:]}
    arrays["square_avg"] = pair.second_moment.astype(np.float64)
    if pair.options["centered"]:
        arrays["square_avg"] += arrays["grad_avg"] ** 2
    for key in arrays.keys() & {"square_avg", "grad_avg"}:
        arrays[key] *= _weight(pair, int(pair.state["step"]))
    if "momentum_buffer" in arrays:
        inside = pair.options["lr_in_momentum"]
        _move_lr(arrays["momentum_buffer"], inside, pair.theirs.lr_in_momentum, pair, count)
    return {key: np.asarray(array) for key, array in arrays.items()}


@np.errstate(all="ignore")
def _take(pair: _Pair, theirs: dict[str, Array], steps: int, count: int) -> None:
    """Write the other optimizer's arrays, none for the beginning, into the state_dict of ours."""
    pair.state["step"][...] = steps
    arrays = {key: np.array(theirs.get(key, 0.0), np.float64) for key in _keys(pair.theirs)}
    if not theirs:
        arrays["square_avg"] += pair.options["initial_square_avg"]
    for key in arrays.keys() & {"square_avg", "grad_avg"}:
        arrays[key] /= _weight(pair, steps) or 1.0  # 0 at the beginning, when all are zeros
    if pair.options["centered"]:
        variance = arrays["square_avg"] - arrays["grad_avg"] ** 2
        arrays["square_avg"] = np.maximum(variance, 0.0)  # which may have cancelled below 0
    if "momentum_buffer" in arrays:
        inside = pair.options["lr_in_momentum"]
        _move_lr(arrays["momentum_buffer"], pair.theirs.lr_in_momentum, inside, pair, count)
    pair.second_moment[...] = arrays.pop("square_avg")
    for key, array in arrays.items():
        pair.state[key][...] = array


def _weight(pair: _Pair, steps: int) -> float:
    """The share of the other optimizer's averages that is not the zeros they started from."""
    if pair.theirs.corrected or not pair.options["bias_correction"]:
        return 1.0
    return float(1 - pair.options["alpha"] ** steps)


def _move_lr(buffer: Array, inside: bool, wanted: bool, pair: _Pair, count: int) -> None:
    """Put the learning rate of the next step into a momentum buffer, or take it out, in place."""
    if inside == wanted:
        return
    lr = options_at(pair.options, count)["lr"]
    if wanted:
        buffer *= lr
    elif lr == 0:
        raise ValueError(
            f"the momentum buffer of {pair.name!r} has the learning rate in it, which is 0 now: it "
            "cannot be taken out"
        )
    else:
        buffer /= lr
