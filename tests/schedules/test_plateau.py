"""`ReduceOnPlateau`: torch's decisions, refusals that change nothing, and resuming."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.schedules import Constant, ReduceOnPlateau
from support import needs_torch


class Groups:
    """The least that has parameter groups."""

    def __init__(self, *rates: Any) -> None:
        self.param_groups = [{"lr": rate} for rate in rates]

    @property
    def rates(self) -> list[Any]:
        return [group["lr"] for group in self.param_groups]


def metrics(seed: int) -> list[float]:
    """A loss that improves, stays, gets worse, and is now and then not a number."""
    rng = np.random.default_rng(seed)
    losses = np.exp(-np.linspace(0, 3, 120)) + 0.05 * rng.standard_normal(120)
    losses[rng.integers(120, size=5)] = math.nan
    losses[rng.integers(120, size=3)] = math.inf
    losses[60:80] = losses[59]
    return [float(loss) for loss in losses]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("seed", range(4))
def test_the_decisions_are_torchs(mode: str, threshold_mode: str, seed: int) -> None:
    torch = needs_torch()
    for patience, cooldown, threshold, min_lr in itertools.product(
        (0, 2, 10), (0, 3), (0.0, 1e-4, 0.1), (0.0, [0.01, 1e-3])
    ):
        options: dict[str, Any] = {
            "mode": mode, "threshold_mode": threshold_mode, "patience": patience,
            "cooldown": cooldown, "threshold": threshold, "min_lr": min_lr,
            "factor": 0.3 + 0.1 * seed, "eps": 1e-6,
        }  # fmt: skip
        theirs = torch.optim.SGD(
            [{"params": [torch.zeros(1)], "lr": 0.5}, {"params": [torch.zeros(1)], "lr": 0.1}]
        )
        ours = RMSProp([{"params": np.zeros(2), "lr": 0.5}, {"params": np.zeros(2), "lr": 0.1}])
        peer = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
        plateau = ReduceOnPlateau(ours, **options)
        for metric in metrics(seed):
            before = [group["lr"] for group in ours.param_groups]
            peer.step(metric)
            lowered = plateau.update(metric)
            after = [group["lr"] for group in ours.param_groups]
            assert after == [group["lr"] for group in theirs.param_groups]
            assert lowered == (after != before)
            for name in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch"):
                assert getattr(plateau, name) == getattr(peer, name)


def test_the_rate_is_lowered_after_patience_and_cooldown() -> None:
    opt = Groups(1.0)
    plateau = ReduceOnPlateau(opt, factor=0.5, patience=2, cooldown=1)
    rates = []
    for _ in range(9):
        plateau.update(7.0)
        rates += opt.rates
    # The first is the best; three are one too many; one of cooldown, then three again.
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_nan_is_never_the_best() -> None:
    opt = Groups(1.0)
    plateau = ReduceOnPlateau(opt, patience=1, factor=0.5)
    for metric in (math.nan, 3.0, math.nan):
        assert not plateau.update(metric)
    assert plateau.best == 3.0
    assert plateau.update(math.nan)
    assert opt.rates == [0.5]


def test_limits() -> None:
    opt = Groups(1.0, 0.2, 1e-9)
    plateau = ReduceOnPlateau(opt, patience=0, factor=0.1, min_lr=[0.5, 0.0, 0.0], eps=1e-8)
    plateau.update(1.0)
    assert plateau.update(1.0)
    assert opt.rates == [0.5, 0.2 * 0.1, 1e-9]
    opt = Groups(0.5)
    plateau = ReduceOnPlateau(opt, patience=0, min_lr=0.5)
    assert [plateau.update(1.0) for _ in range(3)] == [False, False, False]


def test_groups_added_later_are_lowered_too() -> None:
    opt = RMSProp(np.zeros(2), lr=0.5)
    plateau = ReduceOnPlateau(opt, patience=0, factor=0.5)
    plateau.update(1.0)
    opt.add_param_group({"params": np.zeros(2), "lr": 0.1})
    plateau.update(1.0)
    assert [group["lr"] for group in opt.param_groups] == [0.25, 0.05]


def test_a_metric_may_be_any_number() -> None:
    plateau = ReduceOnPlateau(Groups(1.0))
    for metric in (3, np.float32(2), np.array(1.0)):
        plateau.update(metric)
        assert plateau.best == float(metric)
        assert type(plateau.best) is float


def test_a_refused_update_changes_nothing() -> None:
    opt = Groups(1.0, 1.0)
    plateau = ReduceOnPlateau(opt, patience=0, factor=0.5)
    plateau.update(1.0)
    before = plateau.state_dict()
    for metric in ("1.0", None, True, [1.0]):
        with pytest.raises(TypeError, match="metric must be a number"):
            plateau.update(metric)  # type: ignore[arg-type]
    opt.param_groups[1]["lr"] = Constant(0.1)
    with pytest.raises(TypeError, match=r"param_groups\[1\]\['lr'\] is a schedule"):
        plateau.update(1.0)
    opt.param_groups[1]["lr"] = "0.1"
    with pytest.raises(TypeError, match=r"param_groups\[1\]\['lr'\] must be a number"):
        plateau.update(1.0)
    assert plateau.state_dict() == before
    assert opt.rates == [1.0, "0.1"]


def test_per_group_minima_must_fit_the_groups() -> None:
    opt = Groups(1.0)
    with pytest.raises(ValueError, match="min_lr has 2 values and the optimizer 1 parameter"):
        ReduceOnPlateau(opt, min_lr=[0.1, 0.2])
    plateau = ReduceOnPlateau(opt, min_lr=[0.1])
    opt.param_groups.append({"lr": 1.0})
    with pytest.raises(ValueError, match="min_lr has 1 values and the optimizer 2 parameter"):
        plateau.update(1.0)
    assert plateau.last_epoch == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "least"}, ValueError, "mode must be 'min' or 'max', got 'least'"),
        ({"threshold_mode": 1}, ValueError, "threshold_mode must be 'rel' or 'abs', got 1"),
        ({"factor": 1.0}, ValueError, "factor must be < 1, got 1.0"),
        ({"factor": -0.5}, ValueError, "factor must be >= 0 and finite, got -0.5"),
        ({"patience": -1}, ValueError, "patience must be >= 0 and < 2**63, got -1"),
        ({"patience": 2.5}, TypeError, "patience must be an int, got 2.5"),
        ({"cooldown": 3.0}, TypeError, "cooldown must be an int, got 3.0; write 3"),
        ({"threshold": math.nan}, ValueError, "threshold must be >= 0 and finite, got nan"),
        (
            {"threshold": 1.0}, ValueError,
            "threshold must be < 1, because no metric >= 0 is lower by that share, got 1.0; "
            "threshold_mode='abs' makes it a difference",
        ),
        ({"min_lr": -1}, ValueError, "min_lr must be >= 0 and finite, got -1"),
        ({"min_lr": [math.inf]}, ValueError, "min_lr[0] must be >= 0 and finite, got inf"),
        ({"eps": "1e-8"}, TypeError, "eps must be a number, got '1e-8'"),
    ],
)  # fmt: skip
def test_refused_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        ReduceOnPlateau(Groups(1.0), **options)
    assert str(caught.value) == f"ReduceOnPlateau: {message}"


def test_refused_optimizers() -> None:
    for other in (3, None, Constant(0.1), {"lr": 0.1}):
        with pytest.raises(TypeError, match="must have param_groups.*got a "):
            ReduceOnPlateau(other)
    with pytest.raises(TypeError, match=r"'lr'\] is a schedule, Constant\(value=0.1\), which sets"):
        ReduceOnPlateau(Groups(Constant(0.1)))


def test_resuming_is_as_if_there_had_been_no_break() -> None:
    whole, first = Groups(1.0), Groups(1.0)
    straight = ReduceOnPlateau(whole, patience=1, cooldown=2, mode="max", factor=0.7)
    plateau = ReduceOnPlateau(first, patience=1, cooldown=2, mode="max", factor=0.7)
    losses = metrics(5)
    for loss in losses[:50]:
        straight.update(loss)
        plateau.update(loss)
    second = Groups(*first.rates)
    resumed = ReduceOnPlateau(second)
    resumed.load_state_dict(json.loads(json.dumps(plateau.state_dict())))
    assert resumed.state_dict() == straight.state_dict()
    for loss in losses[50:]:
        straight.update(loss)
        resumed.update(loss)
    assert second.rates == whole.rates
    assert resumed.state_dict() == straight.state_dict()


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    plateau = ReduceOnPlateau(Groups(1.0))
    plateau.update(2.0)
    saved = plateau.state_dict()
    for wrong, message in (
        ({}, "not a state_dict of ReduceOnPlateau: 'mode' is missing"),
        (None, "not a state_dict of ReduceOnPlateau: 'mode' is missing"),
        (saved | {"lr": 0.1}, "not a state_dict of ReduceOnPlateau: 'lr' is unknown"),
        (saved | {"best": 1.0, "patience": -3}, "the state_dict: patience must be >= 0"),
        (saved | {"best": math.nan}, "the state_dict: best must not be NaN"),
        (saved | {"min_lr": [0.1, 0.2]}, "min_lr has 2 values"),
    ):
        with pytest.raises(ValueError, match=message):
            plateau.load_state_dict(wrong)  # type: ignore[arg-type]
        assert plateau.state_dict() == saved


def test_pickles_and_copies_go_on_with_their_own_optimizer() -> None:
    opt = RMSProp({"w": np.ones(3)}, lr=0.5)
    plateau = ReduceOnPlateau(opt, patience=0, factor=0.5)
    plateau.update(1.0)
    for other_opt, other in (
        pickle.loads(pickle.dumps((opt, plateau))),
        copy.deepcopy((opt, plateau)),
    ):
        assert other.optimizer is other_opt
        assert other.state_dict() == plateau.state_dict()
        assert other.update(1.0)
        assert (other_opt.lr, opt.lr) == (0.25, 0.5)


def test_repr() -> None:
    plateau = ReduceOnPlateau(Groups(1.0), min_lr=[0.1])
    plateau.update(2)
    assert repr(plateau) == (
        "ReduceOnPlateau(mode='min', factor=0.1, patience=10, threshold=0.0001, "
        "threshold_mode='rel', cooldown=0, min_lr=(0.1,), eps=1e-08, best=2.0, num_bad_epochs=0, "
        "cooldown_counter=0, last_epoch=1)"
    )
