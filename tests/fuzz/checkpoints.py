"""Structured mutation of checkpoint files: each is loaded as what it says, or refused.

    python tests/fuzz/checkpoints.py --inputs 200000 --seed 1

Half of the inputs are valid files with damaged bytes. The others have another header, another index
or other arrays, under checksums that are right again. Each is loaded as a whole, and in part under
other names. The same seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from mutations import BYTES, as_text, copied, cut, flip, mutate, repeat, splice, truncate

from checkpoint_support import announced, bits, forge, sealed
from fused_rmsprop import RMSProp, schedules
from fused_rmsprop.checkpoint import CheckpointError, LoadReport, read
from fused_rmsprop.checkpoint.state_dict import LATER_SETTINGS
from fused_rmsprop.options import OPTIMIZER_OPTIONS
from support import Array

Arrays = dict[str, Array]
Accepts = Callable[[Arrays, Any], bool]
Rename = Callable[[str], str | None] | dict[str, str]

RENAMES: list[Rename] = [
    str,
    {"a": "b.0", "b.0": "a", "b.1": "c"},
    lambda name: None if name < "b" else name,
    lambda name: name[::-1],
    lambda name: "a",
    {"0.0": "g.x/y", "g.x/y": "0.0"},
]


class Seed(NamedTuple):
    """A valid file."""

    suffix: str
    data: bytes
    arrays: Arrays
    metadata: Any
    make_params: Callable[[], Any]
    overrides: dict[str, Any]


class Input(NamedTuple):
    """A file to read, what may be read from it, and how it was made."""

    data: bytes
    accepts: Accepts
    kind: str


def make_seeds(folder: Path) -> list[Seed]:
    """Files of a plain optimizer, and of one with groups, schedules, functions and sums."""

    def plain() -> Any:
        return {"a": np.ones(3), "b": [np.zeros((2, 2), np.float32), np.zeros((0, 2))]}

    def groups() -> Any:
        return [{"params": {"x/y": np.ones(2)}, "name": "g"}, {"params": [np.ones(1, np.float32)]}]

    rate = schedules.Join(
        [
            schedules.Linear(0.1, end_value=0.2, transition_steps=3),
            schedules.OneCycle(0.1, total_steps=9),
            schedules.Exponential(0.1, decay_rate=0.5, transition_steps=2),
        ],
        boundaries=[2, 5],
    )
    everything: dict[str, Any] = {
        "lr": lambda step: 0.5, "momentum": rate, "centered": True, "nesterov": True,
        "bias_correction": True, "ema_decay": 0.5, "max_grad_norm": math.inf,
        "on_nonfinite": "skip", "flush_denormals": False,
    }  # fmt: skip
    seeds = []
    for suffix in (".npz", ".safetensors"):
        path = folder / f"seed{suffix}"
        for make, options in ((plain, {"lr": rate}), (groups, everything)):
            opt = RMSProp(make(), **options)
            opt.step(gradients(make()))
            if make is groups:
                opt.accumulate(gradients(make()))
            opt.save(path)
            overrides = {"lr": 0.5} if make is groups else {}
            seeds.append(Seed(suffix, path.read_bytes(), *read(path), make, overrides))
    return seeds


def gradients(params: Any) -> Any:
    """Ones in the structure of the parameters."""
    if isinstance(params, list) and params and isinstance(params[0], dict):
        return [gradients(group["params"]) for group in params]
    if isinstance(params, dict):
        return {key: gradients(value) for key, value in params.items()}
    if isinstance(params, list):
        return [gradients(value) for value in params]
    return np.ones_like(params)


def leaves(params: Any) -> Iterator[Array]:
    """The arrays of the parameters."""
    if isinstance(params, np.ndarray):
        yield params
    elif isinstance(params, (dict, list)):
        for value in params.values() if isinstance(params, dict) else params:
            yield from leaves(value)


# Damaged bytes.


def damaged(rng: random.Random, seeds: list[Seed], seed: Seed) -> Input:
    """Change some bytes of a file; what is read must be the content of one of the seeds."""
    data = bytearray(seed.data)
    kind = rng.choice(BYTES)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        kind(rng, data, rng.choice([s for s in seeds if s.suffix == seed.suffix]).data)

    def accepts(arrays: Arrays, metadata: Any) -> bool:
        return any(
            bits(arrays) == bits(s.arrays) and as_text(metadata) == as_text(s.metadata)
            for s in seeds
        )

    return Input(bytes(data), accepts, kind.__name__)


# Other content under right checksums.


def resealed(rng: random.Random, seed: Seed, path: Path) -> Input:
    """Change header, arrays or container, and make the checksums right again."""
    kind = rng.choice((header_values, header_values, header_text, array_values, container))
    arrays = dict(seed.arrays)
    content = {"arrays": announced(arrays), "metadata": copied(seed.metadata)}
    body = kind(rng, arrays, content)
    forge(path, arrays, sealed(body))
    data = path.read_bytes()
    if kind is container:
        data = (zip_entries if seed.suffix == ".npz" else index_values)(rng, data)
    try:
        metadata = json.loads(body)["metadata"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Input(data, lambda arrays, metadata: False, kind.__name__)
    known = [entry[1:] for entry in bits(arrays)]

    def accepts(found: Arrays, found_metadata: Any) -> bool:
        right = all(entry[1:] in known for entry in bits(found))
        return right and as_text(found_metadata) == as_text(metadata)

    return Input(data, accepts, kind.__name__)


def header_values(rng: random.Random, arrays: Arrays, content: Any) -> str:
    """Change values of the header."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        mutate(rng, content if rng.random() < 0.3 else content["metadata"])
        if set(content) != {"arrays", "metadata"} or not isinstance(content["metadata"], dict):
            break
    return as_text(content)


def header_text(rng: random.Random, arrays: Arrays, content: Any) -> str:
    """Change characters of the header."""
    text = bytearray(as_text(content).encode())
    kind = rng.choice((flip, cut, truncate, repeat, splice))
    kind(rng, text, as_text(announced({"other": np.ones(3)})).encode())
    return text.decode("ascii", "replace").replace("\ufffd", "?")


def array_values(rng: random.Random, arrays: Arrays, content: Any) -> str:
    """Change arrays: their values, dtype, shape or name; leave some out."""
    name = rng.choice(list(arrays))
    array = arrays[name]
    others: list[Callable[[], Array | None]] = [
        lambda: None,
        lambda: np.asarray(rng.choice((-1, 0, 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1))),
        lambda: np.asarray(rng.choice((math.nan, math.inf, -1.0, 1e308, 5e-324))),
        lambda: np.full(array.shape, rng.choice((-1, 0, 1)), rng.choice(("f4", "f8", "i8"))),
        lambda: np.resize(array, rng.choice(((), (0,), (1,), (3,), (2, 2), (1, 3), (0, 2)))),
        lambda: np.frombuffer(rng.randbytes(array.nbytes), array.dtype).reshape(array.shape),
    ]
    other = rng.choice(others)()
    del arrays[name]
    if other is not None:
        arrays[rng.choice((name, name, name, f"{name}/step", f"state/{name}", ""))] = other
    return as_text(content | {"arrays": announced(arrays)})


def container(rng: random.Random, arrays: Arrays, content: Any) -> str:
    """Leave the header to the container's own mutation."""
    return as_text(content)


def zip_entries(rng: random.Random, data: bytes) -> bytes:
    """Drop, repeat, rename, reorder, change or compress entries of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    i, j = rng.randrange(len(entries)), rng.randrange(len(entries))
    kind = rng.randrange(6)
    if kind == 0:
        del entries[i]
    elif kind == 1:
        entries.insert(j, entries[i])
    elif kind == 2:
        entries[i] = (
            rng.choice((entries[j][0], "../x", "0.npy", "params/a.npy", "")),
            entries[i][1],
        )
    elif kind == 3:
        entries[i], entries[j] = entries[j], entries[i]
    elif kind == 4:
        changed = bytearray(entries[i][1])
        rng.choice(BYTES)(rng, changed, b"")
        entries[i] = (entries[i][0], bytes(changed))
    methods = [rng.choice((0, 0, 0, 8)) if kind == 5 else 0 for _ in entries]
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # duplicate names
        archive.comment = b"x" if rng.random() < 0.05 else b""
        for (name, member), method in zip(entries, methods, strict=True):
            archive.writestr(zipfile.ZipInfo(name), member, compress_type=method)
    return file.getvalue()


def index_values(rng: random.Random, data: bytes) -> bytes:
    """Change values of the index of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    index = json.loads(data[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 2))):
        mutate(rng, index)
    changed = as_text(index).encode("utf-8", "replace")
    return struct.pack("<Q", len(changed)) + changed + data[8 + length :]


# The check.


def check(path: Path, seed: Seed, accepts: Accepts, rename: Rename) -> str:
    """Read and load a file; return what became of it, and raise an `AssertionError` if it may not.

    Any other exception than those that the documentation names passes through.
    """
    arrays, metadata, refused = None, None, ""
    try:
        arrays, metadata = read(path)
    except CheckpointError as error:
        refused = str(error)
    assert accepts(arrays, metadata) if arrays is not None else repr(str(path)) in refused
    check_part(path, seed, rename, arrays)
    params = seed.make_params()
    before = [array.tobytes() for array in leaves(params)]
    try:
        opt = RMSProp.load(path, params, **seed.overrides)
    except CheckpointError as error:
        reason, outcome = str(error), "refused as a file" if refused else "refused as a checkpoint"
    except ValueError:
        reason, outcome = repr(str(path)), "refused with these parameters"
        assert not refused
    else:
        assert_loaded(opt, arrays, metadata, params)
        return "loaded" if can_step(opt, params) else "loaded, but the next step is refused"
    assert [array.tobytes() for array in leaves(params)] == before
    assert repr(str(path)) in reason
    return outcome


def assert_loaded(opt: RMSProp, arrays: Arrays | None, metadata: Any, params: Any) -> None:
    """Check that the optimizer has what the file says."""
    assert arrays is not None
    loaded = opt.state_dict()
    assert loaded["counters"] == metadata["counters"]
    later = {name: OPTIMIZER_OPTIONS[name].default for name in LATER_SETTINGS}
    assert loaded["settings"] == later | metadata["settings"]
    values = dict(zip(loaded["state"], leaves(params), strict=True))
    for name, state in loaded["state"].items():
        assert values[name].tobytes() == arrays[f"params/{name}"].tobytes()
        for key, array in state.items():
            assert array.tobytes() == arrays[f"state/{name}/{key}"].tobytes()


def check_part(path: Path, seed: Seed, rename: Rename, arrays: Arrays | None) -> None:
    """Load what fits under other names: all of it or nothing, as `check` does."""
    params = seed.make_params()
    before = [array.tobytes() for array in leaves(params)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # nothing may fit
            opt, report = RMSProp.load(path, params, strict=False, rename=rename, **seed.overrides)
    except ValueError as error:
        reason = str(error)
    else:
        assert arrays is not None
        assert_part(opt, report, rename, arrays, params, before)
        return
    assert [array.tobytes() for array in leaves(params)] == before
    assert repr(str(path)) in reason


def assert_part(
    opt: RMSProp,
    report: LoadReport,
    rename: Rename,
    arrays: Arrays,
    params: Any,
    before: list[bytes],
) -> None:
    """Check that a parameter has what the file says, or if the report names it, what it had."""
    saved = [name.removeprefix("params/") for name in arrays if name.startswith("params/")]
    own = {n: rename.get(n, n) if isinstance(rename, dict) else rename(n) for n in saved}
    old = {new: name for name, new in own.items()}
    passed_over = {*report.missing, *report.unfitting}
    loaded = opt.state_dict()["state"]
    for (name, state), value, kept in zip(loaded.items(), leaves(params), before, strict=True):
        if name in passed_over:
            assert (value.tobytes(), int(state["step"])) == (kept, 0)
            continue
        assert value.tobytes() == arrays[f"params/{old[name]}"].tobytes()
        for key, array in state.items():
            if (there := arrays.get(f"state/{old[name]}/{key}")) is not None:
                assert array.tobytes() == there.tobytes()
            else:
                assert not array.any() or key == "param_avg"


def can_step(opt: RMSProp, params: Any) -> bool:
    """Whether a step is made; a schedule of the file may leave its bounds now."""
    try:
        opt.accumulate(gradients(params))
        opt.step()
    except (ValueError, FloatingPointError):
        return False
    return True


def fuzz(inputs: int, seed: int, seconds: float = math.inf) -> Counter[str]:
    """Check that many inputs; return how many had which outcome."""
    rng, outcomes, end = random.Random(seed), Counter[str](), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
        for i in range(inputs):
            chosen = rng.choice(seeds)
            path = Path(folder) / f"input{chosen.suffix}"
            if rng.random() < 0.5:
                data, accepts, kind = damaged(rng, seeds, chosen)
            else:
                data, accepts, kind = resealed(rng, chosen, path)
            path.write_bytes(data)
            rename = RENAMES[i % len(RENAMES)]
            try:
                outcomes[f"{kind}: {check(path, chosen, accepts, rename)}"] += 1
            except BaseException as error:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{i}{chosen.suffix}"
                kept.write_bytes(data)
                error.args = (f"input {i} of seed {seed} ({kind}), kept as {kept}: {error}",)
                raise
            if time.monotonic() > end:
                break
    return outcomes


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    outcomes = fuzz(given.inputs, given.seed, given.seconds)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:9,}  {outcome}")
    print(f"{outcomes.total():9,}  inputs, none of them loaded as something else")


if __name__ == "__main__":
    main()
