"""Nodes of one job or service: the fake against the contract, and the refusals of backends without such nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayplane.errors import Unsupported
from rayplane.gateway.backends.base import Backend, Capability, JobRef, ServiceRef, TeamRef, teams_of
from rayplane.gateway.backends.existing import ExistingBackend
from rayplane.gateway.backends.local import LocalBackend
from rayplane.settings import GatewaySettings
from rayplane.testing.dedicated_contract import DedicatedCase, JobContract, ServiceContract
from rayplane.testing.fakes import FakeBackend

UID = "0123456789abcdef0123456789abcdef"
JOB, SERVICE = JobRef("alpha", "train", UID, 1), ServiceRef("alpha", "delay", UID)


class TestFakeJobs(JobContract):
    @pytest.fixture(scope="class")
    def case(self) -> DedicatedCase:
        backend = FakeBackend()
        return DedicatedCase(backend, JOB, SERVICE, take_away=backend.become_gone)


class TestFakeServices(ServiceContract):
    @pytest.fixture(scope="class")
    def case(self) -> DedicatedCase:
        backend = FakeBackend()

        def disturb(ref: ServiceRef) -> None:
            backend.serving[ref].drift = "spec.serveConfigV2: changed"

        return DedicatedCase(backend, JOB, SERVICE, disturb=disturb)


@pytest.mark.parametrize("name", ["local", "existing", "fake"])
def test_a_backend_without_jobs_and_services_of_their_own_nodes_refuses_every_such_call(
    name: str, tmp_path: Path
) -> None:
    settings = GatewaySettings(home=tmp_path)
    backends: dict[str, Backend] = {
        "local": LocalBackend(settings),
        "existing": ExistingBackend(settings),
        "fake": FakeBackend(capabilities=frozenset(Capability) - {Capability.JOB, Capability.SERVICE}),
    }
    backend = backends[name]
    assert not {Capability.JOB, Capability.SERVICE} & backend.capabilities
    assert (backend.jobs, backend.services) == (None, None)
    case = DedicatedCase(backend, JOB, SERVICE)
    for call in (lambda: case.jobs, lambda: case.services):
        with pytest.raises(Unsupported) as refusal:
            call()
        assert refusal.value.remedy


def test_a_refusal_names_the_backend_the_object_and_the_remedy(tmp_path: Path) -> None:
    backend = ExistingBackend(GatewaySettings(home=tmp_path))
    case = DedicatedCase(backend, JOB, SERVICE)
    with pytest.raises(Unsupported, match="The backend 'existing' has no nodes for job 'alpha/train' alone") as job:
        _ = case.jobs
    assert job.value.remedy == "Name a cluster of the team: job.cluster."
    with pytest.raises(Unsupported, match="The backend 'existing' has no nodes for service 'alpha/delay'") as service:
        _ = case.services
    assert service.value.remedy == "Name a cluster of the team: service.cluster."
    with pytest.raises(Unsupported, match="The backend 'existing' keeps no place for team 'alpha'") as team:
        teams_of(backend, TeamRef("alpha", UID))
    assert team.value.remedy == "None is needed."
