"""Parameters of which a process has only a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import run_script
from torch_support import RMSprop, private, torch


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    script = Path(__file__).parent / "sharded.py"
    printed = run_script(script, tmp_path / "meet")
    assert printed == "refused, and plain steps agree\n"


def marked(with_grad: bool) -> Any:
    """A parameter as FSDP marks it; the other process may have a gradient."""
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3) if with_grad else None
    p._fsdp_flattened = True
    return p


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", 1.0),
        ("max_grad_norm_per_array", 1.0),
        ("on_nonfinite", "skip"),
        ("on_nonfinite", "raise"),
    ],
)
def test_limits_of_whole_gradients_are_refused(name: str, value: Any, with_grad: bool) -> None:
    p, q = torch.ones(2, requires_grad=True), marked(with_grad)
    p.grad = torch.ones(2)
    opt = RMSprop([("whole", p), ("part", q)], **{name: value})
    for _ in range(2):
        with pytest.raises(ValueError, match="shard") as error:
            opt.step()
        assert str(error.value).startswith(
            f"{name}={value!r} needs the whole gradient of param_groups[0]['params'][1] (part), "
        )
        assert "model.clip_grad_norm_(1.0)" in str(error.value)
    assert p.tolist() == [1.0, 1.0]
    assert not opt.state


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_limit_of_each_element_is_not_refused(in_backward: bool) -> None:
    q = marked(True)
    opt = RMSprop([q], max_grad_value=0.5)
    opt.step()
    assert q[0] < 1
    opt.on_nonfinite = "raise"
    opt.in_backward = in_backward
    with pytest.raises(ValueError, match="on_nonfinite='raise' needs the whole gradient"):
        opt.step()


def test_without_the_private_name_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "hidden", frozenset({"_fsdp_flattened"}))
    RMSprop([marked(True)], max_grad_norm=1.0).step()
