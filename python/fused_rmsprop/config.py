"""How the package was built, what it uses on this machine, and where its C and C++ library lies."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

from fused_rmsprop import _core


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Print or return how the package was built and what it uses on this machine.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print a summary, or return a dict with ``version``, ``compiler``, ``openmp``,
        ``instruction_sets`` (``built``, ``supported``, ``in_use``), ``threads`` (``available``
        and its limits: the counts ``openmp``, ``affinity`` and ``cgroup``, 0 for no limit, and
        ``forked``), ``torch`` (None if `fused_rmsprop.torch` is not imported; else ``version``, and
        ``slow``: why steps of many small tensors take longer with it, or "") and ``plan``
        (``forced``: the value of FUSED_RMSPROP_PLAN; ``nanoseconds``: by dtype, how long a step in
        the first cache takes per element with the processor's divider, ``division``, and without,
        ``refined``; 0 on instruction sets that always divide).

    Raises
    ------
    ValueError
        If `mode` is neither.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config = _core.config()
    if mode == "dicts":
        return {**config, "torch": _torch(), "plan": _core.plan()}
    sets, threads = config["instruction_sets"], config["threads"]
    openmp, affinity, cgroup = (threads[k] or "none" for k in ("openmp", "affinity", "cgroup"))
    default = (
        f"up to {threads['available']}, the least of OpenMP's maximum ({openmp}), "
        f"the affinity mask ({affinity}), the control group's CPU quota ({cgroup});\n"
        "                  each optimizer measures whether more than one is faster"
    )
    plan = _core.plan()
    if "threads" in plan["forced"]:
        default = "pinned by the plan, below"
    if threads["forked"]:
        default = "1: an OpenMP team would hang in a forked child process"
    print(f"fused-rmsprop     {config['version']}")
    print(f"compiler          {config['compiler']}")
    print(f"OpenMP            {config['openmp']}")
    print("instruction sets")
    print(f"  built in        {', '.join(sets['built'])}")
    print(f"  supported here  {', '.join(sets['supported'])}")
    print(f"  in use          {sets['in_use']}  (FUSED_RMSPROP_ISA=name chooses another)")
    print(f"default threads   {default}")
    print(f"plan              {_describe_plan(**plan)}")
    if (torch := _torch()) is not None:
        why = torch["slow"]
        how = f"steps of many small tensors are slow: {why}" if why else "C functions are used"
        print(f"torch             {torch['version']}; {how}")
    return None


def _torch() -> dict[str, str] | None:
    if "fused_rmsprop.torch" not in sys.modules:
        return None  # to import it takes seconds
    from fused_rmsprop.torch.private import why_slow

    return {"version": str(sys.modules["torch"].__version__), "slow": why_slow()}


def _describe_plan(forced: str, nanoseconds: Mapping[str, Any]) -> str:
    lines = [f"{forced} (FUSED_RMSPROP_PLAN)" if forced else "measured"]
    for dtype, ns in nanoseconds.items():
        if ns["refined"] > 0 and "quotient" not in forced:
            faster = "the refined quotient" if ns["refined"] < ns["division"] else "division"
            lines.append(
                f"{dtype} in cache: {ns['division']:.3f} ns per element by division, "
                f"{ns['refined']:.3f} refined: {faster}"
            )
    return f"\n{'':18}".join(lines)


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

    Windows' linkers need the import library beside the CMake package instead.

    Examples
    --------
    >>> import ctypes
    >>> library = ctypes.CDLL(get_library())
    """
    names = (
        *("lib/libfused_rmsprop.so", "lib/libfused_rmsprop.dylib"),
        *("fused_rmsprop.dll", "libfused_rmsprop.dll"),  # by clang-cl, by MinGW
    )
    return str(next(path for name in names if (path := _PREFIX / name).exists()))


def get_cmake_dir() -> str:
    """Return the folder of the CMake package, to be given to CMake as ``fused_rmsprop_DIR``."""
    return str(_PREFIX / "lib" / "cmake" / "fused_rmsprop")


def get_pkgconfig_dir() -> str:
    """Return the folder of ``fused_rmsprop.pc``, for the variable ``PKG_CONFIG_PATH``."""
    return str(_PREFIX / "lib" / "pkgconfig")
