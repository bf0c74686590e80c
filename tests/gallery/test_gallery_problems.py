"""The gallery's scripts on problems of training: each draws one figure, and its text is true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import PRESETS
from gallery_support import Run
from support import needs

needs("sklearn", reason="most of the data are scikit-learn's")
needs("tqdm", reason="the demo, whose network is used, needs it")

Arrays = dict[Any, Any]

pytestmark = pytest.mark.slow


def check_gradients(loss: Callable[[Arrays], float], params: Arrays, grads: Arrays) -> None:
    """Compare gradients with central differences along one direction for each array."""
    rng = np.random.default_rng(5)
    for name, value in params.items():
        direction = rng.standard_normal(value.shape)
        ends = [loss(params | {name: value + step * direction}) for step in (1e-5, -1e-5)]
        slope = np.sum(grads[name] * direction)
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-5)


def test_lower_rates_longer_averages_momentum_and_schedules_cure_oscillation(run: Run) -> None:
    names = run("oscillation")
    high, (lower, longer, momentum, schedule) = names["high_loss"], names["final_losses"]
    assert names["high_reversed"][-100:].min() == 1
    assert np.ptp(high[-100:]) < 0.1 * high[-1], "it stays where it is"
    assert 50 < high[-1] / lower < 200
    assert longer < lower / 2
    assert momentum < lower / 1.5
    assert schedule < min(lower, longer, momentum)
    by_lower, by_longer, by_momentum, _ = names["reversed_shares"]
    assert by_lower > 0.99
    assert by_longer < 0.01
    assert by_momentum > 0.5
    longer_losses = names["cures"]["longer average\nalpha=0.999"][0]
    assert longer_losses[:10].max() > 10 * high[:10].max(), "its first steps are very long"
    fastest = names["cures"]["schedule\nlr=Cosine(0.1)"][0]
    np.testing.assert_allclose(fastest[:10], high[:10], rtol=0.1)


def test_rmsprop_updates_all_layers_alike(run: Run) -> None:
    names = run("vanishing_gradients")
    for case, span in ("vanishing", 1000), ("exploding", 4):
        sgd, rmsprop = (names["updates"][case, name] for name in ("SGD", "RMSProp"))
        assert sgd.max() / sgd.min() > span
        assert rmsprop.max() / rmsprop.min() < 1.5
        np.testing.assert_allclose(rmsprop, 0.001, rtol=0.3)
    vanishing, exploding = (names["updates"][case, "SGD"] for case in ("vanishing", "exploding"))
    assert vanishing.argmin() < 3
    assert exploding.argmax() == 0
    losses = names["losses"]
    guess = np.log(10)
    for case in "vanishing", "exploding":
        assert losses[case, "SGD"] == pytest.approx(guess, abs=0.05)
    assert losses["vanishing", "RMSProp"] == pytest.approx(1.2, abs=0.15)
    assert losses["exploding", "RMSProp"] == pytest.approx(2.0, abs=0.1)

    rng = np.random.default_rng(2)
    weights = {i: rng.normal(0, n**-0.5, (n, m)) for i, (n, m) in enumerate(names["LAYERS"])}
    biases = [rng.normal(0, 0.5, m) for _, m in names["LAYERS"]]
    x, y = names["images"][:50], names["labels"][:50]

    def loss_and_grads(weights: Arrays) -> Any:
        return names["loss_and_grads"](list(weights.values()), biases, x, y)

    grads = dict(enumerate(loss_and_grads(weights)[1][0]))
    check_gradients(lambda w: float(loss_and_grads(w)[0]), weights, grads)


def test_rmsprop_learns_to_carry_the_gradient_back_in_time(run: Run) -> None:
    names = run("rnn_gradients")
    first = names["sizes"][0]
    assert first[0] == 0
    assert first[-1] / first[1] > 1e6
    assert names["spans"]["SGD"] > 2 * names["spans"]["RMSProp"]
    assert names["spans"]["RMSProp"] < 60
    assert 0.13 < names["final_losses"]["SGD"] < 0.18
    assert names["final_losses"]["RMSProp"] < 0.1

    rng, units, batch = np.random.default_rng(2), names["UNITS"], names["make_batch"]
    x, y = batch(rng)
    assert (x[..., 1].sum(axis=0) == 2).all()
    np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(axis=0)[:, None], y)
    shapes = {"U": (2, units), "W": (units, units), "V": (units, 1)}
    p = {name: rng.normal(0, 0.2, shape) for name, shape in shapes.items()}
    grads, terms = names["loss_and_grads"](p, x, y)[1:]
    np.testing.assert_allclose(grads["W"], np.sum(terms, axis=0))
    check_gradients(lambda q: names["loss_and_grads"](q, x, y)[0], p, grads)

    for _ in range(30):  # three times the rate
        loss, grads, _ = names["loss_and_grads"](p, *batch(rng))
        p = {name: value - 0.3 * grads[name] for name, value in p.items()}
    assert loss > 100


def test_sgd_does_not_learn_rare_words(run: Run) -> None:
    names = run("sparse_data")
    slopes, losses = names["slopes"], names["losses"]
    for name in "AdaGrad", "RMSProp":
        assert slopes[name][0] > 10 * slopes["SGD"][0] > 0
        assert slopes[name][-1] < 2 * slopes["SGD"][-1]
        assert losses[name] < losses["SGD"] - 0.05
    np.testing.assert_allclose(slopes["RMSProp"], slopes["AdaGrad"], rtol=0.3)


def test_the_learning_rates_for_sparse_data_are_near_the_best(run: Run) -> None:
    names = run("sparse_data")
    for optimizer, lr in ("SGD", 0.02), ("AdaGrad", 0.05), ("RMSProp", 0.005):
        for factor in (0.5, 2):
            loss = names["learn"](names[optimizer](factor * lr))[1]
            assert loss > names["losses"][optimizer], (optimizer, factor)


def test_adagrad_lags_behind_a_moving_target(run: Run) -> None:
    names = run("moving_target")
    adagrad, rmsprop = names["errors"]["AdaGrad"], names["errors"]["RMSProp"]
    assert rmsprop[0] < adagrad[0] < 2 * rmsprop[0]
    assert (np.diff(adagrad) > 0).all()
    assert adagrad[-1] > 10 * rmsprop[-1]
    np.testing.assert_allclose(rmsprop[1:], rmsprop[1], rtol=0.2)
    lengths = {name: steps[-20:].mean() for name, steps in names["step_lengths"].items()}
    assert 0.07 < lengths["AdaGrad"] / lengths["RMSProp"] < 0.15
    # A higher lr would only postpone this.
    distances = np.linalg.norm(names["follow"](names["AdaGrad"](0.2)) - names["target"], axis=1)
    by_turn = distances.reshape(5, -1).mean(axis=1)
    assert (np.diff(by_turn[1:]) > 0).all()
    assert by_turn[-1] < adagrad[-1] / 2


def test_the_learning_rate_matters_more_than_the_average(run: Run) -> None:
    names = run("constants")
    assert (names["tenfold_ratios"] > 1.4).all()
    assert names["alpha_ratio"] < 1.1
    assert 0.5 < names["random_wins"] < 0.75
    adam = names["losses"]["Adam"]
    best = np.median(adam, axis=0).argmin()
    assert adam[10:, best].max() / adam[:, best].min() < 1.5
    assert (adam[10:, [best - 8, best + 8]] > 1.2 * adam[:, best].min()).all()


def test_presets_part_where_the_text_says(run: Run) -> None:
    names = run("field")
    updates, losses = ({preset: pair[i] for preset, pair in names["runs"].items()} for i in (0, 1))
    assert set(updates) == set(PRESETS)
    np.testing.assert_array_equal(updates["timm"], updates["tensorflow1"])
    np.testing.assert_allclose(losses["optax"], losses["keras"], rtol=0, atol=0.05)
    assert 5 < updates["torch"][0] < 10.1
    assert 2 < updates["keras"][0] < 3.2
    for preset in "tensorflow1", "timm", "stable_baselines3":
        assert updates[preset][0] < 0.03
    assert updates["tensorflow1"][100:120].mean() > 0.5 > updates["tensorflow1"][:30].max()
    late = updates["stable_baselines3"]
    assert late[-20:].mean() > 0.3 > late[:500].max()
    slowest = {preset: loss[-20:].mean() for preset, loss in losses.items()}
    assert sorted(slowest, key=slowest.__getitem__)[-3:] == ["stable_baselines3", "dqn", "a3c"]

    # Gradient descent with a rate of lr / sqrt(eps).
    ratio = updates["dqn"][:5] / updates["a3c"][:5]
    np.testing.assert_allclose(ratio, np.sqrt(10), rtol=0.1)
