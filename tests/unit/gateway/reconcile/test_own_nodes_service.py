"""A service with nodes of its own: it follows the alias on the same nodes and URL, and deletion leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import Unsupported
from rayplane.gateway.backends.base import Capability, ServiceRef
from rayplane.gateway.reconcile.service import SETTLE, ServiceReconciler
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.service import ServiceSpec, ServiceStatus
from rayplane.testing.fake_dedicated import FakeService
from tests.unit.gateway.reconcile.doubles import TEAM, World

NODES = {"size": "small", "workers": {"min": 1, "max": 2}}


class Bench:
    """A team without a cluster, and a service reconciler. Serve does what its nodes were last asked to serve."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.world.team()
        self.services = ServiceReconciler(
            self.world.platform,
            lambda name: self.world.backend,
            lambda endpoint: self.world.ray,  # type: ignore[arg-type, return-value]
            self.world.mlflow,  # type: ignore[arg-type]
            clock=self.world.clock,
        )
        self.world.mlflow.aliases["delay@champion"] = "1"

    def service(self, name: str = "delay", **spec: Any) -> AnyObject:
        wanted = ServiceSpec(**{"model": "models:/delay@champion", "nodes": NODES, **spec}).model_dump(mode="json")
        obj, _ = self.world.store.put("Service", TEAM, name, wanted, owner="test", status=ServiceStatus())
        return obj

    def look(self, service: AnyObject) -> ServiceStatus:
        self.services.reconcile(self.world.get(service))
        return ServiceStatus.model_validate(self.world.status(service))

    def made(self, service: AnyObject) -> FakeService:
        return self.world.backend.serving[self.ref(service)]

    def ref(self, service: AnyObject) -> ServiceRef:
        return ServiceRef(TEAM, service.metadata.name, service.metadata.uid)

    def serve(self, service: AnyObject, state: str = "RUNNING", message: str = "") -> None:
        """Let Serve report the application that was last deployed to the nodes."""
        application = dict(self.made(service).application)
        self.world.ray.applications[service.metadata.name] = {
            "status": state,
            "message": message,
            "deployments": {},
            "deployed_app_config": application,
        }

    def ready(self, service: AnyObject) -> ServiceStatus:
        self.look(service)
        self.serve(service)
        status = self.look(service)
        assert status.phase == "Ready"
        return status


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def asked(bench: Bench) -> list[str]:
    return [call.split()[0] for call in bench.world.backend.asked]


def test_a_service_gets_nodes_and_is_ready_once_serve_says_so(bench: Bench) -> None:
    service = bench.service()
    assert bench.look(service).phase == "Deploying"
    application = bench.made(service).application
    assert (application["name"], application["route_prefix"]) == ("delay", "/delay")
    assert application["args"]["model_uri"] == "models:/delay/1"
    bench.serve(service)
    status = bench.look(service)
    assert status.phase == "Ready"
    assert status.url == "http://delay.alpha.example:8000/delay"
    assert status.endpoint is not None
    assert bench.world.ray.configurations == []
    edges = bench.world.store.edges(TEAM, "model:delay/1", "down")
    assert [(e.source, e.target) for e in edges] == [("model:delay/1", "service:delay#1")]


def test_the_deployed_application_is_the_same_as_on_a_cluster(bench: Bench) -> None:
    service = bench.service(feature_service="delays", replicas={"min": 2, "max": 3}, app="serving.model_app:app")
    bench.look(service)
    assert bench.made(service).application == {
        "name": "delay",
        "route_prefix": "/delay",
        "import_path": "serving.model_app:app",
        "args": {
            "model_uri": "models:/delay/1",
            "service": "delay",
            "min_replicas": 2,
            "max_replicas": 3,
            "max_ongoing_requests": 100,
            "feature_service": "delays",
        },
        "runtime_env": {},
    }


def test_moving_the_alias_changes_what_the_same_nodes_serve(bench: Bench) -> None:
    service = bench.service()
    url = bench.ready(service).url
    nodes = bench.made(service).number
    bench.world.mlflow.aliases["delay@champion"] = "2"
    status = bench.look(service)
    assert status.phase == "Deploying"
    assert status.revision is not None
    assert (status.revision.number, status.revision.version) == (2, "2")
    assert bench.made(service).application["args"]["model_uri"] == "models:/delay/2"
    assert bench.look(service).phase == "Deploying", "the state is that of the revision before"
    bench.serve(service)
    status = bench.look(service)
    assert (status.phase, status.url) == ("Ready", url)
    assert bench.made(service).number == nodes


def test_the_reconciler_waits_for_a_slow_operator_and_does_not_deploy_again(bench: Bench) -> None:
    service = bench.service(startup_timeout="5m")
    bench.ready(service)
    bench.world.mlflow.aliases["delay@champion"] = "2"
    bench.look(service)
    bench.world.clock.forward(SETTLE + 20)
    assert bench.look(service).phase == "Deploying"
    assert asked(bench) == ["ensure_service"] * 2
    bench.world.clock.forward(300)
    assert bench.look(service).phase == "Failed"
    bench.serve(service)
    assert bench.look(service).phase == "Ready"


def test_nothing_is_deployed_again_while_nothing_changes(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    for _ in range(5):
        bench.look(service)
    assert asked(bench) == ["ensure_service"]


def test_drift_is_repaired_in_the_same_revision(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    bench.made(service).drift = "spec.serveConfigV2: changed"
    status = bench.look(service)
    assert status.revision is not None
    assert (asked(bench), status.revision.number) == (["ensure_service"] * 2, 1)
    assert bench.made(service).drift == ""
    assert bench.look(service).phase == "Ready"


def test_nodes_deleted_from_outside_are_made_again_in_the_same_revision(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    bench.world.backend.become_gone(bench.ref(service))
    status = bench.look(service)
    assert status.revision is not None
    assert (status.phase, status.revision.number) == ("Deploying", 1)
    bench.serve(service)
    assert bench.look(service).phase == "Ready"


def test_a_changed_spec_requests_other_nodes(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    spec = {**service.spec_data, "nodes": {"size": "medium", "workers": {"min": 0, "max": 0}, "backend": None}}
    bench.world.store.update_spec(service.metadata.uid, spec)
    status = bench.look(service)
    assert status.phase == "Deploying"
    assert bench.made(service).nodes.size == "medium"
    assert bench.made(service).launch.size.cpu == 16


def test_a_service_reports_what_delays_its_nodes_and_finally_fails(bench: Bench) -> None:
    bench.world.backend.at_once = False
    service = bench.service(startup_timeout="1m")
    bench.look(service)
    bench.made(service).reason, bench.made(service).message = "Unschedulable", "0/3 nodes are available."
    status = bench.look(service)
    ready = status.condition("Ready")
    assert ready is not None
    assert (status.phase, ready.reason, ready.message) == ("Deploying", "Unschedulable", "0/3 nodes are available.")
    bench.world.clock.forward(61)
    status = bench.look(service)
    assert status.phase == "Failed"
    bench.made(service).phase = "ready"
    bench.serve(service)
    assert bench.look(service).phase == "Ready"


def test_a_service_that_the_backend_calls_failed_is_failed(bench: Bench) -> None:
    bench.world.backend.at_once = False
    service = bench.service()
    bench.look(service)
    made = bench.made(service)
    made.phase, made.reason, made.message = "failed", "ValidationFailed", "The RayService spec is invalid."
    status = bench.look(service)
    ready = status.condition("Ready")
    assert ready is not None
    assert (status.phase, ready.reason, ready.message) == (
        "Failed",
        "ValidationFailed",
        "The RayService spec is invalid.",
    )


def test_a_failed_deployment_keeps_serves_message(bench: Bench) -> None:
    service = bench.service()
    bench.look(service)
    bench.serve(service, "DEPLOY_FAILED", "No module named 'nothing'")
    status = bench.look(service)
    ready = status.condition("Ready")
    assert ready is not None
    assert (status.phase, ready.message) == ("Failed", "No module named 'nothing'")


def test_a_refused_application_is_not_deployed_again_and_again(bench: Bench) -> None:
    bench.world.backend.refused = "no such field"
    service = bench.service()
    for _ in range(4):
        status = bench.look(service)
    ready = status.condition("Ready")
    assert ready is not None
    assert (status.phase, asked(bench)) == ("Failed", ["ensure_service"])
    assert "no such field" in ready.message


def test_no_node_is_requested_before_there_is_a_model(bench: Bench) -> None:
    status = bench.look(bench.service(model="models:/other@champion"))
    ready = status.condition("Ready")
    assert ready is not None
    assert (status.phase, ready.reason, asked(bench)) == ("Pending", "NoModel", [])


def test_deletion_frees_a_services_nodes_before_the_service_is_gone(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    bench.world.backend.slow_to_go = True
    bench.world.store.mark_deleted(service.metadata.uid)
    for _ in range(3):
        assert bench.look(service).phase == "Deleting"
    assert asked(bench) == ["ensure_service", "delete_service"]
    assert [lease.ended_at for lease in bench.world.store.leases(TEAM)] == [None]
    bench.world.backend.become_gone(bench.ref(service))
    bench.services.reconcile(bench.world.get(service))
    assert bench.world.store.count("Service", TEAM) == 0
    (lease,) = bench.world.store.leases(TEAM)
    assert (lease.cluster, lease.ended_at is not None) == ("service/delay", True)


def test_a_service_whose_backend_lost_its_port_to_services_is_refused_with_the_remedy(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    bench.world.backend.capabilities -= {Capability.SERVICE}
    with pytest.raises(Unsupported, match="The backend 'local' has no nodes for service 'alpha/delay'") as refusal:
        bench.look(service)
    assert refusal.value.remedy == "Name a cluster of the team: service.cluster."
