from collections.abc import Callable, Sequence
from typing import Any, TypedDict, final

import numpy as np
from numpy.typing import NDArray

class _InstructionSets(TypedDict):
    built: list[str]
    supported: list[str]
    in_use: str

class _Threads(TypedDict):
    available: int
    openmp: int
    affinity: int
    cgroup: int
    forked: bool

class _Config(TypedDict):
    version: str
    compiler: str
    openmp: str
    instruction_sets: _InstructionSets
    threads: _Threads

def config() -> _Config: ...
def set_instruction_set(name: str) -> None: ...
def rmsprop_step(
    param: object,
    grad: object,
    state: tuple[object, object, object, object],
    steps: int,
    options: Options,
    gradients: Gradients,
    flush_denormals: bool,
    threads: int,
) -> None: ...

@final
class Gradients:
    def __init__(self, *, grad_scale: float, max_grad_value: float | None) -> None: ...

@final
class Options:
    def __init__(
        self,
        *,
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        momentum: float,
        ema_decay: float,
        centered: bool,
        nesterov: bool,
        maximize: bool,
        eps_inside_sqrt: bool,
        lr_in_momentum: bool,
        decoupled_weight_decay: bool,
        bias_correction: bool,
    ) -> None: ...
    def suits(self, float64: bool, flush_denormals: bool) -> bool: ...

@final
class Group:
    def __init__(self, params: object, root: str, name: str) -> None: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def arrays(self) -> list[NDArray[Any]]: ...
    @property
    def steps(self) -> NDArray[np.int64]: ...
    def validate(self, options: Options, flush_denormals: bool) -> None: ...
    def set_options(self, options: Options) -> None: ...
    def configure(self, options: Options, state: Sequence[list[NDArray[Any]] | None]) -> None: ...
    summed: list[bool]

class StepRunner:
    threads: int
    flush_denormals: bool
    serial_below_bytes: int
    max_grad_norm: float | None
    max_grad_value: float | None
    on_nonfinite: str
    skipped_steps: int
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def threads_used(self) -> int: ...

@final
class Stepper(StepRunner):
    accumulated: int
    step_count: int
    def __init__(self) -> None: ...
    def acquire(self, why: str = "") -> None: ...
    def release(self) -> None: ...
    def add(self, groups: list[Group], grouped: bool) -> None: ...
    def bind(self, grads: object) -> None: ...
    def step(self, grads: object = None, grad_scale: float = 1.0) -> None: ...
    def accumulate(self, grads: object = None) -> None: ...

@final
class TensorStepper(StepRunner):
    def __init__(
        self,
        probe: Any,
        c_functions: bool,
        in_order: Callable[[Any, Any], Any],
        increment_version: Callable[[list[Any]], None],
        raise_nonfinite: Callable[[Any], None],
    ) -> None: ...
    def acquire(self) -> None: ...
    def release(self) -> None: ...
    def can_step(self, tensor: Any) -> bool: ...
    def same_order(self, a: Any, b: Any) -> bool: ...
    def assign(
        self, slots: list[tuple[Any, ...]], groups: list[list[Any]], state: dict[Any, Any]
    ) -> list[int]: ...
    def read(
        self, groups: list[list[Any]], state: dict[Any, Any], options: list[Options]
    ) -> bool: ...
    def step(
        self,
        groups: list[list[Any]],
        state: dict[Any, Any],
        options: list[Options],
        grad_scale: float,
    ) -> bool: ...
