"""Training goes on, with the same bits, on a torch that lacks a private name."""

from __future__ import annotations

import pickle
import warnings
from contextlib import ExitStack
from typing import Any

import pytest

from fused_rmsprop import _core, show_config
from fused_rmsprop.__main__ import main
from support import needs, run_python
from torch_support import RMSprop, private, torch

optimizer_module = needs("torch.optim.optimizer")

STEPS, WITHOUT = 8, 5  # the gradients of one step are infinite


def some_params() -> list[Any]:
    """Parameters for the kernel in two groups, and one that torch steps."""
    generator = torch.Generator().manual_seed(3)
    shapes = [((40,), torch.float32), ((3, 4), torch.float64), ((9,), torch.bfloat16)]
    return [torch.randn(s, generator=generator).to(d).requires_grad_() for s, d in shapes]


def backward(params: list[Any], step: int, scaler: Any) -> None:
    """Give every parameter a gradient, scaled by a power of two."""
    generator = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = None
        weight = torch.randn(p.shape, generator=generator).to(p.dtype)
        if step == WITHOUT:
            weight[0] = torch.inf
        scaler.scale((p * weight).sum()).backward()


def train() -> tuple[list[Any], list[list[int]], list[int]]:
    """Train with all that surrounds an optimizer.

    Returns
    -------
    The parameters, those of a copy behind them; their versions after each step; the numbers of
    steps after which each hook was called.
    """
    params = some_params()
    opt = RMSprop(
        [{"params": params[:1]}, {"params": params[1:], "lr": 0.05}], momentum=0.9, centered=True
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=3, gamma=0.3)
    calls: list[int] = []
    versions: list[list[int]] = []
    opt.register_step_pre_hook(lambda *_: calls.append(len(versions)))
    opt.register_step_post_hook(lambda *_: calls.append(len(versions)))
    for step in range(STEPS):
        backward(params, step, scaler)
        scaler.step(opt)
        scaler.update()
        scheduler.step()
        versions.append([p._version for p in params])
        if step == 3:
            opt.load_state_dict(opt.state_dict())
    copied = pickle.loads(pickle.dumps(opt))
    others = [p for group in copied.param_groups for p in group["params"]]
    backward(others, STEPS, scaler)
    scaler.step(copied)
    return [p.detach() for p in (*params, *others)], versions, calls


UNOBSERVED = (
    *("_step_supports_amp_scaling", "_set_grad_enabled", "_fsdp_flattened"),
    *("_local_tensor", "_spec"),
)
OPTIONAL_SYMBOL = "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE"


@pytest.fixture(scope="module")
def expected() -> Any:
    """What a training leads to where torch has all names."""
    assert not private.hidden
    return train()


@pytest.mark.parametrize(
    "hidden", [*({name} for name in private.NAMES), {*private.NAMES}], ids=lambda h: min(h, key=len)
)
def test_training_without_a_private_name(
    hidden: set[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "hidden", frozenset(hidden))
    opt = RMSprop(some_params())  # which notices that the name is hidden
    core = hidden & {*_core.torch_private_names()} - {OPTIONAL_SYMBOL}
    assert bool(opt._stepper.why_no_c_functions) is bool(core)
    assert bool(core) is ("without torch's C functions" in str(opt.explain()))
    assert private.is_observed(opt) is bool(hidden - {*_core.torch_private_names(), *UNOBSERVED})
    params, versions, calls = train()
    assert all(torch.equal(a, b) for a, b in zip(params, expected[0], strict=True))
    assert not any(torch.equal(p, before) for p, before in zip(params, some_params() * 2))  # noqa: B905
    assert versions == expected[1]
    steps = [step for step in range(STEPS) if step != WITHOUT]
    for step in steps:
        before = versions[step - 1] if step else [0] * len(params)
        assert all(new > old for new, old in zip(versions[step], before))  # noqa: B905
    assert calls == [step for step in steps for _ in ("pre", "post")]


@pytest.mark.parametrize("nothing", ["hook", "global hook", "profiler"])
def test_a_step_is_observed_only_where_somebody_looks(nothing: str) -> None:
    opt = RMSprop(some_params())
    assert private.is_observed(opt) is False
    with ExitStack() as stack:
        if nothing == "profiler":
            stack.enter_context(torch.profiler.profile())
        else:
            register: Any = (
                opt.register_step_pre_hook
                if nothing == "hook"
                else optimizer_module.register_optimizer_step_post_hook
            )
            stack.callback(register(lambda *_: None).remove)
        assert private.is_observed(opt) is True
    assert private.is_observed(opt) is False


def test_a_torch_without_the_profilers_name_trains_the_same() -> None:
    run_python(
        """
        import torch
        del torch.autograd._profiler_enabled
        from fused_rmsprop.torch import RMSprop, private
        p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
        opt = RMSprop([p])
        calls = []
        for step in range(3):
            p.grad = torch.ones(3)
            opt.step()
            if step == 0:
                opt.register_step_post_hook(lambda *_: calls.append(step))
        assert private.is_observed(opt) and calls == [1, 2] and p._version == 3
        torch.autograd._profiler_enabled = lambda: False
        other = RMSprop([q])
        assert not private.is_observed(other)
        q.grad = torch.ones(3)
        for _ in range(3):
            other.step()
        assert torch.equal(p, q)
        """
    )


def test_importing_and_constructing_need_no_private_name_of_a_module() -> None:
    # The step itself needs them: torch's wrapper around it reads the hooks, each optimizer's too.
    # The C functions are symbols of loaded libraries, and _cdata belongs to an immutable type:
    # they cannot be deleted.
    run_python(
        """
        import torch, torch.optim.optimizer as module
        del torch.autograd._profiler_enabled
        del module._global_optimizer_pre_hooks, module._global_optimizer_post_hooks
        from fused_rmsprop.torch import RMSprop, private
        assert private.is_observed(RMSprop([torch.ones(3)]))
        """
    )


def test_the_configuration_tells_of_a_slow_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_config("dicts")["torch"] == {"version": torch.__version__, "slow": ""}
    monkeypatch.setattr(private, "hidden", frozenset({"aoti_torch_get_dim"}))
    assert main(["info"]) == 0
    assert f"{torch.__version__}; steps of many small tensors are slow" in capsys.readouterr().out
    assert show_config("dicts")["torch"]["slow"].endswith("this torch lacks aoti_torch_get_dim")


def test_tensors_that_are_not_strided_are_torchs() -> None:
    # torch 2.8 and older have no C function for the layout.
    dense = torch.eye(2)
    others = [dense.to_sparse(), dense.to_mkldnn()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls CSR a beta
        others += [dense.to_sparse_csr(), torch.nested.nested_tensor([dense, dense[0:1]])]
    stepper = private.new_stepper()
    assert not stepper.why_no_c_functions
    assert stepper.can_step(dense)
    assert [stepper.can_step(tensor) for tensor in others] == [False] * len(others)
