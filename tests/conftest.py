"""Fixtures for tests on each instruction set of this machine, by all loops.

A test that takes `instruction_set` runs once for each; one that takes `each_way` loops over them,
because it computes the expected values once for all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import hypothesis
import pytest

from fused_rmsprop import _core
from support import restart_draws

SETS = _core.config()["instruction_sets"]
FORCED = _core.plan()["forced"]
#: Each instruction set, the first one with prefetching, the last once more without divisions.
WAYS = {name: (name, "quotient=division,prefetch=off") for name in SETS["supported"]}
WAYS[SETS["supported"][0]] = (SETS["supported"][0], "quotient=division,prefetch=on")
WAYS["refined"] = (SETS["supported"][-1], "quotient=refined,prefetch=off")


def use(way: str) -> str:
    """Let steps go a way from now on; its name."""
    name, plan = WAYS[way]
    _core.set_instruction_set(name)
    _core.force_plan(plan)
    return way


@pytest.fixture
def restored() -> Iterator[None]:
    """After the test, steps go the way that they went before."""
    yield
    _core.set_instruction_set(SETS["in_use"])
    _core.force_plan(FORCED)


@pytest.fixture(params=WAYS)
def instruction_set(request: pytest.FixtureRequest, restored: None) -> str:
    """The name of the set in use during the test."""
    return WAYS[use(request.param)][0]


@pytest.fixture
def each_way(restored: None) -> Callable[[], Iterator[str]]:
    """A function that iterates over the names of all ways; each is used up to the next."""
    return lambda: map(use, WAYS)


@pytest.fixture(autouse=True)
def draws_of_its_own() -> None:
    """The arrays that a test draws do not depend on the tests before it."""
    restart_draws()


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    """Pyplot keeps figures, and warns when they are many."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


# A busy machine is no failure.
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")
