"""Files of trainings: all that was recorded comes back, and damage gets a clear error."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import mutations
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fused_rmsprop import RMSProp
from fused_rmsprop.monitor import History, Leaf, Monitor
from fused_rmsprop.monitor.files.run_file import Reader, read, write
from fused_rmsprop.monitor.files.streams import FileStream
from fused_rmsprop.monitor.history import QUANTITIES, Point, Store
from runs_support import OPTIONS, a_point, a_run, a_store, assert_same

numbers = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, 5e-324, -0.0, 1e308])


@st.composite
def histories(draw: st.DrawFn) -> History:
    leaves = draw(st.lists(st.text(), max_size=2))
    groups = draw(st.lists(st.text(), min_size=1, max_size=2))
    constant = draw(numbers | st.text().filter(lambda t: "N" not in t and "I" not in t) | st.none())
    store = Store(
        [Leaf(name, (draw(st.integers(0, 9)),), "float64") for name in leaves],
        groups,
        OPTIONS,
        {"kind": "numpy", "eps": [constant]},
        sys.maxsize,
    )

    def array(rows: int, columns: int) -> Any:
        values = draw(st.lists(numbers, min_size=1, max_size=8))
        return np.resize(values, (rows, columns))

    for step in draw(st.lists(st.integers(0, 2**40), max_size=3)):
        rows = array(len(QUANTITIES), len(leaves) + 1)
        store.add([Point(step, rows, array(len(OPTIONS), len(groups)))])
    for step in draw(st.lists(st.integers(0, 2**40), max_size=3)):
        store.log(step, draw(st.dictionaries(st.text(), numbers, max_size=2)))
    return store.history()


@settings(max_examples=50)
@given(history=histories())
def test_a_history_comes_back_as_it_was(
    history: History, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    write(history, path)
    back = read(path)
    assert repr(back.constants) == repr(history.constants)  # NaN differs from itself
    bare = [dataclasses.replace(one, constants={}) for one in (back, history)]
    assert_same(*bare)
    for line in path.read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=refuse)


def refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


def test_a_real_training_comes_back(tmp_path: Path) -> None:
    a, b = np.ones(3), np.ones((2, 2), np.float32)
    groups: list[Any] = [
        {"params": {"a": a}},
        {"params": {"b": b}, "lr": 0.1, "name": "head"},
    ]
    opt = RMSProp(groups)
    monitor = Monitor(opt, every=3)
    for step in range(20):
        opt.step([{"a": 2 * a}, {"b": None if step == 3 else 2 * b}])
        monitor.log(loss=math.inf if step == 3 else float(a.sum()))
    history = monitor.history
    assert len(history.steps) == 7
    assert np.isnan(history["grad_rms"]).any()
    write(history, tmp_path / "run.jsonl")
    assert_same(read(tmp_path / "run.jsonl"), history)
    monitor.detach()


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_line_for_each_point_and_for_each_call_of_log(tmp_path: Path) -> None:
    store = a_store()
    store.add([a_point(store, 1), a_point(store, 11)])
    store.log(1, {"loss": 2.0, "accuracy": 0.1})
    store.log(12, {"loss": 1.0, "accuracy": 0.2})
    write(store.history(), tmp_path / "run.jsonl")
    header, *lines = map(json.loads, lines_of(tmp_path / "run.jsonl"))
    assert header["leaves"][1] == {
        "name": "layer1.b", "shape": [4, 3], "dtype": "float32", "group": 0
    }  # fmt: skip
    assert lines[1] == {"step": 1, "logged": {"loss": 2.0, "accuracy": 0.1}}
    assert lines[2]["step"] == 11
    assert lines[2]["options"].keys() == {"lr", "alpha"}
    assert len(lines[2]["quantities"]["grad_rms"]) == 3
    assert lines[4] == {"end": True}


def test_a_file_that_ends_in_mid_line_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(a_run(steps=12), path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for end in sorted({*range(0, len(whole), 97), *ends, *(end - 1 for end in ends)}):
        path.write_bytes(whole[:end])
        lines = sum(end >= one for one in ends)
        if lines == 0:
            with pytest.raises(ValueError, match="run.jsonl' has no complete line"):
                read(path)
            continue
        history = read(path)
        logged = len(history.logged["loss"].steps) if history.logged else 0
        assert len(history.steps) + logged == min(lines, len(ends) - 1) - 1


def test_a_resumed_training_goes_on_in_its_file(tmp_path: Path) -> None:
    path, store = tmp_path / "run.jsonl", a_store()
    stream = FileStream(store, path)
    for step in (1, 11, 21):
        stream.point(a_point(store, step))
        stream.log(step, {"loss": 1.0, "old": 1.0})
    stream = FileStream(store, path, "a", step=11)  # of the checkpoint
    stream.log(16, {"loss": 3.0})
    stream.point(a_point(store, 31))
    stream.close()
    history = read(path)
    assert history.steps.tolist() == [1, 11, 31]
    assert history.logged["loss"].steps.tolist() == [1, 11, 16]
    assert history.logged["loss"].values.tolist() == [1, 1, 3]
    assert history.logged["old"].steps.tolist() == [1, 11]


def test_a_training_that_begins_anew_does_not_hide_an_old_one(tmp_path: Path) -> None:
    path, store = tmp_path / "run.jsonl", a_store()
    write(a_run(), path)
    before = path.read_bytes()
    hint = "load a checkpoint before you make the monitor, take another path, or mode='w'"
    with pytest.raises(ValueError, match=f"tells of 30 steps, and the optimizer has .*: {hint}"):
        FileStream(store, path, "a")
    assert path.read_bytes() == before
    FileStream(store, path, "w").log(0, {"loss": 2.0})
    FileStream(store, path, "a").point(a_point(store, 1))  # nothing was trained
    history = read(path)
    assert history.steps.tolist() == [1]
    assert history.logged["loss"].values.tolist() == [2]


def test_a_run_cannot_go_on_with_other_parameters(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(a_run(), path)
    before = path.read_bytes()
    for other, what in ((a_store(("w",)), "leaves"), (a_store(groups=("a",)), "groups")):
        for step in (0, 5):
            with pytest.raises(ValueError, match=f"run.jsonl' is of a run with other {what}"):
                FileStream(other, path, "a", step=step)
        assert path.read_bytes() == before
    for step in (0, 5):
        header = json.dumps(json.loads(before.splitlines()[0]) | {"step": step, "groups": ["a"]})
        path.write_bytes(before + header.encode() + b"\n")
        with pytest.raises(ValueError, match=r"line 36: the run goes on with other groups"):
            read(path)


def test_quantities_of_another_release(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(a_run(), path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"cosine"', '"sine"'), encoding="utf-8")
    history = read(path)
    assert np.isnan(history["cosine"]).all()
    np.testing.assert_array_equal(history["grad_rms"], a_run()["grad_rms"])


HEADER = {
    "format": "fused-rmsprop run", "version": 1, "step": 0, "groups": ["0"], "options": ["lr"],
    "leaves": [{"name": "w", "shape": [3], "dtype": "float32", "group": 0}],
    "quantities": ["grad_rms"], "constants": {},
}  # fmt: skip
LEAF = HEADER["leaves"][0]  # type: ignore[index]
POINT: dict[str, Any] = {"step": 1, "quantities": {"grad_rms": [1, 2]}, "options": {"lr": [0.1]}}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (HEADER | {"format": "other"}, 'its "format" is not "fused-rmsprop run"'),
        (HEADER | {"version": 2}, "version 2, and this release reads versions up to 1"),
        (HEADER | {"version": "1"}, '"version" must be an integer'),
        (HEADER | {"step": -1}, '"step" must be an integer of at least 0'),
        (HEADER | {"new": 1}, '"new" is not known here'),
        (HEADER | {"leaves": {}}, '"leaves" must be a list'),
        (HEADER | {"leaves": [3]}, "a leaf must be an object"),
        (HEADER | {"leaves": [LEAF | {"name": 1}]}, '"name" and "dtype" of a leaf must be strings'),
        (HEADER | {"leaves": [LEAF | {"shape": [-1]}]}, "the shape of leaf 'w' must be a list"),
        (HEADER | {"leaves": [LEAF | {"shape": [2**40] * 2}]}, "leaf 'w' is too large"),
        (HEADER | {"leaves": [LEAF | {"group": 1}]}, "is in group 1, and there are 1 groups"),
        (HEADER | {"groups": [1]}, '"groups" must be a list of strings'),
        (HEADER | {"constants": []}, '"constants" must be an object'),
        (POINT | {"step": 1.5}, '"step" must be an integer'),
        (POINT | {"quantities": {}}, '"grad_rms" is missing'),
        (POINT | {"quantities": {"grad_rms": [1]}}, '"grad_rms" must be a list of length 2'),
        (POINT | {"quantities": {"grad_rms": [1, None]}}, '"grad_rms" has a value that is no num'),
        (POINT | {"quantities": {"grad_rms": [1, True]}}, '"grad_rms" has a value that is no num'),
        (POINT | {"quantities": {"grad_rms": [1, 10**400]}}, '"grad_rms" has a value that is no n'),
        (POINT | {"options": {"lr": [0.1, 0.2]}}, '"lr" must be a list of length 1'),
        (POINT | {"options": {"lr": [0.1], "mu": [0.1]}}, '"mu" is not known here'),
        ({"step": 1, "logged": {"loss": "nan"}}, '"loss" has a value that is no number'),
        ({"step": 1, "logged": [1]}, '"logged" must be an object'),
        ({"step": 1, "logged": {}, "at": 1}, '"at" is not known here'),
        ({"end": False}, "this is no header, no point, no logged values and no end"),
        ([1], "a line must be a JSON object"),
        ('{"step": 1, "step": 2, "logged": {}}', "a key appears twice"),
        ('{"step": 1, "logged": {"loss": NaN}}', "NaN is not JSON"),
        ("{", "this is not JSON"),
        ("", "this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
        (b"\xff", "this is not JSON"),
        ('{"end": true}\n{"end": true}', "after the end, only a header can follow"),
    ],
    ids=range(33),
)
def test_damage_is_named(tmp_path: Path, line: Any, problem: str) -> None:
    path = tmp_path / "run.jsonl"
    text = line if isinstance(line, (str, bytes)) else json.dumps(line)
    after = text if isinstance(text, bytes) else text.encode()
    at = 3 + after.count(b"\n")
    path.write_bytes(
        b"\n".join([json.dumps(HEADER).encode(), json.dumps(POINT).encode(), after, b""])
    )
    with pytest.raises(ValueError, match="run.jsonl") as error:
        read(path)
    assert str(error.value).startswith(f"{str(path)!r}, line {at}: ")
    assert problem in str(error.value)


def test_files_of_other_programs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other"
    for content in (b"hello\n", b"\x89PNG\r\n\x1a\n", b'{"a": 1}\n', b"\n", b"PK\x03\x04\0\0\n\0"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="other', line 1: this is no"):
            read(path)
    for content in (b"", b"no newline", b"\x7fELF"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="other' has no complete line, .* no file of a run$"):
            read(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        read(tmp_path / "missing")


@given(seed=st.integers(0, 2**32))
def test_any_damage_gives_an_error_that_names_the_file_or_a_history(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    write(a_run(steps=3), path)
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 2, 5))):
            rng.choice(mutations.BYTES)(rng, data, bytes(data[::-1]))
    else:
        lines = [json.loads(line) for line in data.splitlines()]
        for _ in range(rng.choice((1, 2, 5))):
            mutations.mutate(rng, lines)
        data = bytearray("".join(mutations.as_text(line) + "\n" for line in lines).encode())
    path.write_bytes(data)
    try:
        history = read(path)
    except ValueError as error:
        assert "damaged.jsonl'" in str(error)  # noqa: PT017
    else:
        assert isinstance(history, History)
        write(history, path)
        read(path)


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    path, store = tmp_path / "run.jsonl", a_store()
    stream = FileStream(store, path)

    def train() -> None:
        for step in range(1, 301):
            stream.point(a_point(store, step))
            stream.log(step, {"loss": 1 / step})
        stream.close()

    reader, seen = Reader(path), set()
    training = threading.Thread(target=train)
    training.start()
    while not reader.ended:
        reader.poll()
        history = reader.history
        assert history is not None
        assert history.steps.tolist() == list(range(1, len(history.steps) + 1))
        seen.add(len(history.steps))
    training.join()
    assert len(seen) > 2
    for step in range(1, 301):
        store.add([a_point(store, step)])
        store.log(step, {"loss": 1 / step})
    history = reader.history
    assert history is not None
    assert_same(history, store.history())
    assert not reader.poll()


def test_a_reader_notices_that_the_file_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(a_run(steps=10), path)
    reader = Reader(path)
    for steps in (30, 10, 20):
        write(a_run(steps=steps), path)
        assert reader.poll()
        history = reader.history
        assert history is not None
        assert_same(history, a_run(steps=steps))


def test_a_reader_can_be_bounded(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(a_run(steps=2000), path)
    reader = Reader(path, max_points=50)
    reader.poll()
    history = reader.history
    assert history is not None
    assert len(history.steps) <= 51
    assert len(history.logged["loss"].steps) <= 51


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(a_run(), path)
    before = path.read_bytes()
    bad = dataclasses.replace(a_run(), constants={"eps": object()})
    with pytest.raises(TypeError, match="a history's constants are plain values"):
        write(bad, path)
    with pytest.raises(FileNotFoundError, match="folder"):
        write(a_run(), tmp_path / "missing" / "run.jsonl")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.jsonl"]
