"""Every backend, and the fake that replaces one in other tests, against the contract suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import processes
from rayplane.gateway.backends import local_head
from rayplane.gateway.backends.base import Backend, Capability, ClusterRef
from rayplane.gateway.backends.existing import ExistingBackend
from rayplane.gateway.backends.local import LocalBackend
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.settings import GatewaySettings
from rayplane.testing.backend_contract import BackendCase, CreatingBackendContract, ReadingBackendContract
from rayplane.testing.fakes import FakeBackend

REF = ClusterRef(team="alpha", name="dev", uid="0123456789abcdef0123456789abcdef")


def fake_case(backend: FakeBackend) -> BackendCase:
    return BackendCase(
        backend,
        REF,
        spec=ClusterSpec(workers=Workers(min=0, max=2 if Capability.WORKERS in backend.capabilities else 0)),
        crash=backend.crash,
        scale=backend.scale,
        disturb=backend.disturb,
        disturb_team=backend.disturb_team,
        team_leftovers=lambda team: [team] if team in backend.places else [],
    )


class TestFake(CreatingBackendContract):
    @pytest.fixture(scope="class")
    def case(self) -> BackendCase:
        return fake_case(FakeBackend())


class TestForgetfulFake(CreatingBackendContract):
    @pytest.fixture(scope="class")
    def case(self) -> BackendCase:
        return fake_case(FakeBackend(forgetful=True))


class TestFakeThatLacksOne(CreatingBackendContract):
    @pytest.fixture(scope="class", params=sorted(set(Capability) - {Capability.CREATE}))
    def case(self, request: pytest.FixtureRequest) -> BackendCase:
        return fake_case(FakeBackend(capabilities=frozenset(set(Capability) - {request.param})))


class TestFakeThatOnlyReads(ReadingBackendContract):
    @pytest.fixture
    def case(self) -> BackendCase:
        return fake_case(FakeBackend(capabilities=frozenset()))


@pytest.mark.slow
class TestLocal(CreatingBackendContract):
    @pytest.fixture(scope="class")
    def case(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendCase]:
        settings = GatewaySettings(home=tmp_path_factory.mktemp("home"))
        home = settings.home_paths
        mark = local_head.mark(home.id, REF.uid)

        def crash(ref: ClusterRef) -> None:
            record = processes.load(ref.uid, home.processes / "clusters")
            assert record is not None
            os.kill(record.pid, signal.SIGKILL)

        def leftovers(ref: ClusterRef) -> list[object]:
            folders = (local_head.temp_dir(home.id, ref.uid), local_head.warm_folder(home.id, ref.uid))
            files: list[object] = [p for p in home.path.rglob("*") if p.is_file()]
            return [*processes.marked(mark), *(f for f in folders if f.exists()), *files]

        yield BackendCase(
            LocalBackend(settings),
            REF,
            successor=lambda: LocalBackend(settings),
            crash=crash,
            leftovers=leftovers,
            patience=240,
        )
        processes.stop_marked(home.id, grace=2)


class TestExisting(ReadingBackendContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> BackendCase:
        return BackendCase(ExistingBackend(GatewaySettings(home=tmp_path)), REF)

    def test_a_cluster_without_an_address_is_absent_and_preflight_asks_for_one(self, case: BackendCase) -> None:
        assert case.observe().phase == "absent"
        assert "address" in case.backend.clusters.preflight(case.ref, case.spec, case.launch.size)[0]

    def test_a_cluster_that_does_not_answer_has_failed_with_the_reason(self, case: BackendCase) -> None:
        spec = ClusterSpec(address=f"http://127.0.0.1:{processes.free_port()}")
        observed = case.backend.clusters.observe(case.ref, spec)
        assert (observed.phase, observed.reason) == ("failed", "Unreachable")
        assert case.backend.clusters.preflight(case.ref, spec, case.launch.size) == [observed.message]


@pytest.mark.parametrize("backend", [FakeBackend, LocalBackend, ExistingBackend])
def test_every_backend_satisfies_the_backend_protocol(backend: type, tmp_path: Path) -> None:
    instance = backend() if backend is FakeBackend else backend(GatewaySettings(home=tmp_path))
    assert isinstance(instance, Backend)
