"""Services follow their alias, and a rollout of one leaves the others on the same Serve alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import InvalidInput
from rayplane.gateway.backends.base import ClusterRef
from rayplane.gateway.reconcile import service as module
from rayplane.gateway.reconcile.serve_config import model_of
from rayplane.gateway.reconcile.service import SETTLE, ServiceReconciler
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.service import ServiceSpec, ServiceStatus
from tests.unit.gateway.reconcile.doubles import TEAM, World


class Bench:
    """A ready cluster and a service reconciler."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.world.team()
        self.cluster = self.world.cluster()
        self.clusters = self.world.clusters()
        self.services = ServiceReconciler(
            self.world.platform,
            lambda name: self.world.backend,
            lambda endpoint: self.world.ray,  # type: ignore[arg-type, return-value]
            self.world.mlflow,  # type: ignore[arg-type]
            clock=self.world.clock,
        )
        self.start_cluster()
        self.world.mlflow.aliases["delay@champion"] = "1"

    def start_cluster(self) -> None:
        for _ in range(4):
            self.clusters.reconcile(self.world.get(self.cluster))
            self.world.clock.forward(2)

    def service(self, name: str = "delay", **spec: Any) -> AnyObject:
        wanted = ServiceSpec(**{"model": "models:/delay@champion", "cluster": "dev", **spec}).model_dump(mode="json")
        obj, _ = self.world.store.put("Service", TEAM, name, wanted, owner="test", status=ServiceStatus())
        return obj

    def look(self, service: AnyObject) -> ServiceStatus:
        self.services.reconcile(self.world.get(service))
        return ServiceStatus.model_validate(self.world.status(service))

    def say(self, service: str, state: str, message: str = "") -> None:
        self.world.ray.applications[service] |= {"status": state, "message": message}

    def ready(self, service: AnyObject) -> ServiceStatus:
        self.look(service)
        self.say(service.metadata.name, "RUNNING")
        return self.look(service)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def deployed(bench: Bench) -> dict[str, str]:
    return {a["name"]: a["args"]["model_uri"] for a in bench.world.ray.configurations[-1]["applications"]}


def test_a_service_is_deployed_and_ready_once_serve_says_so(bench: Bench) -> None:
    service = bench.service()
    assert bench.look(service).phase == "Deploying"
    assert deployed(bench) == {"delay": "models:/delay/1"}
    bench.say("delay", "RUNNING")
    status = bench.look(service)
    assert status.phase == "Ready"
    endpoint = bench.world.status(bench.cluster)["endpoint"]
    assert status.url == f"{endpoint['serve_url']}/delay"
    assert status.revision is not None
    assert (status.revision.number, status.revision.version, status.revision.run_id) == (1, "1", "run-of-1")
    edges = bench.world.store.edges(TEAM, "model:delay/1", "down")
    assert [(e.source, e.target) for e in edges] == [("model:delay/1", "service:delay#1")]


def test_serve_listens_at_the_endpoints_address(bench: Bench) -> None:
    bench.look(bench.service())
    endpoint = bench.world.status(bench.cluster)["endpoint"]
    options = bench.world.ray.configurations[-1]["http_options"]
    assert endpoint["serve_url"] == f"http://{options['host']}:{options['port']}"


def test_moving_the_alias_rolls_out_the_next_revision(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    bench.world.mlflow.aliases["delay@champion"] = "2"
    status = bench.look(service)
    assert status.phase == "Deploying"
    assert status.revision is not None
    assert (status.revision.number, status.revision.version) == (2, "2")
    assert deployed(bench) == {"delay": "models:/delay/2"}


def test_nothing_is_deployed_again_while_nothing_changes(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    for _ in range(5):
        bench.look(service)
    assert len(bench.world.ray.configurations) == 1


def test_a_rollout_lists_the_other_services_as_they_are_deployed(bench: Bench) -> None:
    first, second = bench.service("first"), bench.service("second")
    bench.ready(first)
    bench.world.mlflow.aliases["delay@champion"] = "2"
    bench.look(second)
    assert deployed(bench) == {"first": "models:/delay/1", "second": "models:/delay/2"}


def test_a_new_head_gets_the_same_revision_again(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    bench.world.backend.crash(ClusterRef(TEAM, "dev", bench.cluster.metadata.uid))
    bench.clusters.reconcile(bench.world.get(bench.cluster))
    bench.start_cluster()
    status = bench.look(service)
    assert status.phase == "Deploying"
    assert status.revision is not None
    assert (status.revision.number, len(bench.world.ray.configurations)) == (1, 2)


def test_a_service_waits_for_its_model_and_reports_it(bench: Bench) -> None:
    status = bench.look(bench.service(model="models:/other@champion"))
    ready = status.condition("Ready")
    assert ready is not None
    assert (status.phase, ready.reason) == ("Pending", "NoModel")


def test_a_failed_deployment_keeps_serves_message(bench: Bench) -> None:
    service = bench.service()
    bench.look(service)
    bench.say("delay", "DEPLOY_FAILED", "No module named 'nothing'")
    status = bench.look(service)
    ready = status.condition("Ready")
    assert ready is not None
    assert (status.phase, ready.message) == ("Failed", "No module named 'nothing'")
    bench.world.mlflow.aliases["delay@champion"] = "2"
    assert bench.look(service).phase == "Deploying"


def test_a_configuration_that_serve_refuses_is_not_sent_again_and_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def refuse(config: object) -> None:
        sent.append(config)
        raise InvalidInput("not a configuration")

    monkeypatch.setattr(bench.world.ray, "put_serve", refuse)
    service = bench.service()
    for _ in range(4):
        status = bench.look(service)
    assert (status.phase, len(sent)) == ("Failed", 1)


def test_a_deployment_that_takes_too_long_fails(bench: Bench) -> None:
    service = bench.service(startup_timeout="1m")
    bench.look(service)
    bench.world.clock.forward(61)
    status = bench.look(service)
    assert status.phase == "Failed"


def test_the_state_of_the_previous_revision_is_not_mistaken_for_that_of_the_new_one(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    bench.world.mlflow.aliases["delay@champion"] = "2"
    bench.look(service)
    stale = {"name": "delay", "args": {"model_uri": "models:/delay/1"}}
    bench.world.ray.applications["delay"] = {"status": "RUNNING", "deployed_app_config": stale}
    assert bench.look(service).phase == "Deploying"


def test_a_rollout_that_serve_lost_is_repeated(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    stale = {"name": "delay", "args": {"model_uri": "models:/delay/7"}}
    bench.world.ray.applications["delay"] = {"status": "RUNNING", "deployed_app_config": stale}
    bench.world.clock.forward(SETTLE + 1)
    for _ in range(2):
        status = bench.look(service)
    assert status.phase == "Deploying"
    assert len(bench.world.ray.configurations) == 2
    assert deployed(bench) == {"delay": "models:/delay/1"}


def test_two_rollouts_at_once_do_not_undo_each_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = bench.service("first"), bench.service("second")
    other = threading.Thread(target=bench.look, args=(second,))

    @contextmanager
    def slowly(*args: Any) -> Iterator[Any]:
        if threading.current_thread() is not other and not other.ident:
            other.start()
            deadline = time.monotonic() + 0.5
            while len(bench.world.ray.configurations) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        with editing(*args) as status:
            yield status

    monkeypatch.setattr(module, "editing", slowly)
    bench.look(first)
    other.join(10)
    assert deployed(bench) == {"first": "models:/delay/1", "second": "models:/delay/1"}


def test_a_refused_service_blocks_no_other_service(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put = bench.world.ray.put_serve

    def refuse_bad(config: Mapping[str, Any]) -> None:
        if any(app["name"] == "bad" for app in config["applications"]):
            raise InvalidInput("not a configuration")
        put(config)

    monkeypatch.setattr(bench.world.ray, "put_serve", refuse_bad)
    bad, good = bench.service("bad"), bench.service("good")
    assert bench.look(bad).phase == "Failed"
    assert bench.look(good).phase == "Deploying"
    bench.world.backend.crash(ClusterRef(TEAM, "dev", bench.cluster.metadata.uid))
    bench.clusters.reconcile(bench.world.get(bench.cluster))
    bench.look(bad)  # while there is no head
    bench.start_cluster()
    assert bench.look(good).phase == "Deploying"
    assert bench.look(bad).phase == "Failed"
    assert deployed(bench) == {"good": "models:/delay/1"}


@pytest.mark.parametrize("app", ["my_app", "my_app.build", "my app:build", "my_app:build:x", ":build", "my_app:b\n"])
def test_an_application_is_named_by_module_and_callable(app: str) -> None:
    assert ServiceSpec(model="models:/delay/1", cluster="dev", app="my_app.serving:build").app
    with pytest.raises(ValueError, match="write module:callable"):
        ServiceSpec(model="models:/delay/1", cluster="dev", app=app)


def test_deletion_removes_the_application_and_leaves_the_others(bench: Bench) -> None:
    first, second = bench.service("first"), bench.service("second")
    bench.ready(first)
    bench.ready(second)
    bench.world.store.mark_deleted(first.metadata.uid)
    bench.look(first)
    assert deployed(bench) == {"second": "models:/delay/1"}
    bench.services.reconcile(bench.world.get(first))
    assert [s.metadata.name for s in bench.world.store.each("Service")] == ["second"]


def test_deleting_a_service_whose_cluster_is_gone_succeeds(bench: Bench) -> None:
    service = bench.service()
    bench.ready(service)
    bench.world.store.remove(bench.cluster.metadata.uid)
    bench.world.store.mark_deleted(service.metadata.uid)
    bench.services.reconcile(bench.world.get(service))
    assert bench.world.store.count("Service", TEAM) == 0


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("models:/flight-delay@champion", ("flight-delay", "champion", None)),
        ("models:/flight-delay/7", ("flight-delay", None, "7")),
    ],
)
def test_a_models_uri_is_parsed(uri: str, expected: tuple[str, str | None, str | None]) -> None:
    assert model_of(ServiceSpec(model=uri, cluster="dev")) == expected


def test_a_neighbour_that_todays_rules_refuse_is_left_out_and_holds_up_no_rollout(bench: Bench) -> None:
    old = {"model": "models:/old/1", "cluster": "dev", "replicas": 2}
    revision = {"number": 1, "model": "models:/old/1", "version": "1"}
    status = {"phase": "Ready", "revision": revision}
    bench.world.store.put("Service", TEAM, "old", old, owner="test", status=status)
    assert bench.look(bench.service()).phase == "Deploying"
    assert deployed(bench) == {"delay": "models:/delay/1"}
