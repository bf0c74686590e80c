"""Measure how closely each preset reproduces the implementation that it is named after.

    python bench/python/agreement.py                          # all that are installed
    python bench/python/agreement.py torch optax
    KERAS_BACKEND=jax python bench/python/agreement.py keras  # or tensorflow; torch by default

Each implementation trains 200 steps on given gradients with a varying learning rate, once for every
combination of its options. A row has the largest difference between its parameters and those of
``RMSProp.from_preset``, relative to the largest parameter. Elementwise relative differences would
be meaningless for parameters that cross zero. The DQN and A3C presets are compared with their
authors' formulas in NumPy. tests/test_presets.py checks every run against the bounds of its case.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import math
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fused_rmsprop import PRESETS, RMSProp

Array = NDArray[Any]

STEPS = 200
SHAPES: tuple[tuple[int, ...], ...] = ((), (7,), (33, 65), (4, 3, 5), (1000,))
DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


class Problem(NamedTuple):
    """The input of both sides."""

    params: list[Array]
    grads: list[list[Array]]
    lrs: list[float]

    @property
    def dtype(self) -> str:
        """The dtype of all arrays."""
        return str(self.params[0].dtype)


class Case(NamedTuple):
    """A combination of options, under their names and under ours."""

    theirs: dict[str, Any]
    ours: dict[str, Any]
    #: A special case has a note, a row of its own in the table, and bounds.
    note: str = ""
    float32: float = TOLERANCE["float32"]
    float64: float = TOLERANCE["float64"]
    #: Kinds of gradients, see `problem`.
    kinds: tuple[str, ...] = ("normal", "mixed")


class Library(NamedTuple):
    """An implementation: required packages, cases and training function."""

    preset: str
    needs: tuple[str, ...]
    cases: Callable[[], Iterator[Case]]
    train: Callable[..., list[Array]]


def problem(kind: str, dtype: str, lr: float) -> Problem:
    """Make normal gradients; "mixed" scales each element by a factor from 1/1000 to 1000."""
    rng = np.random.default_rng(len(kind))
    params = [rng.normal(size=shape) for shape in SHAPES]
    scales = [10.0 ** rng.uniform(-3, 3, size=shape) for shape in SHAPES]
    pairs = list(zip(params, scales, strict=True))
    grads = [
        [rng.normal(size=p.shape) * (s if kind == "mixed" else 1.0) for p, s in pairs]
        for _ in range(STEPS)
    ]
    return Problem(
        [np.asarray(p, dtype) for p in params],
        [[np.asarray(g, dtype) for g in step] for step in grads],
        [lr * (1 + 0.5 * math.sin(t / 7)) for t in range(STEPS)],
    )


def difference(library: Library, case: Case, kind: str, dtype: str) -> float:
    """Return the largest difference of a parameter, relative to the largest parameter."""
    given = problem(kind, dtype, {"lr": 0.01, **PRESETS[library.preset]}["lr"])
    theirs = library.train(given, **case.theirs)
    ours = [p.copy() for p in given.params]
    opt = RMSProp.from_preset(library.preset, ours, lr=given.lrs.__getitem__, **case.ours)
    for grads in given.grads:
        opt.step(grads)
    assert all(a.dtype == b.dtype == dtype for a, b in zip(ours, theirs, strict=True))
    largest = max(float(np.abs(b).max()) for b in theirs)
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) / largest


def on_off(**options: Any) -> Iterator[dict[str, Any]]:
    """Yield every combination of options, each with the given value or left out."""
    for chosen in itertools.product((False, True), repeat=len(options)):
        yield {k: v for (k, v), on in zip(options.items(), chosen, strict=True) if on}


def single_file(package: str, folder: str, module: str) -> Any:
    """Import one module of a package without the package and its requirements."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not installed")
    parent = types.ModuleType(f"_{package}_alone")
    parent.__path__ = [str(Path(spec.submodule_search_locations[0]) / folder)]
    sys.modules[parent.__name__] = parent
    return importlib.import_module(f"{parent.__name__}.{module}")


#: Modules that need only torch and the files in their folder.
SINGLE_FILES = {
    "timm": ("timm", "optim", "rmsprop_tf"),
    "stable_baselines3": ("stable_baselines3", "common/sb2_compat", "rmsprop_tf_like"),
}


# torch and optimizers written like it.


def _torch_cases() -> Iterator[Case]:
    for options in on_off(momentum=0.9, centered=True, weight_decay=0.01, maximize=True):
        yield Case({**options, "foreach": False}, options)
    yield Case({"foreach": True}, {})


def _train_torch(given: Problem, make: Any = None, **options: Any) -> list[Array]:
    import torch

    params = [torch.from_numpy(p.copy()).requires_grad_() for p in given.params]
    optimizer = (make or torch.optim.RMSprop)(params, **options)
    for grads, lr in zip(given.grads, given.lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return [p.detach().numpy() for p in params]


def _timm_cases() -> Iterator[Case]:
    for options in on_off(momentum=0.9, centered=True, weight_decay=0.01):
        yield Case(options, options)
        if "momentum" in options:
            options = {**options, "lr_in_momentum": False}
            yield Case(options, options)
        if "weight_decay" in options:
            decoupled = {**options, "decoupled_decay": True}
            ours = {**options, "decoupled_weight_decay": True}
            yield Case(decoupled, ours, "decoupled weight decay", float32=3e-6)


def _train_timm(given: Problem, **options: Any) -> list[Array]:
    module = single_file(*SINGLE_FILES["timm"])
    return _train_torch(given, module.RMSpropTF, **options)


def _stable_baselines3_cases() -> Iterator[Case]:
    for options in on_off(momentum=0.9, centered=True, weight_decay=0.01):
        yield Case(options, options)


def _train_stable_baselines3(given: Problem, **options: Any) -> list[Array]:
    module = single_file(*SINGLE_FILES["stable_baselines3"])
    return _train_torch(given, module.RMSpropTFLike, **options)


def _keras_cases() -> Iterator[Case]:
    for options in on_off(momentum=0.9, centered=True, weight_decay=0.01):
        if "weight_decay" in options:
            yield Case(options, options, "decoupled weight decay", float32=3e-6)
        else:
            yield Case(options, options)
    # With the torch backend the clipping factor is rounded to float32.
    clipped = {"global_clipnorm": 5.0}, {"max_grad_norm": 5.0}
    yield Case(*clipped, "global_clipnorm", float64=1e-9)
    yield Case({"clipvalue": 0.5}, {"max_grad_value": 0.5})


def _train_keras(given: Problem, **options: Any) -> list[Array]:
    import keras

    floatx = keras.config.floatx()
    keras.config.set_floatx(given.dtype)  # the dtype of the learning rate
    if keras.config.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", given.dtype == "float64")
    try:
        variables = [keras.Variable(p, dtype=given.dtype) for p in given.params]
        optimizer = keras.optimizers.RMSprop(**options)
        optimizer.build(variables)
        for grads, lr in zip(given.grads, given.lrs, strict=True):
            optimizer.learning_rate.assign(lr)
            optimizer.apply([keras.ops.convert_to_tensor(g, dtype=given.dtype) for g in grads])
        return [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]
    finally:
        keras.config.set_floatx(floatx)


def _tensorflow1_cases() -> Iterator[Case]:
    for options in on_off(momentum=0.9, centered=True):
        yield Case(options, options)


def _train_tensorflow1(
    given: Problem, momentum: float = 0.0, centered: bool = False
) -> list[Array]:
    import tensorflow as tf

    def scalar(value: float) -> Any:  # a Python float would be rounded to float32
        return tf.constant(value, given.dtype)

    variables = [tf.Variable(p) for p in given.params]
    lrs = iter(given.lrs)
    optimizer = tf.compat.v1.train.RMSPropOptimizer(
        lambda: scalar(next(lrs)),
        decay=scalar(0.9),
        momentum=scalar(momentum),
        epsilon=scalar(1e-10),
        centered=centered,
    )
    for grads in given.grads:
        optimizer.apply_gradients(zip(map(tf.constant, grads), variables, strict=True))
    return [v.numpy() for v in variables]


def _optax_cases() -> Iterator[Case]:
    for options in on_off(
        centered=True,
        eps_in_sqrt=False,
        momentum=0.9,
        nesterov=True,
        initial_scale=1.0,
        bias_correction=True,
    ):
        # Skip invalid and incompatible pairs, and more than three options to save time.
        corrected = "bias_correction" in options
        if ("nesterov" in options and "momentum" not in options) or len(options) > 3:
            continue
        if corrected and ("initial_scale" in options or {"centered", "eps_in_sqrt"} <= {*options}):
            continue
        names = {"eps_in_sqrt": "eps_inside_sqrt", "initial_scale": "initial_square_avg"}
        ours = {names.get(name, name): value for name, value in options.items()}
        if corrected and "centered" in options:
            # The first variance is 0, but rounding noise in optax; this eps dominates it.
            yield Case({**options, "eps": 1.0}, {**ours, "eps": 1.0}, kinds=("normal",))
        else:
            yield Case(options, ours)
    yield Case({"weight_decay": 0.01, "momentum": 0.9}, {"weight_decay": 0.01, "momentum": 0.9})


def _train_optax(given: Problem, weight_decay: float = 0.0, **options: Any) -> list[Array]:
    import jax
    import optax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", given.dtype == "float64")
    try:
        lrs = jax.numpy.asarray(given.lrs, given.dtype)
        rmsprop = optax.rmsprop(lambda count: lrs[count], **options)
        if weight_decay:
            rmsprop = optax.chain(optax.add_decayed_weights(weight_decay), rmsprop)

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = rmsprop.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        step = jax.jit(update)
        params = [jax.numpy.asarray(p) for p in given.params]
        state = rmsprop.init(params)
        for grads in given.grads:
            params, state = step(params, state, grads)
        return [np.asarray(p) for p in params]
    finally:
        jax.config.update("jax_enable_x64", before)


# Formulas from papers, evaluated in the order in which they are printed.


def _dqn_cases() -> Iterator[Case]:
    for options in on_off(weight_decay=0.01):
        yield Case(options, options)


def _train_dqn(given: Problem, weight_decay: float = 0.0) -> list[Array]:
    """Ascend as NeuralQLearner.lua does, along the negative gradient."""
    number = np.dtype(given.dtype).type
    params = [p.copy() for p in given.params]
    means, squares = ([np.zeros_like(p) for p in params] for _ in range(2))
    for grads, lr in zip(given.grads, given.lrs, strict=True):
        for i, g in enumerate(grads):
            up = -g - number(weight_decay) * params[i]
            means[i] = number(0.95) * means[i] + number(0.05) * up
            squares[i] = number(0.95) * squares[i] + number(0.05) * (up * up)
            root = np.sqrt(squares[i] - means[i] * means[i] + number(0.01))
            params[i] = params[i] + number(lr) * (up / root)
    return [np.asarray(p) for p in params]


def _a3c_cases() -> Iterator[Case]:
    yield Case({}, {})


def _train_a3c(given: Problem) -> list[Array]:
    """Follow the paper's equations for one thread, with the epsilon published later."""
    number = np.dtype(given.dtype).type
    params = [p.copy() for p in given.params]
    squares = [np.zeros_like(p) for p in params]
    for grads, lr in zip(given.grads, given.lrs, strict=True):
        for i, g in enumerate(grads):
            squares[i] = number(0.99) * squares[i] + number(1 - 0.99) * g**2
            params[i] = params[i] - number(lr) * g / np.sqrt(squares[i] + number(0.1))
    return [np.asarray(p) for p in params]


LIBRARIES = {
    "torch": Library("torch", ("torch",), _torch_cases, _train_torch),
    "keras": Library("keras", ("keras", "torch"), _keras_cases, _train_keras),
    "tensorflow": Library("tensorflow1", ("tensorflow",), _tensorflow1_cases, _train_tensorflow1),
    "optax": Library("optax", ("optax", "jax"), _optax_cases, _train_optax),
    "timm": Library("timm", ("timm", "torch"), _timm_cases, _train_timm),
    "stable_baselines3": Library(
        "stable_baselines3",
        ("stable_baselines3", "torch"),
        _stable_baselines3_cases,
        _train_stable_baselines3,
    ),
    "dqn": Library("dqn", (), _dqn_cases, _train_dqn),
    "a3c": Library("a3c", (), _a3c_cases, _train_a3c),
}


def version(package: str) -> str:
    """Return the version of a package, whose distribution may have another name."""
    names = importlib.metadata.packages_distributions().get(package, [package])
    return importlib.metadata.version(names[0])


def rows(name: str) -> Iterator[str]:
    """Yield the rows of the table for one implementation."""
    library = LIBRARIES[name]
    title = " ".join([name, *(version(package) for package in library.needs[:1])])
    if name == "keras":
        title += f" on {os.environ['KERAS_BACKEND']}"
    cases = list(library.cases())
    for note in dict.fromkeys(case.note for case in cases):
        noted = [case for case in cases if case.note == note]
        worst = [
            max(difference(library, case, kind, dtype) for case in noted for kind in case.kinds)
            for dtype in DTYPES
        ]
        what = f"{title}, {note}" if note else title
        yield f"| {what} | {len(noted)} | {worst[0]:.1e} | {worst[1]:.1e} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(LIBRARIES)}; default: all")
    names = parser.parse_args().names or list(LIBRARIES)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print("| compared with | combinations | float32 | float64 |\n|---|---|---|---|")
    for name in names:
        if any(importlib.util.find_spec(package) is None for package in LIBRARIES[name].needs):
            print(f"{name} is not installed", file=sys.stderr)
            continue
        for row in rows(name):
            print(row, flush=True)


if __name__ == "__main__":
    main()
