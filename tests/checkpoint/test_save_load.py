"""`RMSProp.save` and `RMSProp.load`: what goes into the file, going on from it, refusals."""

from __future__ import annotations

import contextlib
import math
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, checkpoint, schedules
from reference import same_bits
from support import Array

EVERYTHING: dict[str, Any] = {
    "lr": schedules.Join(
        [
            schedules.Linear(0.0, end_value=0.1, transition_steps=3),
            schedules.Cosine(0.1, transition_steps=9),
        ],
        boundaries=[3],
    ),
    "alpha": 0.9,
    "momentum": schedules.Piecewise([0.5, 0.9], boundaries=[4]),
    "weight_decay": 0.01,
    "decoupled_weight_decay": True,
    "centered": True,
    "nesterov": True,
    "eps_inside_sqrt": True,
    "lr_in_momentum": True,
    "bias_correction": True,
    "ema_decay": 0.9,
    "max_grad_norm": 3.0,
    "max_grad_value": 1.5,
    "on_nonfinite": "skip",
    "flush_denormals": False,
}  # fmt: skip


def make_params(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "layer/1": {"W": np.asfortranarray(rng.standard_normal((5, 4)).astype(np.float32))},
        "b": [rng.standard_normal(3), np.array(rng.standard_normal(), np.float32)],
        "none": None,
        "empty": np.zeros((0, 2)),
    }


def make_grads(rng: np.random.Generator) -> dict[str, Any]:
    return make_params(int(rng.integers(2**32)))


def leaves(params: dict[str, Any]) -> list[Array]:
    return [params["layer/1"]["W"], *params["b"], params["empty"]]


def assert_same(a: RMSProp, b: RMSProp) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first["param_groups"] == second["param_groups"]
    assert first["settings"] == second["settings"]
    assert first["counters"] == second["counters"]
    assert first["state"].keys() == second["state"].keys()
    for name, state in first["state"].items():
        assert state.keys() == second["state"][name].keys()
        for key, array in state.items():
            assert same_bits(np.atleast_1d(array), np.atleast_1d(second["state"][name][key]))


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("accumulating", [False, True])
def test_resuming_is_bit_identical(path: Path, options: Any, accumulating: bool) -> None:
    params, rng = make_params(0), np.random.default_rng(1)
    opt = RMSProp(params, **options)
    for _ in range(5):
        opt.step(make_grads(rng))
    if options:
        bad = make_grads(rng)
        bad["b"][0][1] = np.nan
        opt.step(bad)  # is skipped
    if accumulating:
        opt.accumulate(make_grads(rng) | {"b": [None, None]})
        opt.accumulate(make_grads(rng) | {"b": [None, None]})
    opt.save(path)

    restored = make_params(7)
    other = RMSProp.load(path, restored)
    assert_same(opt, other)
    assert other.step_count == 5
    assert other.skipped_steps == (1 if options else 0)
    for a, b in zip(leaves(params), leaves(restored), strict=True):
        assert same_bits(np.atleast_1d(a), np.atleast_1d(b))
    for i in range(6):
        if accumulating and i == 0:
            opt.step()
            other.step()
            continue
        grads = make_grads(rng)
        opt.step(grads)
        other.step(grads)
    assert_same(opt, other)
    for a, b in zip(leaves(params), leaves(restored), strict=True):
        assert same_bits(np.atleast_1d(a), np.atleast_1d(b))


def test_groups_and_their_defaults(path: Path) -> None:
    def groups(scale: float) -> list[dict[str, Any]]:
        return [
            {"params": {"W": np.full(3, scale)}, "lr": 0.5, "name": "body"},
            {"params": [np.full(2, scale, np.float32)], "momentum": 0.9, "eps": 1e-40},
        ]

    first = groups(1.0)
    opt = RMSProp(first, alpha=0.8, flush_denormals=False)
    grads = [{"W": np.arange(3.0)}, [np.ones(2, np.float32)]]
    opt.step(grads)
    opt.save(path)
    second = groups(2.0)
    other = RMSProp.load(path, second, threads=1)
    assert other.threads == 1
    assert [dict(g.options()) for g in other.param_groups] == [
        dict(g.options()) for g in opt.param_groups
    ]
    other.step(grads)
    opt.step(grads)
    assert_same(opt, other)
    assert same_bits(first[0]["params"]["W"], second[0]["params"]["W"])
    other.add_param_group({"params": np.ones(2)})
    assert other.param_groups[2]["alpha"] == 0.8


def test_options_given_to_load_come_before_the_saved_ones(path: Path) -> None:
    opt = RMSProp([np.ones(3)], lr=lambda t: 0.1 / (t + 1), weight_decay=0.1)
    opt.step([np.ones(3)])
    opt.save(path)
    p = [np.zeros(3)]
    message = (
        r"lr of param_groups\[0\] was a function, and a file cannot hold "
        r"<function .*<lambda>>: pass it again, as RMSProp\.load\(path, params, lr=\.\.\.\) or in"
    )
    with pytest.raises(ValueError, match=message):
        RMSProp.load(path, p)
    assert not p[0].any()
    other = RMSProp.load(path, p, lr=0.5, max_grad_norm=2, grads=[np.ones(3)])
    assert (other.lr, other.max_grad_norm, other.step_count) == (0.5, 2.0, 1)
    assert other.param_groups[0]["weight_decay"] == 0.1
    other.step()
    with pytest.raises(TypeError, match="RMSProp.load has no option 'learning_rate'; is lr meant"):
        RMSProp.load(path, p, learning_rate=0.5)
    with pytest.raises(ValueError, match="bias_correction is fixed"):
        RMSProp.load(path, p, lr=0.1, bias_correction=True)
    with pytest.raises(ValueError, match=r"(?s)does not fit.*momentum_buffer'\] is missing"):
        RMSProp.load(path, p, lr=0.1, momentum=0.9)


def test_what_does_not_fit_is_listed_before_anything_is_touched(path: Path) -> None:
    opt = RMSProp({"a": np.ones(3), "b": np.ones((2, 2)), "c": np.ones(2, np.float32)})
    opt.save(path)
    wrong = {"a": np.zeros(3), "b": np.zeros((2, 3)), "c": np.zeros(2)}
    with pytest.raises(ValueError, match="does not fit") as caught:
        RMSProp.load(path, wrong)
    text = str(caught.value)
    assert "the saved parameter 'b' is float64 of shape (2, 2), the parameter float64 of" in text
    assert "the saved parameter 'c' is float32 of shape (2,), the parameter float64 of" in text
    assert "'a'" not in text
    assert not any(array.any() for array in wrong.values())
    with pytest.raises(ValueError, match=r"(?s)'d' is not in .*'b' is in .* only.*'c' is in"):
        RMSProp.load(path, {"a": np.zeros(3), "d": np.zeros(2)})
    with pytest.raises(ValueError, match="the file has 1 parameter groups, the optimizer 2"):
        RMSProp.load(path, [{"params": np.zeros(3)}, {"params": np.zeros(3), "name": "x"}])


def test_differences_of_all_groups_are_listed(path: Path) -> None:
    RMSProp([{"params": {"A": np.ones(3), "C": np.ones(1)}}, {"params": {"B": np.ones(2)}}]).save(
        path
    )
    with pytest.raises(ValueError, match="does not fit") as caught:
        RMSProp.load(path, [{"params": {"A": np.ones(3)}}, {"params": {"B": np.ones(7)}}])
    assert "'0.C' is in" in str(caught.value)
    assert "parameter '1.B'" in str(caught.value)


@pytest.mark.parametrize(
    ("group", "defaults"),
    [
        ({"momentum": 0.9}, {"nesterov": True}),
        ({"initial_square_avg": 0.0}, {"initial_square_avg": 1.0, "bias_correction": True}),
        ({"eps": 1e-8}, {"eps": 1e-50}),
    ],
)
def test_defaults_that_no_group_could_use(path: Path, group: Any, defaults: Any) -> None:
    opt = RMSProp([{"params": np.ones(3, np.float32), **group}], **defaults)
    opt.step([np.ones(3, np.float32)])
    opt.save(path)
    assert_same(opt, RMSProp.load(path, [{"params": np.zeros(3, np.float32)}]))


def test_functions_and_numbers_side_by_side(path: Path) -> None:
    a, b = np.ones(3), np.ones(3)
    opt = RMSProp([{"params": a}, {"params": b, "lr": 0.1}], lr=lambda t: 0.5 / (1 + t))
    opt.step([np.ones(3), np.ones(3)])
    opt.save(path)
    other = RMSProp.load(path, [{"params": a}, {"params": b}], lr=lambda t: 0.25 / t)
    assert [group.current()["lr"] for group in other.param_groups] == [0.25, 0.1]


def test_functions_of_groups_are_taken_from_the_groups(path: Path) -> None:
    def groups() -> list[dict[str, Any]]:
        return [
            {"params": np.ones(3), "lr": lambda t: 0.5 / (1 + t), "momentum": 0.9},
            {"params": np.ones(3), "lr": lambda t: 0.25, "momentum": 0.5},
        ]

    opt = RMSProp(groups(), lr=lambda t: 1.0)
    opt.step([np.ones(3), np.ones(3)])
    opt.save(path)
    given = groups()
    given[0]["momentum"] = 0.1  # is that of the file
    other = RMSProp.load(path, given)
    assert [group.current()["lr"] for group in other.param_groups] == [0.25, 0.25]
    assert [group["momentum"] for group in other.param_groups] == [0.9, 0.5]
    with pytest.raises(ValueError, match=r"lr of param_groups\[1\] was a function"):
        RMSProp.load(path, [given[0], {"params": np.ones(3)}])


def test_a_group_added_later(path: Path) -> None:
    a, b = {"W": np.ones(3)}, np.ones(2)
    opt = RMSProp(a)
    opt.add_param_group({"params": b, "name": "b", "lr": 0.5})
    opt.save(path)
    other = RMSProp.load(path, [{"params": a}, {"params": b}])
    assert list(other.state) == list(opt.state) == ["W", "b"]


@pytest.mark.slow
def test_saving_while_another_thread_steps(path: Path) -> None:
    p = np.zeros(50_000)
    opt = RMSProp(p, threads=1)
    done = threading.Event()

    def train() -> None:
        while not done.is_set():
            with contextlib.suppress(RuntimeError):  # a save has claimed it
                opt.step(np.ones(50_000))
            done.wait(1e-4)  # for a save to come in between

    thread = threading.Thread(target=train)
    thread.start()
    try:
        saved = 0
        while saved < 10:
            with contextlib.suppress(RuntimeError):  # a step has claimed it
                opt.save(path)
                saved += 1
                other = RMSProp.load(path, np.zeros(50_000))
                (values,) = (other.param_groups[0]["params"],)
                expected = np.zeros(50_000)
                again = RMSProp(expected, threads=1)
                for _ in range(other.step_count):
                    again.step(np.ones(50_000))
                assert same_bits(values, expected)
    finally:
        done.set()
        thread.join()
    assert other.step_count > 0


def test_other_files_are_refused(path: Path) -> None:
    opt = RMSProp([np.ones(300)])
    p = [np.zeros(300)]
    with pytest.raises(FileNotFoundError):
        RMSProp.load(path, p)
    opt.save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.CheckpointError, match="saved"):
            RMSProp.load(path, p)
    with pytest.raises(ValueError, match=r"\.npz"):
        opt.save(path.with_suffix(".pt"))
    assert not p[0].any()


def test_the_file_can_be_read_without_this_package(path: Path) -> None:
    opt = RMSProp({"layer1": {"W": np.arange(3.0)}}, momentum=0.9)
    opt.step({"layer1": {"W": np.ones(3)}})
    opt.save(path)
    arrays, _ = checkpoint.read(path)
    assert sorted(arrays) == [
        "params/layer1.W", "state/layer1.W/momentum_buffer", "state/layer1.W/square_avg",
        "state/layer1.W/step",
    ]  # fmt: skip
    assert same_bits(arrays["params/layer1.W"], opt.param_groups[0]["params"]["layer1"]["W"])
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        theirs = load_file(path)
    else:
        with np.load(path, allow_pickle=False) as file:
            theirs = {name: file[name] for name in file.files if name != "checkpoint.json"}
    assert theirs.keys() == arrays.keys()
    assert all(same_bits(np.atleast_1d(theirs[n]), np.atleast_1d(arrays[n])) for n in arrays)


def test_schedules_of_every_kind_are_saved(path: Path) -> None:
    kinds = [
        schedules.Constant(0.1),
        schedules.Linear(0.1, end_value=0.0, transition_steps=5, transition_begin=2),
        schedules.Polynomial(0.1, transition_steps=5, power=2.0),
        schedules.Exponential(0.1, decay_rate=0.5, transition_steps=2, end_value=0.01),
        schedules.StepDecay(0.1, decay_rate=0.5, transition_steps=2),
        schedules.Piecewise([0.1, 0.2, 0.3], boundaries=[2, 4]),
        schedules.Cosine(0.1, transition_steps=5),
        schedules.WarmupCosine(0.1, warmup_steps=2, total_steps=6),
        schedules.OneCycle(0.1, total_steps=6, three_phase=True),
        schedules.InverseSqrt(0.1, warmup_steps=2),
        schedules.Scaled(schedules.Cosine(0.2, transition_steps=3), factor=0.5),
        schedules.Join([schedules.Constant(0.1), schedules.Cosine(0.2, transition_steps=3)],
                       boundaries=[2]),
    ]  # fmt: skip
    assert {type(k).__name__ for k in kinds} == set(schedules.__all__) - {
        "Schedule", "ReduceOnPlateau", "plot",
    }  # fmt: skip
    for kind in kinds:
        RMSProp(np.ones(2), lr=kind).save(path)
        assert RMSProp.load(path, np.zeros(2)).param_groups[0]["lr"] == kind
    mixed = schedules.Join([schedules.Constant(0.1), lambda t: 0.2], boundaries=[2])
    RMSProp(np.ones(2), lr=mixed).save(path)
    with pytest.raises(ValueError, match=r"lr of param_groups\[0\] was a function"):
        RMSProp.load(path, np.zeros(2))
    assert RMSProp.load(path, np.zeros(2), lr=mixed).param_groups[0]["lr"] is mixed


def test_load_makes_the_class_it_is_called_on(path: Path) -> None:
    class Mine(RMSProp):
        pass

    Mine(np.ones(2)).save(path)
    assert type(Mine.load(path, np.zeros(2))) is Mine


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_of_earlier_releases(suffix: str) -> None:
    path = Path(__file__).parent / "data" / f"release_0_1_0{suffix}"

    def groups(value: float) -> list[dict[str, Any]]:
        first = {"layer/1": {"W": np.full((2, 3), value, np.float32)}, "é": np.array(value)}
        return [{"params": first, "name": "body"}, {"params": [np.full(2, value), np.ones((0, 3))]}]

    arrays, _ = checkpoint.read(path)
    params = groups(0.0)
    opt = RMSProp.load(path, params)
    body, other = opt.param_groups
    assert same_bits(params[0]["params"]["layer/1"]["W"], arrays["params/body.layer/1.W"])
    assert (opt.step_count, opt.max_grad_norm, opt.on_nonfinite) == (3, math.inf, "skip")
    assert isinstance(body["lr"], schedules.Join)
    assert (body["centered"], body["weight_decay"], other["lr"], other["eps"]) == (
        True, 0.125, 0.25, 1e-5,
    )  # fmt: skip
    opt.step()  # with the gradients that were accumulated
    assert opt.step_count == 4
    assert RMSProp.load(path, groups(0.0), lr=0.5, max_grad_norm=None).lr == 0.5


def test_files_whose_arrays_are_numbered() -> None:
    """Of the first version of the format: every kind of state, awkward names, three groups."""
    path = Path(__file__).parent / "data" / "numbered.npz"
    with np.load(path) as file:
        assert {"0", "1", "checkpoint.json"} <= {*file.files}

    def groups(value: float) -> list[dict[str, Any]]:
        body = {
            "layer/1": {"W": np.full((2, 3), value, np.float32), "W.npy": np.full(2, value)},
            "é": np.array(value),
            "\ud800": np.full(1, value),
            "a\0b": np.full((1, 2), value),
            "x" * 70: [np.full(2, value), None],
        }
        return [
            {"params": body, "name": "body", "centered": True, "ema_decay": 0.5},
            {
                "params": [np.full(2, value), np.ones((0, 3))],
                "name": "checkpoint.json",
                "lr": 0.25,
            },
            {"params": np.full((2, 2), value, np.float32), "name": "0", "momentum": 0.0},
        ]

    def gradients(value: float) -> list[Any]:
        return [group["params"] for group in groups(value)]

    straight = RMSProp(
        groups(1.0),
        lr=schedules.Cosine(0.5, transition_steps=9),
        momentum=0.5,
        max_grad_norm=math.inf,
    )
    for i in range(3):
        straight.step(gradients(0.5 * (i + 1)))
    straight.accumulate(gradients(0.25))
    loaded = groups(0.0)
    opt = RMSProp.load(path, loaded)
    assert_same(opt, straight)
    arrays, _ = checkpoint.read(path)
    values = checkpoint.load_params(path)
    assert same_bits(values["0"], arrays["params/0"])
    assert same_bits(loaded[2]["params"], arrays["params/0"])
    assert same_bits(loaded[0]["params"]["a\0b"], values["body.a\0b"])


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "reshaped": lambda params: setattr(params["a"], "shape", (3, 2)),
    "resized": lambda params: params["a"].resize((1, 2), refcheck=False),
    "another dtype": lambda params: setattr(params["a"], "dtype", np.int64),
    "replaced": lambda params: params.update(a=params["a"] * 2),
    "removed": lambda params: params.pop("a"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_parameter_is_not_saved_over_a_good_file(change: str, tmp_path: Path) -> None:
    params = {"a": np.ones((2, 3)), "b": np.ones(2)}
    opt = RMSProp(params, ema_decay=0.5)
    opt.step({"a": np.ones((2, 3)), "b": None})
    path = tmp_path / "good.npz"
    opt.save(path)
    good = path.read_bytes()
    CHANGES[change](params)
    for attempt in (lambda: opt.save(path), lambda: pickle.dumps(opt), opt.use_ema().__enter__):
        with pytest.raises(ValueError, match=r"params\['a'\]"):
            attempt()
    assert path.read_bytes() == good
