"""Arrays and containers of other libraries: gradients are read, parameters refused."""

from __future__ import annotations

import array
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from fused_rmsprop import RMSProp, rmsprop_step
from support import Array


class Exporter:
    """An array that exports its memory through DLPack, and nothing else."""

    def __init__(self, values: Array) -> None:
        self.values, self.exports = values, 0

    def __dlpack__(self, **kwargs: Any) -> Any:
        self.exports += 1
        return self.values.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.values.__dlpack_device__()


class Frozen(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, items: dict[str, Any]) -> None:
        self.items_of = items

    def __getitem__(self, key: str) -> Any:
        return self.items_of[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_of)

    def __len__(self) -> int:
        return len(self.items_of)


def as_memoryview(values: Array) -> Any:
    return memoryview(values)  # type: ignore[arg-type]


def as_array_array(values: Array) -> Any:
    return array.array(values.dtype.char, values.ravel().tolist())


def by_jax(values: Array) -> Any:
    jax = pytest.importorskip("jax")
    if values.dtype == np.float64:
        pytest.skip("JAX has float32 alone by default")
    return jax.numpy.array(values)


def by_torch(values: Array) -> Any:
    return pytest.importorskip("torch").tensor(values)


EXPORTERS = [Exporter, as_memoryview, as_array_array, by_jax, by_torch]


def step(opt: RMSProp, grad: Any) -> None:
    opt.step({"W": grad})


def accumulate(opt: RMSProp, grad: Any) -> None:
    opt.accumulate({"W": grad})
    opt.step()


def leafwise(opt: RMSProp, grad: Any) -> None:
    with opt.leafwise() as update:
        update("W", grad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("entry", [step, accumulate, leafwise])
@pytest.mark.parametrize("export", EXPORTERS)
def test_a_gradient_of_another_library_gives_the_same_bits(
    export: Callable[[Array], Any], entry: Callable[[RMSProp, Any], None], dtype: type[Any]
) -> None:
    grad = np.random.default_rng(1).standard_normal(5).astype(dtype)
    ours, theirs = np.ones(5, dtype), np.ones(5, dtype)
    entry(RMSProp({"W": ours}), grad)
    entry(RMSProp({"W": theirs}), export(grad))
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, np.ones(5, dtype))


@pytest.mark.parametrize("export", EXPORTERS)
def test_rmsprop_step_reads_it_too(export: Callable[[Array], Any]) -> None:
    grad = np.arange(3, dtype=np.float32)
    results = []
    for given in (grad, export(grad)):
        param, square_avg = np.ones(3, np.float32), np.zeros(3, np.float32)
        rmsprop_step(param, given, square_avg, lr=0.1, alpha=0.9, eps=1e-8)
        results.append(param)
    assert np.array_equal(results[0], results[1])


def test_it_is_read_without_a_copy() -> None:
    param = np.ones(4)
    opt = RMSProp(param)
    for own in (Exporter(param), as_memoryview(param)):
        with pytest.raises(ValueError, match="grads shares memory with params"):
            opt.step(own)
    grad = Exporter(np.ones(4))
    opt.step(grad)
    assert grad.exports == 1


def test_the_usual_checks_apply() -> None:
    opt = RMSProp({"a": {"W": np.ones(4)}})
    for wrong, error in ((np.ones(4, np.float32), TypeError), (np.ones(3), ValueError)):
        with pytest.raises(error, match=r"^grads\['a'\]\['W'\] has"):
            opt.step({"a": {"W": Exporter(wrong)}})


def test_a_numpy_number_is_the_gradient_of_a_parameter_without_axes() -> None:
    param, other = np.ones((), np.float32), np.ones((), np.float32)
    RMSProp(param).step(np.float32(2))
    RMSProp(other).step(np.array(2, np.float32))
    assert param == other != 1
    with pytest.raises(TypeError, match="grads has dtype float64, but params is float32"):
        RMSProp(param).step(np.float64(2))
    with pytest.raises(TypeError, match=r"grads is a float.*np\.asarray"):
        RMSProp(param).step(2.0)


def test_an_export_that_steps_the_same_optimizer_is_refused_and_changes_nothing() -> None:
    param = np.ones(2)
    opt = RMSProp(param)

    class Meddler(Exporter):
        def __dlpack__(self, **kwargs: Any) -> Any:
            opt.step(np.ones(2))
            return super().__dlpack__(**kwargs)

    with pytest.raises(TypeError, match="in the middle of a step"):
        opt.step(Meddler(np.ones(2)))
    assert np.array_equal(param, np.ones(2))
    opt.step(np.ones(2))


def test_an_interrupt_of_an_export_stays_one() -> None:
    class Interrupted(Exporter):
        def __dlpack__(self, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    param = np.ones(2)
    with pytest.raises(KeyboardInterrupt):
        RMSProp(param).step(Interrupted(np.ones(2)))
    assert np.array_equal(param, np.ones(2))


def test_only_numpy_arrays_can_be_bound() -> None:
    opt = RMSProp({"W": np.ones(2)})
    for foreign in (Exporter(np.ones(2)), as_memoryview(np.ones(2)), np.float64(1)):
        with pytest.raises(TypeError, match=r"^grads\['W'\] .* can be bound; pass it to each"):
            opt.bind_grads({"W": foreign})
    grads: UserDict[str, Any] = UserDict({"W": np.ones(2)})
    opt.bind_grads(grads)
    opt.step()
    grads["W"] = as_memoryview(np.ones(2))
    with pytest.raises(TypeError, match="can be bound"):
        opt.step()
    with pytest.raises(TypeError, match="can be bound"), opt.leafwise() as update:
        update("W")


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda t: t.ones(2, requires_grad=True), "grads requires a gradient|detach"),
        (lambda t: t.ones(2, dtype=t.bfloat16), r"bfloat16.*tensor\.float\(\)"),
        (lambda t: t.ones(2, device="meta"), r"not in the memory of the CPU; pass tensor\.cpu\(\)"),
    ],
)
def test_a_tensor_that_cannot_be_read(make: Callable[[Any], Any], remedy: str) -> None:
    torch = pytest.importorskip("torch")
    param = np.ones(2, np.float32)
    opt = RMSProp({"W": param})
    for entry in (step, accumulate, leafwise):
        with pytest.raises(TypeError, match=r"grads\['W'\] .*(" + remedy + ")"):
            entry(opt, make(torch))
    assert np.array_equal(param, np.ones(2, np.float32))


MAPPINGS = [dict, UserDict, MappingProxyType, Frozen, ChainMap]
SEQUENCES = [list, tuple, UserList, deque]


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_containers_of_any_kind(mapping: Any, sequence: Any) -> None:
    rng = np.random.default_rng(2)
    grads = [rng.standard_normal(3) for _ in range(3)]

    def trained(mapping: Any, sequence: Any, of_grads: Any, of_items: Any) -> list[Array]:
        p = [np.ones(3) for _ in range(3)]
        opt = RMSProp(mapping({"a": sequence([p[0], p[1]]), "b": {"c": p[2]}}))
        opt.step(of_grads({"a": of_items([grads[0], grads[1]]), "b": of_grads({"c": grads[2]})}))
        assert [*opt.state] == ["a.0", "a.1", "b.c"]
        return p

    expected = trained(dict, list, dict, list)
    for other in (dict, mapping):
        for items in (list, sequence):
            assert np.array_equal(trained(mapping, sequence, other, items), expected)


@pytest.mark.parametrize("mapping", [UserDict, ChainMap, Frozen])
def test_a_replaced_parameter_is_noticed_in_any_mapping(mapping: Any) -> None:
    items = {"W": np.ones(2)}
    params = mapping(items)
    opt = RMSProp(params)
    if mapping is Frozen:
        items["W"] = np.ones(2)
    else:
        params["W"] = np.ones(2)
    with pytest.raises(ValueError, match=r"params\['W'\] is not the array any more"):
        opt.step({"W": np.ones(2)})


def test_structures_that_differ_are_named_in_any_container() -> None:
    opt = RMSProp(Frozen({"a": deque([np.ones(1)])}))
    with pytest.raises(ValueError, match=r"grads\['a'\] is missing"):
        opt.step(UserDict({"b": [np.ones(1)]}))
    with pytest.raises(ValueError, match=r"grads\['a'\] has 2 items"):
        opt.step(Frozen({"a": UserList([np.ones(1)] * 2)}))
    with pytest.raises(ValueError, match=r"grads\['a'\] is a UserDict"):
        opt.step(Frozen({"a": UserDict({0: np.ones(1)})}))
    assert opt.step_count == 0


def test_groups_in_other_containers(tmp_path: Any) -> None:
    opt = RMSProp(UserList([Frozen({"params": np.ones(1), "lr": 0.5}), {"params": np.ones(2)}]))
    opt.step(deque([np.ones(1), None]))
    assert opt.param_groups[0]["lr"] == 0.5
    opt.save(tmp_path / "a.npz")
    params = UserList([{"params": np.zeros(1)}, {"params": np.zeros(2)}])
    assert RMSProp.load(tmp_path / "a.npz", params).step_count == 1


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (Exporter(np.ones(2)), r"np\.array\(value\)"),
        (as_memoryview(np.ones(2)), r"np\.array\(value\)"),
        (array.array("d", [1.0]), r"np\.array\(value\)"),
        (np.float32(1), r"np\.array\(value\)"),
        ([1.0, 2.0], r"\[0\] is a float.*np\.array\(\[\.\.\.\], np\.float32\)"),
        (3, r"np\.array\(\[\.\.\.\], np\.float32\)"),
    ],
)
def test_a_parameter_that_cannot_be_written_in_place(value: Any, remedy: str) -> None:
    with pytest.raises(TypeError, match=r"^params\['W'\].*" + remedy):
        RMSProp({"W": value})
    if not isinstance(value, (list, int)):
        with pytest.raises(TypeError, match="^params is a .*" + remedy):
            RMSProp(value)


@pytest.mark.parametrize("export", [by_jax, by_torch])
def test_a_parameter_of_another_framework(export: Callable[[Array], Any]) -> None:
    remedy = "np.array" if export is by_jax else "fused_rmsprop.torch.RMSprop"
    for params in (export(np.ones(2, np.float32)), [export(np.ones(2, np.float32))]):
        with pytest.raises(TypeError, match="not a NumPy array") as caught:
            RMSProp(params)
        assert remedy in str(caught.value)


def test_a_negated_view_of_torch_is_refused() -> None:
    torch = pytest.importorskip("torch")
    negated = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    p, v = np.zeros(2, np.float32), np.zeros(2, np.float32)
    opt = RMSProp({"p": p})
    with opt.leafwise() as update, pytest.raises(TypeError, match="resolve_neg"):
        update("p", negated)
    with pytest.raises(TypeError, match="grad is .*resolve_neg"):
        rmsprop_step(p, negated, v, lr=0.1, alpha=0.9, eps=1e-8)
    for method in (opt.step, opt.accumulate):
        with pytest.raises(TypeError, match=r"grads\['p'\] is .*resolve_neg"):
            method({"p": negated})
    assert not p.any()
    opt.step({"p": negated.resolve_neg()})
    assert (p > 0).all()
