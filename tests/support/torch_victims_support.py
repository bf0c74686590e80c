"""The torch drop-in under attack by hostile tensors, options and state; see `victims_support`."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from decimal import InvalidOperation
from typing import Any

import numpy as np
import torch

import reference
from attack_support import Image, differences, image_of
from fused_rmsprop.torch import RMSprop
from hostile_support import NUMBERS
from victims_support import ALLOWED, FORMULA, GUARD, NAMES, OPTIONS, SETTINGS, Victim, WrongError

torch.set_num_threads(1)
RMSprop([torch.ones(1)])  # torch imports much at its first use: once, not in each forked child

TENSORS: tuple[Callable[[Any], Any], ...] = (
    lambda t: t.double() if t.dtype == torch.float32 else t.float(),
    lambda t: t.half(),
    lambda t: t.to(torch.bfloat16),
    lambda t: t.long(),
    lambda t: t.to(torch.complex64),
    lambda t: t.to_sparse(),
    lambda t: t.to("meta"),
    lambda t: t.t() if t.dim() == 2 else t[None],
    lambda t: t.reshape(-1),
    lambda t: torch.zeros(0, dtype=t.dtype),
    lambda t: t.reshape(-1)[:1].expand(t.shape) if t.numel() else t,
    lambda t: torch.stack([t, t], dim=-1)[..., 0],
    lambda t: torch.complex(t, t).conj().imag,
    lambda t: torch.from_numpy(np.zeros(t.numel() * 8 + 1, "u1")[1:]).view(torch.uint8),
    lambda t: torch.frombuffer(bytearray(t.numel() * 8 + 16), dtype=t.dtype, offset=2)[: t.numel()],
    lambda t: t.numpy(),
    lambda t: t.tolist(),
    lambda t: torch.nn.Parameter(t.clone()),
    lambda t: torch.zeros(t.shape, dtype=t.dtype).requires_grad_() * 1.0,
    lambda t: None,
)


class TorchVictim(Victim):
    """`fused_rmsprop.torch.RMSprop`."""

    #: torch checks values with comparisons, indices and assertions that raise more.
    raises = (
        *(*ALLOWED, IndexError, NotImplementedError, ZeroDivisionError, InvalidOperation),
        AssertionError,
    )

    def __init__(self, r: random.Random) -> None:
        self.r = r
        torch.set_grad_enabled(True)
        self.buffers: list[Any] = []
        dtypes = [r.choice(["f4", "f8"]) for _ in range(3)]
        shapes: list[tuple[int, ...]] = [(3, 2), (5,), ()]
        self.params = [self.make(s, d) for s, d in zip(shapes, dtypes, strict=True)]
        self.made = [(p.data_ptr(), p.shape, p.dtype, p.stride()) for p in self.params]
        options = {k: v for k, v in r.choice(OPTIONS).items() if not callable(v)}
        settings: dict[str, Any] = r.choice(
            [{}, {"max_grad_norm": 1.0}, {"on_nonfinite": "skip"}, {"max_grad_value": 0.5}]
        )
        groups = [{"params": self.params[:2], "lr": 0.1}, {"params": self.params[2:]}]
        self.opt = RMSprop(groups if r.random() < 0.5 else self.params, **options, **settings)
        self.step_checked()
        self.actions = [
            self.step_checked, self.step_checked, self.hostile_gradient, self.change_param,
            self.hostile_option, self.hostile_setting, self.hostile_state, self.hostile_load,
            self.hostile_params, self.hostile_group, self.averages, self.round_trip, self.closure,
        ]  # fmt: skip

    def make(self, shape: tuple[int, ...], dtype: str) -> Any:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = np.full(count + 2 * GUARD, 0xAA, np.uint8)
        inside = buffer[GUARD : GUARD + count].view(dtype).reshape(shape)
        inside[...] = self.r.gauss(0, 1)
        self.buffers.append(buffer)
        return torch.from_numpy(inside).requires_grad_()

    def image(self) -> Image:
        return image_of(
            buffers=self.buffers,
            params=[self.bytes_of(p) for p in self.params],
            settings=[getattr(self.opt, name) for name in SETTINGS],
            counts=self.opt.skipped_steps,
            grad_mode=torch.is_grad_enabled(),
        )

    def bytes_of(self, p: Any) -> Any:
        plain = p.device.type == "cpu" and p.layout == torch.strided
        return p.detach().clone() if plain and p.dtype != torch.bfloat16 else str(p.shape)

    def check_sound(self) -> None:
        for b in self.buffers:
            if not ((b[:GUARD] == 0xAA).all() and (b[-GUARD:] == 0xAA).all()):
                raise WrongError("memory beside a parameter was written")

    def set_grads(self) -> None:
        for p in self.params:
            values = np.random.default_rng(self.r.getrandbits(32)).standard_normal(tuple(p.shape))
            try:
                p.grad = torch.tensor(values, dtype=p.dtype)
            except (RuntimeError, TypeError):
                p.grad = None

    def step_checked(self) -> None:
        self.set_grads()
        self.checked()

    def checked(self) -> None:
        """A step; where everything is plain, its bits are the reference's."""
        expected = self.expected()
        skipped = self.opt.skipped_steps
        self.mark()
        self.opt.step()
        if expected is None or self.opt.skipped_steps != skipped:
            return
        for p, want in zip(self.params, expected, strict=True):
            got = p.detach().numpy()
            if not reference.same_bits(got * 1.0, np.asarray(want, got.dtype) * 1.0):
                raise WrongError(f"other bits: {got} instead of {want}")

    def expected(self) -> Any:
        """The reference's parameters, or None where something is not plain."""
        opt = self.opt
        clipped = opt.max_grad_norm is not None or opt.max_grad_norm_per_array is not None
        if clipped or not opt.flush_denormals:
            return None
        limit = np.inf if self.opt.max_grad_value is None else self.opt.max_grad_value
        results: dict[int, Any] = {}
        for group in self.opt.param_groups:
            numbers = {k: group[k] for k in (*FORMULA, "initial_square_avg")}
            if not all(type(v) in (int, float, bool) for v in numbers.values()):
                return None
            if any(0 < abs(v) < 1e-300 for v in numbers.values()):  # zero to the reference
                return None
            if any(abs(v) > 1e300 for v in numbers.values()):  # perhaps an int that is no float
                return None
            if not 0 < numbers["eps"] < 1 or group["differentiable"] or group["capturable"]:
                return None
            if min(numbers.values()) < 0 or numbers["alpha"] >= 1 or numbers["momentum"] >= 1:
                # torch steps it
                return None
            del numbers["initial_square_avg"]
            for p in group["params"]:
                if id(p) in results:  # given twice, torch steps it twice
                    return None
                state = self.opt.state.get(p)
                if state and bool(group["centered"]) != ("variance" in state):
                    return None  # the step converts it first
                now = (p.data_ptr(), p.shape, p.dtype, p.stride())
                if p.grad is None or now not in self.made or p.grad.dtype != p.dtype:
                    return None
                results[id(p)] = self.expected_of(p, group, numbers, limit)
        found = [results.get(id(p)) for p in self.params]
        return None if any(f is None for f in found) else found

    def expected_of(self, p: Any, group: Any, numbers: Any, limit: float) -> Any:
        param = p.detach().numpy().copy()
        start = reference.initial_state(param, group["initial_square_avg"])
        found = self.opt.state.get(p, {})
        if not all(torch.is_tensor(t) and not t.requires_grad for t in found.values()):
            return None
        state = {**start, **{k: np.array(t) for k, t in found.items() if torch.is_tensor(t)}}
        if "variance" in state:
            state["square_avg"] = state.pop("variance")
        state["step"] = int(state["step"])
        with reference.flushed_denormals():
            return reference.rmsprop(
                param, p.grad.numpy().copy(), state, max_grad_value=limit, **numbers
            )[0]

    # Actions

    def say(self, value: Any) -> Any:
        self.said = f"{type(value).__name__} {getattr(value, '__name__', '')}"
        return value

    def hostile_gradient(self) -> None:
        self.set_grads()
        p = self.r.choice(self.params)
        p.grad = self.say(self.pick(*TENSORS, lambda t: p.detach())(p.grad))
        self.mark()
        self.opt.step()

    def change_param(self) -> None:
        """Other memory, another dtype or shape under the optimizer."""
        p = self.r.choice(self.params)
        how = self.r.randrange(5)
        if how == 0:
            p.data = self.say(self.r.choice(TENSORS)(p.detach().clone()))
        elif how == 1:
            p.data = p.data.clone()
        elif how == 2:
            p.requires_grad_(not p.requires_grad)
        elif how == 3:
            with torch.no_grad():
                p.set_(torch.zeros(self.r.choice([1, 100]), dtype=p.dtype))
        else:
            with torch.no_grad():
                p.fill_(self.r.choice([0.0, float("nan"), 1e30]))
        self.step_checked()

    def hostile_option(self) -> None:
        group = self.r.choice(self.opt.param_groups)
        name = self.r.choice([*NAMES, "foreach", "capturable", "differentiable", "x", 3, "params"])
        value = self.say(self.r.choice([*NUMBERS, torch.tensor(0.1), torch.tensor([1.0, 2.0])]))
        had, before = name in group, group.get(name)
        if name == "params":
            value = self.r.choice([[], [None], [3, "x"], list(before) * 2])
        group[name] = value
        try:
            self.step_checked()
        except BaseException:
            if had:
                group[name] = before
            else:
                del group[name]
            raise

    def hostile_setting(self) -> None:
        setattr(self.opt, self.r.choice(SETTINGS), self.say(self.r.choice(NUMBERS)))

    def hostile_state(self) -> None:
        state = self.opt.state
        p = self.r.choice(self.params)
        entries = state[p]
        key = self.r.choice([*entries, "variance", "grad_avg", "param_avg", "x"])
        values = [lambda t: self.r.choice(NUMBERS), *TENSORS, lambda t: p.detach()]
        entries[key] = self.say(self.pick(*values)(torch.zeros_like(p)))
        if self.r.random() < 0.1:
            state[p] = self.r.choice([None, [], {}, 3])
        try:
            self.set_grads()
            self.mark()
            self.opt.step()
        except BaseException:
            state.pop(p, None)
            raise

    def hostile_load(self) -> None:
        saved: Any = copy.deepcopy(self.opt.state_dict())
        part = self.r.choice([saved["param_groups"][0], *saved["state"].values(), saved])
        if part:
            key = self.r.choice(list(part))
            part[key] = self.say(self.r.choice([*NUMBERS, torch.ones(2), {}, []]))
        other = copy.deepcopy(self.opt)
        before = image_of(s=other.state_dict())
        try:
            other.load_state_dict(saved)
        except BaseException:
            if changed := differences(before, image_of(s=other.state_dict())):
                raise WrongError(f"a refused state has changed {changed[:3]}") from None
            raise
        for group in other.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        other.step()

    def hostile_params(self) -> None:
        made = [self.r.choice(TENSORS)(torch.ones(2, 3)) for _ in range(2)]
        options = {self.r.choice(NAMES): self.say(self.r.choice(NUMBERS))}
        opt = RMSprop(made, **options)
        for p in made:
            p.grad = torch.ones_like(p)
        opt.step()

    def hostile_group(self) -> None:
        group = {"params": [self.r.choice(TENSORS)(torch.ones(2, 3))]}
        group |= {self.r.choice([*NAMES, "x", "name"]): self.say(self.r.choice(NUMBERS))}
        count = len(self.opt.param_groups)
        try:
            self.opt.add_param_group(group)
        finally:
            del self.opt.param_groups[count:]

    def averages(self) -> None:
        with self.opt.use_ema():
            pass

    def round_trip(self) -> None:
        copy.deepcopy(self.opt)
        self.opt.load_state_dict(self.opt.state_dict())

    def closure(self) -> None:
        self.set_grads()
        self.opt.step(self.say(self.r.choice([lambda: 3, *NUMBERS])))
