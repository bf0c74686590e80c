"""Optimizers of tiny arrays with guarded memory, and hostile actions on them, for the fuzzer."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

import reference
from attack_support import Image, differences, image_of
from fused_rmsprop import RMSProp, rmsprop_step
from hostile_support import ARRAYS, NUMBERS, BoomError, change_in_place, containers, spoil

Array = NDArray[Any]
GUARD = 64
KEYS = ["w", "b", "s"]
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"momentum": 0.9},
    {"centered": True},
    {"momentum": 0.9, "centered": True, "nesterov": True, "ema_decay": 0.5},
    {"lr": lambda step: 0.1 / (1 + step)},
    {"weight_decay": 0.1, "eps_inside_sqrt": True, "lr_in_momentum": True, "momentum": 0.5},
    {"bias_correction": True, "ema_decay": 0.9, "decoupled_weight_decay": True},
)
NAMES = (
    "lr", "alpha", "eps", "weight_decay", "momentum", "centered", "nesterov", "maximize",
    "eps_inside_sqrt", "lr_in_momentum", "decoupled_weight_decay", "initial_square_avg",
    "bias_correction", "ema_decay",
)  # fmt: skip
SETTINGS = (
    "max_grad_norm",
    "max_grad_norm_per_array",
    "max_grad_value",
    "on_nonfinite",
    "flush_denormals",
    "threads",
)
FORMULA = set(NAMES) - {"initial_square_avg"}

ALLOWED = (
    TypeError, ValueError, RuntimeError, KeyError, AttributeError, FloatingPointError, MemoryError,
    RecursionError, BoomError,
)  # fmt: skip


class WrongError(AssertionError):
    """The package broke a promise."""


class Victim:
    """What the fuzzer needs of an optimizer under attack."""

    r: random.Random
    actions: list[Any]
    said = ""  # the last hostile value, for the report
    before: Image  # what an error must leave
    raises: tuple[type[BaseException], ...] = ALLOWED

    def image(self) -> Image:
        raise NotImplementedError

    def pick(self, *makers: Callable[..., Any]) -> Callable[..., Any]:
        """Choose one of the functions."""
        return self.r.choice(makers)

    def mark(self) -> None:
        """From here on an error must leave everything as it is."""
        self.before = self.image()

    def check_unchanged(self) -> None:
        """An error has left everything as it was."""
        if changed := differences(self.before, self.image()):
            raise WrongError(f"changed after an error: {', '.join(changed[:3])}")

    def check_sound(self) -> None:
        """No byte beside the arrays was written."""


class Memory:
    """An array between guards, and what it was when it was made."""

    def __init__(self, r: random.Random, shape: tuple[int, ...], dtype: str) -> None:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.buffer = np.full(count + 2 * GUARD, 0xAA, np.uint8)
        inside = self.buffer[GUARD : GUARD + count]
        self.array = inside.view(dtype).reshape(shape)
        if r.random() < 0.3:  # an owner of its memory can be resized
            self.array = np.zeros(shape, dtype)
        if len(shape) == 2 and r.random() < 0.3:
            self.array = self.array.reshape(shape[::-1]).T
        self.array[...] = [r.gauss(0, 1)] if shape else r.gauss(0, 1)
        self.shape, self.dtype, self.strides = shape, self.array.dtype, self.array.strides

    def is_as_made(self) -> bool:
        a = self.array
        same = (a.shape, a.dtype, a.strides) == (self.shape, self.dtype, self.strides)
        return same and bool(a.flags.writeable)

    def is_guarded(self) -> bool:
        guards = self.buffer[:GUARD].tobytes(), self.buffer[-GUARD:].tobytes()
        return guards == (b"\xaa" * GUARD,) * 2


class CheckedOptimizer(Victim):
    """`fused_rmsprop.RMSProp`, whose steps are compared with the reference."""

    def __init__(self, r: random.Random) -> None:
        self.r = r
        self.normal = np.random.default_rng(r.getrandbits(32))
        shapes = [(3, 2), (5,), ()] if r.random() < 0.9 else [(0, 2), (1,), (9,)]
        self.memory = [Memory(r, s, r.choice(["f4", "f8"])) for s in shapes]
        self.arrays = [m.array for m in self.memory]
        self.structure = r.randrange(3)
        options = dict(r.choice(OPTIONS))
        settings: dict[str, Any] = r.choice(
            [{}, {"max_grad_norm": 1.0}, {"on_nonfinite": "skip"}, {"max_grad_value": 0.5}]
        )
        self.opt = RMSProp(self.nest(self.arrays, True), **options, **settings)
        self.bound: list[Array] = []
        self.changed_views = False
        if r.random() < 0.5:
            self.good_step()

    def nest(self, leaves: list[Any], as_params: bool = False) -> Any:
        if self.structure == 0:
            return dict(zip(KEYS, leaves, strict=True))
        if self.structure == 1:
            return list(leaves)
        if as_params:
            return [{"params": leaf, "lr": 0.01 * (i + 1)} for i, leaf in enumerate(leaves)]
        return list(leaves)

    def image(self) -> Image:
        buffers = [m.buffer for m in self.memory]
        arrays = [np.array(a) if a.dtype != object else None for a in self.arrays]
        saved = self.opt.state_dict()
        if self.changed_views:  # the optimizer may put fresh views in their place
            del saved["state"]
        return image_of(buffers=buffers, arrays=arrays, opt=saved)

    def check_sound(self) -> None:
        if not all(m.is_guarded() for m in self.memory):
            raise WrongError("memory beside an array was written")

    def grads(self) -> list[Array]:
        return [np.array(self.normal.standard_normal(m.shape), m.dtype) for m in self.memory]

    def say(self, value: Any) -> Any:
        """Remember a hostile value, without calling its code."""
        name = getattr(value, "__name__", "")
        plain = isinstance(value, (int, float, str, np.ndarray)) and not hasattr(value, "mask")
        known = plain and type(value) in (int, float, str, bool)
        self.said = (
            f"{type(value).__name__} {value!r:.40}" if known else type(value).__name__ + name
        )
        return value

    # Steps, checked against the reference

    def good_step(self) -> None:
        self.checked_step(self.grads())

    def checked_step(self, grads: list[Any], call: Callable[[], None] | None = None) -> None:
        """A step whose gradients are arrays; its bits if the parameters are as they were made."""
        before = self.expected_from(grads)
        skipped = self.opt.skipped_steps
        (call or (lambda: self.opt.step(self.nest(grads))))()
        if before is None or self.opt.skipped_steps != skipped:
            return
        for m, (expected, state), (name, now) in zip(
            self.memory, before, self.opt.state.items(), strict=True
        ):
            pairs = [(m.array, expected)]
            pairs += [(now[k], state["square_avg" if k == "variance" else k]) for k in now]
            for got, want in pairs:
                want = np.asarray(want, got.dtype)
                if got.shape == want.shape and not reference.same_bits(got * 1.0, want * 1.0):
                    raise WrongError(f"other bits in {name}: {got} instead of {want}")

    def expected_from(self, grads: list[Any]) -> Any:
        """The reference's result, or None where it is not asked for."""
        opt = self.opt
        unclipped = opt.max_grad_norm is None and opt.max_grad_norm_per_array is None
        plain = unclipped and not opt.state_dict()["counters"]["accumulated"]
        if not plain or not all(m.is_as_made() for m in self.memory):
            return None
        limit = np.inf if opt.max_grad_value is None else opt.max_grad_value
        groups = opt.param_groups if len(opt.param_groups) > 1 else opt.param_groups * 3
        if len(groups) != 3:
            return None
        expected = []
        for m, grad, group, (name, state) in zip(
            self.memory, grads, groups, opt.state.items(), strict=True
        ):
            if not isinstance(grad, np.ndarray) or (grad.shape, grad.dtype) != (m.shape, m.dtype):
                return None
            if state["step"].shape != () or any(
                k != "step" and a.strides != m.strides for k, a in state.items()
            ):
                return None
            if any(a.dtype != ("i8" if k == "step" else m.dtype) for k, a in state.items()):
                return None
            old: dict[str, Any] = {k: np.array(v) for k, v in state.items()}
            old["step"] = int(old["step"])
            if "variance" in old:
                old["square_avg"] = old.pop("variance")
            if name in opt.frozen:
                expected.append((np.array(m.array), old))
                continue
            options = {k: v for k, v in group.current().items() if k in FORMULA}
            with reference.flushed_denormals():
                expected.append(
                    reference.rmsprop(
                        np.array(m.array), np.array(grad), old, max_grad_value=limit, **options
                    )
                )
        return expected


class NumpyVictim(CheckedOptimizer):
    """`fused_rmsprop.RMSProp`, and `rmsprop_step`, with hostile actions."""

    def __init__(self, r: random.Random) -> None:
        super().__init__(r)
        self.actions = [
            self.good_step, self.good_step, self.change_array, self.restore_array,
            self.change_and_restore,
            self.hostile_gradient, self.hostile_container, self.hostile_scale, self.hostile_option,
            self.hostile_setting, self.hostile_lr, self.hostile_params, self.hostile_group,
            self.hostile_state_dict, self.hostile_names, self.change_state, self.function,
            self.averages, self.accumulate, self.bind, self.change_bound, self.round_trip,
            self.freeze,
        ]  # fmt: skip

    def change_array(self) -> None:
        """A parameter's array object changes in place, without the optimizer's knowledge."""
        change_in_place(self.r, self.r.choice(self.arrays))
        self.mark()
        self.checked_step(self.grads())

    def change_and_restore(self) -> None:
        """What a refused step has read of a changed array must not be used later."""
        for _ in range(3):
            change_in_place(self.r, self.r.choice(self.arrays))
            self.mark()
            with suppress(TypeError, ValueError):
                self.checked_step(self.grads())
            self.check_sound()
            self.restore_array()
            self.check_sound()

    def restore_array(self) -> None:
        for m in self.memory:
            try:
                m.array.flags.writeable = True
                if m.array.nbytes == int(np.prod(m.shape)) * m.dtype.itemsize:
                    m.array.dtype = m.dtype  # type: ignore[misc]
                    m.array.shape = m.shape
                    m.array.strides = m.strides
            except (ValueError, TypeError, AttributeError):
                pass
        self.mark()
        self.good_step()

    def hostile_gradient(self) -> None:
        grads: list[Any] = self.grads()
        i = self.r.randrange(3)
        state = list(self.opt.state.values())[i]
        makers = [*ARRAYS, lambda a: self.arrays[i], lambda a: self.arrays[i].reshape(-1)[::-1]]
        makers += [lambda a: list(state.values())[-1], lambda a: self.memory[i].buffer]
        grads[i] = self.say(self.pick(*makers)(grads[i]))
        entry = self.r.choice(["accumulate", "bind_grads", "leafwise", "step", "step"])
        if entry == "leafwise":
            with self.opt.leafwise() as update:
                update(list(self.opt.state)[i], grads[i])
        elif entry == "step":
            self.checked_step(grads)
        else:
            getattr(self.opt, entry)(self.nest(grads))
            self.opt.bind_grads(None)

    def hostile_container(self) -> None:
        made = self.say(self.r.choice(containers(self.grads(), KEYS))())
        self.r.choice([self.opt.step, self.opt.accumulate, self.opt.bind_grads])(made)
        self.opt.bind_grads(None)

    def hostile_scale(self) -> None:
        scale = self.say(self.r.choice(NUMBERS))
        self.opt.step(self.nest(self.grads()), scale)

    def hostile_option(self) -> None:
        group = self.r.choice(self.opt.param_groups)
        names = self.r.choices(NAMES, k=self.r.randint(1, 3))
        group.update({name: self.say(self.r.choice(NUMBERS)) for name in names})

    def hostile_setting(self) -> None:
        name = self.r.choice([*SETTINGS, "lr", "alpha", "nothing"])
        setattr(self.opt, name, self.say(self.r.choice(NUMBERS)))

    def hostile_lr(self) -> None:
        self.opt.lr = self.say(self.r.choice(NUMBERS))
        self.mark()
        self.opt.step(self.nest(self.grads()))

    def hostile_params(self) -> None:
        arrays: list[Any] = [np.array(a) for a in self.grads()]
        if self.r.random() < 0.5:
            i = self.r.randrange(3)
            arrays[i] = self.r.choice(ARRAYS)(arrays[i])
            made: Any = self.nest(arrays, True)
        else:
            made = self.r.choice(containers(arrays, KEYS))()
        self.say(made)
        options = {self.r.choice(NAMES): self.r.choice(NUMBERS)} if self.r.random() < 0.3 else {}
        RMSProp(made, **options)

    def hostile_group(self) -> None:
        new = np.zeros(2)
        made = self.pick(
            *containers([new, new + 1, new + 2], KEYS), lambda: self.arrays[0], lambda: new
        )()
        group: Any = {"params": self.say(made)}
        if self.r.random() < 0.3:
            group |= {self.r.choice([*NAMES, "name", "x", 3]): self.r.choice(NUMBERS)}
        victim = RMSProp([np.zeros(2)])
        before = image_of(opt=victim.state_dict())
        try:
            victim.add_param_group(self.r.choice([group, made]))
        except Exception:
            if before != image_of(opt=victim.state_dict()):
                raise WrongError("a refused group has changed the optimizer") from None
            victim.step([np.ones(2)])
            raise

    def hostile_state_dict(self) -> None:
        saved: Any = copy.deepcopy(self.opt.state_dict())
        self.opt.load_state_dict(self.say(spoil(self.r, saved)))

    def hostile_names(self) -> None:
        made = containers(self.grads(), KEYS)
        name = self.say(self.r.choice([*NUMBERS, "w", "b", "0", self.r.choice(made)()]))
        self.opt.effective_lr(name)

    def change_state(self) -> None:
        """A state array changes in place: its values are read, its object is a view."""
        states = list(self.opt.state.values())
        array = self.r.choice(list(self.r.choice(states).values()))
        if self.r.random() < 0.5 and array.dtype.kind == "f":
            array[...] = self.r.choice([0.0, -0.0, 5e-324, 1e30, np.inf, np.nan, 1e-30])
        else:
            self.changed_views = True
            change_in_place(self.r, array)
        self.mark()
        self.good_step()

    def function(self) -> None:
        p, g, v = np.zeros((3, 2)), np.ones((3, 2)), np.zeros((3, 2))
        given: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8}
        arrays: list[Any] = [p, g, v]
        for _ in range(self.r.randint(1, 2)):
            if self.r.random() < 0.5:
                i = self.r.randrange(3)
                arrays[i] = self.say(self.pick(*ARRAYS, lambda a: p, lambda a: v)(arrays[i]))
            else:
                names = (*FORMULA, "step", "grad_scale", "max_grad_value", "threads", "grad_avg")
                given[self.r.choice(names)] = self.say(self.r.choice(NUMBERS))
        before = p.tobytes(), v.tobytes()
        try:
            rmsprop_step(*arrays, **given)
        except Exception:
            if (p.tobytes(), v.tobytes()) != before:
                raise WrongError("rmsprop_step has changed an array and raised") from None
            raise

    def averages(self) -> None:
        with self.opt.use_ema():
            if self.r.random() < 0.5:
                change_in_place(self.r, self.r.choice(self.arrays), safe=True)

    def accumulate(self) -> None:
        self.opt.accumulate(self.nest(self.grads()))
        self.mark()
        if self.r.random() < 0.5:
            self.opt.step()
        else:
            self.opt.discard_accumulated()

    def bind(self) -> None:
        self.bound = self.grads()
        self.opt.bind_grads(self.nest(self.bound))
        self.checked_step(self.bound, self.opt.step)
        self.opt.bind_grads(None)

    def change_bound(self) -> None:
        """A bound gradient's array object changes in place."""
        self.bound = self.grads()
        self.opt.bind_grads(self.nest(self.bound))
        try:
            change_in_place(self.r, self.r.choice(self.bound))
            self.checked_step(self.bound, self.opt.step)
        finally:
            self.opt.bind_grads(None)

    def round_trip(self) -> None:
        copy.deepcopy(self.opt)
        self.opt.load_state_dict(self.opt.state_dict())

    def freeze(self) -> None:
        """Freeze or train again parameters of a name that exists, matches, or is hostile."""
        made = containers(self.grads(), KEYS)
        known: list[Any] = [*self.opt.state, "*", "?"]
        names = self.r.choice([known, [*known, "[", *NUMBERS, self.r.choice(made)()]])
        change = self.r.choice([self.opt.freeze, self.opt.unfreeze])
        change(*(self.say(self.r.choice(names)) for _ in range(self.r.choice([0, 1, 1, 1, 2]))))
        self.mark()
        self.good_step()
