"""The scripts of the gallery draw one picture each, and their texts tell the truth."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gallery_support import GALLERY, Run
from support import needs

pytestmark = pytest.mark.slow


def test_scripts_are_short_and_open_with_a_title() -> None:
    scripts = [path for path in GALLERY.glob("*.py") if path.name != "optimizers.py"]
    assert len(scripts) >= 6
    for path in scripts:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 80, path.name
        assert lines[0].lstrip("r") == '"""', path.name
        assert lines[2] == "=" * len(lines[1]), path.name
        assert lines[-1] == "plt.show()", path.name
        text = ast.get_docstring(ast.parse("\n".join(lines))) or ""
        imports = any(line.startswith("from optimizers") for line in lines)
        assert ("|optimizers.py|" in text) == imports, path.name


def test_from_scratch(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("from_scratch")
    assert names["identical"]
    assert names["params"].tobytes() == names["p"].tobytes()
    assert names["fused_losses"][-1] < 0.01 * names["fused_losses"][0]
    assert capsys.readouterr().out == "identical bits: True\n"


def test_observation_window(run: Run) -> None:
    names = run("observation_window")
    shares = {alpha: f"{share:.0%}" for alpha, share in names["share_in_window"].items()}
    assert shares == {0.7: "70%", 0.9: "65%", 0.99: "63%"}
    divisors, size = names["divisors"], names["size"]
    assert np.std(np.log(divisors[0.7][300:])) > 1.5 * np.std(np.log(divisors[0.9][300:]))
    assert divisors[0.9][110] > 0.7 * size[110], "one window after the rise"
    assert divisors[0.99][110] < 0.6 * size[110]
    assert divisors[0.9][300] < 2 * size[300]
    assert divisors[0.99][300] > 3 * size[300], "one window after the fall"
    assert (np.diff(divisors["AdaGrad"]) >= 0).all()
    assert divisors["AdaGrad"][-1] > 5 * size.max()


def test_trajectories(run: Run) -> None:
    names = run("trajectories")
    paths, final = names["paths"], names["final"]
    # The figures that the chapter of Dive into Deep Learning prints.
    np.testing.assert_allclose(paths["RMSProp"][-1], [-0.010599, 0.0], rtol=0, atol=5e-7)
    ours = [value for name, value in final.items() if "RMSProp" in name]
    others = [value for name, value in final.items() if "RMSProp" not in name]
    assert len(ours) == 4
    assert 10 * max(ours) < min(others)
    assert (paths["SGD"][1:, 1] * paths["SGD"][:-1, 1] < 0).all(), "it jumps across the valley"
    lengths = np.linalg.norm(np.diff(paths["AdaGrad"], axis=0), axis=1)
    assert (np.diff(lengths) < 0).all(), "its steps shrink"
    first = {name: np.diff(path[:2], axis=0).ravel() for name, path in paths.items()}
    for name in ("AdaGrad", "RMSProp"):
        assert first[name][0] == pytest.approx(first[name][1], rel=1e-3), "both directions alike"
    assert np.linalg.norm(paths["Adadelta"][-1] - paths["Adadelta"][0]) < 0.2
    assert paths["Adam"][:, 0].max() > 0.5, "it overshoots"

    opt, x = names["RMSProp"](**names["options"]), paths["RMSProp"][0]
    for _ in range(200):
        before, x = x, opt.step(x, np.array([0.2, 4.0]) * x)
    np.testing.assert_allclose(np.abs(x - before), names["lr"], rtol=0.02)


def test_trajectories_animated(run: Run, tmp_path: Path) -> None:
    names = run("trajectories_animated")
    image = needs("PIL.Image", reason="pillow writes the animation")
    file = tmp_path / "animation.gif"
    names["animation"].save(file, writer="pillow")
    assert 50_000 < file.stat().st_size < 1_000_000
    with image.open(file) as animation:
        assert animation.n_frames >= names["steps"]
    command = [
        sys.executable,
        "-W",
        "error::UserWarning",
        str(GALLERY / "trajectories_animated.py"),
    ]
    env = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    distance = {name: np.linalg.norm(path[-1]) for name, path in names["paths"].items()}
    assert min(distance, key=distance.__getitem__) == "RMSProp"
    assert distance["RMSProp"] < 0.1 < 0.5 < distance["SGD"]


def test_trajectories_hard(run: Run) -> None:
    names = run("trajectories_hard")
    reached = {name: np.isfinite(steps).sum() for name, steps in names["needed"].items()}
    assert reached["SGD"] == 0
    assert reached["Momentum"] <= 1
    assert min(reached["Adam"], reached["RMSProp, momentum"]) >= 3
    fewest = {name: np.nanmin(names["needed"][name]) for name in ("Adam", "RMSProp, momentum")}
    assert 1.5 * fewest["RMSProp, momentum"] < fewest["Adam"]

    walk, rmsprop, valley = names["walk"], names["RMSProp"], names["landscapes"]["Rosenbrock"][:3]
    rates = [lr for lr in names["rates"] if lr <= 0.1]
    assert np.isnan([walk(rmsprop(lr), *valley)[1] for lr in rates]).all()
    # An SGD of rate 1 steps by the gradient.
    sgd, starts = names["SGD"], names["landscapes"].values()
    paths = [walk(sgd(1.0), *place[:3], steps=1)[0] for place in starts]
    steep, beale, saddle = (np.linalg.norm(path[1] - path[0]) for path in paths)
    assert min(steep, beale) > 50 * saddle


def test_schedule(run: Run) -> None:
    needs("sklearn", reason="the digits are scikit-learn's")
    names = run("schedule")
    final, runs = names["final"], names["runs"]
    constant = [value for name, value in final.items() if "constant" in name]
    falling = [value for name, value in final.items() if "constant" not in name]
    assert len(falling) == 3
    assert 1.1 * max(falling) < min(constant)
    for name, run_of_seeds in runs.items():
        assert final[name] == pytest.approx(run_of_seeds[:, -5:].mean())
    assert min(falling) == final["cosine"]
    fast, slow = (runs[f"constant, {lr}"][:, 2].mean() for lr in (0.02, 0.002))
    assert fast < slow / 1.5, "a large rate is fast at first"
    far, near = (runs[f"constant, {lr}"][:, -5:] for lr in (0.02, 0.002))
    assert np.std(far, axis=1).mean() > 2 * np.std(near, axis=1).mean(), "and keeps jumping"
