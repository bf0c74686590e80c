"""The table of options: one entry for each, from which every other list of options comes.

Bounds are checked by the C++ library, which knows the arrays' dtypes. The signatures of `RMSProp`,
`rmsprop_step` and `fused_rmsprop.torch.RMSprop` repeat the names for readers; a test compares them
with this table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fused_rmsprop import _core
from fused_rmsprop.values import (
    as_flag,
    as_limit,
    as_number,
    as_on_nonfinite,
    as_schedulable,
    as_threads,
)


class Fixed(NamedTuple):
    """Why an option cannot change once a step was made with a kind of state; see `check_fixed`."""

    state: str  # the name of the kind in fused_rmsprop.groups.state
    why: str


class Option(NamedTuple):
    """One option of the optimizers."""

    name: str
    read: Callable[[str, Any], Any]  # a user's value to a plain one, or an error with the name
    default: Any
    summary: str  # for docs/options.md
    of_group: bool = True  # each parameter group has its own; otherwise the optimizer has one
    in_torch: bool = False  # torch.optim.RMSprop has it
    core: str = "Options"  # the C++ struct that has it, if any
    in_repr: bool = False  # also at its default
    in_files: bool = True  # saved and loaded
    fixed: Fixed | None = None
    aliases: tuple[str, ...] = ()  # in other libraries

    @property
    def schedulable(self) -> bool:
        """Whether it may be a function of the step."""
        return self.read is as_schedulable


# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("lr", as_schedulable, 1e-2, "step size; `opt.lr = x` sets it for all groups",
           in_torch=True, in_repr=True, aliases=("learning_rate", "step_size")),
    Option("alpha", as_schedulable, 0.99,
           "`v = alpha * v + ...`: the average looks back about `1 / (1 - alpha)` steps",
           in_torch=True, in_repr=True, aliases=("rho", "decay", "gamma", "beta", "beta2")),
    Option("eps", as_number, 1e-8, "added to the root",
           in_torch=True, in_repr=True, aliases=("epsilon",)),
    Option("weight_decay", as_schedulable, 0.0, "adds `weight_decay * p` to the gradient",
           in_torch=True),
    Option("momentum", as_schedulable, 0.0,
           "`b = momentum * b + g / (sqrt(v) + eps)`, `p = p - lr * b`", in_torch=True),
    Option("centered", as_flag, False, "divide by the gradient's standard deviation",
           in_torch=True),
    Option("nesterov", as_flag, False,
           "with momentum: `p = p - lr * (g / (sqrt(v) + eps) + momentum * b)`",
           aliases=("nesterov_momentum", "use_nesterov")),
    Option("maximize", as_flag, False, "climb instead of descend", in_torch=True),
    Option("eps_inside_sqrt", as_flag, False, "divide by `sqrt(v + eps)`",
           aliases=("eps_in_sqrt",)),
    Option("lr_in_momentum", as_flag, False,
           "`b = momentum * b + lr * g / (sqrt(v) + eps)`, `p = p - b`",
           fixed=Fixed("momentum_buffer", "the buffer holds steps with it, directions without")),
    Option("decoupled_weight_decay", as_flag, False,
           "`p = p - lr * weight_decay * p` instead of the term in the gradient",
           aliases=("decoupled_decay",)),
    Option("initial_square_avg", as_number, 0.0, "initial value of `v`", core="",
           fixed=Fixed("square_avg", "the average began with it"), aliases=("initial_scale",)),
    Option("bias_correction", as_flag, False,
           "divide the averages by `1 - alpha**t`, so that the first steps are not larger; with "
           "`centered`, the variance of the first step is 0, which makes it `lr * g / eps`",
           fixed=Fixed("square_avg", "the averages are kept divided by 1 - alpha**t with it")),
    Option("ema_decay", as_number, 0.0,
           "keep a running average of the parameters; see `opt.use_ema()`",
           aliases=("ema_momentum",)),
    Option("max_grad_norm", as_limit, None,
           "clip by the 2-norm of all gradients together; see `opt.grad_norm`. One NaN makes all "
           "parameters NaN unless `on_nonfinite` is set or the limit is infinite",
           of_group=False, core="GradientTransform",
           aliases=("global_clipnorm", "max_norm", "clip_norm", "grad_clip")),
    Option("max_grad_norm_per_array", as_limit, None,
           "clip each array by its own 2-norm, before that of all together is taken",
           of_group=False, core="GradientTransform", aliases=("clipnorm",)),
    Option("max_grad_value", as_limit, None,
           "limit each element of a gradient, before the norm is taken",
           of_group=False, core="GradientTransform", aliases=("clipvalue", "clip_value")),
    Option("on_nonfinite", as_on_nonfinite, "propagate",
           '`"skip"` a step with a NaN or infinite gradient, or one whose square overflows, '
           'or `"raise"`',
           of_group=False, core="GradientTransform"),
    Option("flush_denormals", as_flag, True, "count subnormal numbers as zero",
           of_group=False, core="Execution", in_repr=True),
    Option("threads", as_threads, None,
           "for large steps; `None`: one or all, whichever is measured to be faster",
           of_group=False, core="Execution", in_repr=True, in_files=False),
)
# fmt: on

GROUP_OPTIONS: Mapping[str, Option] = {o.name: o for o in OPTIONS if o.of_group}
OPTIMIZER_OPTIONS: Mapping[str, Option] = {o.name: o for o in OPTIONS if not o.of_group}
SCHEDULABLE = tuple(o.name for o in OPTIONS if o.schedulable)

_FORMULA = tuple(o.name for o in OPTIONS if o.core == "Options")
_ALIASES = {alias: o.name for o in OPTIONS for alias in o.aliases}


#: Options of other optimizers that none here is called after.
_FOREIGN = {
    "betas": "they are Adam's: there is one average here, alpha=betas[1]",
    "amsgrad": "it is Adam's: leave it out",
    "dampening": "it is SGD's: leave it out",
    "use_ema": "the averages are ema_decay=0.99",
    "comm": "fused_rmsprop.mpi.RMSProp(params, comm=comm) trains over MPI",
    "clip": "max_grad_norm= clips by the norm of all gradients, max_grad_value= each element",
    "grads": "gradients are p.grad in torch, and step(grads) in NumPy",
    **dict.fromkeys(("jit", "device"), "leave it out: parameters are updated where they lie"),
    "decay": "TensorFlow 1's decay is alpha=decay; Keras' decay of the rate is a schedule's",
    "T_max": "it is a schedule's, schedules.Cosine or torch's CosineAnnealingLR",
    **dict.fromkeys(
        ("lr_decay", "scheduler", "lr_scheduler", "eta_min", "milestones", "total_steps"),
        "schedules change the rate: lr=schedules.Cosine(...) in NumPy, lr_scheduler in torch",
    ),
    "foreach": "leave it out: every step is fused",
    "fused": "leave it out: every step is fused",
    "capturable": "leave it out",
    "differentiable": "leave it out",
}


def option_meant(name: str) -> str | None:
    """The option that another library calls by this name."""
    return _ALIASES.get(name)


def unknown_option(name: str, where: str, known: Iterable[str] = tuple(GROUP_OPTIONS)) -> str:
    """The error for a name that is not an option there, with the one that is probably meant."""
    known = list(known)
    if name in OPTIMIZER_OPTIONS and name not in known:
        return f"{where} has no option {name!r}: it belongs to the optimizer, RMSProp(..., {name}=)"
    if name in _FOREIGN and not difflib.get_close_matches(name, known, 1, 0.85):
        meant = f"; is {_ALIASES[name]} meant? " if name in _ALIASES else ": "
        return f"{where} has no option {name!r}{meant}{_FOREIGN[name]}"
    near = [_ALIASES[name]] if name in _ALIASES else difflib.get_close_matches(name, known, 1)
    hint = f"; is {near[0]} meant?" if near else "."
    return f"{where} has no option {name!r}{hint} The options are {', '.join(known)}"


def parse_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a group as floats and bools; refuse unknown names.

    Functions of the step remain functions.
    """
    parsed: dict[str, Any] = {}
    for name, value in options.items():
        if name not in GROUP_OPTIONS:
            raise ValueError(unknown_option(name, where))
        parsed[name] = GROUP_OPTIONS[name].read(name, value)
    return parsed


def in_repr(options: Mapping[str, Any]) -> str:
    """The options for a `repr`: the main ones, and those that are not at their default."""
    table = {**GROUP_OPTIONS, **OPTIMIZER_OPTIONS}
    return ", ".join(
        f"{name}={value!r}"
        for name, value in options.items()
        if table[name].in_repr or value != table[name].default
    )


def scheduled(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the options that are functions of the step."""
    return tuple(name for name in SCHEDULABLE if callable(options[name]))


def options_at(options: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The options after ``step`` completed steps: numbers in the place of functions."""
    values = dict(options)
    with _core.FpEnvironment():
        for name in scheduled(options):
            values[name] = as_number(f"{name}({step})", options[name](step))
    if "momentum" in scheduled(options) and values["momentum"] == 0:
        values["nesterov"] = False  # there is nothing to look ahead along at this step
    return values


def core_options(values: Mapping[str, Any]) -> _core.Options:
    """The same options, all of them numbers and flags, as the C++ library takes them."""
    return _core.Options(**{name: values[name] for name in _FORMULA})


def check_together(options: Mapping[str, Any]) -> None:
    """Refuse `bias_correction` with a function of the step for `alpha`."""
    if options["bias_correction"] and callable(options["alpha"]):
        raise ValueError(
            "bias_correction divides by 1 - alpha**t, which needs one alpha for all steps: make "
            "alpha a number, or set bias_correction=False"
        )


def check_start(options: Mapping[str, Any], dtype: str, largest: float) -> None:
    """Refuse an `initial_square_avg` that does not suit the dtype or the other options.

    The C++ library does not know it, because its caller makes the arrays.
    """
    start = options["initial_square_avg"]
    if not 0 <= start <= largest:
        raise ValueError(f"initial_square_avg must be >= 0 and finite in {dtype}, got {start}")
    if options["bias_correction"] and start != 0:
        raise ValueError(
            "bias_correction divides out the zeros that square_avg starts from: it has no "
            f"meaning with initial_square_avg={start}"
        )
