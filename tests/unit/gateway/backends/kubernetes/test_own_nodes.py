"""RayJobs and RayServices: rendering an attempt and a service, and observing their states."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from rayplane.gateway.backends.base import (
    JobRef,
    LaunchContext,
    Node,
    Observation,
    ServiceRef,
    Submission,
)
from rayplane.gateway.backends.kubernetes import rayjob, rayservice
from rayplane.gateway.backends.kubernetes.raycluster import SECRETS_HASH
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.base import MAX_NAME
from rayplane.nouns.cluster import Endpoint, Nodes, Workers
from rayplane.nouns.job import Resources
from rayplane.nouns.team import Size

UID = "0123456789abcdef0123456789abcdef"
JOB, SERVICE = JobRef("growth", "train", UID, 1), ServiceRef("growth", "delay", UID)
NODES = Nodes(workers=Workers(min=1, max=4))
LAUNCH = LaunchContext(size=Size(cpu=2, memory=2**30), env={"A": "b"}, secrets={"RAYPLANE_TOKEN_PATH": "hush"})
ROOT = "file:///srv/root"
APP = {"name": "delay", "route_prefix": "/delay", "import_path": "a:b", "args": {"model_uri": "models:/delay/1"}}
READY = Observation("ready", incarnation="pod-1")
NODE = Node("pod-1", "head", 2, 2**30, 0, datetime(2026, 1, 1, tzinfo=UTC))
RAY = Endpoint(dashboard_url="http://10.0.0.1:8265")
LONGEST = 47
"""The most characters of a RayJob's or RayService's name in KubeRay 1.6, which derives names of at most 63 from it."""


def settings(**more: Any) -> KubernetesSettings:
    return KubernetesSettings(**more)


def job(submission: Submission | None = None, ref: JobRef = JOB, **more: Any) -> dict[str, Any]:
    wanted = submission or Submission("python -m jobs.train")
    return rayjob.render(ref, NODES, wanted, LAUNCH, settings(**more), ROOT)


def service(nodes: Nodes = NODES, app: dict[str, Any] = APP, ref: ServiceRef = SERVICE) -> dict[str, Any]:
    return rayservice.render(ref, nodes, app, LAUNCH, settings(), ROOT)


def observed_job(
    deployment: str = "", job: str = "", cluster: Observation = READY, *, noted: bool = True, **status: str
) -> Any:
    there = {
        "metadata": {"name": "x", "annotations": {SECRETS_HASH: "h"} if noted else {}},
        "status": {"jobDeploymentStatus": deployment, "jobStatus": job, **status},
    }
    return rayjob.look(there, cluster, (NODE,), RAY if cluster is READY else None, None)


def observed_service(
    ready: str = "", reason: str = "", *, upgrading: str = "False", endpoint: Endpoint | None = RAY, **status: Any
) -> Any:
    conditions = [
        {"type": "Ready", "status": ready, "reason": reason, "message": "what the operator says"},
        {"type": "UpgradeInProgress", "status": upgrading},
    ]
    whole = {
        "metadata": {"name": "x", "annotations": {SECRETS_HASH: "h"}},
        "status": {"conditions": conditions, **status},
    }
    there = {**rayservice.trim(whole), "drift": ""}
    return rayservice.look(there, READY, (NODE,), endpoint, None)


def test_names_fit_what_kuberay_derives_from_them_and_begin_with_a_letter() -> None:
    longest = ServiceRef("growth", "0" * MAX_NAME, UID)
    many = JobRef("growth", "a" * MAX_NAME, UID, 9999)
    for name in (rayservice.name_of(longest), rayjob.name_of(many)):
        assert len(name) <= LONGEST
        assert name[0].isalpha()


def test_the_name_of_a_rayservice_differs_from_clusters_and_from_a_later_service() -> None:
    other = ServiceRef("growth", "delay", "f" * 32)
    assert len({rayservice.name_of(SERVICE), rayservice.name_of(other), "delay"}) == 3


def test_a_rayjob_leaves_no_retries_to_kuberay_but_the_freeing_of_nodes() -> None:
    spec = job()["spec"]
    assert (spec["submissionMode"], spec["jobId"], spec["backoffLimit"]) == ("HTTPMode", f"{UID}-1", 0)
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, rayjob.TTL)
    assert not {"suspend", "deletionStrategy", "activeDeadlineSeconds", "runtimeEnvYAML"} & set(spec)
    assert "submitterPodTemplate" not in spec


def test_the_rayjob_has_the_whole_submission() -> None:
    submission = Submission(
        "python -m jobs.train",
        {"env_vars": {"K": "v: # {"}, "working_dir": "file:///a.zip"},
        {"rayplane.job": "train"},
        Resources(cpu=1.5, gpu=1),
        timeout=59.2,
    )
    spec = job(submission)["spec"]
    assert json.loads(spec["runtimeEnvYAML"]) == submission.runtime_env
    assert (spec["entrypointNumCpus"], spec["entrypointNumGpus"]) == (1.5, 1)
    assert spec["activeDeadlineSeconds"] == 60 + rayjob.GRACE
    assert spec["metadata"] == {"rayplane.job": "train"}


def test_a_jobs_head_keeps_no_tables_in_redis() -> None:
    assert "gcsFaultToleranceOptions" not in job(redis_address="redis:6379")["spec"]["rayClusterSpec"]


def test_no_manifest_contains_a_secret_and_pods_mount_their_own() -> None:
    for manifest, spec in ((job(), "rayClusterSpec"), (service(), "rayClusterConfig")):
        text = json.dumps(manifest)
        assert "hush" not in text
        cluster = manifest["spec"][spec]
        name = f"{manifest['metadata']['name']}-secrets"
        assert cluster["authOptions"] == {"mode": "token", "secretName": name}
        [group] = cluster["workerGroupSpecs"]
        assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (1, 1, 4)
        for template in (cluster["headGroupSpec"]["template"], group["template"]):
            assert template["metadata"]["labels"] == manifest["metadata"]["labels"]


def test_a_new_application_changes_the_configuration_only() -> None:
    one, two = service(), service(app={**APP, "args": {"model_uri": "models:/delay/2"}})
    assert one["spec"].pop("serveConfigV2") != two["spec"].pop("serveConfigV2")
    assert one["spec"] == two["spec"]
    assert one["metadata"]["annotations"] != two["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("deployment", "state", "reason", "phase"),
    [
        ("", "", "", "starting"),
        ("Initializing", "", "", "starting"),
        ("Suspended", "", "", "starting"),
        ("Running", "", "", "running"),
        ("Running", "RUNNING", "", "running"),
        ("Complete", "SUCCEEDED", "", "succeeded"),
        ("Complete", "STOPPED", "", "stopped"),
        ("Failed", "FAILED", "AppFailed", "failed"),
        ("Failed", "", "SubmissionFailed", "failed"),
        ("Failed", "RUNNING", "DeadlineExceeded", "timed_out"),
        ("Failed", "SUCCEEDED", "JobDeploymentStatusTransitionGracePeriodExceeded", "succeeded"),
        ("ValidationFailed", "", "ValidationFailed", "failed"),
    ],
)
def test_which_phase_a_rayjobs_status_means(deployment: str, state: str, reason: str, phase: str) -> None:
    observed = observed_job(deployment, state, reason=reason, message="its words")
    assert observed.phase == phase
    assert observed.nodes == (NODE,)
    if phase not in ("starting", "running"):
        assert (observed.reason, observed.message) == (reason, "its words")


@pytest.mark.parametrize(
    ("cluster", "phase"),
    [
        (Observation("failed", "OOMKilled", "It used too much."), "lost"),
        (Observation("stopping"), "lost"),
        (Observation("absent"), "lost"),
        (Observation("starting", "NotReady"), "running"),
    ],
)
def test_a_running_job_without_its_head_is_lost(cluster: Observation, phase: str) -> None:
    assert observed_job("Running", "RUNNING", cluster).phase == phase


def test_before_a_job_runs_its_pods_may_be_reported_before_its_raycluster() -> None:
    assert observed_job("Initializing", "", Observation("stopping")).phase == "starting"
    assert observed_job("Initializing", "", Observation("failed", "HeadGone")).phase == "lost"


def test_a_job_without_its_secret_has_drifted() -> None:
    assert observed_job("Initializing", "", Observation("starting")).drift == ""
    assert "Secret" in observed_job("Initializing", "", Observation("starting"), noted=False).drift


def test_a_job_that_ended_is_not_lost_with_its_head() -> None:
    assert observed_job("Complete", "SUCCEEDED", Observation("failed", "HeadGone")).phase == "succeeded"


def test_a_job_whose_rayjob_is_deleted_is_stopping_until_its_pods_are_gone() -> None:
    assert rayjob.look(None, Observation("stopping"), (NODE,), None, None).phase == "stopping"
    assert rayjob.look(None, Observation("absent"), (), None, None).phase == "absent"
    going = {"metadata": {"deletionTimestamp": "now"}, "status": {"jobDeploymentStatus": "Complete"}}
    assert rayjob.look(going, READY, (NODE,), None, None).phase == "stopping"


def test_a_service_is_ready_when_kuberay_and_its_head_say_so() -> None:
    assert observed_service("True", "NonZeroServeEndpoints").phase == "ready"
    assert observed_service("True", "NonZeroServeEndpoints", endpoint=None).phase == "starting"
    assert observed_service("True", "NonZeroServeEndpoints", upgrading="True").phase == "starting"
    assert observed_service("False", "ZeroServeEndpoints").reason == "ZeroServeEndpoints"


@pytest.mark.parametrize("reason", ["ValidationFailed", "InitializingTimeout"])
def test_a_service_that_kuberay_gives_up_is_failed_with_its_message(reason: str) -> None:
    state = observed_service("False", reason)
    assert (state.phase, state.reason, state.message) == ("failed", reason, "what the operator says")


def test_serves_message_about_starting_nodes_is_passed_on() -> None:
    def pending(status: str) -> dict[str, Any]:
        app = {"status": status, "message": "Deploying.", "serveDeploymentStatuses": {"m": {"message": "No CPU."}}}
        return {"pendingServiceStatus": {"rayClusterName": "c", "applicationStatuses": {"delay": app}}}

    state = observed_service("False", "Initializing", **pending("DEPLOYING"))
    assert (state.phase, state.message) == ("starting", "Deploying. No CPU.")
    state = observed_service("False", "Initializing", **pending("DEPLOY_FAILED"))
    assert (state.phase, state.reason, state.message) == ("failed", "DEPLOY_FAILED", "Deploying. No CPU.")


def test_a_service_without_its_secret_has_drifted() -> None:
    there = rayservice.trim({"metadata": {"name": "x"}, "status": {}})
    state = rayservice.look({**there, "drift": ""}, Observation("absent"), (), None, None)
    assert (state.reason, "Secret" in state.drift) == ("NotSeen", True)


def test_a_change_of_the_application_by_another_writer_shows_as_drift() -> None:
    manifest = service()
    manifest["metadata"]["annotations"][SECRETS_HASH] = "h"
    assert rayservice.trim(manifest)["drift"] == ""
    manifest["spec"]["serveConfigV2"] = "applications: []"
    assert "spec.serveConfigV2" in rayservice.trim(manifest)["drift"]


def test_memory_for_a_driver_is_refused() -> None:
    assert rayjob.refusals(Resources()) == []
    [reason] = rayjob.refusals(Resources(memory=2**30))
    assert "job.resources.memory" in reason
