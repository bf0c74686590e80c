"""The C interface through ctypes; benchmarks use it too."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fused_rmsprop

Array = NDArray[Any]
HEADER = Path(fused_rmsprop.get_include()) / "fused_rmsprop/fused_rmsprop.h"
LIBRARY = Path(fused_rmsprop.get_library())


def declarations() -> str:
    """The declarations of the header without the lines of the preprocessor, as cffi reads them."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    kept = re.sub(r"#ifdef __cplusplus\n.*?#endif\n", "", text, flags=re.DOTALL)
    return re.sub(r"^#.*\n", "", kept, flags=re.MULTILINE)


def constants() -> dict[str, int]:
    """The values of the enumerators of the header."""
    return {
        name: int(value)
        for name, value in re.findall(r"FUSED_RMSPROP_(\w+) = (-?\d+)", declarations())
    }


library = ctypes.CDLL(str(LIBRARY))
library.fused_rmsprop_create.restype = ctypes.c_void_p
library.fused_rmsprop_last_error.restype = ctypes.c_char_p
_DOUBLE, _NAME, _POINTER = ctypes.c_double, ctypes.c_char_p, ctypes.c_void_p
_ARGUMENTS: dict[str, list[Any]] = {
    "destroy": [],
    "add_group": [],
    "set_option": [ctypes.c_int, _NAME, _DOUBLE],
    "get_option": [ctypes.c_int, _NAME, ctypes.POINTER(_DOUBLE)],
    "add_parameter": [ctypes.c_int, ctypes.c_int, ctypes.c_size_t],
    "bind": [ctypes.c_int, _NAME, _POINTER],
    "set": [_NAME, _DOUBLE],
    "get": [_NAME, ctypes.POINTER(_DOUBLE)],
    "step": [],
}
for _function, _types in _ARGUMENTS.items():
    getattr(library, f"fused_rmsprop_{_function}").argtypes = [_POINTER, *_types]


class COptimizer:
    """An optimizer of the C interface, which keeps the arrays that it is given."""

    def __init__(self, **settings: float) -> None:
        self.pointer = library.fused_rmsprop_create()
        self._arrays: list[Array] = []
        for name, value in settings.items():
            self.call("set", name.encode(), value)

    def __del__(self) -> None:
        library.fused_rmsprop_destroy(self.pointer)

    def call(self, function: str, *arguments: Any) -> int:
        """Call a function; raise ValueError with its message if it fails."""
        code = getattr(library, f"fused_rmsprop_{function}")(self.pointer, *arguments)
        if code < 0:
            raise ValueError(library.fused_rmsprop_last_error().decode())
        return int(code)

    def get(self, name: str) -> float:
        """A setting or a result."""
        value = _DOUBLE()
        self.call("get", name.encode(), ctypes.byref(value))
        return value.value

    def set_options(self, group: int, options: Mapping[str, float]) -> None:
        for name, value in options.items():
            self.call("set_option", group, name.encode(), value)

    def add(self, group: int, param: Array, **arrays: Array) -> int:
        """Add a parameter with its gradient and its state."""
        double = int(param.dtype == np.float64)
        index = self.call("add_parameter", group, double, param.size)
        for name, array in {"param": param, **arrays}.items():
            self.call("bind", index, name.encode(), array.ctypes.data)
            self._arrays.append(array)
        return index
