"""A third party's backend, against the contract suite of every backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rayplane import plugins
from rayplane.gateway.backends.base import ClusterRef
from rayplane.nouns.cluster import ClusterSpec
from rayplane.processes import free_port
from rayplane.settings import GatewaySettings
from rayplane.testing.backend_contract import BackendCase, ReadingBackendContract

REF = ClusterRef(team="alpha", name="dev", uid="0123456789abcdef0123456789abcdef")


class TestThirdParty(ReadingBackendContract):
    @pytest.fixture
    def case(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, third_party: Mapping[str, Mapping[str, str]]
    ) -> BackendCase:
        (name,) = third_party["backends"]
        monkeypatch.delenv("ACME_LAB", raising=False)
        return BackendCase(plugins.load("backends", name)(GatewaySettings(home=tmp_path / "home")), REF)

    def test_a_spec_need_not_name_the_address(self, case: BackendCase, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACME_LAB", f"http://127.0.0.1:{free_port()}")
        observed = case.backend.clusters.observe(case.ref, ClusterSpec())
        assert (observed.phase, observed.reason) == ("failed", "Unreachable")
