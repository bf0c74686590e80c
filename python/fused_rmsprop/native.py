"""Where the C and C++ library of the package lies, for programs that call it without Python."""

from __future__ import annotations

from pathlib import Path

from fused_rmsprop import _core

# Beside the module: an editable installation keeps the Python files elsewhere.
_PREFIX = Path(str(_core.__file__)).parent


def get_include() -> str:
    """Return the folder of the C and C++ headers, for the compiler's option ``-I``.

    Examples
    --------
    >>> (Path(get_include()) / "fused_rmsprop" / "fused_rmsprop.hpp").is_file()
    True
    """
    return str(_PREFIX / "include")


def get_library() -> str:
    """Return the path of the shared library that the module uses, for linkers, ctypes and the like.

    Examples
    --------
    >>> import ctypes
    >>> library = ctypes.CDLL(get_library())
    """
    names = ("lib/libfused_rmsprop.so", "lib/libfused_rmsprop.dylib", "fused_rmsprop.dll")
    return str(next(path for name in names if (path := _PREFIX / name).exists()))


def get_cmake_dir() -> str:
    """Return the folder of the CMake package, to be given to CMake as ``fused_rmsprop_DIR``."""
    return str(_PREFIX / "lib" / "cmake" / "fused_rmsprop")


def get_pkgconfig_dir() -> str:
    """Return the folder of ``fused_rmsprop.pc``, for the variable ``PKG_CONFIG_PATH``."""
    return str(_PREFIX / "lib" / "pkgconfig")
