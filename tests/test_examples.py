"""The programs in examples/ run, and learn what they should."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, needs, needs_torch

EXAMPLES = ROOT / "examples"


def score(example: str, **settings: int) -> float:
    """What an example's ``main`` returns."""
    result = runpy.run_path(str(EXAMPLES / example))["main"](**settings)
    assert isinstance(result, float)
    return result


def test_digits_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    needs("sklearn", reason="the digits are scikit-learn's")
    assert score("digits_by_hand.py", epochs=5) > 0.9
    assert "after 5 epochs: loss 0." in capsys.readouterr().out


def test_autograd_mlp(capsys: pytest.CaptureFixture[str]) -> None:
    needs("sklearn", reason="the digits are scikit-learn's")
    needs("autograd", reason="the gradients are autograd's; pip install autograd")
    assert score("autograd_mlp.py", epochs=4) > 0.9
    assert "after 4 epochs: loss 0." in capsys.readouterr().out


def test_reinforce_cartpole(capsys: pytest.CaptureFixture[str]) -> None:
    assert score("reinforce_cartpole.py", updates=0) < 40
    assert score("reinforce_cartpole.py", updates=25) > 120
    assert "after  25 updates the pole stays up" in capsys.readouterr().out


def test_jax_loop(capsys: pytest.CaptureFixture[str]) -> None:
    needs("jax", reason="the gradients are JAX's; pip install jax")
    assert score("jax_loop.py", steps=500) > 0.8
    assert "after 500 steps: loss 0." in capsys.readouterr().out


def test_numba_loop(capsys: pytest.CaptureFixture[str]) -> None:
    needs("numba", reason="the loop is compiled by Numba; pip install numba")
    assert score("numba_loop.py") < 1e-3
    assert "the step by Numba gives the same bits" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_torchrun_digits(processes: int, tmp_path: Path) -> None:
    needs("sklearn", reason="the digits are scikit-learn's")
    needs_torch()
    command = [sys.executable, str(EXAMPLES / "torchrun_digits.py")]
    if processes > 1:
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command[1:1] = run
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    expected = rf"{processes} process.*: loss 0\.\d+, accuracy .* 9\d\.\d%\n"
    assert re.fullmatch(expected, done.stdout), done.stdout


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"python examples/(\w+\.py)", page))
    assert named == {path.name for path in EXAMPLES.glob("*.py")}
    for target in re.findall(r"\]\(([^)#]+)", page):
        assert target.startswith("http") or (EXAMPLES / target).exists(), target
