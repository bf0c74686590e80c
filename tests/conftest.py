"""Fixtures: every test that takes `instruction_set` runs on each set of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from fused_rmsprop import _core
from support import restart_draws

SETS = _core.config()["instruction_sets"]


@pytest.fixture(params=SETS["supported"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the set in use during the test."""
    name: str = request.param
    _core.set_instruction_set(name)
    yield name
    _core.set_instruction_set(SETS["in_use"])


@pytest.fixture(autouse=True)
def draws_of_its_own() -> None:
    """The arrays that a test draws do not depend on the tests before it."""
    restart_draws()


# A busy machine is no failure.
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")
