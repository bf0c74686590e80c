"""What ``in_backward=True`` refuses, when, and what has changed then."""

from __future__ import annotations

from typing import Any

import pytest

from in_backward_support import Trained, assert_same, loss_of, made, model, same, train, values
from support import run_python
from torch_support import RMSprop, torch


def test_a_backward_pass_through_a_used_graph_is_torchs_error() -> None:
    network, opt = made(True)
    loss = loss_of(network, 0)
    loss.backward(retain_graph=True)
    before = network.tied.detach().clone()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert torch.equal(network.tied, before)
    opt.zero_grad()
    train(network, opt, 2)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "norm": ({"max_grad_norm": 1.0}, "max_grad_norm=1.0 needs .* max_grad_value"),
    "infinite norm": ({"max_grad_norm": float("inf")}, "max_grad_norm=inf needs the norm of all"),
    "skip": ({"on_nonfinite": "skip"}, "on_nonfinite='skip' .*: use on_nonfinite='raise'"),
    "graph": ({"differentiable": True}, r"param_groups\[0\].*differentiable=True would record"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_options_that_need_all_gradients_are_refused(options: Any, message: str) -> None:
    network = model()
    with pytest.raises(ValueError, match=message):
        RMSprop(network.parameters(), in_backward=True, **options)
    opt = RMSprop(network.parameters(), **options)
    with pytest.raises(ValueError, match=message):
        opt.in_backward = True
    assert not opt.in_backward
    assert not any(p._post_accumulate_grad_hooks for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "value"), [("max_grad_norm", 1.0), ("max_grad_norm", 1e9), ("on_nonfinite", "skip")]
)
def test_settings_that_need_all_gradients_are_refused_later(name: str, value: Any) -> None:
    def act(in_backward: bool) -> Trained:
        network, opt = made(in_backward)
        train(network, opt, 1)
        if in_backward:
            before = getattr(opt, name)
            with pytest.raises(ValueError, match=f"in_backward=True steps .*{name}"):
                setattr(opt, name, value)
            assert getattr(opt, name) == before
            setattr(opt, name, before)
        train(network, opt, 2)
        return network, opt

    assert_same(act)


def test_differentiable_is_refused_in_groups() -> None:
    network, opt = made(True)
    new = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"param_groups\[1\]: in_backward=True .*differentiable"):
        opt.add_param_group({"params": [new], "differentiable": True})
    assert len(opt.param_groups) == 1
    assert not new._post_accumulate_grad_hooks
    train(network, opt, 1)
    before = values((network, opt))
    opt.param_groups[0]["differentiable"] = True
    with pytest.raises(ValueError, match=r"param_groups\[0\]: in_backward=True .*differentiable"):
        loss_of(network, 0).backward()
    assert same(values((network, opt)), before)
    opt.param_groups[0]["differentiable"] = False
    train(network, opt, 1)


@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_it_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(TypeError, match="in_backward must be True or False"):
        RMSprop([torch.ones(1)], in_backward=wrong)
    opt = RMSprop([torch.ones(1)])
    with pytest.raises(TypeError, match="in_backward must be True or False"):
        opt.in_backward = wrong


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("infinite", [False, True])
def test_grad_scaler_is_refused(unscale: bool, infinite: bool) -> None:
    network, opt = made(True, torch.float32)
    network.last.bias.grad = torch.ones(2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(loss_of(network, 0)).backward()
    if infinite:
        network.last.bias.grad = torch.full((2,), torch.inf)
    if unscale:
        scaler.unscale_(opt)
    before = values((network, opt))
    with pytest.raises(RuntimeError, match="scale of a GradScaler .*bfloat16 does not need"):
        scaler.step(opt)
    assert same(values((network, opt)), before)
    assert not {"grad_scale", "found_inf"} & opt.__dict__.keys()
    train(network, opt, 1)
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    disabled.scale(loss_of(network, 0)).backward()
    disabled.step(opt)


@pytest.mark.parametrize(("name", "value"), [("grad_scale", 2.0), ("found_inf", 0.0)])
def test_what_a_grad_scaler_sets_is_refused(name: str, value: float) -> None:
    network, opt = made(True)
    setattr(opt, name, torch.tensor(value))
    with pytest.raises(RuntimeError, match="scale of a GradScaler"):
        opt.step()
    train(network, opt, 1)


def test_a_gradient_that_is_not_finite_comes_out_of_backward() -> None:
    p = torch.tensor([1.0, 2.0], requires_grad=True)
    q = torch.tensor([1.0, 0.0], requires_grad=True)
    opt = RMSprop([("good", p), ("bad", q)], on_nonfinite="raise", in_backward=True)
    (p.sum() + q.sum()).backward()
    state = {key: value.clone() for key, value in opt.state[q].items()}
    before = q.detach().clone()
    message = (
        r"\['params'\]\[1\] \(bad\) has 1 .* index \(1,.*before it stay stepped; call zero_grad"
    )
    with pytest.raises(FloatingPointError, match=message):
        (q * torch.tensor([1.0, torch.inf])).sum().backward()
    assert torch.equal(q, before)
    assert same(opt.state[q], state)
    with pytest.raises(FloatingPointError):
        opt.step()  # its gradient is still there
    opt.zero_grad()
    (p.sum() + q.sum()).backward()
    assert (opt.state[p]["step"], opt.state[q]["step"]) == (2, 2)


def test_a_gradient_that_comes_back_is_refused() -> None:
    network, opt = made(True)
    train(network, opt, 2)
    loss_of(network, 2).backward()
    network.last.bias.grad = torch.ones(2, dtype=torch.float64)
    network.unused.grad = torch.ones(3, dtype=torch.float64)
    before = values((network, opt))
    with pytest.raises(RuntimeError, match=r"\[6\] was stepped during backward\(\) and has a grad"):
        opt.step()
    assert same(values((network, opt)), before)
    network.last.bias.grad = None
    opt.step()
    assert opt.state[network.unused]["step"] == 1
    train(network, opt, 2, begin=3)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is not distributed")
def test_distributed_data_parallel_is_refused(tmp_path: Any) -> None:
    # In a process of its own, without an end of gloo's threads, which may hang.
    run_python(
        """
        import os, sys
        import torch
        from fused_rmsprop.torch import RMSprop

        torch.distributed.init_process_group("gloo", init_method=sys.argv[1], rank=0, world_size=1)
        network = torch.nn.Linear(3, 2)
        parallel = torch.nn.parallel.DistributedDataParallel(network)
        opt = RMSprop(network.parameters(), in_backward=True)
        parallel(torch.ones(4, 3)).sum().backward()
        try:
            opt.step()
        except RuntimeError as error:
            assert "DistributedDataParallel, which averages" in str(error)
        else:
            raise AssertionError("not refused")
        assert opt.state[network.weight]["step"] == 1
        os._exit(0)
        """,
        (tmp_path / "store").as_uri(),
    )


def test_the_option_belongs_to_the_whole_optimizer() -> None:
    p = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="in_backward belongs to the whole optimizer"):
        RMSprop([{"params": [p], "in_backward": True}])
    opt = RMSprop([p])
    opt.param_groups[0]["in_backward"] = True
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match="in_backward belongs to the whole optimizer"):
        opt.step()


def test_a_sparse_gradient_is_refused() -> None:
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    opt = RMSprop(embedding.parameters(), in_backward=True)
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        embedding(torch.tensor([1, 2])).sum().backward()
    assert torch.equal(embedding.weight, before)
    assert not opt.state


def test_the_error_of_a_parameter_that_torch_steps_names_it() -> None:
    p = torch.ones(2, requires_grad=True)
    half = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    groups = [{"params": [("p", p)]}, {"params": [("half", half)], "ema_decay": 0.9}]
    opt = RMSprop(groups, in_backward=True)
    with pytest.raises(ValueError, match=r"param_groups\[1\]\['params'\]\[0\] \(half\), which"):
        half.sum().backward()
    assert not opt.state
    opt.param_groups[1]["lr"] = "x"
    with pytest.raises(TypeError, match="lr must be a number"):
        half.sum().backward()
    opt.param_groups[1].update(lr=0.1, ema_decay=2.0)
    with pytest.raises(ValueError, match=r"param_groups\[1\]: ema_decay must be"):
        half.sum().backward()
    assert (half == 1).all()


def test_fixed_options_of_a_loaded_state_stay_fixed() -> None:
    network, opt = made(True)
    train(network, opt, 1)
    opt.load_state_dict(opt.state_dict())
    opt.param_groups[0]["bias_correction"] = True
    before = values((network, opt))
    with pytest.raises(ValueError, match="bias_correction is fixed"):
        loss_of(network, 1).backward()
    assert same(values((network, opt)), before)


def test_inside_use_ema_a_backward_pass_is_refused() -> None:
    network, opt = made(True, ema_decay=0.5)
    train(network, opt, 2)
    before = values((network, opt))
    with opt.use_ema():
        with pytest.raises(RuntimeError, match=r"inside use_ema\(\)"):
            loss_of(network, 2).backward()
        with pytest.raises(RuntimeError, match=r"inside use_ema\(\)"):
            opt.in_backward = False
    assert same(values((network, opt)), before)
    opt.zero_grad()
    train(network, opt, 1)


def test_an_update_in_the_middle_of_a_change_is_refused() -> None:
    network, opt = made(True)
    with (
        opt._stepper.claim(),
        pytest.raises(RuntimeError, match="in the middle of a step, or of a change"),
    ):
        loss_of(network, 0).backward()
    assert not opt.state
    opt.zero_grad()
    train(network, opt, 1)
