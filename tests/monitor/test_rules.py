"""Each rule, on histories that lie on both sides of its threshold."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fused_rmsprop.monitor.history import History, Leaf, Series
from fused_rmsprop.monitor.report import Report
from fused_rmsprop.monitor.rules import (
    AT_ONCE,
    MOST,
    RULES,
    SILENCES,
    course,
    explosions,
    gradients,
    report,
    updates,
)
from fused_rmsprop.monitor.rules.words import change, number, percent, rounded, where
from history_support import changed, healthy, ramp, with_constants, with_loss, with_option
from support import ROOT

H = healthy()
POINTS = len(H.steps)
LEAVES = len(H.leaves)
WEIGHTS = (0, 2, 4)
NO_LOSS = with_loss(H, None)


def rules(history: History) -> list[str]:
    return [finding.rule for finding in report(history)]


def only(history: History) -> str:
    """The text of the only finding."""
    (finding,) = report(history)
    return str(finding)


def test_a_healthy_history_has_no_findings() -> None:
    assert report(H) == Report()
    assert str(report(H)) == "nothing unusual was seen"
    assert report(NO_LOSS) == Report()


def falling_lr() -> History:
    return with_option(H, "lr", np.linspace(1e-3, 0, POINTS))


def level(quantity: str, *leaves: int) -> Callable[[float], History]:
    return lambda value: changed(NO_LOSS, quantity, value, *leaves)


def late(quantity: str, *leaves: int, first: float = 0.0) -> Callable[[float], History]:
    """A value from the tenth point on."""
    return lambda value: changed(NO_LOSS, quantity, ramp(H, first, value, 10), *leaves)


def large_update(size: float) -> History:
    long = changed(NO_LOSS, "update_rms", size * 0.1)
    return with_option(long, "lr", 1.0)


def one_large_update(size: float) -> History:
    """Of the head; the others move by a thousandth."""
    small = changed(with_option(NO_LOSS, "lr", 1.0), "update_rms", 1e-4)
    return changed(small, "update_rms", size * 0.1, 4)


def grown_weights(size: float) -> History:
    """Weights that began at zero."""
    grown = changed(NO_LOSS, "param_rms", ramp(H, 0.0, 0.1))
    return changed(grown, "update_ratio", np.where(H.steps > 1, size, np.inf))


def first_steps(factor: float) -> History:
    """Long by a factor, and a harmful share of the weights."""
    long = with_option(changed(JUMPS, "update_rms", ramp(H, factor * 3e-3, 3e-3)), "alpha", 0.99)
    return with_option(long, "lr", 3e-3)


def first_jump(share: float) -> History:
    long = with_option(changed(JUMPS, "update_rms", ramp(H, share * 0.1, 1e-3)), "alpha", 0.99)
    return with_option(long, "lr", 1e-3)


def jumping_loss(height: float) -> History:
    """A loss that is higher in the next two steps, after a long first one."""
    losses = np.where(np.arange(400) < 1, 2.3, 0.1)
    losses[1:3] = 2.3 * height
    return with_loss(first_steps(10), losses)


JUMPS = with_loss(H, np.select([np.arange(400) < 1, np.arange(400) < 3], [2.3, 9.0], 0.1))


def eps_above_root(ratio: float) -> History:
    """Of eps to the root; the effective learning rate is lr / (root + eps)."""
    eps = 1e-3 * ratio
    return with_constants(changed(NO_LOSS, "effective_lr_p50", 1e-3 / (1e-3 + eps)), eps=[eps])


def skipping(share: float) -> History:
    bad = np.arange(200) < round(share * 200)
    many = with_loss(healthy(200), None)
    return with_constants(changed(many, "nonfinite_grad", 0.01 * bad), on_nonfinite="skip")


def clipped(share: float) -> History:
    clips = np.where(np.arange(POINTS) < round(share * POINTS), 0.01, 1.0)
    return with_constants(changed(NO_LOSS, "clip_factor", clips), max_grad_norm=1.0)


def clipped_to(factor: float) -> History:
    return with_constants(changed(NO_LOSS, "clip_factor", factor), max_grad_norm=1.0)


def lasting_loss(share: float) -> History:
    """A loss that stands still from the third of the training on."""
    steps = H.logged["loss"].steps
    return with_loss(H, np.where(steps < 120, 1.0, share))


def rising(rise: float) -> History:
    """A loss that rises in its last quarter."""
    steps = H.logged["loss"].steps
    losses = np.where(steps < 20, 9.0, 1.0)
    return with_loss(falling_lr(), np.where(steps <= 300, losses, 1.0 + rise))


def grown_zeros(growth: float) -> History:
    return changed(NO_LOSS, "zero_grad", ramp(H, 0.4, 0.4 + growth), 2)


def reached_zeros(share: float) -> History:
    return changed(NO_LOSS, "zero_grad", ramp(H, 0.0, share), 2)


def oscillating_leaf(cosine: float) -> History:
    return changed(changed(NO_LOSS, "reversed", 0.8, 2), "cosine", cosine, 2)


def oscillating(cosine: float) -> History:
    return changed(changed(NO_LOSS, "reversed", 0.8, -1), "cosine", cosine, -1)


def reversing(share: float) -> History:
    return changed(changed(NO_LOSS, "reversed", share, -1), "cosine", -0.6, -1)


def oscillating_while_the_loss_stalls(cosine: float) -> History:
    lr_falls = replace(lasting_loss(0.9), option_values=falling_lr().option_values)
    return changed(lr_falls, "cosine", cosine, -1)


def exploded(growth: float) -> History:
    """The gradient of the first weight beside the last one's, from the beginning."""
    return changed(changed(NO_LOSS, "grad_rms", 1.0, 4), "grad_rms", growth, 0)


def enormous(size: float) -> History:
    return changed(NO_LOSS, "grad_rms", size)


def large(size: float) -> History:
    """The first gradient, with tiny ones in the last layer."""
    return changed(changed(NO_LOSS, "grad_rms", 1e-2), "grad_rms", size, 0)


def slow(remaining: float) -> History:
    """A loss that falls steadily, by updates that agree."""
    falls = 1 - np.arange(400) / 400 * (1 - remaining) * 8 / 7  # the last quarter is seen
    return changed(with_loss(H, falls), "cosine", 0.9)


def risen(rise: float) -> History:
    """A loss that ends above the first."""
    return with_loss(falling_lr(), np.where(np.arange(400) < 1, 1.0, 1.0 + rise))


def saturated(remaining: float) -> History:
    """All gradients vanish and some of the loss remains."""
    steps = H.logged["loss"].steps
    vanished = changed(falling_lr(), "grad_rms", ramp(H, 1e-2, 1e-8, 10))
    return with_loss(vanished, np.where(steps < 150, 1.0, remaining))


# The rule, its threshold, a history with a value, and whether it finds larger or smaller values.
THRESHOLDS: list[tuple[str, float, Callable[[float], History], str]] = [
    ("nonfinite_gradients", gradients.SKIPPED, skipping, "above"),
    ("large_updates", updates.LARGE_UPDATE, large_update, "above"),
    ("large_updates", updates.LARGE_UPDATE, one_large_update, "above"),
    ("large_updates", updates.LARGE_UPDATE, grown_weights, "above"),
    ("exploding_gradients", 1e-2 * explosions.EXPLODED, late("grad_rms", -1, first=1e-2), "above"),
    ("vanishing_gradients", 1e-2 * gradients.VANISHED, late("grad_rms", 0, first=1e-2), "below"),
    ("vanishing_gradients", gradients.UNCONVERGED, saturated, "above"),
    ("vanishing_over_depth", 1e-2 * gradients.VANISHED_OVER_DEPTH, level("grad_rms", 0), "below"),
    ("dying_units", gradients.ZEROS_GROWN, grown_zeros, "above"),
    ("dying_units", gradients.ZEROS, reached_zeros, "above"),
    ("always_clipped", gradients.CLIPPED, clipped, "above"),
    ("always_clipped", gradients.CLIP_FACTOR, clipped_to, "below"),
    ("eps_dominates", 1.0, eps_above_root, "above"),
    ("small_updates", 0.1 * updates.SMALL_UPDATE, level("update_rms"), "below"),
    ("small_updates", updates.LOST, level("lost_update"), "above"),
    ("long_first_steps", updates.FIRST_STEPS, first_steps, "above"),
    ("long_first_steps", updates.HARMFUL_FIRST_STEP, first_jump, "above"),
    (
        "long_first_steps",
        updates.LARGE_FIRST_STEP,
        lambda share: with_loss(first_jump(share), None),
        "above",
    ),
    ("long_first_steps", course.FIRST_JUMP, jumping_loss, "above"),
    ("oscillation", updates.OSCILLATING, oscillating, "below"),
    ("oscillation", updates.REVERSED, reversing, "above"),
    ("oscillation", updates.STALLED_OSCILLATING, oscillating_while_the_loss_stalls, "below"),
    ("exploding_from_the_start", explosions.EXPLODED_OVER_DEPTH, exploded, "above"),
    ("exploding_from_the_start", explosions.LARGE_GRADIENT, large, "above"),
    ("exploding_from_the_start", explosions.ENORMOUS, enormous, "above"),
    ("stalled_loss", course.SLOW, slow, "above"),
    ("oscillation", updates.LEAF_OSCILLATING, oscillating_leaf, "below"),
    (
        "growing_effective_lr",
        updates.EFFECTIVE_LR_GROWN,
        late("effective_lr_p50", -1, first=1.0),
        "above",
    ),
    ("rising_loss", course.RISE, rising, "above"),
    ("stalled_loss", course.CONVERGED, lasting_loss, "above"),
]


@pytest.mark.parametrize(("rule", "threshold", "make", "side"), THRESHOLDS)
def test_a_rule_speaks_on_one_side_of_its_threshold(
    rule: str, threshold: float, make: Callable[[float], History], side: str
) -> None:
    above, below = threshold + 0.1 * abs(threshold), threshold - 0.1 * abs(threshold)
    ill, well = (above, below) if side == "above" else (below, above)
    assert rules(make(ill)) == [rule]
    assert rules(make(well)) == []


def test_every_rule_is_tested() -> None:
    without = {"dead_leaves", "nonfinite_loss", "too_few_points", "zero_weights"}
    tested = {rule for rule, *_ in THRESHOLDS} | without | {"overflowing_squares"}
    assert tested == {rule.__name__ for rule in (*AT_ONCE, *RULES)}


# The words.


def test_a_nan_is_found_with_its_step_and_leaf() -> None:
    bad = changed(H, "nonfinite_grad", np.where(np.arange(POINTS) == 5, 0.01, 0), 2)
    after = changed(bad, "param_rms", ramp(H, 0.1, np.nan, 6))
    text = "layer2.W: NaN or infinity, first seen in step 51 (one of 10 is looked at)"
    assert only(after).startswith(text)
    assert "on_nonfinite='raise'" in only(after)


def test_a_nan_everywhere_is_of_all() -> None:
    (found,) = report(changed(H, "nonfinite_grad", 1.0))
    assert (found.where, found.names) == ("", ())
    assert found.text.startswith("NaN or infinity in all 6 parameters, first seen in step 1 (one")
    assert "every=1 would show where it began" in found.text
    each = with_constants(changed(H, "nonfinite_grad", 1.0), every=1)
    assert "every=1" not in only(each)


def test_other_rules_judge_the_steps_before_a_nan() -> None:
    steep = changed(large_update(0.5), "nonfinite_grad", ramp(H, 0, 1, 20))
    steep = changed(steep, "param_rms", ramp(H, 0.1, np.nan, 20))
    assert rules(steep) == ["nonfinite_gradients", "large_updates"]
    early = changed(H, "nonfinite_grad", ramp(H, 0, 1, 2))
    assert rules(early) == ["nonfinite_gradients"]


def test_a_skipped_step_now_and_then_is_healthy() -> None:
    once = changed(H, "nonfinite_grad", np.arange(POINTS) == 5)
    assert rules(with_constants(once, on_nonfinite="skip")) == []
    assert "6 % of the steps" in only(skipping(0.06))


def test_a_loss_of_nan_is_found() -> None:
    loss = H.logged["loss"].values.copy()
    loss[99] = np.nan
    assert only(with_loss(H, loss)).startswith("loss is nan in step 100")


def test_a_frozen_leaf_is_silent_and_one_without_a_gradient_is_not() -> None:
    nothing = H.rows.copy()
    nothing[:, :, 5] = np.nan
    assert rules(replace(H, rows=nothing)) == []
    without = changed(replace(H, rows=nothing), "update_rms", 0.0, 5)
    without = changed(without, "param_rms", 0.1, 5)
    text = "head.b: no gradient in any of 40 points: is it part of the graph?"
    assert only(without) == text


def test_a_leaf_that_has_a_gradient_now_and_then_is_healthy() -> None:
    rare = np.where(np.arange(POINTS) % 3, np.nan, 1e-2)
    assert rules(changed(H, "grad_rms", rare, 5)) == []


def test_a_gradient_of_zero_is_dead() -> None:
    dead = changed(changed(H, "grad_rms", 0.0, 5), "zero_grad", 1.0, 5)
    assert only(dead).startswith("head.b: gradient is zero in all 40 points")
    once = changed(dead, "grad_rms", np.where(np.arange(POINTS) == 7, 1e-9, 0), 5)
    assert "dead_leaves" not in rules(once)


def embedding(points: int) -> History:
    """A large one, whose sampled elements had no gradient."""
    leaves = (*H.leaves[:5], Leaf("embedding", (50_000, 16), "float32"))
    large = with_constants(with_loss(healthy(points, leaves=leaves), None), sample=256)
    zero = changed(changed(large, "grad_rms", 0.0, 5), "zero_grad", 1.0, 5)
    return changed(zero, "effective_lr_p50", np.nan, 5)


def test_a_leaf_larger_than_its_sample_is_dead_only_after_many_points() -> None:
    assert rules(embedding(gradients.SAMPLED_POINTS - 1)) == []
    text = only(embedding(gradients.SAMPLED_POINTS))
    assert text.startswith("embedding: sampled gradient is zero in all 30 points")


def test_an_average_tells_that_a_leaf_has_had_a_gradient() -> None:
    rare = changed(embedding(40), "effective_lr_p50", ramp(H, np.nan, 10.0, 20), 5)
    assert rules(rare) == []
    assert rules(with_option(rare, "weight_decay", 0.1)) == ["dead_leaves"]  # it has one of its own
    beside = changed(changed(embedding(10), "grad_rms", 0.0, 3), "zero_grad", 1.0, 3)
    assert report(beside)[0].names == ("layer2.b", "embedding")  # a small leaf is dead for certain


def zero_at_first(*leaves: int) -> History:
    zero = changed(NO_LOSS, "param_rms", ramp(H, 0.0, 0.1), *leaves)
    return changed(zero, "update_ratio", ramp(H, np.inf, 1e-2), *leaves)


def test_weights_that_start_at_zero_behind_each_other_are_found() -> None:
    ill = changed(zero_at_first(0, 2), "grad_rms", 0.0, 0)
    (found,) = report(ill)
    assert (found.rule, found.names) == ("zero_weights", ("layer1.W", "layer2.W"))
    assert rules(zero_at_first(0, 2)) == []  # as the last weights of residual blocks do


def test_a_first_step_of_weights_at_zero_has_no_relative_size() -> None:
    zero = changed(first_steps(10), "param_rms", 0.0)
    for history in (zero, with_loss(zero, None), changed(zero, "update_rms", ramp(H, 0.03, 0.0))):
        assert rules(history) == []


def overflowing(history: History, share: float) -> History:
    """Some elements of the first weight do not move any more."""
    ill = changed(history, "effective_lr_p5", ramp(H, 0.01, 0.0, round((1 - share) * POINTS)), 0)
    return changed(ill, "grad_rms", 1e31, 0)


def test_squares_that_overflow_are_found_and_nothing_is_said_of_rounding() -> None:
    text = only(overflowing(changed(NO_LOSS, "lost_update", 1.0), 1.0))
    assert text.startswith("layer1.W: squares of the gradient (up to 1e31) overflow in float32")
    still = with_option(overflowing(NO_LOSS, 1.0), "lr", 0.0)
    assert "overflowing_squares" not in rules(still)


def test_a_gradient_that_recovers_from_an_explosion_does_not_vanish() -> None:
    recovers = changed(NO_LOSS, "grad_rms", ramp(H, 1.2e3, 1e-2, 3), 0)
    assert rules(recovers) == []


def test_a_small_gradient_behind_a_large_one_does_not_vanish_on_its_way() -> None:
    ill = changed(changed(NO_LOSS, "grad_rms", 1e-4, 4, 5), "grad_rms", 1e7, 0, 1, 2, 3)
    (found,) = report(ill)
    assert (found.rule, found.names) == ("exploding_from_the_start", ("layer1.W", "layer2.W"))
    assert "1e11 times those of head.W" in found.text
    small = changed(changed(NO_LOSS, "grad_rms", 1e-7, 4, 5), "grad_rms", 5.0, 0)
    assert rules(small) == []


def test_an_enormous_gradient_is_not_that_of_a_training_that_has_converged() -> None:
    ill = changed(H, "grad_rms", 1e6)
    assert rules(ill) == ["exploding_from_the_start"]
    assert rules(changed(H, "grad_rms", ramp(H, 1e6, 1.0, 15))) == []


def test_an_explosion_never_asks_for_a_larger_lr() -> None:
    grows = changed(with_loss(H, 2.3), "grad_rms", ramp(H, 1.0, 1e3, 20), -1)
    assert rules(changed(grows, "cosine", 0.9)) == ["exploding_gradients"]


def test_a_loss_above_the_first_one_is_not_said_to_have_hardly_fallen() -> None:
    first_ten = np.linspace(2.57, 6, 10)
    losses = np.concatenate([first_ten, np.full(390, 25.0)])
    assert only(changed(with_loss(H, losses), "cosine", 0.9)) == (
        "loss rises from 2.6, the first, to 25: check the sign of the gradient, and lower lr "
        "(0.001 -> 0.0001)"
    )


def test_a_small_first_loss_by_chance_is_no_rise() -> None:
    noisy = 0.6 * np.abs(np.random.default_rng(0).standard_normal(400))
    noisy[0] = 0.01
    assert "rising_loss" not in rules(with_loss(H, noisy))


def test_a_training_without_a_loss_has_converged_if_its_gradients_have() -> None:
    falls = changed(NO_LOSS, "grad_rms", ramp(H, 1.0, 1e-10, 15))
    assert rules(changed(falls, "update_rms", ramp(H, 1e-3, 1e-12, 15))) == []
    assert rules(changed(NO_LOSS, "update_rms", ramp(H, 1e-3, 1e-12, 15))) == ["small_updates"]


def test_a_vector_has_no_dying_units() -> None:
    alone = with_loss(healthy(leaves=(Leaf("w", (3,), "float64"),)), None)
    assert rules(changed(alone, "zero_grad", ramp(H, 0.0, 0.67, 20))) == []


def test_zeros_of_a_gradient_that_has_converged_are_healthy() -> None:
    zeros = changed(NO_LOSS, "zero_grad", ramp(H, 0.1, 0.9, 10), 2)
    assert rules(changed(zeros, "grad_rms", ramp(H, 1.0, 1e-6, 10))) == []


def test_a_limit_that_was_set_later_is_left_out() -> None:
    later = with_constants(clipped_to(1e-3), max_grad_norm=None)
    assert only(later).startswith("clipping by the norm clips 100 % of the steps, to 0.001 of the")
    assert only(later).endswith("raise it 2000-fold")


def test_a_finding_has_all_names() -> None:
    (found,) = report(changed(changed(H, "grad_rms", 0.0, 1, 3, 5), "zero_grad", 1.0, 1, 3, 5))
    assert found.where == "layer1.b ... head.b (3 leaves)"
    assert found.names == ("layer1.b", "layer2.b", "head.b")


def test_units_that_died_of_late_are_found() -> None:
    assert rules(changed(NO_LOSS, "zero_grad", ramp(H, 0.1, 0.9, 33), 2)) == ["dying_units"]


def test_zeros_from_the_beginning_are_those_of_sparse_inputs() -> None:
    assert rules(changed(H, "zero_grad", 0.99)) == []


def test_gradients_of_zero_after_convergence_are_healthy() -> None:
    zeros = changed(H, "zero_grad", ramp(H, 0.1, 1.0, 20))
    zeros = changed(zeros, "grad_rms", ramp(H, 1e-2, 0.0, 20))
    assert rules(zeros) == []
    unlearned = with_loss(zeros, 2.3)
    assert "dying_units" in rules(unlearned)


def test_a_training_that_converges_is_not_vanishing() -> None:
    assert rules(changed(H, "grad_rms", ramp(H, 1e-2, 1e-8, 10))) == []


def test_vanishing_gradients_name_leaf_and_size() -> None:
    text = "layer1.W: gradients 1e-9 of their first size: they vanish"
    assert only(changed(H, "grad_rms", ramp(H, 1.0, 1e-9, 10), 0)).startswith(text)


def test_depth_names_leaves_compactly() -> None:
    leaves = tuple(Leaf(f"layer{i}.W", (32, 32), "float32") for i in range(1, 21))
    deep = with_loss(healthy(leaves=leaves), None)
    for i in range(20):
        deep = changed(deep, "grad_rms", 10.0 ** (1.1 * (i - 19.4)), i)
    text = "layer1.W ... layer15.W (15 leaves): gradients 1.3e-21 of those of layer20.W from the"
    assert only(deep).startswith(text)


def test_a_bias_in_front_of_a_normalisation_is_healthy() -> None:
    assert rules(changed(H, "grad_rms", 1e-9, 1)) == []


def test_a_head_that_begins_at_zero_is_healthy() -> None:
    zero = changed(H, "grad_rms", np.where(np.arange(POINTS) == 0, 0, 1e-2), 0, 1, 2, 3)
    zero = changed(zero, "param_rms", ramp(H, 0, 0.1), 4)
    assert rules(changed(zero, "update_ratio", ramp(H, np.inf, 1e-2), 4)) == []


def test_oscillation_says_how_the_loss_runs_and_what_to_do() -> None:
    back = changed(changed(with_option(H, "lr", 0.01), "reversed", 0.83), "cosine", -0.7)
    text = (
        "loss falls, but 83 % of all updates reverse, with a cosine of -0.7: add momentum, "
        "schedule lr, lower it (0.01 -> 0.003) or lengthen the average (alpha 0.9 -> 0.99)"
    )
    assert only(back) == text
    long = with_option(with_option(back, "alpha", 0.99), "momentum", 0.9)
    assert only(long).endswith("-0.7: schedule lr or lower it (0.01 -> 0.003)")
    falling = with_option(long, "lr", np.linspace(0.01, 0, POINTS))
    assert only(falling).endswith("-0.7: lower lr (0.01 -> 0.003)")
    flat = changed(with_loss(back, lasting_loss(0.9).logged["loss"].values), "reversed", 0.43)
    assert only(flat) == (
        "loss stalls: 43 % of all updates reverse, with a cosine of -0.7: lower lr "
        "(0.01 -> 0.003), lengthen the average (alpha 0.9 -> 0.99) or add momentum"
    )


def test_the_noise_of_batches_is_no_oscillation() -> None:
    assert rules(changed(changed(H, "reversed", 0.58), "cosine", -0.4)) == []


def test_the_cosine_of_few_elements_is_but_a_sign() -> None:
    leaves = (*H.leaves, Leaf("gate.W", (2, 2), "float32"))
    few = with_loss(healthy(leaves=leaves), None)
    assert rules(changed(few, "cosine", -1.0, LEAVES)) == []


def test_a_lower_lr_is_proposed_for_large_updates() -> None:
    text = only(with_option(large_update(0.5), "lr", 0.05))
    assert text.startswith("each step moves the weights by 50 % of their size")
    assert text.endswith("lower lr (0.05 -> 0.001)")
    assert report(one_large_update(0.5))[0].where == "head.W"


def test_one_weight_may_move_more_than_the_others() -> None:
    """As the last layer does with the usual initial weights: it has the largest fan-in."""
    some = changed(with_option(NO_LOSS, "lr", 1.0), "update_rms", 0.05 * 0.1)
    assert rules(changed(some, "update_rms", 0.5 * 0.1, 4)) == []


def test_small_updates_propose_a_larger_lr() -> None:
    text = only(changed(NO_LOSS, "update_rms", 1e-6))
    assert text.startswith("each step moves the weights by 0.001 % of their size (0.1 to 1 % is")
    assert text.endswith("raise lr (0.001 -> 0.1)")
    lost = only(changed(changed(NO_LOSS, "lost_update", 0.9), "update_rms", 1e-9))
    assert lost == "90 % of the updates are lost to rounding in float32: raise lr (0.001 -> 0.1)"


def test_updates_that_a_schedule_ends_are_healthy() -> None:
    falling = with_option(H, "lr", 1e-3 * (1 - np.arange(POINTS) / POINTS))
    end = changed(falling, "update_rms", 1e-3 * (1 - np.arange(POINTS) / POINTS))
    assert rules(changed(end, "lost_update", ramp(H, 0, 1, 30))) == []


def test_updates_are_judged_while_lr_is_high() -> None:
    lr = 1e-3 * 0.1 ** np.minimum(np.arange(POINTS), 6)
    falling = changed(changed(NO_LOSS, "update_rms", lr), "effective_lr_p50", 100 * lr)
    assert rules(with_option(falling, "lr", lr)) == []


def test_a_training_that_learns_has_no_small_updates() -> None:
    assert rules(changed(H, "update_rms", 1e-6)) == []


def test_first_steps_are_healthy_with_warm_up_or_correction_or_a_short_average() -> None:
    long = first_steps(10)
    assert only(long) == (
        "first steps are 10 times too long: they move the weights by 30 % of their size "
        "(0.1 to 1 % is usual), and the loss jumps; warm up over 100 steps, or set "
        "bias_correction=True"
    )
    assert rules(with_loss(long, None)) == []
    assert rules(with_loss(long, H.logged["loss"].values)) == []
    assert rules(with_constants(long, bias_correction=[True])) == []
    assert rules(with_option(long, "alpha", 0.9)) == []
    assert rules(replace(long, steps=H.steps + 1000)) == []  # a resumed training
    warm = np.minimum(1, (np.arange(POINTS) + 1) / 10)
    assert rules(with_option(changed(long, "update_rms", 3e-3 * warm), "lr", 3e-3 * warm)) == []


def test_a_scheduled_lr_may_have_a_growing_effective_lr() -> None:
    grown = changed(H, "effective_lr_p50", np.geomspace(1, 1e4, POINTS))
    text = "effective learning rate grows 7900-fold, because gradients shrink: schedule lr, from"
    assert only(grown).startswith(text)
    assert rules(replace(grown, option_values=falling_lr().option_values)) == []


def test_eps_may_dominate_after_convergence() -> None:
    above = changed(H, "effective_lr_p50", 1e-3 / 1.5e-8)
    assert rules(above) == []
    text = only(with_loss(changed(above, "grad_rms", 2e-9), None))
    assert text.startswith("eps=1e-8 is larger than sqrt(v) of most elements (gradients are about")
    assert text.endswith(
        "they vanish; enlarge the initial weights, scale the loss up, or lower eps (1e-8 -> 2e-12)"
    )


def test_eps_inside_the_root_is_compared_there() -> None:
    inside = with_constants(H, eps=[1e-6], eps_inside_sqrt=[True])
    assert rules(changed(inside, "effective_lr_p50", 1e-3 / np.sqrt(3e-6))) == []
    assert rules(changed(with_loss(inside, None), "effective_lr_p50", 1e-3 / np.sqrt(1.5e-6))) == [
        "eps_dominates"
    ]


def test_clipping_proposes_a_limit_above_the_usual_norm() -> None:
    text = only(clipped_to(1e-3))
    assert text.startswith("max_grad_norm=1 clips 100 % of the steps, to 0.001 of the norm")
    assert text.endswith("raise it to 2000")
    half = with_constants(changed(H, "clip_factor", 1e-3, 2), max_grad_norm_per_array=0.1)
    assert only(half).startswith("layer2.W: max_grad_norm_per_array=0.1 clips")


def test_a_loss_that_never_fell_is_found_with_any_lr() -> None:
    flat = with_loss(H, 2.3)
    assert only(flat).startswith("loss has hardly fallen (2.3 to 2.3): try lr ten times")
    assert report(flat)[0].names == ()
    agreeing = changed(flat, "cosine", 0.5)
    assert only(agreeing).endswith("successive updates agree: try a larger lr (0.001 -> 0.01)")
    assert rules(replace(flat, option_values=falling_lr().option_values)) == ["stalled_loss"]


def test_a_loss_may_stall_while_lr_falls_or_after_convergence() -> None:
    stalled = lasting_loss(0.5)
    text = "loss stalls at 0.5, 50 % of the first, at a constant lr: lower it (0.001 -> 0.0001"
    assert only(stalled).startswith(text)
    assert rules(replace(stalled, option_values=falling_lr().option_values)) == []


def test_a_converged_loss_may_rise() -> None:
    assert rules(with_loss(H, rising(1.0).logged["loss"].values)) == ["rising_loss"]
    converged = np.where(np.arange(400) < 10, 99.0, rising(1.0).logged["loss"].values)
    assert rules(with_loss(H, converged)) == []


def test_a_loss_that_stalls_since_lr_fell_is_found() -> None:
    assert rules(with_option(lasting_loss(0.5), "lr", ramp(H, 1e-3, 1e-4, 5))) == ["stalled_loss"]


def test_the_first_losses_are_few() -> None:
    assert rules(with_loss(H, np.where(np.arange(400) < 10, 9.0, 0.85))) == []


def test_noise_that_hides_the_trend_is_no_stall() -> None:
    noise = np.abs(np.random.default_rng(1).standard_normal(400))
    assert rules(with_loss(H, np.where(np.arange(400) < 100, 9, 2 + 5 * noise))) == []


def test_the_loss_of_a_resumed_training_may_stand_still() -> None:
    later = replace(with_loss(H, 2.3), steps=H.steps + 1000)
    assert rules(later) == []


def test_a_loss_below_zero_and_one_to_climb_are_not_judged() -> None:
    assert rules(with_loss(H, -2.3)) == []
    assert rules(with_constants(rising(1.0), maximize=[True])) == []


@pytest.mark.parametrize("name", ["train_loss", "train/loss", "Loss", "Train/Loss"])
def test_a_loss_has_several_names(name: str) -> None:
    steps, values = H.logged["loss"]
    flat = Series(steps, np.full(len(values), 2.3))
    assert rules(replace(H, logged={name: flat})) == ["stalled_loss"]
    assert rules(replace(H, logged={"test/loss": flat})) == []


@pytest.mark.parametrize("points", range(5))
def test_few_points_are_not_judged(points: int) -> None:
    few = healthy(points)
    (finding,) = report(few)
    assert finding.rule == "too_few_points"
    wanted = f"{points} point" if points else "nothing was observed yet"
    assert str(finding).startswith(wanted)


# The report.


def test_findings_come_in_the_order_of_urgency() -> None:
    ill = changed(changed(H, "grad_rms", 0.0, 5), "cosine", -0.9)
    ill = changed(ill, "reversed", 0.9)
    assert rules(changed(ill, "nonfinite_grad", ramp(H, 0, 1, 30), 0)) == [
        "nonfinite_gradients",
        "dead_leaves",
        "oscillation",
    ]


def test_a_cause_silences_its_effects() -> None:
    ill = with_loss(changed(large_update(0.5), "cosine", -0.9), 2.3)
    ill = changed(ill, "zero_grad", ramp(H, 0, 0.9))
    assert rules(ill) == ["large_updates"]


def test_no_rule_silences_one_that_is_more_urgent() -> None:
    order = [*AT_ONCE, *RULES]
    for rule, others in SILENCES.items():
        assert all(order.index(rule) < order.index(other) for other in others), rule


def test_a_report_is_short() -> None:
    last = np.arange(POINTS) == POINTS - 1
    awful = changed(changed(first_steps(10), "nonfinite_grad", last), "cosine", -0.9)
    awful = changed(changed(awful, "grad_rms", 1e-9, 0), "grad_rms", ramp(H, 1, 1e3, 20), -1)
    awful = changed(changed(awful, "grad_rms", 0.0, 3), "grad_rms", np.nan, 5)
    awful = changed(awful, "effective_lr_p50", ramp(H, 1, 1e4, 20), -1)
    awful = with_constants(changed(awful, "clip_factor", 1e-9), max_grad_norm=1.0)
    found = report(awful)
    assert len(found) == MOST
    assert len({finding.rule for finding in found}) == MOST - 1  # dead leaves of two kinds
    assert all(len(str(finding)) < 250 for finding in found)


def test_no_history_makes_a_rule_fail() -> None:
    """Not one of NaN, infinities and zeros at random places, nor with empty or tiny leaves."""
    rng = np.random.default_rng(5)
    leaves = (Leaf("a", (), "float64"), Leaf("b", (0, 3), "float32"), Leaf("c", (3, 2, 2), "x"))
    odd = np.array([0.0, np.nan, np.inf, -1.0, 1e300, 1e-300, 1.0])
    for seed in range(300):
        history = healthy(int(rng.integers(0, 12)), leaves=leaves[: 1 + seed % 3])
        there = rng.random(history.rows.shape) < rng.random()
        rows = np.where(there, rng.choice(odd, history.rows.shape), history.rows)
        loss = rng.choice(odd, len(history.logged["loss"].values))
        history = with_loss(replace(history, rows=rows), loss)
        if seed % 2:
            history = with_constants(history, on_nonfinite="skip", max_grad_norm=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for finding in report(history):
                assert str(finding)
                assert "nan %" not in str(finding)
                assert set(finding.names) <= set(history.names)


@pytest.mark.parametrize("value", [0.0, 1e300])
def test_rules_take_a_learning_rate_of_any_size(value: float) -> None:
    assert isinstance(str(report(with_option(with_loss(H, 2.3), "lr", value))), str)


# Their helpers.


def test_numbers_are_short() -> None:
    values = [0.0123, 340.4, 1e-9, 1.5e-7, 12345, 99999, 5e5, 0.0, np.inf, np.nan]
    texts = ["0.012", "340", "1e-9", "1.5e-7", "12000", "1e5", "5e5", "0", "inf", "nan"]
    assert [number(value) for value in values] == texts
    assert [percent(share) for share in (0.43, 0.005, 0.0999, 5.0, np.inf, np.nan)] == [
        *("43 %", "0.5 %", "10 %", "500 %", "inf %", "nan %"),
    ]
    assert [rounded(value) for value in (0.0033, 0.7, 8e-5, 1.0, 0.0)] == [0.003, 0.5, 1e-4, 1, 0]
    assert change(0.01, 0.0033) == "0.01 -> 0.003"


def test_names_of_leaves_are_compact() -> None:
    assert where(H, [0]) == "layer1.W"
    assert where(H, [0, 5]) == "layer1.W and head.b"
    assert where(H, [0, 2, 4]) == "layer1.W ... head.W (3 leaves)"
    assert where(H, range(LEAVES)) == ""
    alone = healthy(leaves=H.leaves[:1])
    assert where(alone, [0]) == "layer1.W"


# The page.


def sections() -> dict[str, str]:
    """The text about each rule in the page."""
    page = (ROOT / "docs/monitoring-rules.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^### `(\w+)`$", page, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_page_lists_the_rules_in_their_order() -> None:
    assert [*sections()] == [rule.__name__ for rule in (*AT_ONCE, *RULES)]


def test_the_page_has_all_thresholds() -> None:
    there: dict[str, Any] = {}
    for module in (gradients, explosions, updates, course):
        there |= {name: value for name, value in vars(module).items() if name.isupper()}
    there = {name: value for name, value in there.items() if isinstance(value, int | float)}
    named = dict(re.findall(r"`([A-Z_]+) = ([^`]+)`", " ".join(sections().values())))
    assert {name: float(value) for name, value in named.items()} == there


def test_the_page_tells_which_rules_are_silenced() -> None:
    for rule in (*AT_ONCE, *RULES):
        said = re.search(r"^Silences: ([^.]+)\.$", sections()[rule.__name__], re.MULTILINE)
        named = re.findall(r"`(\w+)`", said[1]) if said else []
        assert named == [other.__name__ for other in SILENCES.get(rule, ())]
