"""Values that no caller should pass: hostile arrays, containers, keys, numbers and functions."""

from __future__ import annotations

import random
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class BoomError(Exception):
    """Raised by hostile values alone; it may come back to the caller."""


class Clears:
    """A key that clears its container whenever Python code of it runs."""

    def __init__(self, when: str, name: str = "w") -> None:
        self.when, self.name = when, name
        self.owner: Any = None
        self.armed = False

    def _act(self, moment: str) -> None:
        if self.armed and moment == self.when and self.owner is not None:
            self.owner.clear()

    def __hash__(self) -> int:
        self._act("hash")
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        self._act("eq")
        return isinstance(other, (str, Clears)) and str(other) == self.name

    def __repr__(self) -> str:
        self._act("repr")
        return repr(self.name)

    def __str__(self) -> str:
        self._act("str")
        return self.name


class StrKey(str):
    """A string that raises where a plain one cannot."""

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        if random.random() < 0.2:
            raise BoomError
        return str.__eq__(self, other)


class LyingDict(dict[Any, Any]):
    """A dict whose methods do not agree with each other."""

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[Any]:
        yield from ("other", 3)

    def items(self) -> Any:
        return [("w", None), (None, None), "xy"]

    def __getitem__(self, key: Any) -> Any:
        raise BoomError


class LyingList(list[Any]):
    """A list that grows and shrinks while it is read."""

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[Any]:
        self.clear()
        yield from (1, 2)

    def __getitem__(self, key: Any) -> Any:
        self.clear()
        raise BoomError


class LyingArray(np.ndarray):
    """A subclass of arrays whose attributes raise or lie."""

    @property
    def T(self) -> Any:  # noqa: N802
        raise BoomError

    def __array_finalize__(self, other: Any) -> None:
        if random.random() < 0.2:
            raise BoomError

    def copy(self, order: Any = "C") -> Any:
        return np.zeros(3)

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        return None


class Floats:
    """A number whose conversion does something else."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __float__(self) -> float:
        result: float = self.act()
        return result


def _raise() -> Any:
    raise BoomError


def unaligned(a: Array) -> Array:
    """A copy at an odd address."""
    view = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def frozen(a: Array) -> Array:
    """A read-only copy."""
    a = a.copy()
    a.flags.writeable = False
    return a


def _stretched(a: Array) -> Array:
    """Strides without a meaning: of one element, or none."""
    part = a.reshape(-1)[:1]
    return np.lib.stride_tricks.as_strided(part, part.shape, (1 << 40,))


def _objects(a: Array) -> Array:
    objects = a.astype(object)
    objects.reshape(-1)[:1] = None
    return objects


_STRUCTURED = np.dtype([("x", "f4"), ("y", "f8")])
ARRAYS: tuple[Callable[[Array], Any], ...] = (
    *(lambda a, t=t: a.astype(t) for t in ("i8", "f2", "g", "O", "c16", ">f4", ">f8", "?", "S3")),
    lambda a: a.astype("f8" if a.dtype == np.float32 else "f4"),
    lambda a: np.zeros(a.shape, "M8[s]"),
    lambda a: np.zeros(a.shape, _STRUCTURED),
    lambda a: np.zeros(a.shape, _STRUCTURED)["x"],
    lambda a: np.asmatrix(a.reshape(1, -1)),
    np.ma.array,
    lambda a: np.ma.array(a, mask=True),
    lambda a: a.view(np.recarray),
    lambda a: a.copy().view(LyingArray),
    frozen,
    unaligned,
    _objects,
    _stretched,
    lambda a: a.reshape(-1)[::-1].reshape(a.shape),
    lambda a: np.broadcast_to(a.reshape(-1)[:1], a.shape),
    lambda a: a.T,
    lambda a: np.asfortranarray(a),
    lambda a: a[None],
    lambda a: a.reshape(-1),
    lambda a: np.repeat(a[..., None], 2, axis=-1)[..., 0],
    lambda a: np.zeros(0, a.dtype),
    lambda a: np.array(0.5, a.dtype),
    lambda a: a.dtype.type(0.5),
    lambda a: a.tolist(),
    lambda a: np.ascontiguousarray(a).data,
    lambda a: bytearray(a.tobytes()),
)

NUMBERS: tuple[Any, ...] = (
    *(float("nan"), float("inf"), float("-inf"), -1.0, -0.0, 0, 1, 1.0, 5e-324, 1e308, 1e-45, 0.5),
    *(10**400, -(10**400), Decimal("0.1"), Decimal("NaN"), Decimal("1e999"), Fraction(1, 3)),
    *(np.float16(0.1), np.float32(0.1), np.float64("nan"), np.longdouble(0.1), np.int8(1)),
    *(np.array(0.1), np.array([0.1]), np.array([0.1, 0.2]), np.array(None), np.array("0.1")),
    *(True, np.True_, "0.1", "nan", b"1", bytearray(b"1"), None, 1j, [], {}, object(), float, int),
    *(Floats(_raise), Floats(lambda: "x"), Floats(lambda: float("nan")), np.datetime64("now")),
    *(_raise, lambda: 0.1, lambda step: None, lambda step: float("nan"), lambda step: 10**400),
    *(lambda step: "x", lambda step: np.array([0.1]), lambda step: np.float32(0.1), len, id),
    *("skip", "raise", "propagate", "\ud800", 1 << 62, 2**63, -1, 1025),
)


def containers(leaves: list[Array], keys: list[str]) -> list[Callable[[], Any]]:
    """Makers of hostile containers around these leaves."""

    def clearing(when: str) -> Any:
        made: dict[Any, Any] = {}
        for key, leaf in zip(keys, leaves, strict=True):
            hostile = Clears(when, key)
            made[hostile] = leaf
            hostile.owner = made
        for hostile in list(made):
            hostile.armed = True
        return made

    def containing_itself(kind: Any) -> Any:
        made = kind()
        if isinstance(made, dict):
            made.update(zip(keys, leaves, strict=True))
            made["self"] = made
        else:
            made += [*leaves, made]
        return made

    def deep() -> Any:
        nest: Any = leaves[0]
        for _ in range(3000):
            nest = [nest]
        return nest

    pairs = list(zip(keys, leaves, strict=True))
    return [
        *(lambda w=w: clearing(w) for w in ("hash", "eq", "repr", "str")),
        lambda: containing_itself(dict),
        lambda: containing_itself(list),
        deep,
        lambda: {StrKey(k): v for k, v in pairs},
        lambda: LyingDict(pairs),
        lambda: LyingList(leaves),
        lambda: UserDict(pairs),
        lambda: OrderedDict(reversed(pairs)),
        lambda: deque(leaves),
        lambda: (leaf for leaf in leaves),
        lambda: dict(pairs).items(),
        lambda: dict(pairs).values(),
        lambda: {k + "\ud800": v for k, v in pairs},
        lambda: {**dict(pairs), "\ud800": leaves[0]},
        lambda: dict(enumerate(leaves)),
        lambda: {None: leaves[0], float("nan"): leaves[-1], b"w": None, (1, 2): 3},
        lambda: [*leaves, *leaves],
        lambda: leaves[:-1],
        lambda: [{"params": leaves}],
        lambda: [{"params": leaves, "name": "\ud800"}],
        lambda: [{"params": v, "lr": NUMBERS[i % 5]} for i, v in enumerate(leaves)],
        lambda: [dict(pairs), {"params": leaves[0]}],
        lambda: np.array([*leaves, None], dtype=object),
        lambda: {"w.0": leaves[0], "w": [leaves[-1]]},
        lambda: None,
        lambda: 3,
        lambda: "w",
    ]


def change_in_place(r: random.Random, a: Array, safe: bool = False) -> None:
    """Change the dtype, the shape, the strides, the size or the flags of an array object."""
    how = r.randrange(3 if safe else 8)
    try:
        if how == 0:
            a.flags.writeable = not a.flags.writeable
        elif how == 1:
            a.shape = r.choice([a.shape[::-1], (-1,), (1, -1), (*a.shape, 1)])
        elif how == 2:
            a[...] = r.choice([0.0, np.nan, np.inf, -0.0, 5e-324, 1e30])
        elif how == 3:
            a.dtype = np.dtype(r.choice(["i4", "f4", "f8", "u1", ">f4", "i8", "f2", "c8"]))  # type: ignore[misc]
        elif how == 4:
            a.resize(r.choice([0, 1, 2, 100, 5000]), refcheck=False)
        elif how == 5:
            a.strides = r.choice([a.strides[::-1], (0,) * a.ndim, (a.itemsize,) * a.ndim])
        elif how == 6:
            a.flags.aligned = False
        else:
            a.resize(a.shape, refcheck=False)
    except (ValueError, TypeError, AttributeError, OverflowError):
        pass  # NumPy refuses


def spoil(r: random.Random, saved: Any) -> Any:
    """Put a hostile value somewhere into nested dicts and lists."""
    if isinstance(saved, dict) and saved and r.random() < 0.95:
        key = r.choice(list(saved))
        how = r.random()
        if how < 0.1:
            del saved[key]
        elif how < 0.15:
            saved[r.choice(["x", 3, None, "\ud800"])] = r.choice(NUMBERS)
        else:
            saved[key] = spoil(r, saved[key])
        return saved
    if isinstance(saved, list) and saved and r.random() < 0.9:
        i = r.randrange(len(saved))
        saved[i] = spoil(r, saved[i])
        return saved
    if isinstance(saved, np.ndarray) and r.random() < 0.7:
        return r.choice(ARRAYS)(saved)
    return r.choice(NUMBERS)
