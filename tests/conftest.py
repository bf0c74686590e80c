"""Fixtures: a test that takes `instruction_set` runs on each set of this machine, by all loops."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(params=WAYS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the set in use during the test."""
    name, plan = WAYS[request.param]
    _core.set_instruction_set(name)
    _core.force_plan(plan)
    yield name
    _core.set_instruction_set(SETS["in_use"])
    _core.force_plan(FORCED)


@pytest.fixture(autouse=True)
def draws_of_its_own() -> None:
    """The arrays that a test draws do not depend on the tests before it."""
    restart_draws()


# A busy machine is no failure.
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")
