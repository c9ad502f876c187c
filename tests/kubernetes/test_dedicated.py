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
    """A team that has its namespace."""
    ref, _ = gateway.refs()
    wait_for("the team's place", lambda: backend.teams.ensure(ref, gateway.TEAM_SPEC) == "", seconds=60)
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
    backend.jobs.delete(made.job)
    backend.services.delete(made.service)
    made.job_until(lambda seen: seen.phase == "absent")
    made.service_until(lambda seen: seen.phase == "absent")


def other_than_watches(backend: KubernetesBackend) -> int:
    """Number of API calls so far, without the opening of watches, which happens over time."""
    return sum(count for (verb, _), count in backend.api.calls.items() if verb != "watch")


def namespace_of(case: DedicatedCase) -> str:
    return f"rayplane-{case.job.team}"


@pytest.mark.parametrize("noun", ["job", "service"])
@pytest.mark.parametrize("act", ["ensure", "delete"])
def test_a_gateway_that_is_killed_between_any_two_calls_leaves_nothing_half_made(
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


def test_a_rayjob_describes_the_attempt_to_kuberay(level_a: LevelA, case: DedicatedCase) -> None:
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


def test_its_secrets_are_in_its_namespace_and_are_deleted_with_it(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_job()
    secret = dedicated.one(level_a.api, "Secret", case.job)
    texts = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert texts["RAYPLANE_TOKEN_PATH"] == "the cluster's own token"
    job = dedicated.one(level_a.api, "RayJob", case.job)
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    head = dedicated.head_of(level_a.api, case.job)
    volumes = [volume.get("secret", {}).get("secretName") for volume in head["spec"]["volumes"]]
    assert secret["metadata"]["name"] in volumes
    state = case.job_until(lambda state: state.endpoint is not None)
    assert state.endpoint is not None
    assert state.endpoint.token_path is not None
    assert Path(state.endpoint.token_path).read_text().strip() == texts[pods.AUTH_TOKEN]
    assert "the cluster's own token" not in json.dumps([job, head])


def test_work_that_a_failed_call_left_undone_is_noticed_and_done(
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
    state = case.job_until(lambda state: state.phase == "starting")
    assert "Secret" in state.drift
    case.ensure_job()
    assert dedicated.one(level_a.api, "Secret", case.job)["data"]
    case.job_until(lambda state: state.endpoint is not None and not state.drift)


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
        backend.services.delete(case.service)
        case.service_until(lambda seen: seen.phase == "absent")


def test_observations_of_a_job_and_a_service_at_rest_make_no_call(
    backend: KubernetesBackend, case: DedicatedCase
) -> None:
    case.ensure_job()
    case.ensure_service()
    case.job_until(lambda seen: seen.endpoint is not None)
    case.service_until(lambda seen: bool(seen.nodes) and seen.drift == "")
    before = other_than_watches(backend)
    for _ in range(50):
        backend.jobs.observe(case.job)
        case.ensure_job()
        assert backend.services.observe(case.service).drift == ""
        case.ensure_service()
    assert other_than_watches(backend) == before


def test_another_gateway_finds_the_attempt_and_its_token(kubeconfig: Path, case: DedicatedCase, tmp_path: Path) -> None:
    case.ensure_job()
    before = case.job_until(lambda state: state.endpoint is not None)
    with gateway.backend_on(kubeconfig, tmp_path) as successor:
        state = successor.jobs.observe(case.job)
        assert (state.phase, state.incarnation) == ("running", before.incarnation)
        assert state.endpoint is not None
        assert before.endpoint is not None
        mine, theirs = (Path(str(e.token_path)).read_text() for e in (state.endpoint, before.endpoint))
        assert mine == theirs


def test_a_head_that_dies_is_a_lost_attempt_with_its_reason(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_job()
    case.job_until(lambda state: state.phase == "running" and state.endpoint is not None)
    head = dedicated.head_of(level_a.api, case.job)
    gateway.fail(level_a.api, head["metadata"]["name"], namespace_of(case))
    state = case.job_until(lambda state: state.phase == "lost")
    assert (state.reason, state.endpoint) == ("OOMKilled", None)
    assert "more memory than its size has" in state.message


def test_a_job_or_service_that_the_operator_calls_invalid_is_failed_with_its_message(
    kubeconfig: Path, team: TeamRef, level_a: LevelA, tmp_path: Path
) -> None:
    with gateway.backend_on(kubeconfig, tmp_path, ray_version="2.40.0") as old:
        case = dedicated.case_on(level_a, old, tmp_path, team.name)
        case.ensure_job()
        case.ensure_service()
        job = case.job_until(lambda state: state.phase == "failed")
        service = case.service_until(lambda state: state.phase == "failed")
        for state in (job, service):
            assert state.reason == "ValidationFailed"
            assert "minimum Ray version is 2.52.0" in state.message
        old.jobs.delete(case.job)
        old.services.delete(case.service)
        case.job_until(lambda state: state.phase == "absent")
        case.service_until(lambda state: state.phase == "absent")


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "stopped"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "bad"}, "failed"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded"}, "timed_out"),
    ],
)
def test_each_way_in_which_kuberay_reports_an_end_is_observed(
    level_a: LevelA, case: DedicatedCase, status: dict[str, str], phase: str
) -> None:
    with level_a.without("ray-operator"):
        case.ensure_job()
        name, ended = rayjob.name_of(case.job), {**status, "endTime": "2026-01-01T00:00:00Z"}
        level_a.api.patch_status(RAY, "RayJob", name, ended, namespace_of(case))
        state = case.job_until(lambda state: state.phase not in ("starting", "absent"))
        assert (state.phase, state.message) == (phase, status.get("message", ""))
        # The restarted operator would free the nodes of a job that ended so long ago.
        level_a.api.patch_status(RAY, "RayJob", name, {"jobDeploymentStatus": "", "jobStatus": ""}, namespace_of(case))


def test_without_an_operator_a_job_and_a_service_say_that_no_operator_has_looked(
    level_a: LevelA, case: DedicatedCase
) -> None:
    with level_a.without("ray-operator"):
        case.ensure_job()
        case.ensure_service()
        assert case.jobs.observe(case.job).reason == "NotSeen"
        assert case.services.observe(case.service).reason == "NotSeen"


def test_a_setting_that_kuberay_would_ignore_is_refused_by_preflight(case: DedicatedCase) -> None:
    spec = JobSpec(entrypoint="true", nodes=case.nodes, resources=Resources(memory=2**30))
    (reason,) = case.jobs.preflight(case.job, spec, case.launch.size)
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


def test_a_service_is_ready_under_a_lasting_url_once_kuberay_says_so(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_service()
    assert case.service_until(lambda state: bool(state.nodes)).phase == "starting"
    state = serve(level_a, case)
    assert state.endpoint is not None
    namespace, service = namespace_of(case), rayservice.serve_service(case.service)
    assert state.endpoint.serve_url == f"http://{service}.{namespace}.svc:8000"
    assert state.environment is not None


def test_a_new_model_version_changes_the_configuration_and_no_node(level_a: LevelA, case: DedicatedCase) -> None:
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


def test_new_nodes_start_beside_the_ones_that_serve(level_a: LevelA, case: DedicatedCase) -> None:
    case.ensure_service()
    before = serve(level_a, case)
    case.nodes = Nodes(workers=Workers(min=2, max=2))
    case.launch = replace(case.launch, env={**case.launch.env, "MORE": "yes"})
    case.ensure_service()
    state = case.service_until(lambda state: len([n for n in state.nodes if n.kind == "head"]) == 2)
    assert state.phase == "starting"
    assert {node.id for node in before.nodes} < {node.id for node in state.nodes}


def test_an_application_that_serve_could_not_deploy_is_failed_with_its_message(
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
    state = said(level_a, case, status, "failed")
    assert (state.reason, state.message) == ("DEPLOY_FAILED", "No module named 'nothing'")


def serve(level_a: LevelA, case: DedicatedCase) -> ServiceObservation:
    """Set the status that the operator sets once a service's Serve answers: on fake nodes it never does."""
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
    """Name of the service's RayCluster, once the operator polls its Serve: without an answer it writes no status."""

    def up() -> str | None:
        cluster = dedicated.one(level_a.api, "RayCluster", case.service)
        return str(cluster["metadata"]["name"]) if condition(cluster, "HeadPodReady") == "True" else None

    return wait_for("the head is ready", up, seconds=60)


def said(level_a: LevelA, case: DedicatedCase, status: Object, phase: str) -> ServiceObservation:
    """The backend's observation of a status, which is set again if the operator overwrites it."""

    def say(state: ServiceObservation) -> bool:
        level_a.api.patch_status(RAY, "RayService", rayservice.name_of(case.service), status, namespace_of(case))
        return state.phase == phase

    return case.service_until(say)
