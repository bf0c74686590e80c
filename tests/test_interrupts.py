"""A Ctrl-C, or two of them, leave an optimizer wholly as before a call or wholly as after it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp
from fused_rmsprop.schedules import Constant
from interrupt_support import interrupted_everywhere
from support import halved

Action = Callable[[RMSProp], object]
GRADS = [[np.full(3, 0.5), None], {"W": np.full((2, 2), -0.25, np.float32)}]
OPTIONS: dict[str, Any] = {"lr": halved, "momentum": 0.5, "centered": True, "ema_decay": 0.5}


def make() -> RMSProp:
    params = [
        {"params": [np.arange(3.0), np.ones(2)], "lr": 0.1},
        {"params": {"W": np.full((2, 2), 2.0, np.float32)}},
    ]
    opt = RMSProp(params, **OPTIONS, grads=GRADS)
    _ = opt.param_groups[0]["params"]  # from now on others may hold the arrays
    opt.step()
    opt.accumulate()
    return opt


def plain(value: Any) -> Any:
    """The same values in a form that ``==`` compares, arrays bit for bit."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def everything(opt: RMSProp) -> Any:
    return plain([opt.state_dict(), [group["params"] for group in opt.param_groups]])


OTHER = make()
OTHER.step()
OTHER.param_groups[1].update(momentum=0.25)
OTHER_STATE = OTHER.state_dict()
ACTIONS: dict[str, Action] = {
    "step": lambda opt: opt.step(),
    "accumulate": lambda opt: opt.accumulate(),
    "first accumulate": lambda opt: opt.accumulate([None, {"W": None}]),
    "discard_accumulated": lambda opt: opt.discard_accumulated(),
    "bind_grads": lambda opt: opt.bind_grads(None),
    "lr": lambda opt: setattr(opt, "lr", Constant(0.5)),
    "scale_lr": lambda opt: opt.scale_lr(0.5),
    "freeze": lambda opt: opt.freeze("1.*", "0.1"),
    "flush_denormals": lambda opt: setattr(opt, "flush_denormals", False),
    "max_grad_norm": lambda opt: setattr(opt, "max_grad_norm", 1.0),
    "update": lambda opt: opt.param_groups[0].update(momentum=0.0, ema_decay=0.0, alpha=0.5),
    "not centered": lambda opt: opt.param_groups[1].update(centered=False),
    "add_param_group": lambda opt: opt.add_param_group({"params": np.ones(2)}),
    "load_state_dict": lambda opt: opt.load_state_dict(OTHER_STATE),
    "state_dict": lambda opt: opt.state_dict(),
    "getstate": lambda opt: opt.__getstate__(),
    "use_ema": lambda opt: _use_ema(opt),
    "effective_lr": lambda opt: opt.effective_lr("1.W"),
}


def _use_ema(opt: RMSProp) -> None:
    with opt.use_ema():
        pass


@pytest.mark.parametrize(
    ("times", "every"),
    [(1, 11), *(pytest.param(*p, marks=pytest.mark.slow) for p in ((1, 1), (2, 13)))],
)
@pytest.mark.parametrize("name", ACTIONS)
def test_an_interrupted_call_is_made_or_not_made(name: str, times: int, every: int) -> None:
    before, after = make(), make()
    ACTIONS[name](after)
    whole = [everything(before), everything(after)]

    def check(opt: RMSProp) -> None:
        assert everything(opt) in whole
        opt.discard_accumulated()
        steps = opt.step_count
        opt.step([*GRADS, np.ones(2)][: len(opt.param_groups)])
        assert opt.step_count == steps + 1

    assert interrupted_everywhere(make, ACTIONS[name], check, times=times, every=every) > 0


# A zip file that is left open complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_interrupted_save_or_load_is_made_or_not_made(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"checkpoint{suffix}"
    OTHER.save(path)
    trained = plain([group["params"] for group in OTHER.param_groups])
    fresh = plain([group["params"] for group in make().param_groups])
    assert fresh != trained

    def load(opt: RMSProp) -> None:
        RMSProp.load(path, [{"params": group["params"]} for group in opt.param_groups], lr=halved)

    def check_loaded(opt: RMSProp) -> None:
        assert plain([group["params"] for group in opt.param_groups]) in (fresh, trained)

    def check_saved(opt: RMSProp) -> None:
        gc.collect()
        load(opt)
        # An interrupt right after the temporary file was made leaves it; the next save removes it.
        OTHER.save(path)
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
        assert plain([group["params"] for group in opt.param_groups]) == trained

    assert interrupted_everywhere(make, load, check_loaded, every=151) > 50
    assert interrupted_everywhere(make, lambda opt: OTHER.save(path), check_saved, every=151) > 50
