from collections.abc import Callable
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
    square_avg: object,
    momentum_buffer: object,
    grad_avg: object,
    options: Options,
    flush_denormals: bool,
    threads: int,
) -> None: ...

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
        centered: bool,
        nesterov: bool,
        maximize: bool,
        grad_scale: float = 1.0,
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
    def configure(
        self,
        options: Options,
        square_avg: list[NDArray[Any]],
        momentum_buffer: list[NDArray[Any]] | None,
        grad_avg: list[NDArray[Any]] | None,
    ) -> None: ...

@final
class Stepper:
    threads: int
    flush_denormals: bool
    serial_below_bytes: int
    def __init__(self) -> None: ...
    def acquire(self) -> None: ...
    def release(self) -> None: ...
    def add(self, groups: list[Group], grouped: bool) -> None: ...
    def bind(self, grads: object) -> None: ...
    def step(self, grads: object = None) -> None: ...
    @property
    def threads_used(self) -> int: ...

@final
class TensorStepper:
    threads: int
    flush_denormals: bool
    def __init__(
        self,
        probe: Any,
        c_functions: bool,
        in_order: Callable[[Any, Any], Any],
        increment_version: Callable[[list[Any]], None],
    ) -> None: ...
    def can_step(self, tensor: Any) -> bool: ...
    def same_order(self, a: Any, b: Any) -> bool: ...
    def assign(
        self, slots: list[tuple[Any, ...]], groups: list[list[Any]], state: dict[Any, Any]
    ) -> list[int]: ...
    def read(
        self, groups: list[list[Any]], state: dict[Any, Any], options: list[Options]
    ) -> bool: ...
    def step(
        self, groups: list[list[Any]], state: dict[Any, Any], options: list[Options]
    ) -> bool: ...
    @property
    def threads_used(self) -> int: ...
