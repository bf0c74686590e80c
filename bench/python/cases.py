"""The benchmark cases; their parameters and gradients are made on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from peers import Array, Arrays

GROUPS = ("sizes", "lists", "denormals", "training")
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)
QUICK_ELEMENTS = 1_100_000  # quick runs skip larger cases
DENORMALS_SIZE = 100_000
# OpenBLAS's threads spin for 125 ms after a product, OpenMP's for some milliseconds.
TRAINING = {"block_seconds": 0.2, "sleep": 0.15}
ORDINARY, DENORMAL = "ordinary", "all-denormal"


@dataclass
class Problem:
    """The initial parameters and the gradients, the same for all contestants.

    Parameters
    ----------
    params, grads : list of float32 arrays
        Every contestant starts from a copy of ``params`` and reads ``grads`` directly.
    backward : callable, optional
        Writes ``grads`` for given parameters; timed together with the step.
    subnormal_grads : list of arrays, optional
        Replace the values of ``grads`` between checking and timing.
    """

    params: Arrays
    grads: Arrays
    backward: Callable[[Arrays], object] | None = None
    subnormal_grads: Arrays | None = None

    @property
    def elements(self) -> int:
        """The number of parameters."""
        return sum(p.size for p in self.params)


@dataclass(frozen=True)
class Case:
    """A case of a group; ``make`` returns its variants by name, usually one named "".

    Timed blocks last ``block_seconds``, each after a ``sleep`` in seconds.
    """

    group: str
    name: str
    elements: int
    make: Callable[[], dict[str, Problem]]
    block_seconds: float = 0.01
    sleep: float = 0.02


def _normal(rng: np.random.Generator, shapes: Sequence[tuple[int, ...]]) -> Arrays:
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def normal_problem(shapes: Sequence[tuple[int, ...]]) -> Problem:
    """Make normally distributed parameters and gradients."""
    rng = np.random.default_rng(0)
    return Problem(_normal(rng, shapes), _normal(rng, shapes))


def _arrays(group: str, name: str, shapes: Sequence[tuple[int, ...]]) -> Case:
    elements = sum(int(np.prod(shape)) for shape in shapes)
    return Case(group, name, elements, lambda: {"": normal_problem(shapes)})


def resnet50_shapes() -> list[tuple[int, ...]]:
    """Return the shapes of ResNet-50's parameters (He et al. 2015) in torchvision's order."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    below = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        above = 4 * width
        for block in range(blocks):
            convolutions = [(width, below, 1, 1), (width, width, 3, 3), (above, width, 1, 1)]
            if block == 0:
                convolutions.append((above, below, 1, 1))  # the shortcut
            for convolution in convolutions:
                shapes += [convolution, convolution[:1], convolution[:1]]  # with its batch norm
            below = above
    shapes += [(1000, below), (1000,)]
    assert len(shapes) == 161
    assert sum(int(np.prod(shape)) for shape in shapes) == 25_557_032
    return shapes


def _denormals() -> dict[str, Problem]:
    """Make ordinary gradients, and some whose squares, and so the average, are subnormal.

    The subnormal gradients that follow let the average decay to the smallest subnormal numbers,
    where rounding keeps it.
    """
    rng = np.random.default_rng(0)
    shape = (DENORMALS_SIZE,)

    def within(low: float, high: float) -> Array:
        signs = rng.choice((-1, 1), DENORMALS_SIZE)
        return (signs * rng.uniform(low, high, DENORMALS_SIZE)).astype(np.float32)

    # The check can only see steps that are not small beside the parameters.
    start = rng.standard_normal(shape) * 1e-14
    return {
        ORDINARY: Problem(_normal(rng, [shape]), _normal(rng, [shape])),
        DENORMAL: Problem(
            [start.astype(np.float32)],
            [within(0.5e-19, 1e-19)],
            subnormal_grads=[within(1e-40, 1e-38)],
        ),
    }


def _mlp() -> dict[str, Problem]:
    import networks

    rng = np.random.default_rng(0)
    params = networks.mlp_params(rng)
    x = rng.standard_normal((networks.MLP_BATCH, networks.MLP_SIZES[0]), dtype=np.float32)
    labels = rng.integers(0, 10, networks.MLP_BATCH)
    grads = [np.zeros_like(p) for p in params]
    return {"": Problem(params, grads, lambda p: networks.mlp_backward(p, x, labels, grads))}


def _convnet() -> dict[str, Problem]:
    import networks

    networks.check_convnet()
    rng = np.random.default_rng(0)
    params = networks.convnet_params(rng)
    shape = (networks.CONVNET_BATCH, networks.IMAGE, networks.IMAGE, 1)
    x = rng.standard_normal(shape, dtype=np.float32)
    labels = rng.integers(0, 10, networks.CONVNET_BATCH)
    grads = [np.zeros_like(p) for p in params]
    return {"": Problem(params, grads, lambda p: networks.convnet_backward(p, x, labels, grads))}


CASES = (
    *(_arrays("sizes", f"{size:,}", [(size,)]) for size in SIZES),
    _arrays("lists", "1000 x 1000", [(1000,)] * 1000),
    _arrays("lists", "1000 x 10", [(10,)] * 1000),
    _arrays("lists", "100 x 10,000", [(10_000,)] * 100),
    _arrays("lists", "ResNet-50", resnet50_shapes()),
    Case("denormals", f"{DENORMALS_SIZE:,}", DENORMALS_SIZE, _denormals),
    Case("training", "MLP", 669_706, _mlp, **TRAINING),
    Case("training", "convnet", 611_658, _convnet, **TRAINING),
)
