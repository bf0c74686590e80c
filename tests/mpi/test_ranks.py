"""The pieces of an optimizer over MPI that one process can test."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import fused_rmsprop
from attack_support import differences, image_of
from mpi_alone_support import (
    CHUNK,
    MPI,
    Parts,
    RankError,
    Ranks,
    RMSProp,
    checks,
    cut,
    own_share,
)

sizes_of_leaves = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 3),
            st.integers(0, 5 * CHUNK),
            st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]),
        ),
        st.sampled_from([4, 8]),
    ),
    max_size=8,
)
loads_of_ranks = st.lists(st.integers(0, 10 * CHUNK), min_size=1, max_size=9)


def ranks_alone() -> Ranks:
    """One process."""
    return Ranks(MPI.COMM_SELF, 10.0, False)


def cut_of(leaves: list[tuple[int, int]], loads: list[int]) -> NDArray[np.int64]:
    """The ranges of leaves of these sizes, in elements, and bytes of one."""
    return cut([size for size, _ in leaves], [item for _, item in leaves], loads)


@given(sizes_of_leaves, loads_of_ranks)
def test_ranges_cover_each_leaf_and_follow_each_other(
    leaves: list[tuple[int, int]], loads: list[int]
) -> None:
    cuts = cut_of(leaves, loads)
    assert cuts.shape == (len(leaves), len(loads) + 1)
    assert cuts.dtype == np.int64
    assert (cuts[:, 0] == 0).all()
    assert cuts[:, -1].tolist() == [size for size, _ in leaves]
    assert (np.diff(cuts, axis=1) >= 0).all()


@given(sizes_of_leaves, loads_of_ranks)
def test_ranges_begin_at_chunks_and_each_rank_has_one_run_of_leaves(
    leaves: list[tuple[int, int]], loads: list[int]
) -> None:
    cuts = cut_of(leaves, loads)
    sizes = cuts[:, -1:]
    assert ((cuts % CHUNK == 0) | (cuts == sizes)).all()
    # A rank has a part of a leaf only if those before it have all of the leaves before that.
    for rank in range(1, len(loads)):
        begun = np.flatnonzero(cuts[:, rank] < sizes[:, 0])
        assert all((cuts[i, rank] == 0) or i == begun[0] for i in begun)


@given(sizes_of_leaves, st.integers(1, 9))
def test_ranks_have_the_same_bytes_but_for_a_chunk(
    leaves: list[tuple[int, int]], ranks: int
) -> None:
    cuts = cut_of(leaves, [0] * ranks)
    items = np.array([item for _, item in leaves], np.int64)
    held = (np.diff(cuts, axis=1) * items[:, None]).sum(axis=0)
    chunk = CHUNK * max((item for _, item in leaves), default=0)
    assert held.sum() == sum(size * item for size, item in leaves)
    assert (np.abs(held - held.sum() / ranks) <= chunk + 1).all()


@given(st.integers(1, 40), st.integers(1, 6), st.data())
def test_ranks_that_have_less_get_more(chunks: int, ranks: int, data: st.DataObject) -> None:
    total = chunks * CHUNK * 4
    loads = [data.draw(st.integers(0, total // ranks)) for _ in range(ranks)]
    cuts = cut([chunks * CHUNK], [4], loads)
    held = np.diff(cuts[0]) * 4 + loads
    assert (np.abs(held - held.sum() / ranks) <= CHUNK * 4 + ranks).all()


def test_more_ranks_than_chunks_leave_some_without_a_part() -> None:
    counts = np.diff(cut([2 * CHUNK + 1, 0, 5], [4, 8, 8], [0] * 20), axis=1).sum(axis=0)
    assert counts.sum() == 2 * CHUNK + 6
    assert np.count_nonzero(counts) <= 4


def test_a_full_rank_gets_nothing() -> None:
    counts = np.diff(cut([4 * CHUNK], [4], [10**9, 0, 0]), axis=1)[0]
    assert counts.tolist() == [0, 2 * CHUNK, 2 * CHUNK]


@given(sizes_of_leaves, st.integers(1, 7), st.data())
def test_chunks_of_ranks_come_in_the_order_of_leaves(
    leaves: list[tuple[int, int]], ranks: int, data: st.DataObject
) -> None:
    dtypes = [np.dtype(f"f{item}") for _, item in leaves]
    arrays = [np.zeros(size, dtype) for (size, _), dtype in zip(leaves, dtypes, strict=True)]
    params = [*arrays, np.zeros(1)]
    opt = fused_rmsprop.RMSProp(params)
    dtypes.append(np.dtype("f8"))
    cuts = cut([p.size for p in params], [p.itemsize for p in params], [0] * ranks)
    active = [data.draw(st.booleans()) for _ in params]
    parts = Parts(opt._stepper, cuts, dtypes, bytes(active), 1 << 14)

    by_rank = [  # chunks as (leaf, first element), as each rank has them
        (leaf, first)
        for rank in range(ranks)
        for leaf in np.flatnonzero(active).tolist()
        for first in range(int(cuts[leaf, rank]), int(cuts[leaf, rank + 1]), CHUNK)
    ]
    assert [by_rank[place] for place in parts.order.tolist()] == sorted(by_rank)
    assert sum(parts.chunks_of_ranks) == sum(parts.chunks_of_leaves) == len(by_rank)
    for leaf, count in enumerate(parts.chunks_of_leaves):
        assert count == sum(of == leaf for of, _ in by_rank)


@hypothesis.settings(max_examples=40)
@given(sizes_of_leaves, st.integers(1, 7), st.integers(256, 1 << 18))
def test_buckets_cover_all_elements_within_their_limit(
    leaves: list[tuple[int, int]], ranks: int, bucket_bytes: int
) -> None:
    params = [np.zeros(size, f"f{item}") for size, item in leaves] + [np.zeros(1)]
    cuts = cut([p.size for p in params], [p.itemsize for p in params], [0] * ranks)
    opt = fused_rmsprop.RMSProp(params)
    parts = Parts(opt._stepper, cuts, [p.dtype for p in params], b"\1" * len(params), bucket_bytes)
    held = dict.fromkeys({p.dtype for p in params}, 0)
    for bucket in parts.buckets:
        assert all(b % 16 == 0 or b == e for b, e in zip(bucket.begins, bucket.ends, strict=True))
        least = ranks * 16 * bucket.dtype.itemsize  # a cache line for each rank
        assert sum(bucket.counts) * bucket.dtype.itemsize <= max(bucket_bytes, least)
        held[bucket.dtype] += sum(bucket.counts)
    assert held == {d: sum(p.size for p in params if p.dtype == d) for d in held}


def test_one_rank_agrees_with_itself() -> None:
    ranks = ranks_alone()
    assert ranks.agree("at a test", {"lr": 1}, mask=b"\1\0") == [b"\1\0"]
    assert ranks.least(7, "at a test") == 7
    assert ranks.allgather_bytes(b"abc", "at a test") == [b"abc"]
    assert ranks.together("at a test", lambda: 3) == 3
    assert own_share(ranks).threads >= 1


def test_one_rank_raises_its_own_error_again_and_again() -> None:
    ranks, error = ranks_alone(), ZeroDivisionError("mine")

    def fail() -> None:
        raise error

    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            ranks.together("at a test", lambda: ranks.together("inside", fail))
        assert caught.value is error
        with pytest.raises(ZeroDivisionError):
            ranks.agree("at a test", error=error)
    assert ranks.together("at a test", lambda: 3) == 3


def test_a_rank_that_did_not_answer_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []  # or the end of the tests would have one
    monkeypatch.setattr("fused_rmsprop.mpi.ranks._limits", limits)
    comm = MPI.COMM_SELF.Dup()  # which is of no use afterwards
    ranks = Ranks(comm, 0.02, False)
    buffer = np.empty(1)
    request = ranks.comm.Irecv(buffer, source=0)  # from itself, which sends nothing
    with pytest.raises(RankError, match=r"rank 0 of 1: another rank did not answer within 0\.02 s"):
        ranks.wait([request], "at a test")
    with pytest.raises(RankError, match="Start all ranks again from the last checkpoint"):
        ranks.agree("at a test")
    assert limits == [0.02]
    assert [request] in ranks._connection.kept  # MPI may still write to its buffer
    ranks.comm.Send(np.ones(1), dest=0)
    request.Wait()
    with pytest.raises(RankError, match="did not answer"):  # nor by another optimizer
        Ranks(comm, 0.02, False)


def test_after_an_interrupt_no_messages_are_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(MPI.COMM_SELF.Dup(), None, False)
    ranks.agree("at a test", goes_on=True)
    with pytest.raises(RankError, match="rank 0 of 1 was interrupted at a test"):
        ranks.agree("later")
    ranks = Ranks(MPI.COMM_SELF.Dup(), None, False)
    ranks.agree("at a test", goes_on=True)
    ranks.complete()
    ranks.agree("later")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ranks, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ranks.agree("in the end")
    with pytest.raises(RankError, match="was interrupted in the end"):
        ranks.check()


@pytest.mark.parametrize("moment", ["update", "finish", "take"])
def test_after_an_interrupt_of_a_step_the_optimizer_refuses_others(moment: str) -> None:
    opt = RMSProp(np.ones(3), comm=MPI.COMM_SELF.Dup())
    stepper = opt._stepper

    class Interrupted:
        """A step that a KeyboardInterrupt ends."""

        def __init__(self) -> None:
            self.step = stepper.sharded()

        def __getattr__(self, name: str) -> object:
            if name == moment:
                raise KeyboardInterrupt
            return getattr(self.step, name)

    class Stepper:
        """A stepper that makes such steps."""

        sharded = Interrupted

        def __getattr__(self, name: str) -> object:
            return getattr(stepper, name)

    opt._stepper = Stepper()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        opt.step(np.ones(3))
    opt._stepper = stepper
    with pytest.raises(RankError, match="was interrupted at the beginning of a step"):
        opt.step(np.ones(3))
    with pytest.raises(RankError, match="was interrupted"):
        opt.state_dict()


def test_a_communicator_takes_its_duplicate_with_it() -> None:
    for _ in range(2500):  # MPICH has about 2,000
        comm = MPI.COMM_SELF.Dup()
        Ranks(comm, None, False)
        comm.Free()


def test_load_is_of_the_class() -> None:
    with pytest.raises(AttributeError, match="load is of the class"):
        RMSProp(np.ones(3), comm=MPI.COMM_SELF).load("run.npz", np.ones(3))


@pytest.mark.parametrize("root", [1, -1, "0", True, 0.0])
def test_the_root_of_a_gathering_is_checked(root: object) -> None:
    opt = RMSProp(np.ones(3), comm=MPI.COMM_SELF)
    with pytest.raises(ValueError, match="root is a rank from 0 to 0 or None"):
        opt.gather_state(root)  # type: ignore[arg-type]
    opt.step(np.ones(3))


def test_the_communicator_has_a_name() -> None:
    with pytest.raises(TypeError, match="comm=comm"):
        RMSProp(np.ones(3), MPI.COMM_SELF)
    with pytest.raises(TypeError, match=r"fused_rmsprop\.mpi\.RMSProp"):
        fused_rmsprop.RMSProp(np.ones(3), comm=MPI.COMM_SELF)  # type: ignore[call-arg]


def test_threads_are_found_out_within_a_share() -> None:
    opt = RMSProp(np.ones(3), comm=MPI.COMM_SELF)
    assert opt.threads is None
    assert opt._stepper.most_threads == own_share(Ranks(MPI.COMM_SELF, None, False)).threads


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"reduction": "sum"}, ValueError, "'ordered' or 'fast', got 'sum'"),
        ({"reduction": None}, ValueError, "'ordered' or 'fast'"),
        ({"bucket_bytes": 0}, ValueError, "bucket_bytes must be an int > 0 or None, got 0"),
        ({"bucket_bytes": True}, ValueError, "bucket_bytes must be an int"),
        ({"bucket_bytes": 1e6}, ValueError, "bucket_bytes must be an int"),
        ({"timeout": 0}, ValueError, "timeout must be > 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be > 0"),
        ({"timeout": "1"}, TypeError, "timeout must be a number"),
        ({"abort": 1}, TypeError, "abort must be True or False"),
    ],
)
def test_a_wrong_setting_is_named(
    settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    good = {"reduction": "fast", "bucket_bytes": None, "timeout": None, "abort": False}
    checks.check_settings(**good)
    with pytest.raises(error, match=match):
        checks.check_settings(**good | settings)
    with pytest.raises(error, match=match):
        RMSProp(np.ones(3), comm=MPI.COMM_SELF, **settings)


@pytest.mark.parametrize("comm", [3, "world", MPI.Request()])
def test_a_wrong_communicator_is_named(comm: object) -> None:
    with pytest.raises(TypeError, match=r"comm is a communicator of mpi4py, say MPI\.COMM_WORLD"):
        RMSProp(np.ones(3), comm=comm)


def test_a_process_outside_of_the_communicator_is_told_so() -> None:
    with pytest.raises(ValueError, match="this process is no member of the communicator"):
        RMSProp(np.ones(3), comm=MPI.COMM_NULL)


def test_the_signature_shows_the_options_of_one_process_and_its_own() -> None:
    ours = inspect.signature(RMSProp).parameters
    theirs = inspect.signature(fused_rmsprop.RMSProp).parameters
    own = ["comm", "reduction", "bucket_bytes", "timeout", "abort"]
    assert list(ours) == [*theirs, *own]
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own)
    assert [ours[name].default for name in own] == [None, "ordered", None, 1800.0, False]


def test_an_optimizer_over_mpi_is_not_pickled_or_copied() -> None:
    opt = RMSProp(np.ones(3), comm=MPI.COMM_SELF)
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"opt\.save\(path\) and RMSProp\.load"):
            refused(opt)


def test_leafwise_is_refused() -> None:
    with pytest.raises(TypeError, match=r"leafwise\(\) is for one process.*call step\(grads\)"):
        RMSProp(np.ones(3), comm=MPI.COMM_SELF).leafwise()


def test_its_repr_names_the_rank() -> None:
    assert repr(RMSProp(np.ones(3), comm=MPI.COMM_SELF)).endswith("on rank 0 of 1")


@pytest.mark.parametrize("reduction", ["ordered", "fast"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5, "centered": True, "ema_decay": 0.9},
        {"max_grad_norm": 0.1, "weight_decay": 0.01, "on_nonfinite": "skip"},
        {"max_grad_norm_per_array": 0.1, "lr": lambda step: 0.1 / (step + 1)},
    ],
)
def test_one_rank_has_the_bits_of_one_process(reduction: str, options: dict[str, Any]) -> None:
    def params() -> list[dict[str, Any]]:
        rng = np.random.default_rng(1)
        first = {
            "W": np.asfortranarray(rng.standard_normal((90, 100)).astype(np.float32)),
            "none": np.zeros((0, 3)),
            "s": rng.standard_normal(()),
        }
        return [{"params": []}, {"params": first}, {"params": rng.standard_normal(9000)}]

    def arrays(groups: list[dict[str, Any]]) -> list[Any]:
        return [group["params"] for group in groups]

    ours, theirs = params(), params()
    opt = RMSProp(ours, comm=MPI.COMM_SELF, reduction=reduction, bucket_bytes=20_000, **options)
    alone = fused_rmsprop.RMSProp(theirs, **options)
    rng = np.random.default_rng(2)
    for step in range(4):
        grads: list[Any] = [
            [],
            {
                "W": rng.standard_normal((90, 100)).astype(np.float32),
                "none": np.zeros((0, 3)),
                "s": None if step == 1 else rng.standard_normal(()),
            },
            rng.standard_normal(9000),
        ]
        for each in (opt, alone):
            if step == 2:
                each.accumulate(grads)
                each.accumulate(grads)
            each.step(None if step == 2 else grads)
    images = [
        image_of(params=arrays(groups), state=state, norm=each.grad_norm, count=each.step_count)
        for groups, each, state in (
            (ours, opt, opt.gather_state()),
            (theirs, alone, alone.state),
        )
    ]
    assert differences(*images) == []
