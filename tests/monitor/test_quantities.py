"""What a monitor records equals the definitions, computed over all elements with plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, schedules
from fused_rmsprop.monitor import Monitor
from fused_rmsprop.monitor.history import PERCENTILES, QUANTITIES
from support import Array

Shapes = Mapping[str, tuple[int, ...]]
SHAPES: Shapes = {"W": (15, 16), "b": (20,), "scale": ()}
SMALL: Shapes = {**SHAPES, "W": (8, 16)}  # all elements are in the percentiles


def made(dtype: str = "float64", shapes: Shapes = SHAPES) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {k: np.asarray(rng.standard_normal(s), dtype) for k, s in shapes.items()}


def gradients(step: int, dtype: str, shapes: Shapes) -> dict[str, Array]:
    rng = np.random.default_rng(100 + step)
    grads = {k: np.asarray(rng.standard_normal(s), dtype) for k, s in shapes.items()}
    grads["W"][0] = 0
    return grads


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.float64(x) ** 2)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "nesterov": True, "centered": True},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "eps_inside_sqrt": True},
    ],
    ids=["plain", "momentum", "decay"],
)
def test_quantities_are_those_of_the_definitions(dtype: str, options: dict[str, Any]) -> None:
    params = made(dtype, SMALL)
    opt = RMSProp(params, lr=0.01, alpha=0.9, **options)
    seen: list[dict[str, Any]] = []
    with Monitor(opt, every=3) as monitor:
        for step in range(10):
            before = {k: p.copy() for k, p in params.items()}
            grads = gradients(step, dtype, SMALL)
            opt.step(grads)
            updates = {k: np.float64(params[k]) - np.float64(before[k]) for k in params}
            key = "variance" if "centered" in options else "square_avg"
            some = {k: opt.state[k][key] > 0 for k in params}  # the others never had a gradient
            rates = {k: np.float64(opt.effective_lr(k)[some[k]]) for k in params}
            seen.append({"before": before, "grads": grads, "updates": updates, "rates": rates})
    history = monitor.history
    assert history.steps.tolist() == [1, 4, 7, 10]
    for point, step in enumerate(history.steps):
        now = seen[step - 1]
        after = seen[step] if step < len(seen) else None
        for i, name in enumerate(history.names):
            u, g, p = now["updates"][name], now["grads"][name], now["before"][name]
            expected = {
                "grad_rms": rms(g),
                "update_rms": rms(u),
                "param_rms": rms(p),
                "update_ratio": rms(u) / rms(p),
                "zero_grad": np.mean(g == 0),
                "nonfinite_grad": 0.0,
                "lost_update": np.mean(u[g != 0] == 0),
                "clip_factor": np.nan,
                "reversed": np.nan,
                "cosine": np.nan,
            }
            if after is not None:
                v = after["updates"][name]
                both = (u != 0) & (v != 0)
                expected["reversed"] = np.mean((u * v < 0)[both])
                expected["cosine"] = (u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum())
            known = np.sort(now["rates"][name], axis=None)
            for percent in PERCENTILES:
                nearest = known[int(np.rint(percent / 100 * (known.size - 1)))]
                expected[f"effective_lr_p{percent}"] = nearest
            assert expected.keys() == QUANTITIES.keys()
            for quantity, value in expected.items():
                found = history[quantity][point, i]
                np.testing.assert_allclose(found, value, rtol=2e-6, err_msg=f"{name} {quantity}")


def test_those_of_all_leaves_are_weighted_by_size() -> None:
    params = made()
    opt = RMSProp(params, lr=0.01)
    # Of W only 64 of 240 elements are sampled: all are alike, so the estimate is exact.
    params["W"][...] = 2.0
    grads = {"W": np.full((15, 16), 3.0), "b": np.full(20, -4.0), "scale": np.asarray(5.0)}
    with Monitor(opt, every=1, sample=64) as monitor:
        opt.step(grads)
        opt.step({k: -g if k == "b" else g for k, g in grads.items()})
    history = monitor.history
    sizes = np.array([240, 20, 1])
    np.testing.assert_allclose(
        history.total("grad_rms")[0], np.sqrt((sizes * [9, 16, 25]).sum() / 261)
    )
    assert history["reversed"][0].tolist() == [0, 1, 0]
    np.testing.assert_allclose(history.total("reversed")[0], 20 / 261)
    np.testing.assert_allclose(history.total("zero_grad")[0], 0)


def test_a_sample_is_of_the_same_elements_in_every_order_of_memory() -> None:
    recorded = []
    for order in ("C", "F"):
        for transposed in (False, True):
            p = np.asarray(np.arange(2000.0).reshape(40, 50), order=order)
            g = np.sin(np.arange(2000.0).reshape(40, 50))
            opt = RMSProp(p, lr=0.1)
            with Monitor(opt, every=1, sample=100) as monitor:
                for _ in range(3):
                    opt.step(np.asfortranarray(g) if transposed else g)
            recorded.append(monitor.history.rows)
    for rows in recorded[1:]:
        np.testing.assert_array_equal(rows, recorded[0])
    with Monitor(opt, every=1, sample=100, seed=1) as other:
        opt.step(g)
    assert other.history["grad_rms"] != monitor.history["grad_rms"][:1]


def test_an_oscillation_of_two_steps_is_seen_at_any_distance() -> None:
    for every in (1, 2, 10):
        p = np.ones(3)
        opt = RMSProp(p, lr=0.5, alpha=0.9)
        with Monitor(opt, every=every) as monitor:
            for _ in range(40):
                opt.step(np.sign(p))
        assert monitor.history.total("reversed")[-3] == 1
        assert monitor.history.total("cosine")[-3] < -0.9


def test_the_values_of_schedules_are_those_of_the_step() -> None:
    lr = schedules.Linear(0.5, end_value=0.0, transition_steps=4)
    params = [{"params": np.ones(3), "lr": lr}, {"params": np.ones(2), "name": "head"}]
    opt = RMSProp(params, lr=0.1, momentum=lambda step: 0.1 * step)
    with Monitor(opt, every=2) as monitor:
        for _ in range(4):
            opt.step([np.ones(3), np.ones(2)])
    history = monitor.history
    assert history.groups == ("0", "head")
    assert history.option("lr").tolist() == [[0.5, 0.1], [0.25, 0.1]]
    assert history.option("momentum").tolist() == [[0.0, 0.0], [0.2, 0.2]]
    with pytest.raises(KeyError, match="no option 'rl' in the history; there are lr, alpha"):
        history.option("rl")


def test_clip_factors_are_those_of_the_step() -> None:
    g = {"W": np.full((15, 16), 1.0), "b": np.full(20, 1.0), "scale": np.asarray(1.0)}
    norms = np.sqrt([240, 20, 1])
    opt = RMSProp(made(), max_grad_norm=2.0)
    with Monitor(opt, every=1) as monitor:
        opt.step(g)
    np.testing.assert_allclose(monitor.history.total("clip_factor"), 2 / np.sqrt(261))
    opt = RMSProp(made(), max_grad_norm_per_array=2.0)
    with Monitor(opt, every=1) as monitor:
        opt.step(g)
    np.testing.assert_allclose(monitor.history["clip_factor"][0], np.minimum(1, 2 / norms))
    opt = RMSProp(made(), max_grad_norm_per_array=2.0, max_grad_norm=1.0)
    with Monitor(opt, every=1) as monitor:
        opt.step(g)
    both = np.minimum(1, 2 / norms) / 3  # the norm of what is left is sqrt(4 + 4 + 1)
    np.testing.assert_allclose(monitor.history["clip_factor"][0], both)
    opt = RMSProp(made(), max_grad_norm=1.0)
    with Monitor(opt, every=1) as monitor:
        opt.step({name: np.zeros_like(value) for name, value in g.items()})
    assert (monitor.history["clip_factor"] == 1).all()


def test_gradients_are_counted_as_the_step_scales_them() -> None:
    opt = RMSProp(np.ones(3))
    monitor = Monitor(opt, every=1)
    opt.step(np.full(3, 4.0), grad_scale=0.5)
    opt.accumulate(np.full(3, 1.0))
    opt.accumulate(np.full(3, 5.0))
    opt.step()
    opt.accumulate(np.full(3, 8.0))
    opt.step(grad_scale=0.25)
    monitor.detach()
    assert monitor.history["grad_rms"].ravel().tolist() == [2.0, 3.0, 2.0]


def test_bound_and_missing_gradients_are_told_apart() -> None:
    grads = {"W": np.full((15, 16), 2.0), "b": None, "scale": np.asarray(3.0)}
    opt = RMSProp(made(), grads=grads)
    opt.freeze("scale")
    with Monitor(opt, every=1) as monitor:
        opt.step()
        opt.step()
    h = monitor.history
    assert h["grad_rms"][0, 0] == 2.0
    assert np.isnan(h.of("b", "grad_rms")).all()
    assert (h.of("b", "update_rms") == 0).all()
    assert np.isnan(h.of("scale", "update_rms")).all()  # frozen: nothing to measure
    assert np.isnan(h.of("scale", "param_rms")).all()
    with pytest.raises(KeyError, match="no parameter 'w'; is 'W' meant"):
        h.of("w", "grad_rms")
    with pytest.raises(KeyError, match="no quantity 'grad' in a history"):
        h["grad"]


def test_what_is_not_finite_is_counted_and_left_out_of_the_size() -> None:
    g = np.array([3.0, np.nan, np.inf, 4.0])
    opt = RMSProp(np.ones(4), on_nonfinite="skip")
    with Monitor(opt, every=1) as monitor:
        opt.step(g)
    h = monitor.history
    assert h["nonfinite_grad"][0, 0] == 0.5
    assert h["grad_rms"][0, 0] == np.sqrt(12.5)
    assert h["update_rms"][0, 0] == 0
    assert h["lost_update"][0, 0] == 1.0


def test_squares_neither_overflow_nor_vanish_in_float32() -> None:
    for size in (1e-30, 1e30):
        opt = RMSProp(np.ones(4, np.float32), max_grad_norm=1.0)
        with Monitor(opt, every=1) as monitor:
            opt.step(np.full(4, size, np.float32))
        np.testing.assert_allclose(monitor.history["grad_rms"][0, 0], size, rtol=1e-6)


def test_the_rates_of_all_leaves_are_those_of_all_elements() -> None:
    """Leaves of one size, of which many are tiny, and one leaf that is only sampled."""
    rng = np.random.default_rng(5)
    for shapes in ([(10, 20)] * 8, [(1000,)] * 4, [(300, 300), *[(10,)] * 100]):
        scales = np.exp(rng.standard_normal(len(shapes)))
        params = [np.ones(shape) for shape in shapes]
        opt = RMSProp(params, lr=0.1, alpha=0.9)
        with Monitor(opt, every=1) as monitor:
            opt.step(
                [s * rng.standard_normal(p.shape) for s, p in zip(scales, params, strict=True)]
            )
        every = np.concatenate([opt.effective_lr(str(i)).ravel() for i in range(len(params))])
        found = monitor.history.effective_lr()[0, :, -1]
        # The ranks of what is found, among all elements.
        ranks = 100 * np.searchsorted(np.sort(every), found) / every.size
        np.testing.assert_allclose(ranks, PERCENTILES, atol=6)


def test_a_sample_is_like_the_whole() -> None:
    rng = np.random.default_rng(6)
    w, g = rng.standard_normal((2, 500, 400))
    g[g < 0.5] = 0
    opt = RMSProp(w, lr=0.1)
    with Monitor(opt, every=1, sample=4096) as monitor:
        opt.step(g)
    h = monitor.history
    np.testing.assert_allclose(h["grad_rms"][0, 0], rms(g), rtol=0.1)
    np.testing.assert_allclose(h["zero_grad"][0, 0], np.mean(g == 0), atol=0.05)


def test_what_happens_between_two_steps_is_no_update() -> None:
    p = np.ones(4)
    opt = RMSProp(p, lr=0.01)
    with Monitor(opt, every=10) as monitor:
        for _ in range(11):
            opt.step(np.ones(4))
            p *= 0.5  # a user's decay, the other way
    assert (monitor.history.total("cosine")[0] > 0.99).all()
    assert monitor.history.total("reversed")[0] == 0


def test_a_limited_gradient_is_clipped_by_what_is_left_of_it() -> None:
    opt = RMSProp(np.ones(4), max_grad_value=1.0, max_grad_norm_per_array=0.5)
    with Monitor(opt, every=1) as monitor:
        opt.step(np.array([10.0, -10.0, 0.1, 0.0]))
    limited = np.array([1.0, -1.0, 0.1, 0.0])
    np.testing.assert_allclose(
        monitor.history["clip_factor"][0, 0], 0.5 / np.sqrt((limited**2).sum())
    )
    opt = RMSProp([np.ones(4), np.ones(4)], max_grad_value=1.0, max_grad_norm_per_array=0.5)
    with Monitor(opt, every=1) as monitor:
        opt.step([np.array([10.0, -10.0, 0.1, 0.0]), None])
    assert np.isnan(monitor.history["clip_factor"][0]).tolist() == [False, True]


def test_a_frozen_leaf_counts_nowhere() -> None:
    opt = RMSProp({"a": np.ones(2), "b": np.ones(2)})
    opt.freeze("b")
    with Monitor(opt, every=1) as monitor:
        opt.step({"a": np.ones(2), "b": np.full(2, 1000.0)})
        with opt.leafwise() as update:
            update("b", np.ones(2))
            update("a", np.ones(2))
    assert monitor.history.total("grad_rms").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("read", [False, True])
def test_a_leaf_is_frozen_in_the_steps_in_which_it_is(read: bool) -> None:
    opt = RMSProp({"a": np.ones(2), "b": np.ones(2), "c": np.ones(2)})
    opt.freeze("b")
    monitor = Monitor(opt, every=1)
    for step in range(6):
        if step == 3:
            if read:
                assert len(monitor.history.steps)
            opt.unfreeze("b")
            opt.freeze("c")
        opt.step({"a": np.ones(2), "b": np.ones(2), "c": None})
    monitor.detach()
    nan = np.isnan(monitor.history["update_rms"])
    assert nan.tolist() == [[False, True, False]] * 3 + [[False, False, True]] * 3


def test_an_empty_leaf_is_no_problem() -> None:
    opt = RMSProp(np.ones(0))
    with Monitor(opt, every=1) as monitor:
        opt.step(np.ones(0))
    assert np.isnan(monitor.history["grad_rms"]).all()
