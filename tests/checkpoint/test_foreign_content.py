"""A file with valid checksums and another content is refused, and names itself."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_support import announced, forge, sealed
from fused_rmsprop import RMSProp, rmsprop_step, schedules
from fused_rmsprop.checkpoint import CheckpointError, read, write
from support import Array

Change = Callable[[dict[str, Array], Any], Any]

LR = schedules.Join(
    [schedules.Linear(0.1, end_value=0.2, transition_steps=3), schedules.Constant(0.1)],
    boundaries=[2],
)


def make_params() -> dict[str, Any]:
    return {"a": np.ones(3), "b/c": np.ones((2, 2), np.float32)}


def assert_refused(path: Path, message: str, **overrides: Any) -> None:
    params = make_params()
    with pytest.raises(CheckpointError, match=message) as caught:
        RMSProp.load(path, params, **overrides)
    assert repr(str(path)) in str(caught.value)
    assert all((array == 1).all() for array in params.values())


def nested(levels: int) -> Any:
    value: Any = {"schedule": "Constant", "arguments": {"value": 0.1}}
    for _ in range(levels):
        value = {"schedule": "Join", "arguments": {"schedules": [value], "boundaries": []}}
    return value


def constant(**arguments: Any) -> dict[str, Any]:
    return {"schedule": "Constant", "arguments": arguments}


def part(name: str) -> Callable[[Any], Change]:
    """Replace a part of the metadata."""
    return lambda value: lambda arrays, meta: meta.update({name: value})


def group(**changes: Any) -> Change:
    return lambda arrays, meta: meta["param_groups"][0].update(changes)


def option(name: str, value: Any) -> Change:
    return lambda arrays, meta: meta["param_groups"][0]["options"].update({name: value})


def default(name: str, value: Any) -> Change:
    return lambda arrays, meta: meta["defaults"].update({name: value})


def setting(name: str, value: Any) -> Change:
    return lambda arrays, meta: meta["settings"].update({name: value})


def counter(name: str, value: Any) -> Change:
    return lambda arrays, meta: meta["counters"].update({name: value})


def array(name: str, value: Any) -> Change:
    dtype = np.int64 if isinstance(value, (int, list)) else None  # Windows' own is another
    return lambda arrays, meta: arrays.update({name: np.asarray(value, dtype)})


CHANGES: list[tuple[Change, str]] = [
    *(
        (lambda arrays, meta, name=name: meta.pop(name), f"its metadata lacks {name!r}")
        for name in ("state", "param_groups", "settings", "counters", "defaults")
    ),
    (part("more")(1), "its metadata has an unknown 'more'"),
    (lambda arrays, meta: meta.clear(), "its metadata lacks"),
    *((part("param_groups")(v), "param_groups.*not of type list") for v in (None, "x", 3)),
    (part("param_groups")({}), "param_groups.*not of type list"),
    (part("param_groups")([3]), r"param_groups\[0\] is 3, not an object"),
    (part("settings")([]), "settings.*not of type dict"),
    (part("state")([["a"]]), "state.*not of type dict"),
    (part("state")({}), "state lacks 'a'"),
    (part("state")({"a": ["step"], "b/c": ["step"], "d": []}), "state has an unknown 'd'"),
    (part("state")({"a": ["step"], "b/c": 3}), r"state\['b/c'\] is 3, not of type list"),
    (part("state")({"a": ["step", "step"], "b/c": []}), r"state\['a'\] has a name twice"),
    (part("state")({"a": ["step", ["x"]], "b/c": []}), r"state\['a'\] are not all strings"),
    (part("state")({"a": ["../step"], "b/c": []}), r"state\['a'\] has an unknown '../step'"),
    (part("state")({"a": ["step"], "b/c": ["step"]}), "its list of arrays has an unknown 'state/"),
    # Groups.
    (lambda arrays, meta: meta["param_groups"][0].pop("name"), "lacks 'name'"),
    (group(lr=3), r"param_groups\[0\] has an unknown 'lr'"),
    (group(name=None), r"param_groups\[0\]\['name'\] is None, not of type str"),
    (group(params="ab"), r"\['params'\] is 'ab', not of type list"),
    (group(params=["a", 3]), "names of the parameters are not all strings"),
    (group(params=["a", ["b/c"]]), "names of the parameters are not all strings"),
    (group(params=["a", "a", "b/c"]), "has a name twice"),
    (group(params=["a", "b/d"]), "state lacks 'b/d'"),
    (group(options=[]), r"\['options'\] is \[\], not of type dict"),
    # Options.
    (lambda arrays, meta: meta["param_groups"][0]["options"].pop("eps"), "lacks 'eps'"),
    (option("__class__", 3), "has an unknown '__class__'"),
    (option("max_grad_norm", 3), "has an unknown 'max_grad_norm'"),
    (option("eps", "0.9"), r"param_groups\[0\]\['eps'\]: eps must be a number, got '0.9'"),
    (option("eps", None), "eps must be a number, got None"),
    (option("eps", True), "eps must be a number, got True"),
    (option("alpha", [[0.1], 3]), "alpha"),
    (option("alpha", 10**400), "alpha is too large for a float"),
    (option("eps", constant(value=0.1)), "eps must be a number"),
    (option("centered", 1), "centered must be True or False, got 1"),
    (option("centered", math.nan), "centered must be True or False, got nan"),
    (option("lr", [1, 2]), r"param_groups\[0\]\['lr'\]: lr must be a number, or a function"),
    (option("lr", {}), "there is no schedule None"),
    (option("lr", {"function": 3}), "there is no schedule None"),
    (option("lr", {"schedule": ["Constant"], "arguments": {}}), "there is no schedule"),
    (option("lr", {"schedule": "Schedule", "arguments": {}}), "there is no schedule 'Schedule'"),
    (option("lr", {"schedule": "ReduceOnPlateau", "arguments": {}}), "there is no schedule 'Reduc"),
    (option("lr", {"schedule": "__doc__", "arguments": {}}), "there is no schedule '__doc__'"),
    (option("lr", {"schedule": "Constant"}), "Constant is saved as something else than its arg"),
    (option("lr", {"schedule": "Constant", "arguments": [1]}), "Constant is saved as something"),
    (option("lr", constant(value=0.1) | {"x": 1}), "Constant is saved as something else"),
    (option("lr", constant()), "Constant is saved with other arguments than it has: 'value'"),
    (option("lr", constant(value=0.1, self=3)), "Constant is saved with other arg.*: 'self'"),
    (option("lr", constant(value="x")), "Constant: value must be a number, got 'x'"),
    (option("lr", constant(value=-1)), "Constant: value must be >= 0 and finite, got -1"),
    (option("lr", constant(value=math.nan)), "Constant: value must be >= 0 and finite, got nan"),
    (option("lr", constant(value=nested(0))), "Constant: value must be a number"),
    (option("lr", nested(40)), "at most 32 levels of schedules and lists"),
    (option("lr", nested(300)), "at most 32 levels of schedules and lists"),
    (default("lr", nested(40)), r"defaults\['lr'\]: a saved option has at most 32"),
    (default("lr", "x"), r"defaults\['lr'\]: lr must be a number"),
    (default("beta", 3), "defaults has an unknown 'beta'"),
    (lambda arrays, meta: meta["defaults"].pop("lr"), "defaults lacks 'lr'"),
    # Settings and counters.
    (setting("threads", 3), "settings has an unknown 'threads'"),
    (setting("__dict__", 3), "settings has an unknown '__dict__'"),
    (setting("max_grad_norm", -1), r"settings\['max_grad_norm'\]: max_grad_norm must be > 0"),
    (setting("max_grad_norm", []), "max_grad_norm must be a number"),
    (setting("on_nonfinite", "ignore"), "on_nonfinite must be one of"),
    (setting("flush_denormals", None), "flush_denormals must be True or False"),
    (lambda arrays, meta: meta["counters"].pop("accumulated"), "counters lacks 'accumulated'"),
    (counter("more", 1), "counters has an unknown 'more'"),
    *(
        (counter(name, value), rf"counters\['{name}'\] is .*not of type int")
        for name in ("step_count", "skipped_steps", "accumulated")
        for value in (math.nan, 1.0, True, None, "1", [1])
    ),
    *(
        (counter(name, value), f"{name} is {value}, but must be >= 0 and <= 2")
        for name in ("step_count", "skipped_steps", "accumulated")
        for value in (-1, 2**53 + 1, 2**63 - 1, 2**63, 10**30)
    ),
    # Arrays.
    *(
        (lambda arrays, meta, name=name: arrays.pop(name), f"its list of arrays lacks '{name}'")
        for name in ("params/a", "state/b/c/step", "state/b/c/square_avg")
    ),
    (array("params/d", 1.0), "its list of arrays has an unknown 'params/d'"),
    (array("state/a/../step", 1), "its list of arrays has an unknown"),
    (array("state/a/step", 1.0), "'state/a/step' is not one int64"),
    (array("state/a/step", [1]), "'state/a/step' is not one int64"),
    (array("state/a/step", -1), "state/a/step is -1, but"),
    (array("state/a/step", 2**53 + 1), "state/a/step is 9007199254740993, but must be >= 0 and <="),
    (array("state/a/step", 2**63 - 1), "state/a/step is 9223372036854775807, but must be"),
    (array("state/a/square_avg", np.zeros(4)), r"'state/a/square_avg' is float64 of shape \(4,\)"),
    (array("state/a/square_avg", np.zeros(3, np.float32)), "'state/a/square_avg' is float32"),
    (array("params/a", np.arange(3, dtype=np.int64)), "'params/a' is int64"),
]


@pytest.fixture
def saved(path: Path) -> Path:
    opt = RMSProp(make_params(), lr=LR, momentum=0.5)
    opt.step({"a": np.ones(3), "b/c": np.ones((2, 2), np.float32)})
    opt.save(path)
    return path


def test_metadata_and_arrays(saved: Path) -> None:
    whole = saved.read_bytes()
    for change, message in CHANGES:
        saved.write_bytes(whole)
        arrays, metadata = read(saved)
        change(arrays, metadata)
        write(saved, arrays, metadata)
        assert_refused(saved, message)


def test_an_option_that_is_given_is_not_read(saved: Path) -> None:
    arrays, metadata = read(saved)
    for where in (metadata["param_groups"][0]["options"], metadata["defaults"]):
        where["lr"] = {"schedule": "FromANewerRelease", "arguments": {"x": nested(50)}}
    write(saved, arrays, metadata)
    assert_refused(saved, "there is no schedule 'FromANewerRelease'")
    assert RMSProp.load(saved, make_params(), lr=0.5).lr == 0.5


@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1), ("alpha", 1.0), ("eps", 0), ("momentum", math.nan)]
)
def test_options_out_of_bounds(saved: Path, name: str, value: Any) -> None:
    arrays, metadata = read(saved)
    metadata["param_groups"][0]["options"][name] = value
    write(saved, arrays, metadata)
    params = make_params()
    with pytest.raises(ValueError, match=f"{name} must be"):
        RMSProp.load(saved, params)
    assert all((array == 1).all() for array in params.values())


def test_schedules_that_could_not_be_loaded_are_not_saved(saved: Path) -> None:
    before = saved.read_bytes()
    rate: Any = schedules.Constant(0.1)
    for _ in range(40):
        rate = schedules.Join([rate], boundaries=[])
    with pytest.raises(ValueError, match="at most 32 levels of schedules and lists"):
        RMSProp(make_params(), lr=rate).save(saved)
    assert saved.read_bytes() == before


HEADERS = [
    "", "3", "[]", "{}", "null", '{"arrays": []}', '{"arrays": {}, "metadata": {}}',
    '{"arrays": [3], "metadata": {}}', '{"arrays": [{}], "metadata": {}}',
    '{"arrays": null, "metadata": {}}', '{"arrays": [], "metadata": []}',
    '{"arrays": [], "metadata": NaN}', "[" * 100_000, '{"a":' * 100_000, "9" * 100_000,
    '{"arrays": [], "metadata": {}} x',
]  # fmt: skip


@pytest.mark.parametrize("body", HEADERS, ids=range(len(HEADERS)))
def test_headers(path: Path, body: str) -> None:
    forge(path, {}, sealed(body))
    assert_refused(path, "cannot be read as a checkpoint")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "without its name"),
        ({"key": None}, "without its name"),
        ({"crc32": "x"}, "without its name"),
        ({"crc32": math.nan}, "without its name"),
        ({"crc32": 3}, "the data of array 'a' differ"),
        ({"dtype": "object"}, "array 'a' has dtype 'object'"),
        ({"dtype": ["f4"]}, "damaged"),
        ({"dtype": "float32"}, "damaged"),
        ({"shape": [3.0]}, "array 'a' has no possible shape"),
        ({"shape": [-3]}, "array 'a' has no possible shape"),
        ({"shape": [True] * 3}, "array 'a' has no possible shape"),
        ({"shape": [10**30, 0]}, "array 'a' has no possible shape"),
        ({"shape": [1] * 100}, "array 'a' has no possible shape"),
        ({"shape": 3}, "damaged"),
        ({"shape": [2**62, 0]}, "damaged"),
        ({"shape": [2**40]}, "its arrays would be larger than the file"),
        ({"shape": [2**40, 2**40]}, "its arrays would be larger than the file"),
        ({"shape": [2]}, "damaged"),
        ({"shape": [3, 1]}, "damaged"),
    ],
)
def test_announced_arrays(path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {"a": np.ones(3), "b": np.ones(3)}
    entries = announced(arrays)
    forge(path, arrays, sealed(json.dumps({"arrays": entries, "metadata": {}})))
    assert sorted(read(path)[0]) == ["a", "b"]
    entries[0].update(changes)
    forge(path, arrays, sealed(json.dumps({"arrays": entries, "metadata": {}})))
    assert_refused(path, message)


def test_arrays_announced_twice_or_not_at_all(path: Path) -> None:
    arrays = {"a": np.ones(3), "b": np.ones(3)}
    for entries, message in (
        ([announced(arrays)[0]] * 2, "two of its arrays have the same name"),
        (announced(arrays)[:1], "damaged"),
        ([*announced(arrays), announced({"c": np.ones(0)})[0]], "damaged"),
    ):
        forge(path, arrays, sealed(json.dumps({"arrays": entries, "metadata": {}})))
        assert_refused(path, message)


def test_counts_that_no_training_reaches() -> None:
    p, v = np.ones(2), np.zeros(2)
    numbers: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "bias_correction": True}
    rmsprop_step(p, np.ones(2), v, **numbers, step=2**53)
    before = p.copy()
    for step in (2**53 + 1, 2**63 - 1, 2**63, 10**30):
        with pytest.raises(ValueError, match=re.escape("step must be at most 2**53")):
            rmsprop_step(p, np.ones(2), v, **numbers, step=step)
    assert (p == before).all()

    opt = RMSProp({"a": p})
    for counter in ("step_count", "skipped_steps", "accumulated"):
        saved = opt.state_dict()
        saved["counters"][counter] = 2**53 + 1
        with pytest.raises(ValueError, match=rf"{counter} is an int >= 0 and <= 2\*\*53"):
            opt.load_state_dict(saved)
    saved = opt.state_dict()
    saved["state"]["a"]["step"] = np.array(2**53 + 1)
    with pytest.raises(ValueError, match=r"not a number of steps up to 2\*\*53"):
        opt.load_state_dict(saved)
    saved["state"]["a"]["step"] = np.array(2**53)
    saved["counters"]["step_count"] = 2**53
    opt.load_state_dict(saved)
    assert opt.step_count == 2**53


@pytest.mark.parametrize("names", [["a", 3], ["a", ["b"]], [None]])
def test_names_in_a_state_dict_are_strings(names: list[Any]) -> None:
    opt = RMSProp({"a": np.ones(2)})
    saved = opt.state_dict()
    saved["param_groups"][0]["params"] = names
    with pytest.raises(ValueError, match="dicts with the key 'params', names"):
        opt.load_state_dict(saved)
    saved = opt.state_dict()
    saved["param_groups"][0][3] = 1
    with pytest.raises(ValueError, match="dicts with the key 'params', names"):
        opt.load_state_dict(saved)
    saved = opt.state_dict()
    saved["state"]["a"]["step"] = [[1], [1, 2]]
    with pytest.raises(ValueError, match="not a number of steps"):
        opt.load_state_dict(saved)
