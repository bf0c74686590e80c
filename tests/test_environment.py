"""What a step may not do to the process around it, and what the process may do to a step."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fused_rmsprop import RMSProp, _core, show_config
from reference import flushed_denormals, fp_environment, same_bits
from support import needs_fork, needs_proc, run_python, team


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("flush", [True, False])
def test_the_floating_point_environment_is_as_before(threads: int, flush: bool) -> None:
    p, g = np.ones(200_000, np.float32), np.full(200_000, 1e-30, np.float32)
    g[7] = np.inf
    opt = RMSProp(p, threads=threads, flush_denormals=flush)
    before = fp_environment()
    opt.step(g)
    assert fp_environment() == before
    with flushed_denormals():
        changed = fp_environment()
        opt.step(g)
        after = fp_environment()
    assert after == changed != before
    assert fp_environment() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_the_result_does_not_depend_on_the_callers_environment(threads: int) -> None:
    g = np.full(200_000, 3e-39, np.float32)  # subnormal
    a, b = np.zeros(200_000, np.float32), np.zeros(200_000, np.float32)
    RMSProp(a, flush_denormals=False, threads=threads).step(g)
    opt = RMSProp(b, flush_denormals=False, threads=threads)
    with flushed_denormals():
        opt.step(g)
    assert a.all()
    assert same_bits(a, b)


@needs_proc
def test_the_process_environment_is_as_before() -> None:
    run_python(
        "import os, numpy as np; before = dict(os.environ)\n"
        "def c(): return open('/proc/self/environ').read()\n"
        "start = c(); import fused_rmsprop as f\n"
        "f.RMSProp(np.ones(10**6), threads=2).step(np.ones(10**6))\n"
        "import ctypes; getenv = ctypes.CDLL(None).getenv; getenv.restype = ctypes.c_char_p\n"
        "assert dict(os.environ) == before and c() == start\n"
        "assert getenv(b'OMP_WAIT_POLICY') is None and getenv(b'GOMP_SPINCOUNT') is None"
    )


@pytest.mark.slow
@needs_proc
def test_a_step_allocates_nothing() -> None:
    params = {"a": [np.ones(50, np.float32) for _ in range(20)], "b": np.ones((300, 300))}
    grads = {"a": [np.ones(50, np.float32) for _ in range(20)], "b": np.ones((300, 300)).T}
    opts = [
        RMSProp(params, momentum=0.9, threads=2),
        RMSProp({"p": np.ones(1000)}, grads={"p": np.ones(1000)}, centered=True),
    ]
    steps: list[Callable[[], None]] = [lambda: opts[0].step(grads), lambda: opts[1].step()]
    for step in steps:
        for _ in range(100):
            step()
        gc.collect()
        tracemalloc.start()
        try:
            step()
            start = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in range(1000):
                step()
            end, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Python's own caches may grow once by a few objects; a step would show a thousand times.
        assert end - start < 1000
        assert peak - start < 4000
        before_10_000 = resident_bytes()
        for _ in range(10_000):
            step()
        assert resident_bytes() - before_10_000 <= 256 * 1024


def test_gradients_are_not_kept_alive() -> None:
    opt, g = RMSProp(np.ones(3)), np.ones(3)
    opt.step(g)
    references = sys.getrefcount(g)
    opt.step(g)
    with pytest.raises(ValueError, match="shape"):
        opt.step(g[:2])
    assert sys.getrefcount(g) == references


def test_instruction_set_by_environment_variable() -> None:
    show = "import fused_rmsprop as f; print(f.show_config('dicts')['instruction_sets']['in_use'])"
    sets = _core.config()["instruction_sets"]
    for name in sets["supported"]:
        assert run_python(show, FUSED_RMSPROP_ISA=name).stdout.strip() == name
    assert run_python(show, FUSED_RMSPROP_ISA="").stdout.strip() == sets["supported"][-1]
    done = run_python(show, check=False, FUSED_RMSPROP_ISA="mmx")
    assert done.returncode != 0
    valid = ", ".join(sets["supported"])
    assert (
        "ImportError: FUSED_RMSPROP_ISA: 'mmx' is not an instruction set of this build; "
        f"valid here: {valid}"
    ) in done.stderr
    with pytest.raises(ValueError, match=f"valid here: {valid}"):
        _core.set_instruction_set("AVX2")


def test_plan_by_environment_variable() -> None:
    show = (
        "import numpy as np, fused_rmsprop as f; o = f.RMSProp(np.ones(10**6, np.float32))\n"
        "for i in range(9): o.step(np.ones(10**6, np.float32))\n"
        "print(o.threads_used, f.show_config('dicts')['plan']['forced'])"
    )
    for threads, rest in ((1, ",quotient=refined,prefetch=on"), (2, ",quotient=division")):
        plan = f"threads={threads}{rest}"
        shown = run_python(show, FUSED_RMSPROP_PLAN=plan).stdout
        assert shown == f"{team(threads)} {plan}\n"
    done = run_python(show, check=False, FUSED_RMSPROP_PLAN="prefetch=yes")
    assert done.returncode != 0
    assert (
        "ImportError: FUSED_RMSPROP_PLAN: 'prefetch=yes' has a part 'prefetch=yes'; valid, each "
        "once: threads=1 to 1024, quotient=refined or division, prefetch=on or off, with commas "
        "between"
    ) in done.stderr
    with pytest.raises(ValueError, match="valid, each once: threads=1 to 1024"):
        _core.force_plan("threads=0")


@needs_fork
def test_a_forked_child_does_not_hang() -> None:
    run_python(
        "import os, sys, numpy as np, fused_rmsprop as f\n"
        "def step(**k):\n"
        "    p = np.ones(10**6); o = f.RMSProp(p, **k); o.step(np.ones(10**6)); return p, o\n"
        "expected, o = step(threads=2); "
        f"assert o.threads_used == {team(2)}\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    for threads in (2, None):\n"
        "        p, o = step(threads=threads)\n"
        "        assert (p == expected).all() and o.threads_used == 1\n"
        "    assert f.show_config('dicts')['threads']['available'] == 1\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )


@needs_fork
@pytest.mark.parametrize("threads", [2, None])
def test_a_child_that_imports_after_the_fork_does_not_hang(threads: int | None) -> None:
    # The parent may have run a team of another library's, with the OpenMP runtime that we use.
    run_python(
        "import os, sys\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    import numpy as np, fused_rmsprop as f\n"
        f"    o = f.RMSProp(np.ones(10**6), threads={threads}); o.step(np.ones(10**6))\n"
        "    assert o.threads_used == 1 and f.show_config('dicts')['threads']['forked']\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )


def test_default_threads_respect_what_the_user_set() -> None:
    show = "import fused_rmsprop as f; print(f.show_config('dicts')['threads'])"
    assert "'available': 1" in run_python(show, OMP_NUM_THREADS="1").stdout
    if hasattr(os, "sched_setaffinity"):
        pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + show
        assert "'available': 1" in run_python(pinned).stdout
    threads = show_config("dicts")["threads"]
    bounds = [threads[k] for k in ("openmp", "affinity", "cgroup") if threads[k] > 0]
    assert threads["available"] == min(bounds)


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this Python has no GIL"
)
def test_the_gil_is_released() -> None:
    p, g = np.ones(20_000_000, np.float32), np.ones(20_000_000, np.float32)
    opt = RMSProp(p, threads=1)
    opt.step(g)
    counted, done = 0, threading.Event()

    def step() -> None:
        for _ in range(5):
            opt.step(g)
        done.set()

    switch = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody is made to give up the GIL: who gets it was let in
    try:
        worker = threading.Thread(target=step)
        worker.start()
        while not done.wait(0.001):
            counted += 1
        worker.join()
    finally:
        sys.setswitchinterval(switch)
    assert counted >= 5


def test_optimizers_in_different_threads() -> None:
    rng = np.random.default_rng(2)
    grads = [rng.standard_normal(100_000).astype(np.float32) for _ in range(5)]
    params = [np.ones(100_000, np.float32) for _ in range(4)]
    opts = [RMSProp(p, threads=2) for p in params]

    def train(opt: RMSProp) -> None:
        for g in grads * 4:
            opt.step(g)

    workers = [threading.Thread(target=train, args=(opt,)) for opt in opts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(same_bits(p, params[0]) for p in params)


def test_one_optimizer_in_two_threads_is_refused() -> None:
    p, g = np.ones(30_000_000, np.float32), np.ones(30_000_000, np.float32)
    opt = RMSProp(p, threads=1)
    opt.step(g)
    errors = []

    def step() -> None:
        for _ in range(5):
            try:
                opt.step(g)
            except RuntimeError as error:
                errors.append(str(error))

    workers = [threading.Thread(target=step) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors
    assert all("in the middle of a step" in error for error in errors)
    assert int(opt.state["param"]["step"]) == 11 - len(errors)


@pytest.mark.parametrize(
    "change",
    [
        lambda opt: opt.param_groups[0].update(momentum=0.9),
        lambda opt: opt.param_groups[0].update(centered=True),
        lambda opt: setattr(opt, "lr", 0.5),
        lambda opt: setattr(opt, "flush_denormals", False),
        lambda opt: opt.add_param_group({"params": np.ones(3)}),
        lambda opt: opt.bind_grads(None),
        lambda opt: opt.state_dict(),
        lambda opt: opt.load_state_dict(RMSProp(np.ones(4), lr=0.7).state_dict()),
    ],
)
def test_changes_during_a_step_are_refused(change: Callable[[RMSProp], None]) -> None:
    opt = RMSProp(np.ones(4))
    before, groups = repr(opt), len(opt.param_groups)
    refused = pytest.raises(RuntimeError, match="in the middle of .* in another thread")
    with ThreadPoolExecutor(1) as other:
        claim = other.submit(opt._stepper.claim).result()  # as a step there does
        with claim, refused:
            change(opt)
    assert (repr(opt), len(opt.param_groups)) == (before, groups)
    opt.step(np.ones(4))
    change(opt)


@pytest.mark.slow
@needs_fork
def test_a_child_forked_during_a_step_can_go_on() -> None:
    run_python(
        "import os, sys, threading, time, numpy as np, fused_rmsprop as f\n"
        "n = 60_000_000; p = np.zeros(n, np.float32)\n"
        "o = f.RMSProp(p, lr=1.0, threads=1); g = np.ones(n, np.float32)\n"
        "t = threading.Thread(target=o.step, args=(g,)); t.start(); time.sleep(0.01)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    q = p.copy(); o.step(np.full(n, -1, np.float32))\n"
        "    assert (p > q).all(); os._exit(0)\n"
        "t.join()\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )


def test_the_missing_module_is_explained(tmp_path: Path) -> None:
    package = Path(sys.modules["fused_rmsprop"].__file__ or "").parent
    shutil.copytree(package, tmp_path / "fused_rmsprop", ignore=shutil.ignore_patterns("_core.*"))
    done = run_python("import fused_rmsprop", check=False, PYTHONPATH=str(tmp_path))
    assert "the compiled module fused_rmsprop._core is missing" in done.stderr


LIMITED = """
    import os
    import resource
    import sys

    import numpy as np

    from fused_rmsprop import RMSProp

    p, q = np.ones(200_000, np.float32), np.ones(200_000, np.float32)
    g = np.arange(200_000, dtype=np.float32)
    serial, team = RMSProp(p, threads=1), RMSProp(q, threads=4)
    if sys.argv[1] == "memory":
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * os.sysconf("SC_PAGESIZE") + 12 * 2**20  # one more stack
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        if os.geteuid() == 0:  # root does not obey
            os.setuid(54321)
    for _ in range(3):
        serial.step(g)
        team.step(g)
    assert team.threads_used == 1, team.threads_used
    assert (p == q).all()
    print("stepped")
"""


@needs_proc
@pytest.mark.parametrize("limit", ["memory", "processes"])
def test_threads_that_cannot_be_started_are_done_without(limit: str) -> None:
    """OpenMP would end the process from inside the step."""
    assert run_python(LIMITED, limit).stdout == "stepped\n"
