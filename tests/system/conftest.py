"""The flights pipeline on 30 days, run once on the shared platform for all tests that examine its results."""

from __future__ import annotations

import shutil

import pytest

from rayplane.nouns.pipeline import RunStatus
from tests.support import served_check
from tests.support.flights import Flights
from tests.support.local_platform import LocalPlatform

# An hour in the middle of the slice, so that every view has values within its TTL.
MATERIALIZED_AT = "2013-01-20T18:00:00Z"


@pytest.fixture(scope="session")
def flights(platform_up: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Flights:
    """The team's code and 30 days of its sources, with its documents applied."""
    made = Flights.slice(platform_up, tmp_path_factory.mktemp("flights"), days=30)
    shutil.copy(served_check.__file__, made.folder / "jobs" / "served_check.py")
    made.apply()
    return made


@pytest.fixture(scope="session")
def run(flights: Flights) -> RunStatus:
    """A run of the whole pipeline."""
    status = flights.run(rounds="30", materialize_at=MATERIALIZED_AT)
    assert status.phase == "Succeeded", status.message
    return status
