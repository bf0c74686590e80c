"""The table of options beside every place that names options: signatures, docstrings, C++."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from fused_rmsprop import PRESETS, RMSProp, _core, rmsprop_step
from fused_rmsprop.groups.state import KINDS, needed_kinds
from fused_rmsprop.options import GROUP_OPTIONS, OPTIONS, core_options
from support import ROOT, needs_torch

DEFAULTS = {option.name: option.default for option in OPTIONS}
CORE = {option.name for option in OPTIONS if option.core == "Options"}


def documented(obj: Any) -> list[str]:
    """The names of the parameters in the first section of a NumPy-style docstring."""
    section = inspect.getdoc(obj).split("Parameters\n----------\n")[1].split("\n\n")[0]  # type: ignore[union-attr]
    lines = section.replace("\\\n", "").splitlines()
    heads = [line.split(" : ")[0] for line in lines if line and not line.startswith(" ")]
    return [name for head in heads for name in re.split(r", *", head)]


def signature(call: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(call).parameters.items()}


def check(call: Callable[..., Any], expected: dict[str, Any], beside: set[str]) -> None:
    """The options of a signature have the table's defaults and order, and all are documented."""
    found = {n: d for n, d in signature(call).items() if n not in beside | {"self"}}
    assert found == expected
    assert sorted(documented(call)) == sorted(found.keys() | (beside - {"self"}))


def test_rmsprop() -> None:
    check(RMSProp, DEFAULTS, {"params", "grads"})
    assert [n for n in signature(RMSProp) if n in DEFAULTS] == list(DEFAULTS)


def test_rmsprop_step() -> None:
    required = dict.fromkeys(("lr", "alpha", "eps"), inspect.Parameter.empty)
    call = {"max_grad_value": None, "flush_denormals": True, "threads": 1}
    expected = {name: DEFAULTS[name] for name in DEFAULTS if name in CORE} | required | call
    beside = {"param", "grad", "step", "grad_scale", *(kind.name for kind in KINDS)}
    check(rmsprop_step, expected, beside)


def test_the_drop_in_for_torch() -> None:
    torch = needs_torch()
    from fused_rmsprop.torch import RMSprop

    torchs = signature(torch.optim.RMSprop)
    beside = torchs.keys() - DEFAULTS.keys() | {"in_backward"}
    check(RMSprop, DEFAULTS, beside)
    ours = signature(RMSprop)
    assert {name: ours[name] for name in torchs} == torchs
    assert {o.name for o in OPTIONS if o.in_torch} == torchs.keys() & DEFAULTS.keys()
    assert [name for name in ours if name in torchs] == list(torchs)


def test_the_c_plus_plus_options() -> None:
    assert _core.Options.defaults() == {name: DEFAULTS[name] for name in DEFAULTS if name in CORE}
    header = (ROOT / "cpp/include/fused_rmsprop/fused_rmsprop.hpp").read_text(encoding="utf-8")
    for option in OPTIONS:
        if option.core in ("GradientTransform", "Execution"):
            struct = header.split(f"struct {option.core} {{")[1].split("\n};")[0]
            assert re.search(rf"\b{option.name}\b", struct)
    stepper = _core.NumpyStepper()
    stub = (ROOT / "python/fused_rmsprop/_core.pyi").read_text(encoding="utf-8")
    attributes = stub.split("\nclass Stepper:")[1].split("    def ")[0]
    for option in OPTIONS:
        if not option.of_group:
            assert getattr(stepper, option.name) == option.default
            assert f"    {option.name}: " in attributes
    with pytest.raises(ValueError, match="no value 'Skip'"):
        stepper.on_nonfinite = "Skip"
    for wrong in ({"lr": 0.1}, {**_core.Options.defaults(), "beta": 1.0}):
        with pytest.raises((KeyError, TypeError)):
            _core.Options(**wrong)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_tables_of_state_kinds_agree(momentum: float, centered: bool, ema_decay: float) -> None:
    options = DEFAULTS | {"momentum": momentum, "centered": centered, "ema_decay": ema_decay}
    names = core_options(options).needed_state()
    assert names == [kind.key(options) for kind in needed_kinds(options)]


def test_every_option_is_read_from_its_default() -> None:
    for option in OPTIONS:
        value = option.read(option.name, option.default)
        assert value == option.default
        assert type(value) is type(option.default)


def test_presets_and_names_of_other_libraries() -> None:
    for options in PRESETS.values():
        assert options.keys() <= GROUP_OPTIONS.keys()
    aliases = [alias for option in OPTIONS for alias in option.aliases]
    assert len(aliases) == len({*aliases})
    assert not {*aliases} & DEFAULTS.keys()
    for option in OPTIONS:
        for alias in option.aliases:
            with pytest.raises(TypeError, match=rf"no option '{alias}'; is {option.name} meant"):
                RMSProp.from_preset("torch", [], **{alias: option.default})


def test_each_fixed_option_names_a_kind_of_state() -> None:
    assert {o.fixed.state for o in OPTIONS if o.fixed} <= {kind.name for kind in KINDS}
    assert {k.option for k in KINDS if k.option} | {"initial_square_avg"} <= GROUP_OPTIONS.keys()
