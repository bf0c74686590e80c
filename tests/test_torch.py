"""The drop-in for torch.optim.RMSprop against torch's own, which is the reference here."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the tests of fused_rmsprop.torch need torch")

from reference import rmsprop as reference_step  # noqa: E402, I001
from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fused_rmsprop.torch import RMSprop  # noqa: E402

TorchRMSprop = torch.optim.RMSprop


def optimizer_cases() -> tuple[list[Any], list[Any]]:
    """The cases of torch itself for RMSprop: keyword arguments, and what must be refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_optimizers import optim_db
    info = next(i for i in optim_db if i.optim_cls is TorchRMSprop)
    good = [i.kwargs for i in info.optim_inputs_func(device="cpu")]
    return good, info.optim_error_inputs_func(device="cpu", dtype=torch.float32)


GOOD, BAD = optimizer_cases()


def some_params(dtype: Any, seed: int = 0) -> list[Any]:
    """Leaves of all kinds: shapes, memory orders, gaps."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    tensors = [
        normal(7, 5),
        normal(1000),
        normal(4, 6).t(),
        normal(2, 3, 4, 5).to(memory_format=torch.channels_last),
        normal(6, 4)[:, ::2],
        torch.tensor(0.5, dtype=dtype),
        torch.empty(0, 3, dtype=dtype),
        normal(3),  # never has a gradient
    ]
    return [t.requires_grad_() for t in tensors]


def set_grads(params: list[Any], step: int, orders: bool = True) -> None:
    """Gradients that depend on nothing but the step; some in other memory orders."""
    generator = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(params[:-1]):
        grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        p.grad = grad if orders and i % 2 else torch.empty_like(p).copy_(grad)


def assert_close(ours: Any, theirs: Any, dtype: Any) -> None:
    """To within 2e-6 of the array's scale in float32, 1e-12 in float64."""
    rtol = 2e-6 if dtype == torch.float32 else 1e-12
    scale = float(theirs.abs().max()) if theirs.numel() else 0.0
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * scale)


def assert_same(ours: Any, theirs: Any, mine: list[Any], others: list[Any]) -> None:
    """Parameters and, key by key, the states of two optimizers; the variance is ours alone."""
    for p, q in zip(mine, others, strict=True):
        assert_close(p.detach(), q.detach(), p.dtype)
    state, expected = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert state.keys() == expected.keys()
    for i, entries in expected.items():
        entries = {k: v for k, v in entries.items() if k != "variance"}
        assert [key for key in state[i] if key != "variance"] == list(entries)
        for key, value in entries.items():
            assert state[i][key].dtype == value.dtype
            assert_close(state[i][key], value, others[i].dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kwargs", GOOD, ids=str)
def test_steps_and_state_are_torchs(kwargs: Any, groups: int, dtype: Any) -> None:
    mine, others = some_params(dtype), some_params(dtype)

    def grouped(params: list[Any]) -> list[Any]:
        if groups == 1:
            return params
        return [{"params": params[:3], "lr": 0.02}, {"params": params[3:5]}, {"params": params[5:]}]

    ours = RMSprop(grouped(mine), **kwargs)
    theirs = TorchRMSprop(grouped(others), **{**kwargs, "foreach": False})
    if kwargs.get("capturable"):
        set_grads(mine, 0)
        set_grads(others, 0)
        with pytest.raises(AssertionError) as expected:
            theirs.step()
        with pytest.raises(AssertionError, match=str(expected.value)[:20]):
            ours.step()
        return
    for step in range(50):
        set_grads(mine, step)
        set_grads(others, step)
        ours.step()
        theirs.step()
        for group in (*ours.param_groups, *theirs.param_groups):
            group["lr"] = group["lr"] * 0.99
    assert_same(ours, theirs, mine, others)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad.error_regex))
def test_refuses_what_torch_refuses(bad: Any) -> None:
    case = bad.optimizer_error_input
    with pytest.raises(bad.error_type) as expected:
        TorchRMSprop(case.params, **case.kwargs)
    with pytest.raises(bad.error_type) as raised:
        RMSprop(case.params, **case.kwargs)
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_are_numpys(dtype: Any, momentum: float) -> None:
    params = some_params(dtype)[:4]
    arrays = [p.detach().numpy().copy() for p in params]
    states: list[Any] = [{"square_avg": np.zeros_like(a)} for a in arrays]
    for state, a in zip(states, arrays, strict=True):
        if momentum:
            state["momentum_buffer"] = np.zeros_like(a)
    opt = RMSprop(params, lr=0.01, alpha=0.9, momentum=momentum)
    for step in range(5):
        set_grads([*params, None], step)
        opt.step()
        for i, p in enumerate(params):
            arrays[i], states[i] = reference_step(
                arrays[i],
                p.grad.numpy(),
                states[i],
                lr=0.01,
                alpha=0.9,
                eps=1e-8,
                momentum=momentum,
            )
    for p, expected in zip(params, arrays, strict=True):
        assert np.array_equal(p.detach().numpy(), expected)


OPTIONS = [{}, {"momentum": 0.9}, {"centered": True}, {"centered": True, "momentum": 0.9}]


@pytest.mark.parametrize("kwargs", OPTIONS, ids=str)
@pytest.mark.parametrize("through_file", [False, True])
def test_state_is_exchanged_both_ways_in_mid_training(kwargs: Any, through_file: bool) -> None:
    mine, others = some_params(torch.float64), some_params(torch.float64)
    first: Any = TorchRMSprop(others, lr=0.01, **kwargs)
    for step in range(10):
        set_grads(others, step)
        first.step()

    def hand_over(old: Any, new: Any, source: list[Any], target: list[Any]) -> None:
        with torch.no_grad():
            for p, q in zip(source, target, strict=True):
                q.copy_(p)
        saved = copy.deepcopy(old.state_dict())
        if through_file:
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file)
        new.load_state_dict(saved)

    ours = RMSprop(mine, lr=0.5, **kwargs)
    hand_over(first, ours, others, mine)
    for step in range(10, 20):
        for params, opt in ((mine, ours), (others, first)):
            set_grads(params, step)
            opt.step()
    assert_same(ours, first, mine, others)
    third_params = some_params(torch.float64)
    third = TorchRMSprop(third_params, lr=0.5)
    hand_over(ours, third, mine, third_params)
    for step in range(20, 30):
        for params, opt in ((third_params, third), (others, first)):
            set_grads(params, step)
            opt.step()
    assert_same(third, first, third_params, others)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_alike(copied: Any) -> None:
    params = some_params(torch.float32)[:4]
    opt = RMSprop(params, centered=True, momentum=0.5, nesterov=True, threads=1)
    for step in range(3):
        set_grads([*params, None], step)
        opt.step()
    twin = copied(opt)
    twins = twin.param_groups[0]["params"]
    set_grads([*params, None], 7)
    set_grads([*twins, None], 7)
    opt.step()
    twin.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    assert twin._stepper.threads == 1


def test_the_variance_survives_a_state_dict_and_torchs_steps_in_between() -> None:
    def steps(params: list[Any], opt: Any, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(60):
            for p in params:
                p.grad = 1 + 1e-2 * torch.randn(p.shape, generator=generator)
            opt.step()

    def loaded(make: Any, params: list[Any], opt: Any) -> tuple[list[Any], Any]:
        params = [p.detach().clone().requires_grad_() for p in params]
        twin = make(params, lr=1e-3, alpha=0.5, centered=True)
        twin.load_state_dict(copy.deepcopy(opt.state_dict()))
        return params, twin

    params = [torch.zeros(6, requires_grad=True)]
    opt = RMSprop(params, lr=1e-3, alpha=0.5, centered=True)
    steps(params, opt, 0)
    twin_params, twin = loaded(RMSprop, params, opt)
    again_params, again = loaded(RMSprop, twin_params, twin)  # saved before it has made a step
    steps(params, opt, 1)
    steps(twin_params, twin, 1)
    steps(again_params, again, 1)
    assert torch.equal(params[0], twin_params[0])
    assert torch.equal(params[0], again_params[0])
    # After torch's steps the variance that goes along is out of date.
    torch_params, torchs = loaded(TorchRMSprop, params, opt)
    steps(torch_params, torchs, 2)
    back_params, back = loaded(RMSprop, torch_params, torchs)
    bare_params = [p.detach().clone().requires_grad_() for p in torch_params]
    bare = RMSprop(bare_params, lr=1e-3, alpha=0.5, centered=True)
    state_dict = copy.deepcopy(torchs.state_dict())
    for state in state_dict["state"].values():
        del state["variance"]
    bare.load_state_dict(state_dict)
    steps(back_params, back, 3)
    steps(bare_params, bare, 3)
    assert torch.equal(back_params[0], bare_params[0])
    assert torch.isfinite(back_params[0]).all()


def test_centered_does_not_become_nan_where_torch_does() -> None:
    def train(make: Any) -> Any:
        p = torch.zeros(100, requires_grad=True)
        opt = make([p], lr=1e-3, alpha=0.9, centered=True)
        generator = torch.Generator().manual_seed(0)
        for _ in range(300):
            p.grad = 1000 + 1e-3 * torch.randn(100, generator=generator)
            opt.step()
        return p

    assert train(TorchRMSprop).isnan().any()
    assert train(RMSprop).isfinite().all()


def test_closure_hooks_and_added_groups() -> None:
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
    opt = RMSprop([p], lr=0.1)
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append("before"))
    opt.register_step_post_hook(lambda *_: seen.append("after"))
    opt.add_param_group({"params": [q], "lr": 0.2})

    def closure() -> Any:
        opt.zero_grad()
        loss = (p**2 + q**2).sum()
        loss.backward()
        seen.append("closure")
        return loss

    assert opt.step(closure).item() == 6.0
    assert seen == ["before", "closure", "after"]
    assert torch.all(q < p)


class Counting(RMSprop):
    """A subclass with a step of its own."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        return super().step(closure)


@pytest.mark.parametrize("optimizer", [RMSprop, Counting])
def test_hooks_run_once_and_in_torchs_order(optimizer: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    opt = optimizer([p])
    seen: list[Any] = []
    opt.step()  # before there is any hook
    handles = [
        opt.register_step_pre_hook(lambda *a: seen.append(("pre", *a))),
        opt.register_step_post_hook(lambda *a: seen.append(("post", *a))),
        register_optimizer_step_pre_hook(lambda *a: seen.append(("global pre", *a))),
        register_optimizer_step_post_hook(lambda *a: seen.append(("global post", *a))),
    ]
    opt.step()
    for handle in handles:
        handle.remove()
    opt.step()
    order = ["global pre", "pre", "post", "global post"]
    theirs: list[Any] = []
    other = TorchRMSprop([p])
    other.register_step_pre_hook(lambda *_: theirs.append("pre"))
    other.register_step_post_hook(lambda *_: theirs.append("post"))
    with_global = [
        register_optimizer_step_pre_hook(lambda *_: theirs.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: theirs.append("global post")),
    ]
    other.step()
    for handle in with_global:
        handle.remove()
    assert sorted(theirs) == sorted(order)
    assert [name for name, *_ in seen] == theirs
    assert all(of is opt and kwargs == {} for _, of, _, kwargs in seen)
    arguments: dict[Any, list[Any]] = {}
    for o in (opt, other):
        o.register_step_post_hook(
            lambda o, args, kwargs: arguments.setdefault(o, []).append((len(args), kwargs))
        )
        o.step(closure=None)
        o.step(None)
        o.step()
        o._optimizer_step_post_hooks.clear()
    if optimizer is RMSprop:
        assert arguments[opt] == arguments[other] == [(1, {"closure": None}), (2, {}), (1, {})]

    opt.register_step_pre_hook(lambda *_: ((opt, lambda: torch.tensor(7.0)), {}))
    assert opt.step().item() == 7.0  # a hook may replace the arguments
    assert int(opt.state[p]["step"]) == 7
    assert inspect.signature(RMSprop.step) == inspect.signature(TorchRMSprop.step)


@pytest.mark.parametrize("optimizer", [RMSprop, Counting])
def test_a_step_has_its_label_in_a_profile(optimizer: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    opt = optimizer([p])
    with torch.profiler.profile() as profile:
        opt.step()
    labels = [event.key for event in profile.key_averages() if "Optimizer.step" in event.key]
    assert labels == [f"Optimizer.step#{optimizer.__name__}.step"]


@pytest.mark.parametrize(
    "register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook]
)
def test_a_single_hook_of_all_optimizers_runs(register: Any) -> None:
    seen = []
    handle = register(lambda opt, *_: seen.append(opt))
    opt = RMSprop([torch.ones(3)])
    try:
        opt.step()
    finally:
        handle.remove()
    opt.step()
    assert seen == [opt]


def test_tensor_lr_and_changed_options() -> None:
    results = []
    for make in (RMSprop, TorchRMSprop):
        params = some_params(torch.float64)
        opt: Any = make(params, lr=torch.tensor(0.01))
        for step in range(12):
            set_grads(params, step)
            if step == 4:
                opt.param_groups[0].update(alpha=0.5, eps=1e-3, weight_decay=0.1, maximize=True)
            if step == 8:
                opt.param_groups[0]["eps"] = 0  # which the kernel does not take
            opt.step()
        results.append((opt, params))
    assert_same(results[0][0], results[1][0], results[0][1], results[1][1])


def test_momentum_and_centered_turned_on_and_off() -> None:
    p = torch.ones(4, requires_grad=True)
    opt = RMSprop([p])
    for options in ({}, {"momentum": 0.9}, {"centered": True}, {"centered": False}):
        opt.param_groups[0].update(options)
        p.grad = torch.ones(4)
        opt.step()
    assert list(opt.state[p]) == ["step", "square_avg", "momentum_buffer", "grad_avg"]
    assert p.isfinite().all()
    assert opt.state[p]["step"] == 4


SCHEDULERS: list[Any] = [
    lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4]),
    lambda o: torch.optim.lr_scheduler.ConstantLR(o),
    lambda o: torch.optim.lr_scheduler.LinearLR(o),
    lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    lambda o: torch.optim.lr_scheduler.PolynomialLR(o),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
    lambda o: torch.optim.lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1),
    lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 10),
]


@pytest.mark.parametrize("index", range(len(SCHEDULERS)))
def test_schedulers(index: int) -> None:
    trained = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(5, dtype=torch.float64, requires_grad=True)
        opt: Any = make([p], lr=0.1, momentum=0.5)
        scheduler = SCHEDULERS[index](opt)
        for _ in range(8):
            opt.zero_grad()
            (p**3).sum().backward()
            opt.step()
            scheduler.step()
        trained.append((opt, [p]))
    assert_same(trained[0][0], trained[1][0], trained[0][1], trained[1][1])


def test_reduce_on_plateau() -> None:
    opt = RMSprop([torch.ones(2, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert opt.param_groups[0]["lr"] < 1.0


def test_grad_scaler() -> None:
    def trained(use_scaler: bool) -> tuple[Any, Any]:
        p = torch.linspace(-1, 1, 50, requires_grad=True)
        opt = RMSprop([p], lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=use_scaler)
        for _ in range(5):
            opt.zero_grad()
            scaler.scale((p**2).sum()).backward()
            scaler.step(opt)
            scaler.update()
        return p, opt

    p, opt = trained(True)
    q, _ = trained(False)
    assert torch.equal(p, q)  # the scale is a power of two
    before, state = p.detach().clone(), copy.deepcopy(opt.state_dict()["state"][0])
    scaler = torch.amp.GradScaler("cpu")
    p.grad = torch.full_like(p, torch.inf)
    scaler.scale(torch.ones(()))
    scaler.step(opt)
    scaler.update()
    assert torch.equal(p, before)
    assert all(torch.equal(opt.state[p][key], value) for key, value in state.items())
    # What a step that raises leaves behind must not count for the next.
    opt.register_step_pre_hook(lambda *_: 1 / 0)
    for grad in (torch.ones(50), torch.full((50,), torch.inf)):
        p.grad = scaler.scale(grad)
        if grad.isinf().any():
            scaler.step(opt)  # no hook runs for a step that is left out
        else:
            with pytest.raises(ZeroDivisionError):
                scaler.step(opt)
        scaler.update()
        assert not {"grad_scale", "found_inf"} & vars(opt).keys()
    opt._optimizer_step_pre_hooks.clear()
    half = torch.ones(2, dtype=torch.float16, requires_grad=True)
    half.grad = torch.ones_like(half)
    for make in (RMSprop, TorchRMSprop):
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(torch.ones(()))
        with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
            scaler.step(make([half]))
    # Unscaled by hand, the scaler gives no scale any more.
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    p.grad = scaler.scale(torch.ones(50))
    scaler.unscale_(opt)
    scaler.step(opt)
    assert not torch.equal(p, before)


def test_what_the_kernel_does_not_do_goes_through_torch() -> None:
    def params() -> list[Any]:
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(40, generator=generator)
        tensors = [
            torch.randn(5, generator=generator),
            torch.randn(5, generator=generator).to(torch.bfloat16),
            torch.randn(5, generator=generator).to(torch.complex64),
            base[:20].detach(),
            base[10:30].detach(),  # shares memory with the one before
        ]
        return [t.requires_grad_() for t in tensors]

    mine, others = params(), params()
    ours, theirs = RMSprop(mine, momentum=0.9), TorchRMSprop(others, momentum=0.9, foreach=False)
    for step in range(5):
        for ps in (mine, others):
            generator = torch.Generator().manual_seed(step)
            for p in ps:
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        ours.step()
        theirs.step()
    assert_same(ours, theirs, mine, others)
    assert all(torch.equal(p, q) for p, q in zip(mine[1:], others[1:], strict=True))


def test_a_parameter_given_twice() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        with pytest.warns(UserWarning, match="duplicate"):
            opt: Any = make([p, p])
        p.grad = torch.ones_like(p)
        opt.step()
        values.append(p.detach())
    assert_close(values[0], values[1], torch.float64)


def test_sparse_gradients_are_refused_and_nothing_changes() -> None:
    p, q = torch.ones(6)[::2].requires_grad_(), torch.ones(3, requires_grad=True)
    opt = RMSprop([p, q])
    p.grad = torch.ones(3)
    q.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="RMSprop does not support sparse gradients"):
        opt.step()
    assert torch.equal(p, torch.ones(3))


def test_differentiable() -> None:
    values = []
    for make in (RMSprop, TorchRMSprop):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        twin = p.clone()
        opt: Any = make([twin], lr=0.1, differentiable=True)
        twin.grad = p * 2
        opt.step()
        (gradient,) = torch.autograd.grad(twin.sum(), p)
        values.append(gradient)
    assert torch.equal(values[0], values[1])


def test_a_step_allocates_nothing() -> None:
    params = [torch.randn(100, 10, requires_grad=True) for _ in range(20)]
    opt = RMSprop(params, momentum=0.9, centered=True)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    with torch.profiler.profile(profile_memory=True) as profile:
        opt.step()
    assert all(event.self_cpu_memory_usage == 0 for event in profile.key_averages())


@pytest.mark.parametrize("imports", ["torch, fused_rmsprop.torch", "fused_rmsprop, torch"])
def test_import_order_does_not_matter(imports: str) -> None:
    code = f"""
import {imports}
import hashlib
from fused_rmsprop.torch import RMSprop
torch.manual_seed(0)
p = torch.randn(300_000, requires_grad=True)
opt = RMSprop([p], momentum=0.9)
for _ in range(20):
    opt.zero_grad()
    (p**2).sum().backward()
    opt.step()
print(hashlib.sha256(p.detach().numpy().tobytes()).hexdigest())
"""
    outputs = [
        subprocess.run([sys.executable, "-c", c], check=True, capture_output=True, text=True).stdout
        for c in (code, code.replace(f"import {imports}", "import torch"))
    ]
    assert outputs[0] == outputs[1]


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, fused_rmsprop; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_distributed(tmp_path: Path) -> None:
    script = Path(__file__).parent / "torch_distributed.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "meet")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "both agree\n", done.stderr


def test_a_convnet_reaches_the_same_accuracy() -> None:
    digits = pytest.importorskip("sklearn.datasets", reason="the digits are scikit-learn's")
    data = digits.load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    train, test = slice(0, 1400), slice(1400, None)

    def accuracy(make: Any) -> float:
        torch.manual_seed(0)
        nn = torch.nn
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        )
        opt: Any = make(network.parameters(), lr=3e-3, alpha=0.9)
        for _ in range(20):
            for batch in torch.randperm(1400).split(50):
                opt.zero_grad()
                nn.functional.cross_entropy(network(x[train][batch]), y[train][batch]).backward()
                opt.step()
        with torch.no_grad():
            return float((network(x[test]).argmax(1) == y[test]).float().mean())

    ours, theirs = accuracy(RMSprop), accuracy(TorchRMSprop)
    assert theirs > 0.9
    assert abs(ours - theirs) <= 0.01
