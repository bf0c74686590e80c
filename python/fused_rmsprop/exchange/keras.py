"""State from and to the RMSprop of Keras 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from fused_rmsprop.exchange.common import Exchange, Theirs, class_of
from fused_rmsprop.optimizer import RMSProp


def to_keras(opt: RMSProp, optimizer: Any) -> None:
    """Load the state of ``opt`` into a Keras optimizer.

    Parameters
    ----------
    opt : RMSProp
        Not changed.
    optimizer : keras.optimizers.RMSprop
        Must be built. Parameters are matched with its variables in build order. ``iterations``
        becomes `step_count`; the averages of ``use_ema`` correspond to `ema_decay`.

    Raises
    ------
    TypeError, ValueError
        As `to_torch`; also if parameter averaging is on for one side only, or if ``optimizer`` is
        not built or accumulates gradients.

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
    >>> new = RMSProp.from_preset("keras", np.ones(2))
    >>> exchange.from_keras(new, optimizer)
    >>> new.state["param"]["square_avg"].round(3)
    array([0.1, 0.1])
    """
    theirs, variables = _params(optimizer)
    ours = Exchange(opt, theirs)
    converted = [pair.to_theirs(ours.count) for pair in ours.pairs]
    optimizer.iterations.assign(ours.count)
    for i, arrays in enumerate(converted):
        for key, array in arrays.items():
            variables[key][i].assign(array)


def from_keras(opt: RMSProp, optimizer: Any) -> None:
    """Load the state of a Keras optimizer into ``opt``.

    `to_keras` describes the arguments and errors, and has an example. `step_count` and the step
    count of each parameter become ``iterations``. ``optimizer`` does not change.
    """
    from keras.ops import convert_to_numpy

    theirs, variables = _params(optimizer)
    ours = Exchange(opt, theirs)
    count = int(optimizer.iterations)
    found = [
        {key: np.asarray(convert_to_numpy(variables[key][i]), np.float64) for key in param.keys}
        for i, param in enumerate(theirs)
    ]
    ours.load(found, [count] * len(found), count)


def _params(optimizer: Any) -> tuple[list[Theirs], dict[str, Any]]:
    """Return the parameters and the variables by kind of state; uses Keras' private names."""
    import keras

    if not isinstance(optimizer, keras.optimizers.RMSprop):
        raise TypeError(
            "optimizer, the second argument, must be a keras.optimizers.RMSprop, got "
            f"{class_of(optimizer)}"
        )
    if not optimizer.built:
        raise ValueError("optimizer has not been built: call optimizer.build(variables)")
    if optimizer.gradient_accumulation_steps:
        raise ValueError("state cannot be exchanged with gradient_accumulation_steps")
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
    return [Theirs(v.path, tuple(v.shape), on) for v in optimizer._velocities], variables
