"""The C interface from C, ctypes, cffi, Cython and Rust: the bits of `RMSProp`."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c_api_support import LIBRARY, COptimizer, constants, declarations, library
from fused_rmsprop import RMSProp
from fused_rmsprop.options import OPTIONS
from support import ROOT, Array, draw, needs, needs_fork, needs_posix, run_python

OUTPUT = "0.971557\n"  # of loop.c and caller.rs
PAGE = (ROOT / "docs/c.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
#: The options of the formula.
FORMULA = {option.name for option in OPTIONS if option.core == "Options"}
#: Options of two groups; together they have every option.
GROUPS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"lr": 0.1, "alpha": 0.5, "eps": 1e-3}),
    ({"weight_decay": 0.1, "maximize": True}, {"centered": True, "eps_inside_sqrt": True}),
    ({"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "lr_in_momentum": True}),
    (
        {"bias_correction": True, "ema_decay": 0.9, "centered": True, "momentum": 0.8},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "bias_correction": True},
    ),
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"max_grad_norm": 3.0, "max_grad_norm_per_array": 2.0, "max_grad_value": 0.8},
    {"threads": 2, "flush_denormals": False},
]


def build(program: str, which: int, folder: Path, *needed: str) -> None:
    """Run the commands of the page that compile a program."""
    for tool in needed:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    shutil.copy(ROOT / "tests/c" / program, folder)
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (folder / "python").chmod(0o755)
    commands = [block for block in COMMANDS if program in block][which]
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-ec", commands], cwd=folder, env=os.environ | {"PATH": path}, check=True)


def c_loop(param: Array, batches: int) -> Array:
    """What the callers in other languages do: minimize ``sum(param**2) / 2``."""
    opt = RMSProp(param, lr=1e-3, alpha=0.9)
    for _ in range(batches):
        opt.step(param.copy())
    return param


def test_every_option_is_known_by_name() -> None:
    together = set().union(*(options for pair in GROUPS for options in pair))
    assert together == FORMULA
    opt = COptimizer()
    for name in FORMULA:
        opt.set_options(0, {name: 0.5 if name in ("eps", "alpha") else 0})


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(settings) or "plain")
@pytest.mark.parametrize("groups", GROUPS, ids=lambda pair: "-".join({**pair[0], **pair[1]}))
def test_the_bits_of_the_class(
    groups: tuple[dict[str, Any], dict[str, Any]], settings: dict[str, Any]
) -> None:
    dtypes: tuple[type[Any], ...] = (np.float32, np.float64)
    start = [[draw(40_000, dtype=d), draw(3, dtype=d)] for d in dtypes]
    ours = [[p.copy() for p in params] for params in start]
    opt = RMSProp(
        [{"params": p, **options} for p, options in zip(ours, groups, strict=True)], **settings
    )

    c = COptimizer(**settings)
    c.call("add_group")
    theirs = [(p, np.zeros_like(p)) for params in start for p in params]
    state = []
    for i, (param, grad) in enumerate(theirs):
        c.set_options(i // 2, groups[i // 2])
        zeros = {
            name: np.zeros_like(param) for name in ("square_avg", "momentum_buffer", "grad_avg")
        }
        state.append({**zeros, "param_avg": param.copy()})
        assert c.add(i // 2, param, grad=grad, **state[-1]) == i

    for _ in range(3):
        grads = [[draw(p.size, dtype=p.dtype.type) for p in params] for params in ours]
        for (_, grad), new in zip(theirs, [g for group in grads for g in group], strict=True):
            grad[:] = new
        opt.step(grads)
        assert c.call("step") == 0
        if opt.grad_norm is not None:
            assert c.get("grad_norm") == opt.grad_norm
    for i, (param, _) in enumerate(theirs):
        assert param.tobytes() == ours[i // 2][i % 2].tobytes()
        for name, array in opt.state[f"{i // 2}.{i % 2}"].items():
            if name != "step":
                mine = state[i]["square_avg" if name == "variance" else name]
                assert mine.tobytes() == array.tobytes(), name


def test_a_gradient_that_is_not_finite_skips_the_step() -> None:
    param, grad, square_avg = np.ones(3), np.array([1, np.nan, 1]), np.zeros(3)
    c = COptimizer(on_nonfinite=constants()["SKIP"])
    c.add(0, param, grad=grad, square_avg=square_avg)
    assert c.call("step") == constants()["SKIPPED"]
    assert c.get("nonfinite") == 0
    assert (param == 1).all()
    assert (square_avg == 0).all()


FORK_IN_MID_STEP = """
    import ctypes, os, sys, threading
    import numpy as np
    sys.path.insert(0, sys.argv[1])
    from c_api_support import COptimizer, constants, library

    c = COptimizer(threads=1)
    param, grad, square_avg = (np.ones(3_000_000, np.float32) for _ in range(3))
    c.add(0, param, grad=grad, square_avg=square_avg)
    busy, value = constants()["BUSY"], ctypes.byref(ctypes.c_double())
    forked = threading.Event()

    def train():
        while not forked.is_set():
            library.fused_rmsprop_step(c.pointer)

    training = threading.Thread(target=train)
    training.start()
    while library.fused_rmsprop_get(c.pointer, b"threads", value) != busy:
        pass
    if (child := os.fork()) == 0:
        os._exit(library.fused_rmsprop_get(c.pointer, b"threads", value) & 0xFF)
    forked.set()
    training.join()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
def test_a_fork_in_mid_step_leaves_no_claim() -> None:
    """In a process of its own: JAX and others that were imported here warn of forks."""
    run_python(FORK_IN_MID_STEP, ROOT / "tests/support")


def test_the_library_has_every_function_of_the_header_and_the_page_names_it() -> None:
    functions = re.findall(r"(fused_rmsprop_\w+)\(", declarations())
    assert len(functions) > 10
    for function in functions:
        assert hasattr(library, function)
        assert f"{function}(" in PAGE, function


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize("which", [0, 1], ids=["paths", "pkg-config"])
def test_c(which: int, tmp_path: Path) -> None:
    build("loop.c", which, tmp_path, "cc", *["pkg-config"] * which)
    assert subprocess.check_output(tmp_path / "loop", encoding="utf-8") == OUTPUT
    assert f"{c_loop(np.ones(1, np.float32), 20)[0]:.6f}\n" == OUTPUT


def test_cffi() -> None:
    cffi = needs("cffi", reason="needs cffi; pip install cffi")
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    c = ffi.dlopen(str(LIBRARY))
    param, grad, square_avg = np.ones(9, np.float32), np.zeros(9, np.float32), np.zeros(9, "f")
    opt = c.fused_rmsprop_create()
    c.fused_rmsprop_set_option(opt, 0, b"lr", 1e-3)
    c.fused_rmsprop_set_option(opt, 0, b"alpha", 0.9)
    i = c.fused_rmsprop_add_parameter(opt, 0, c.FUSED_RMSPROP_FLOAT32, param.size)
    for name, array in ((b"param", param), (b"grad", grad), (b"square_avg", square_avg)):
        assert c.fused_rmsprop_bind(opt, i, name, ffi.from_buffer(array)) == 0
    for _ in range(20):
        grad[:] = param
        assert c.fused_rmsprop_step(opt) == c.FUSED_RMSPROP_OK
    c.fused_rmsprop_destroy(opt)
    assert param.tobytes() == c_loop(np.ones(9, np.float32), 20).tobytes()


@pytest.mark.slow
@needs_posix
def test_cython(tmp_path: Path) -> None:
    needs("Cython", reason="needs Cython; pip install Cython")
    build("caller.pyx", 0, tmp_path, "cc")
    spec = importlib.util.spec_from_file_location("caller", tmp_path / "caller.so")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    caller = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(caller)
    param, grad, square_avg = np.ones(9, np.float32), np.zeros(9, np.float32), np.zeros(9, "f")
    caller.train(param, grad, square_avg, 1e-2, 20)
    opt = RMSProp(expected := np.ones(9, np.float32), lr=1e-2)
    for _ in range(20):
        opt.step(expected.copy())
    assert param.tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match="lr must be finite"):
        caller.train(param, grad, square_avg, -1, 1)


@pytest.mark.slow
@needs_posix
def test_rust(tmp_path: Path) -> None:
    build("caller.rs", 0, tmp_path, "rustc")
    assert subprocess.check_output(tmp_path / "caller", encoding="utf-8") == OUTPUT
