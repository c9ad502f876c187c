"""Jobs and services with nodes of their own on a real API server and operator, by the gateway's own role."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayplane.errors import Unavailable
from rayplane.gateway.backends.base import ServiceObservation, TeamRef
from rayplane.gateway.backends.kubernetes import pods, rayjob, rayservice
from rayplane.gateway.backends.kubernetes.backend import KubernetesBackend
from rayplane.gateway.backends.kubernetes.kinds import SECRET, Kind
from rayplane.nouns.cluster import Nodes, Workers
from rayplane.nouns.job import JobSpec, Resources
from rayplane.settings import write_secret
from rayplane.testing.dedicated_contract import DedicatedCase, JobContract, ServiceContract, application
from tests.kubernetes import dedicated, gateway
from tests.kubernetes.bed.api import Object, condition, wait_for
from tests.kubernetes.bed.level_a import LevelA

RAY = gateway.RAY


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def backend(kubeconfig: Path, home: Path) -> Iterator[KubernetesBackend]:
    with gateway.backend_on(kubeconfig, home) as made:
        yield made


@pytest.fixture(scope="module")
def team(level_a: LevelA, backend: KubernetesBackend) -> Iterator[TeamRef]:
    """A team that has its place."""
    ref, _ = gateway.refs()
    wait_for("the team's place", lambda: backend.ensure_team(ref, gateway.TEAM_SPEC) == "", seconds=60)
    yield ref
    gateway.remove(level_a.api, ref)


class TestJobs(JobContract):
    @pytest.fixture(scope="class")
    def case(self, level_a: LevelA, backend: KubernetesBackend, team: TeamRef, home: Path) -> DedicatedCase:
        return dedicated.case_on(level_a, backend, home, team.name)


class TestServices(ServiceContract):
    @pytest.fixture(scope="class")
    def case(self, level_a: LevelA, backend: KubernetesBackend, team: TeamRef, home: Path) -> DedicatedCase:
        return dedicated.case_on(level_a, backend, home, team.name)


@pytest.fixture
def case(level_a: LevelA, backend: KubernetesBackend, team: TeamRef, home: Path) -> Iterator[DedicatedCase]:
    """A job and a service of the test's own, deleted after it."""
    made = dedicated.case_on(level_a, backend, home, team.name)
    yield made
    backend.delete_job(made.job)
    backend.delete_service(made.service)
    made.job_until(lambda seen: seen.phase == "absent")
    made.service_until(lambda seen: seen.phase == "absent")


def other_than_watches(backend: KubernetesBackend) -> int:
    """How much was asked so far but the opening of watches, which time alone brings."""
    return sum(count for (verb, _), count in backend.api.calls.items() if verb != "watch")


def namespace_of(case: DedicatedCase) -> str:
    return f"rayplane-{case.job.team}"


@pytest.mark.parametrize("noun", ["job", "service"])
@pytest.mark.parametrize("act", ["ensure", "delete"])
def test_a_gateway_that_freezes_between_any_two_calls_leaves_nothing_half_made(
    level_a: LevelA, kubeconfig: Path, backend: KubernetesBackend, team: TeamRef, tmp_path: Path, noun: str, act: str
) -> None:
    """It is killed before its n-th call, then before every later one; its successor finishes, and then deletes."""
    for calls in range(6):
        home = tmp_path / str(calls)
        whole = dedicated.case_on(level_a, backend, home, team.name)
        if act == "delete":
            dedicated.ensure(whole, noun)
            dedicated.until_up(whole, noun)
        with gateway.backend_on(kubeconfig, home) as doomed:
            its = replace(whole, backend=doomed)
            dedicated.until_synced(its)
            do = {"ensure": dedicated.ensure, "delete": dedicated.delete}[act]
            finished = gateway.killed_before(calls, doomed, partial(do, its, noun))
        with gateway.backend_on(kubeconfig, home) as successor:
            its = replace(whole, backend=successor)
            if act == "ensure":
                dedicated.ensure(its, noun)
                dedicated.until_up(its, noun)
            dedicated.delete(its, noun)
            dedicated.until_gone(its, noun)
        if finished:
            return
    pytest.fail(f"{act} makes more calls than were tried")


# Jobs


def test_a_rayjob_says_to_kuberay_what_the_attempt_is(level_a: LevelA, case: DedicatedCase) -> None:
    case.submission = replace(
        case.submission,
        entrypoint="echo 🎉",
        runtime_env={"env_vars": {"RAYPLANE_SUBMISSION_ID": case.job.submission_id, "SAYS": "größer 🎉"}},
        resources=Resources(cpu=0.5),
        timeout=60.0,
    )
    case.ensure_job()
    spec = dedicated.one(level_a.api, "RayJob", case.job)["spec"]
    assert {key: spec[key] for key in ("submissionMode", "jobId", "entrypoint", "metadata", "backoffLimit")} == {
        "submissionMode": "HTTPMode",
        "jobId": case.job.submission_id,
        "entrypoint": "echo 🎉",
        "metadata": {"who": "test"},
        "backoffLimit": 0,
    }
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == case.submission.runtime_env
    assert (spec["entrypointNumCpus"], spec["activeDeadlineSeconds"]) == (0.5, 60 + rayjob.GRACE)
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, rayjob.TTL)
    assert "suspend" not in spec, "it is whoever admits the job that suspends it"
    cluster = dedicated.one(level_a.api, "RayCluster", case.job)
    assert cluster["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"] == "true"
    assert [group["replicas"] for group in cluster["spec"]["workerGroupSpecs"]] == [1]


def test_its_secrets_lie_beside_it_and_go_with_it(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_job()
    secret = dedicated.one(level_a.api, "Secret", case.job)
    texts = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert texts["RAYPLANE_TOKEN_PATH"] == "the cluster's own token"
    job = dedicated.one(level_a.api, "RayJob", case.job)
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    head = dedicated.head_of(level_a.api, case.job)
    volumes = [volume.get("secret", {}).get("secretName") for volume in head["spec"]["volumes"]]
    assert secret["metadata"]["name"] in volumes
    seen = case.job_until(lambda seen: seen.endpoint is not None)
    assert seen.endpoint is not None
    assert seen.endpoint.token_path is not None
    assert Path(seen.endpoint.token_path).read_text().strip() == texts[pods.AUTH_TOKEN]
    assert "the cluster's own token" not in json.dumps([job, head])


def test_what_a_call_that_failed_left_undone_is_seen_and_done(
    level_a: LevelA, backend: KubernetesBackend, case: DedicatedCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = backend.api.apply

    def failing(kind: Kind, manifest: Any, **options: Any) -> Any:
        if kind is SECRET:
            raise Unavailable("The API server is overloaded.")
        return apply(kind, manifest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(backend.api, "apply", failing)
        with pytest.raises(Unavailable):
            case.ensure_job()
    seen = case.job_until(lambda seen: seen.phase == "starting")
    assert "Secret" in seen.drift
    case.ensure_job()
    assert dedicated.one(level_a.api, "Secret", case.job)["data"]
    case.job_until(lambda seen: seen.endpoint is not None and not seen.drift)


def test_a_head_that_keeps_its_tables_in_redis_finds_the_password(
    level_a: LevelA, kubeconfig: Path, team: TeamRef, tmp_path: Path
) -> None:
    write_secret(tmp_path / "redis", "sesame")
    more = {"redis_address": "redis:6379", "redis_password_path": str(tmp_path / "redis")}
    with gateway.backend_on(kubeconfig, tmp_path, **more) as backend:
        case = dedicated.case_on(level_a, backend, tmp_path, team.name)
        case.ensure_service()
        secret = dedicated.one(level_a.api, "Secret", case.service)
        assert base64.b64decode(secret["data"]["redis_password"]) == b"sesame"
        case.service_until(lambda seen: bool(seen.nodes))
        backend.delete_service(case.service)
        case.service_until(lambda seen: seen.phase == "absent")


def test_looks_at_a_job_and_a_service_at_rest_cost_no_call(backend: KubernetesBackend, case: DedicatedCase) -> None:
    case.ensure_job()
    case.ensure_service()
    case.job_until(lambda seen: seen.endpoint is not None)
    case.service_until(lambda seen: bool(seen.nodes) and seen.drift == "")
    before = other_than_watches(backend)
    for _ in range(50):
        backend.observe_job(case.job)
        case.ensure_job()
        assert backend.observe_service(case.service).drift == ""
        case.ensure_service()
    assert other_than_watches(backend) == before


def test_another_gateway_finds_the_attempt_and_its_token(kubeconfig: Path, case: DedicatedCase, tmp_path: Path) -> None:
    case.ensure_job()
    before = case.job_until(lambda seen: seen.endpoint is not None)
    with gateway.backend_on(kubeconfig, tmp_path) as successor:
        seen = successor.observe_job(case.job)
        assert (seen.phase, seen.incarnation) == ("running", before.incarnation)
        assert seen.endpoint is not None
        assert before.endpoint is not None
        mine, theirs = (Path(str(e.token_path)).read_text() for e in (seen.endpoint, before.endpoint))
        assert mine == theirs


def test_a_head_that_dies_is_a_lost_attempt_with_its_reason(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_job()
    case.job_until(lambda seen: seen.phase == "running" and seen.endpoint is not None)
    head = dedicated.head_of(level_a.api, case.job)
    gateway.fail(level_a.api, head["metadata"]["name"], namespace_of(case))
    seen = case.job_until(lambda seen: seen.phase == "lost")
    assert (seen.reason, seen.endpoint) == ("OOMKilled", None)
    assert "more memory than its size has" in seen.message


def test_what_the_operator_calls_invalid_is_failed_with_its_words(
    kubeconfig: Path, team: TeamRef, level_a: LevelA, tmp_path: Path
) -> None:
    with gateway.backend_on(kubeconfig, tmp_path, ray_version="2.40.0") as old:
        case = dedicated.case_on(level_a, old, tmp_path, team.name)
        case.ensure_job()
        case.ensure_service()
        job = case.job_until(lambda seen: seen.phase == "failed")
        service = case.service_until(lambda seen: seen.phase == "failed")
        for seen in (job, service):
            assert seen.reason == "ValidationFailed"
            assert "minimum Ray version is 2.52.0" in seen.message
        old.delete_job(case.job)
        old.delete_service(case.service)
        case.job_until(lambda seen: seen.phase == "absent")
        case.service_until(lambda seen: seen.phase == "absent")


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "stopped"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "bad"}, "failed"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded"}, "timed_out"),
    ],
)
def test_how_kuberay_says_that_it_ended_is_seen(
    level_a: LevelA, case: DedicatedCase, status: dict[str, str], phase: str
) -> None:
    with level_a.without("ray-operator"):
        case.ensure_job()
        name, ended = rayjob.name_of(case.job), {**status, "endTime": "2026-01-01T00:00:00Z"}
        level_a.api.patch_status(RAY, "RayJob", name, ended, namespace_of(case))
        seen = case.job_until(lambda seen: seen.phase not in ("starting", "absent"))
        assert (seen.phase, seen.message) == (phase, status.get("message", ""))
        # The operator, back again, would free the nodes of a job that ended so long ago, which is not there.
        level_a.api.patch_status(RAY, "RayJob", name, {"jobDeploymentStatus": "", "jobStatus": ""}, namespace_of(case))


def test_while_the_operator_is_down_it_is_said_that_nobody_looked(level_a: LevelA, case: DedicatedCase) -> None:
    with level_a.without("ray-operator"):
        case.ensure_job()
        case.ensure_service()
        assert case.backend.observe_job(case.job).reason == "NotSeen"
        assert case.backend.observe_service(case.service).reason == "NotSeen"


def test_what_kuberay_would_pass_over_is_refused_beforehand(case: DedicatedCase) -> None:
    spec = JobSpec(entrypoint="true", nodes=case.nodes, resources=Resources(memory=2**30))
    (reason,) = case.backend.preflight_job(case.job, spec, case.launch.size)
    assert reason.startswith("job.resources.memory")


# Services


def test_a_rayservice_serves_the_application_where_kuberay_looks(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_service()
    service = dedicated.one(level_a.api, "RayService", case.service)
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert config["applications"] == [application("1")]
    assert config["http_options"]["port"] == 8000
    assert service["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
    head = dedicated.head_of(level_a.api, case.service)
    ports = {port["name"]: port["containerPort"] for port in head["spec"]["containers"][0]["ports"]}
    assert ports["serve"] == 8000


def test_it_is_ready_under_a_url_that_stays_once_kuberay_says_so(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_service()
    assert case.service_until(lambda seen: bool(seen.nodes)).phase == "starting"
    seen = serve(level_a, case)
    assert seen.endpoint is not None
    namespace, service = namespace_of(case), rayservice.serve_service(case.service)
    assert seen.endpoint.serve_url == f"http://{service}.{namespace}.svc:8000"
    assert seen.environment is not None


def test_another_version_changes_the_configuration_and_no_node(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_service("1")
    cluster = dedicated.one(level_a.api, "RayCluster", case.service)["metadata"]["uid"]
    serve(level_a, case)
    before = dedicated.one(level_a.api, "RayService", case.service)["metadata"]["generation"]
    case.ensure_service("2")
    service = dedicated.one(level_a.api, "RayService", case.service)
    assert yaml.safe_load(service["spec"]["serveConfigV2"])["applications"] == [application("2")]
    assert service["metadata"]["generation"] == before + 1
    case.service_until(lambda seen: seen.phase == "ready")
    assert dedicated.one(level_a.api, "RayCluster", case.service)["metadata"]["uid"] == cluster


def test_other_nodes_come_beside_the_ones_that_serve(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_service()
    before = serve(level_a, case)
    case.nodes = Nodes(workers=Workers(min=2, max=2))
    case.launch = replace(case.launch, env={**case.launch.env, "MORE": "yes"})
    case.ensure_service()
    seen = case.service_until(lambda seen: len([n for n in seen.nodes if n.kind == "head"]) == 2)
    assert seen.phase == "starting"
    assert {node.id for node in before.nodes} < {node.id for node in seen.nodes}


def test_an_application_that_serve_could_not_deploy_is_failed_with_its_words(
    level_a: LevelA, case: DedicatedCase
) -> None:
    case.ensure_service()
    app = {"status": "DEPLOY_FAILED", "message": "No module named 'nothing'"}
    status = {
        "conditions": [dedicated.condition("Ready", "False", "Initializing")],
        "pendingServiceStatus": {
            "rayClusterName": asked_for_serve(level_a, case),
            "applicationStatuses": {"delay": app},
        },
    }
    seen = said(level_a, case, status, "failed")
    assert (seen.reason, seen.message) == ("DEPLOY_FAILED", "No module named 'nothing'")


def serve(level_a: LevelA, case: DedicatedCase) -> ServiceObservation:
    """What the operator says of a service once its Serve answers, which no fake node's does."""
    status = {
        "conditions": [
            dedicated.condition("Ready", "True", "NonZeroServeEndpoints"),
            dedicated.condition("UpgradeInProgress", "False", "NoPendingCluster"),
        ],
        "activeServiceStatus": {"rayClusterName": asked_for_serve(level_a, case)},
        "pendingServiceStatus": {"rayClusterName": ""},
    }
    return said(level_a, case, status, "ready")


def asked_for_serve(level_a: LevelA, case: DedicatedCase) -> str:
    """The name of the service's RayCluster, once the operator asks its Serve: while that is dumb, it writes nothing."""

    def up() -> str | None:
        cluster = dedicated.one(level_a.api, "RayCluster", case.service)
        return str(cluster["metadata"]["name"]) if condition(cluster, "HeadPodReady") == "True" else None

    return wait_for("the head is ready", up, seconds=60)


def said(level_a: LevelA, case: DedicatedCase, status: Object, phase: str) -> ServiceObservation:
    """What the backend makes of a status, which is said again where the operator was still writing its own."""

    def say(seen: ServiceObservation) -> bool:
        level_a.api.patch_status(RAY, "RayService", rayservice.name_of(case.service), status, namespace_of(case))
        return seen.phase == phase

    return case.service_until(say)
