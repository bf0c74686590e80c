"""An error comes before torch's part of a step, so that nothing has changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from torch_support import RMSprop, torch

Breakage = Callable[[Any, Any], None]


def tensors(dtype: Any, grad: bool = True) -> Any:
    p = torch.arange(1.0, 4.0).to(dtype).requires_grad_()
    if grad:
        p.grad = torch.ones_like(p)
    return p


def sparse(opt: Any, p: Any) -> None:
    p.grad = torch.ones_like(p).to_sparse()


def wrong_shape(opt: Any, p: Any) -> None:
    opt.state[p]["square_avg"] = torch.ones(7, dtype=p.dtype)


def wrong_dtype(opt: Any, p: Any) -> None:
    opt.state[p]["square_avg"] = torch.ones(3, dtype=torch.int64)


def other_device(opt: Any, p: Any) -> None:
    opt.state[p]["square_avg"] = torch.ones(3, dtype=p.dtype, device="meta")


def no_tensor(opt: Any, p: Any) -> None:
    opt.state[p]["square_avg"] = [1.0, 2.0, 3.0]


def long_step(opt: Any, p: Any) -> None:
    opt.state[p]["step"] = torch.ones(2)


def no_step(opt: Any, p: Any) -> None:
    opt.state[p]["step"] = "three"


def option(**options: Any) -> Breakage:
    def change(opt: Any, p: Any) -> None:
        opt.param_groups[-1].update(options)

    return change


def setting(name: str, value: Any) -> Breakage:
    return lambda opt, p: setattr(opt, name, value)


BOTH: dict[str, Breakage] = {
    "wrong shape": wrong_shape,
    "no tensor": no_tensor,
    "no step": no_step,
    "a flag that is none": option(bias_correction="yes"),
    "max_grad_norm": setting("max_grad_norm", 1.0),
    "on_nonfinite": setting("on_nonfinite", "raise"),
}
TORCHS: dict[str, Breakage] = {
    "another option": option(nesterov=True, momentum=0.5),
    "wrong dtype": wrong_dtype,
    "other device": other_device,
    "long step": long_step,
    "capturable": option(capturable=True),
    "differentiable with foreach": option(differentiable=True, foreach=True),
    "ema_decay": option(ema_decay=0.5),
}
CASES = [
    *((torch.float32, name, breakage) for name, breakage in BOTH.items()),
    *((torch.bfloat16, name, breakage) for name, breakage in {**BOTH, **TORCHS}.items()),
    (torch.float32, "sparse", sparse),
    (torch.float64, "sparse", sparse),
    (torch.bfloat16, "sparse", sparse),
]


def everything(opt: Any, params: list[Any]) -> Any:
    return copy.deepcopy(
        ([p.detach() for p in params], [opt.state.get(p) for p in params], [len(opt.state)])
    )


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize(
    ("dtype", "breakage"), [(d, b) for d, _, b in CASES], ids=[f"{d}-{n}" for d, n, _ in CASES]
)
@pytest.mark.parametrize("one_group", [False, True])
def test_nothing_has_changed(
    dtype: Any, breakage: Breakage, steps_before: int, one_group: bool
) -> None:
    first, middle, last = tensors(torch.bfloat16), tensors(torch.float32), tensors(dtype)
    params = [first, middle, last]
    opt = RMSprop(params if one_group else [{"params": [p]} for p in params], lr=0.1)
    for _ in range(steps_before):
        opt.step()
    breakage(opt, last)
    before = everything(opt, params)
    versions = [p._version for p in params]
    with pytest.raises((RuntimeError, TypeError, ValueError, AssertionError)):
        opt.step()
    assert str(everything(opt, params)) == str(before)
    assert [p._version for p in params] == versions


@pytest.mark.parametrize("kind", ["expanded", "inference"])
def test_a_parameter_that_cannot_be_written(kind: str) -> None:
    first = tensors(torch.bfloat16)
    if kind == "expanded":
        last = torch.ones(1, dtype=torch.bfloat16).expand(3)
    else:
        with torch.inference_mode():
            last = torch.ones(3)
    last.grad = torch.ones(3, dtype=last.dtype)
    opt = RMSprop([first, last])
    with pytest.raises(RuntimeError, match=r"^param_groups\[0\]\['params'\]\[1\] (is|has)"):
        opt.step()
    assert first.tolist() == [1.0, 2.0, 3.0]
    assert not opt.state
