"""`explain()`, its agreement with steps, the warning for a whole model, and the `repr`."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest

from torch_support import RMSprop, params_of, torch

WARNING = "all parameters fall back to torch.optim.RMSprop"


def ones(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.ones(*shape, dtype=dtype, requires_grad=True)


def all_kinds() -> list[tuple[str, Any]]:
    shared = torch.ones(6)
    unaligned = torch.frombuffer(bytearray(10), dtype=torch.float32, count=2, offset=2)
    with torch.inference_mode():
        inference = torch.ones(2)
    return [
        ("plain", ones(3)),
        ("double", ones(3, dtype=torch.float64)),
        ("half", ones(3, dtype=torch.bfloat16)),
        ("complex", ones(3, dtype=torch.complex64)),
        ("meta", torch.ones(3, device="meta", requires_grad=True)),
        ("gaps", torch.ones(6)[::2].requires_grad_()),
        ("unaligned", unaligned.requires_grad_()),
        ("one", shared[:4].requires_grad_()),
        ("other", shared[2:].requires_grad_()),
        ("frozen", torch.ones(2)),
        ("inference", inference),
        ("lazy", torch.nn.UninitializedParameter()),
    ]


WHY = {
    "plain": ("kernel", "torch.float32 in CPU memory"),
    "double": ("kernel", "torch.float64 in CPU memory"),
    "half": ("torch", "torch.bfloat16"),
    "complex": ("torch", "torch.complex64"),
    "meta": ("torch", "on meta"),
    "gaps": ("torch", "its memory has gaps"),
    "unaligned": ("torch", "its memory is not aligned"),
    "one": ("torch", r"shares memory with param_groups[0]['params'][8] (other)"),
    "other": ("torch", r"shares memory with param_groups[0]['params'][7] (one)"),
    "frozen": ("nobody", "does not require a gradient"),
    "inference": ("nobody", "does not require a gradient"),
    "lazy": ("nobody", "no shape before its module"),
}


def test_each_kind_of_parameter_has_its_reason() -> None:
    opt = RMSprop(all_kinds())
    before = str(opt.state_dict())
    told = opt.explain()
    assert [(row.name, row.by) for row in told] == [(name, by) for name, (by, _) in WHY.items()]
    for row in told:
        assert WHY[row.name][1] in row.why
    assert "no gradient now" in told[0].why
    assert str(opt.state_dict()) == before
    assert "12 parameters: 2 by the kernel, 7 by torch, 3 by nobody" in str(told)


@pytest.mark.parametrize(
    ("options", "by", "why"),
    [
        ({"eps": 0}, "torch", "the kernel needs eps > 0"),
        ({"eps": 1e-50}, "torch", "rounds to zero in float32"),
        ({"alpha": 1.0}, "torch", "the kernel needs alpha < 1"),
        ({"differentiable": True}, "torch", "differentiable is set"),
        ({"capturable": True}, "torch", "capturable is set"),
        ({"eps": 0, "max_grad_norm": 1.0}, "nobody", "torch has no max_grad_norm, and the kernel"),
        ({"eps": 0, "ema_decay": 0.5}, "nobody", "torch has no ema_decay"),
    ],
)
def test_options_are_reasons(options: dict[str, Any], by: str, why: str) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    opt = RMSprop([p], **options)
    p.grad = torch.ones(2)
    ((_, told, reason),) = opt.explain()
    assert told == by
    assert why in reason
    if by == "nobody":
        with pytest.raises(ValueError, match=r"is not supported for .* because the kernel needs"):
            opt.step()


def test_it_agrees_with_the_steps_in_all_modes() -> None:
    for in_backward in (False, True):
        named = [
            (name, p) for name, p in all_kinds() if name in ("plain", "double", "gaps", "half")
        ]
        opt = RMSprop(named, in_backward=in_backward, ema_decay=0.0)
        first = opt.explain()
        sum((p.float() ** 2).sum() for _, p in named).backward()
        opt.step()
        assert [row.by for row in opt.explain()] == [row.by for row in first]
        opt.load_state_dict(opt.state_dict())
        assert [row.by for row in opt.explain()] == ["kernel", "kernel", "torch", "torch"]


def test_it_works_inside_use_ema_and_for_parameters_given_twice() -> None:
    (p,) = params_of([1.0, 2.0])
    opt = RMSprop([p], ema_decay=0.5)
    opt.step()
    with opt.use_ema():
        assert opt.explain()[0].by == "kernel"
    with pytest.warns(UserWarning, match="duplicate"):
        twice = RMSprop([p, p])
    assert [row.by for row in twice.explain()] == ["kernel", "torch"]
    assert "given more than once" in twice.explain()[1].why


def test_a_long_table_is_shortened_in_repr_alone() -> None:
    opt = RMSprop([ones(1) for _ in range(100)])
    told = opt.explain()
    assert len(repr(told).splitlines()) == 32
    assert "70 more" in repr(told)
    assert len(str(told).splitlines()) == 101


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_whole_model_that_falls_back_warns_once(in_backward: bool) -> None:
    p, q = ones(2, dtype=torch.bfloat16), ones(2, dtype=torch.bfloat16)
    opt = RMSprop([p, q], in_backward=in_backward)
    with pytest.warns(UserWarning, match=WARNING) as caught:  # noqa: PT031
        (p.sum() + q.sum()).backward()
        opt.step()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            (p.sum() + q.sum()).backward()
            opt.step()
            opt.load_state_dict(opt.state_dict())
            opt.in_backward = not opt.in_backward


def test_the_warning_as_an_error_leaves_all_as_it_was() -> None:
    p = ones(2, dtype=torch.bfloat16)
    opt = RMSprop([p])
    p.grad = torch.ones_like(p)
    for _ in range(2):
        with pytest.raises(UserWarning, match=WARNING):  # an error, as tests are set up
            opt.step()
        assert torch.equal(p, torch.ones_like(p))
        assert not opt.state


@pytest.mark.parametrize("case", ["mixed", "frozen floats", "eps", "gaps", "differentiable"])
def test_it_warns_for_the_kind_of_a_whole_model_alone(case: str) -> None:
    half, plain = ones(2, dtype=torch.bfloat16), ones(2)
    frozen = torch.ones(2)
    cases: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "mixed": ([half, plain], {}),
        "frozen floats": ([half, frozen], {}),
        "eps": ([plain], {"eps": 0}),
        "gaps": ([torch.ones(6)[::2].requires_grad_()], {}),
        "differentiable": ([torch.nn.Parameter(half.detach().clone())], {"capturable": True}),
    }
    params, options = cases[case]
    opt = RMSprop(params, **options)
    for p in params:
        if p.requires_grad:
            p.grad = torch.ones_like(p)
    if case == "frozen floats":
        with pytest.warns(UserWarning, match=WARNING):
            opt.step()
    elif case == "differentiable":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(AssertionError):  # of torch: capturable needs a device
                opt.step()
    else:
        opt.step()


def test_repr_shows_active_extras_and_settings_alone() -> None:
    params = [ones(1)]
    assert repr(RMSprop(params)) == repr(torch.optim.RMSprop(params)).replace("RMSprop", "RMSprop")
    shown = repr(RMSprop(params, nesterov=True, momentum=0.5, max_grad_norm=1.0, in_backward=False))
    assert "    nesterov: True\n" in shown
    assert "All Groups\n    max_grad_norm: 1.0\n)" in shown
    assert "ema_decay" not in shown
    assert "in_backward: True" in repr(RMSprop(params, in_backward=True))


def test_help_shows_types_not_their_names() -> None:
    assert "lr: Any = 0.01" in str(inspect.signature(RMSprop))
    assert "threads: int | None = None" in str(inspect.signature(RMSprop))
    assert list(inspect.signature(RMSprop).parameters)[:2] == ["params", "lr"]
    assert "'" not in str(inspect.signature(RMSprop)).replace("'propagate'", "")


def test_the_warning_points_to_the_caller() -> None:
    for in_backward in (False, True):
        model = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
        optimizer = RMSprop(model.parameters(), in_backward=in_backward)
        optimizer.register_step_pre_hook(lambda *_: None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
            optimizer.step()
        assert [w.filename for w in caught] == [__file__]


def test_one_parameter_that_cannot_be_stepped_stops_the_step() -> None:
    params = [torch.ones(2, dtype=d, requires_grad=True) for d in (torch.float32, torch.bfloat16)]
    rows = RMSprop(params, max_grad_norm=1.0).explain()
    assert [row.by for row in rows] == ["nobody", "nobody"]
    assert rows[0].why.startswith("step() raises an error because of param_groups[0]['params'][1]")


def test_a_shared_state_is_no_reason_where_the_kernel_cannot_step() -> None:
    model = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
    optimizer = RMSprop(model.parameters(), centered=True)
    optimizer.share_memory()
    assert all("bfloat16" in row.why for row in optimizer.explain())


def test_a_property_of_a_subclass_keeps_its_own_error() -> None:
    class Mine(RMSprop):
        @property
        def broken(self) -> int:
            return [].nothing  # type: ignore[attr-defined, no-any-return]

    with pytest.raises(AttributeError, match="'list' object has no attribute 'nothing'"):
        _ = Mine([torch.ones(1, requires_grad=True)]).broken
