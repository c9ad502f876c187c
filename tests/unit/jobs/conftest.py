"""The 30-day slice: raw, prepared and as feature tables, made once per session."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.data.slices import raw_tables
from tests.unit.jobs import flight_tables


@pytest.fixture(scope="session")
def raw() -> dict[str, pa.Table]:
    return raw_tables(30)


@pytest.fixture(scope="session")
def prepared(raw: dict[str, pa.Table]) -> dict[str, pa.Table]:
    return flight_tables.prepared(raw)


@pytest.fixture(scope="session")
def feature_tables(prepared: dict[str, pa.Table]) -> dict[str, pa.Table]:
    return flight_tables.features(prepared)


@pytest.fixture(scope="session")
def whole_year() -> dict[str, pa.Table]:
    return flight_tables.prepared(raw_tables(None))


@pytest.fixture(scope="session")
def whole_year_features(whole_year: dict[str, pa.Table]) -> dict[str, pa.Table]:
    return flight_tables.features(whole_year)
