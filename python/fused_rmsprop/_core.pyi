from collections.abc import Callable, Sequence, Set
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
    state: Sequence[object],
    step: int,
    options: Options,
    grad_scale: float,
    max_grad_value: float | None,
    flush_denormals: bool,
    threads: int,
) -> None: ...
def torch_private_names() -> list[str]: ...
def replace_entries(target: dict[Any, Any], entries: dict[Any, Any]) -> None: ...

@final
class Options:
    def __init__(self, **options: float) -> None: ...
    @staticmethod
    def defaults() -> dict[str, float]: ...
    def validate(self, float64: bool, flush_denormals: bool) -> None: ...
    def needed_state(self) -> list[str]: ...
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
        self, options: Options, state: Sequence[Sequence[NDArray[Any]] | None]
    ) -> None: ...
    summed: list[bool]

@final
class Claim:
    def __enter__(self) -> Claim: ...
    def __exit__(self, *args: object) -> None: ...

class Stepper:
    threads: int | None
    flush_denormals: bool
    serial_below_bytes: int
    max_grad_norm: float | None
    max_grad_value: float | None
    on_nonfinite: str
    skipped_steps: int
    def claim(self, why: str = "") -> Claim: ...
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def threads_used(self) -> int: ...

@final
class NumpyStepper(Stepper):
    accumulated: int
    step_count: int
    def __init__(self) -> None: ...
    def add(self, groups: list[Group], grouped: bool) -> None: ...
    def bind(self, grads: object) -> None: ...
    def step(
        self, grads: object = None, grad_scale: float = 1.0
    ) -> tuple[str, NDArray[Any]] | None: ...
    def accumulate(self, grads: object = None) -> None: ...

@final
class TorchStepper(Stepper):
    def __init__(self, probe: Any, hidden: Set[str]) -> None: ...
    def can_step(self, tensor: Any) -> bool: ...
    def same_order(self, a: Any, b: Any) -> bool: ...
    def in_order(self, param: Any, tensor: Any) -> Any: ...
    def step(
        self,
        groups: list[list[Any]],
        state: dict[Any, Any],
        options: list[Options],
        grad_scale: float,
    ) -> tuple[Any, list[Any]] | None: ...
    def assign(
        self,
        slots: list[tuple[Any, int, dict[str, Any], dict[str, Any]]],
        groups: list[list[Any]],
        state: dict[Any, Any],
        options: list[Options],
    ) -> list[int]: ...
    def read(
        self, groups: list[list[Any]], state: dict[Any, Any], options: list[Options]
    ) -> bool: ...
    def step_claimed(
        self,
        groups: list[list[Any]],
        state: dict[Any, Any],
        options: list[Options],
        grad_scale: float,
    ) -> tuple[Any, list[Any]] | None: ...
    @property
    def uses_c_functions(self) -> bool: ...
    def abandon(self) -> None: ...

@final
class GradMode:
    def __init__(self, setter: Callable[[bool], object], mode: bool, before: bool) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...

@final
class ShownAverages:
    def __init__(
        self, stepper: TorchStepper, read: Callable[[], list[tuple[Any, Any]]], why: str
    ) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...
