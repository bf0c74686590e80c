"""State from and to ``optax.rmsprop``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fused_rmsprop.exchange.common import Exchange, Theirs
from fused_rmsprop.optimizer import RMSProp

#: Fields of optax's states: the name and the sign of each here.
_FIELDS = {"nu": ("square_avg", 1), "mu": ("grad_avg", 1), "trace": ("momentum_buffer", -1)}
_STATE = re.compile("ScaleBy(Rms|RStdDev)(WithCount)?State")


def to_optax(opt: RMSProp, opt_state: Any) -> Any:
    """Return a state of ``optax.rmsprop`` with the state of ``opt``.

    Parameters
    ----------
    opt : RMSProp
        Not changed.
    opt_state : pytree
        From ``init`` or ``update`` of ``optax.rmsprop(...)``, alone or inside ``optax.chain`` and
        ``optax.inject_hyperparams``. Not changed. Parameters are matched by name: the keys that
        lead to them, joined by dots.

    Returns
    -------
    pytree
        With the structure and dtypes of ``opt_state``. Its step counts are `step_count`.

    Raises
    ------
    TypeError, ValueError
        As `to_torch`, but names instead of numbers of parameters; also if ``opt_state`` includes
        state of other transformations, or if a parameter missed a step with bias_correction, for
        which optax keeps a single count.

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
    >>> new = RMSProp.from_preset("optax", {"w": np.ones(2)})
    >>> exchange.from_optax(new, opt_state)
    >>> new.state["w"]["square_avg"].round(3)
    array([0.1, 0.1])
    """
    import jax

    leaves, theirs, structure = _leaves(opt_state)
    ours = Exchange(opt, theirs, by_name=True)
    values: dict[tuple[str, str], Any] = {("count", ""): ours.count}
    for pair in ours.pairs:
        if pair.options["bias_correction"] and pair.state["step"] != ours.count:
            raise ValueError(
                f"{pair.name!r} has made {pair.state['step']} of {ours.count} steps; with "
                "bias_correction optax keeps one count for all parameters"
            )
        arrays = pair.to_theirs(ours.count)
        for field, (key, sign) in _FIELDS.items():
            if key in arrays:
                values[field, pair.name] = sign * arrays[key]
    new = [
        # As a jax array with the dtype and device of the old one.
        jax.device_put(np.asarray(values[place], leaf.dtype), getattr(leaf, "sharding", None))
        if place in values
        else leaf
        for place, leaf in leaves
    ]
    return jax.tree_util.tree_unflatten(structure, new)


def from_optax(opt: RMSProp, opt_state: Any) -> None:
    """Load a state of ``optax.rmsprop`` into ``opt``.

    `to_optax` describes the arguments and errors, and has an example; differing counts in
    ``opt_state`` raise a `ValueError` too. `step_count` and the step count of each parameter become
    its count. Without one (no schedule, bias_correction or ``inject_hyperparams``) they stay.
    """
    leaves, theirs, _ = _leaves(opt_state)
    ours = Exchange(opt, theirs, by_name=True)
    counts = {int(leaf) for (field, _), leaf in leaves if field == "count"}
    if len(counts) > 1:
        raise ValueError(f"the counts in opt_state differ: {sorted(counts)}")
    found: dict[str, dict[str, Any]] = {pair.name: {} for pair in ours.pairs}
    for (field, name), leaf in leaves:
        if field in _FIELDS:
            key, sign = _FIELDS[field]
            found[name][key] = sign * np.asarray(leaf, np.float64)
    steps = [max(counts, default=int(pair.state["step"])) for pair in ours.pairs]
    ours.load(found.values(), steps, max(counts, default=ours.count))


def _leaves(opt_state: Any) -> tuple[list[tuple[tuple[str, str], Any]], list[Theirs], Any]:
    """Return the leaves, each with its place; the parameters; the structure."""
    import jax

    def has_nu(node: Any) -> bool:
        return "nu" in getattr(node, "_fields", ())

    nodes = [node for node in jax.tree_util.tree_leaves(opt_state, is_leaf=has_nu) if has_nu(node)]
    if len(nodes) != 1 or not _STATE.fullmatch(type(nodes[0]).__name__):
        found = ", ".join(type(node).__name__ for node in nodes) or "none"
        raise ValueError(f"opt_state must have one state of optax.rmsprop; found: {found}")
    with_paths, structure = jax.tree_util.tree_flatten_with_path(opt_state)
    leaves = [(_place(path), leaf) for path, leaf in with_paths]
    on = {
        "momentum": any(field == "trace" for (field, _), _ in leaves),
        "centered": "mu" in nodes[0]._fields,
        "bias_correction": "count" in nodes[0]._fields,
    }
    theirs = [Theirs(name, np.shape(leaf), on) for (field, name), leaf in leaves if field == "nu"]
    return leaves, theirs, structure


def _place(path: Sequence[Any]) -> tuple[str, str]:
    """Return the field that holds a leaf and the name of its parameter."""
    for i, key in enumerate(path):
        field = getattr(key, "name", "")
        if field in ("count", "hyperparams"):
            return field, ""
        if field in _FIELDS:
            names = [getattr(k, "key", getattr(k, "idx", getattr(k, "name", k))) for k in path]
            return field, ".".join(map(str, names[i + 1 :])) or "param"
    raise ValueError(f"opt_state{''.join(map(str, path))} does not belong to optax.rmsprop")
