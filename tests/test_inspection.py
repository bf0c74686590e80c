"""Interactive use: short texts of large state, completion of names, signatures."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import typing
from typing import Any

import numpy as np
import pytest

import fused_rmsprop
from fused_rmsprop import RMSProp, rmsprop_step, schedules, show_config
from support import run_python

OPT = RMSProp({"layer1": {"W": np.ones((300, 40))}, "b": np.ones(3, np.float32)}, momentum=0.5)
MANY = RMSProp({f"p{i}": np.ones(100) for i in range(500)})


def test_state_prints_no_elements() -> None:
    assert repr(OPT.state).splitlines() == [
        "state of 2 parameters",
        "  layer1.W: square_avg, momentum_buffer of (300, 40) float64, 192,000 bytes, step 0",
        "  b: square_avg, momentum_buffer of (3,) float32, 24 bytes, step 0",
    ]
    assert repr(OPT.state["b"]).splitlines() == [
        "state of 'b'",
        "  step: 0",
        "  square_avg: (3,) float32, 12 bytes",
        "  momentum_buffer: (3,) float32, 12 bytes",
    ]
    assert repr(OPT.state["b"].keys()) == "KeysView(['step', 'square_avg', 'momentum_buffer'])"
    assert repr(OPT.state.keys()) == "KeysView(['layer1.W', 'b'])"


@pytest.mark.parametrize("opt", [OPT, MANY])
def test_all_views_are_short(opt: RMSProp) -> None:
    group = opt.param_groups[0]
    views: list[Any] = [opt.state, group.state, *opt.state.values(), group, opt.param_groups]
    views += [view() for v in (opt.state, group.state) for view in (v.keys, v.values, v.items)]
    for view in views:
        assert len(repr(view).splitlines()) <= 22
        assert len(repr(view)) < 2000
    if opt is MANY:
        assert repr(opt.state).endswith("  ... and 480 more")
        assert repr(opt.state.keys()).endswith("'p19', ... and 480 more])")


def test_state_is_a_live_read_only_mapping() -> None:
    p = np.ones(2)
    opt = RMSProp([{"params": p}, {"params": {"a": np.ones(3)}}])
    state = opt.state
    assert list(state) == ["0", "1.a"]
    assert len(state) == 2
    assert "1.a" in state
    assert "2" not in state
    assert state.get("2") is None
    opt.step([np.ones(2), None])
    assert int(state["0"]["step"]) == 1
    opt.param_groups[0]["momentum"] = 0.5
    assert "momentum_buffer" in state["0"]
    for mapping in (state, state["0"]):
        with pytest.raises(TypeError, match="does not support item assignment"):
            mapping["0"] = {}  # type: ignore[index]
    with pytest.raises(KeyError, match="there is no parameter '1.b'; is '1.a' meant|there are 0"):
        state["1.b"]
    with pytest.raises(KeyError, match=r"state\['0'\] has no 'x'; it has 'step', 'square_avg'"):
        state["0"]["x"]
    with pytest.raises(KeyError):
        state[0]  # type: ignore[index]
    for copied in (copy.deepcopy(state["0"]), pickle.loads(pickle.dumps(state["0"]))):
        assert {**copied}.keys() == {**state["0"]}.keys()


def test_keys_are_completed() -> None:
    def completed(mapping: Any) -> list[str]:
        return list(mapping._ipython_key_completions_())

    assert completed(OPT.state) == ["layer1.W", "b"]
    assert completed(OPT.state["b"]) == ["step", "square_avg", "momentum_buffer"]
    assert completed(OPT.param_groups[0]) == list(OPT.param_groups[0])


def test_only_public_names_are_listed() -> None:
    names = set(dir(fused_rmsprop))
    public = {*fused_rmsprop.__all__, "checkpoint", "exchange", "monitor", "schedules"}
    assert public <= names <= public | {"autograd", "mpi", "scipy", "torch"}
    for name in names:
        assert hasattr(fused_rmsprop, name)
    assert not hasattr(fused_rmsprop, "nothing")
    listed = [name for name in dir(OPT) if not name.startswith("_")]
    for name in listed:
        assert name == "defaults" or inspect.getdoc(getattr(type(OPT), name))


@pytest.mark.parametrize(
    "name", ["checkpoint", "exchange", "monitor", "schedules", "autograd", "mpi", "scipy", "torch"]
)
def test_modules_list_only_public_names(name: str) -> None:
    if name in ("mpi", "scipy", "torch"):
        pytest.importorskip("mpi4py" if name == "mpi" else name)
    module = importlib.import_module(f"fused_rmsprop.{name}")
    assert dir(module) == sorted(module.__all__)
    for public in dir(module):
        for one in (found := getattr(module, public), *vars(found).values()):
            if inspect.isfunction(one):
                assert ": '" not in str(inspect.signature(one)), (public, one)


def test_listed_modules_need_no_import_of_their_own() -> None:
    run_python(
        """
        import sys, fused_rmsprop
        assert not [name for name in ("torch", "scipy", "autograd") if name in dir(fused_rmsprop)]
        fused_rmsprop.schedules.Constant(0.1), fused_rmsprop.exchange, fused_rmsprop.checkpoint
        assert not {"torch", "scipy", "autograd", "matplotlib"} & sys.modules.keys()
        """
    )


def functions() -> list[Any]:
    classes = [RMSProp, *(getattr(schedules, name) for name in schedules.__all__)]
    found = [rmsprop_step, show_config, schedules.plot, *classes[:-1]]
    for cls in classes:
        found += [f for name, f in inspect.getmembers(cls, callable) if not name.startswith("_")]
    return found


def test_signatures_have_no_quoted_annotations() -> None:
    for function in functions():
        signature = inspect.signature(function)
        texts = [p.annotation for p in signature.parameters.values()]
        for text in [*texts, signature.return_annotation]:
            assert not inspect.formatannotation(text).startswith("'"), (function, text)
    assert "lr: Schedulable = 0.01" in str(inspect.signature(RMSProp))
    assert typing.get_type_hints(RMSProp.__init__)["centered"] is bool
