"""Every combination of options that steps can have: the exactness tests make them all."""

from __future__ import annotations

import itertools

SCALARS = {"lr": 0.013, "alpha": 0.93, "eps": 1e-7}
COMBINATIONS = [
    {
        **SCALARS,
        "weight_decay": weight_decay,
        "decoupled_weight_decay": decoupled,
        "momentum": momentum,
        "nesterov": nesterov,
        "lr_in_momentum": lr_in_momentum,
        "centered": centered,
        "eps_inside_sqrt": eps_inside_sqrt,
        "maximize": maximize,
        "bias_correction": bias_correction,
        "initial_square_avg": initial_square_avg,
        "ema_decay": ema_decay,
    }
    for (
        (weight_decay, decoupled),
        (momentum, nesterov, lr_in_momentum),
        centered,
        eps_inside_sqrt,
        maximize,
        (bias_correction, initial_square_avg),
        ema_decay,
    ) in itertools.product(
        ((0.0, False), (0.07, False), (0.07, True)),
        (
            (0.0, False, False),
            *((0.81, *flags) for flags in itertools.product(*[(False, True)] * 2)),
        ),
        (False, True),
        (False, True),
        (False, True),
        ((False, 0.0), (True, 0.0), (False, 1.0)),
        (0.0, 0.87),
    )
]
