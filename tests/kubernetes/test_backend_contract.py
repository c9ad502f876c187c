"""The backend `kubernetes` against the contract of every backend: a real API server and operator, by its own role."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayplane.testing.backend_contract import BackendCase, CreatingBackendContract
from tests.kubernetes import gateway
from tests.kubernetes.bed.level_a import LevelA


class TestKubernetes(CreatingBackendContract):
    @pytest.fixture(scope="class")
    def case(self, level_a: LevelA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendCase]:
        home = tmp_path_factory.mktemp("home")
        with gateway.backend_on(gateway.install(level_a), home) as backend:
            case = gateway.case_on(level_a, backend, home)
            yield case
            gateway.gone(level_a.api, case.team)
