"""RayJobs and RayServices: what is rendered of an attempt and a service, and what their states mean."""

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
"""What KubeRay 1.6 leaves of 63 characters for the name of a RayJob or a RayService."""


def settings(**more: Any) -> KubernetesSettings:
    return KubernetesSettings(**more)


def job(submission: Submission | None = None, ref: JobRef = JOB, **more: Any) -> dict[str, Any]:
    wanted = submission or Submission("python -m jobs.train")
    return rayjob.render(ref, NODES, wanted, LAUNCH, settings(**more), ROOT)


def service(nodes: Nodes = NODES, app: dict[str, Any] = APP, ref: ServiceRef = SERVICE) -> dict[str, Any]:
    return rayservice.render(ref, nodes, app, LAUNCH, settings(), ROOT)


def seen_job(
    deployment: str = "", job: str = "", cluster: Observation = READY, *, noted: bool = True, **status: str
) -> Any:
    there = {
        "metadata": {"name": "x", "annotations": {SECRETS_HASH: "h"} if noted else {}},
        "status": {"jobDeploymentStatus": deployment, "jobStatus": job, **status},
    }
    return rayjob.look(there, cluster, (NODE,), RAY if cluster is READY else None, None)


def seen_service(
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


def test_a_services_name_is_no_clusters_and_no_successors() -> None:
    other = ServiceRef("growth", "delay", "f" * 32)
    assert len({rayservice.name_of(SERVICE), rayservice.name_of(other), "delay"}) == 3


def test_a_rayjob_leaves_to_kuberay_what_only_it_can_do() -> None:
    spec = job()["spec"]
    assert (spec["submissionMode"], spec["jobId"], spec["backoffLimit"]) == ("HTTPMode", f"{UID}-1", 0)
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, rayjob.TTL)
    assert not {"suspend", "deletionStrategy", "activeDeadlineSeconds", "runtimeEnvYAML"} & set(spec)
    assert "submitterPodTemplate" not in spec


def test_what_ray_is_told_is_in_the_rayjob() -> None:
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


def test_the_tables_of_a_jobs_head_are_not_kept_for_a_next_one() -> None:
    assert "gcsFaultToleranceOptions" not in job(redis_address="redis:6379")["spec"]["rayClusterSpec"]


def test_no_secret_is_in_what_is_applied_and_pods_mount_their_own() -> None:
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


def test_another_application_changes_the_configuration_alone() -> None:
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
def test_what_kuberay_says_of_a_job_means(deployment: str, state: str, reason: str, phase: str) -> None:
    seen = seen_job(deployment, state, reason=reason, message="its words")
    assert seen.phase == phase
    assert seen.nodes == (NODE,)
    if phase not in ("starting", "running"):
        assert (seen.reason, seen.message) == (reason, "its words")


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
    assert seen_job("Running", "RUNNING", cluster).phase == phase


def test_before_it_runs_its_pods_may_be_told_of_before_its_raycluster_is() -> None:
    assert seen_job("Initializing", "", Observation("stopping")).phase == "starting"
    assert seen_job("Initializing", "", Observation("failed", "HeadGone")).phase == "lost"


def test_a_job_that_was_not_made_to_its_end_says_what_it_lacks() -> None:
    assert seen_job("Initializing", "", Observation("starting")).drift == ""
    assert "Secret" in seen_job("Initializing", "", Observation("starting"), noted=False).drift


def test_a_job_that_ended_is_not_lost_with_its_head() -> None:
    assert seen_job("Complete", "SUCCEEDED", Observation("failed", "HeadGone")).phase == "succeeded"


def test_a_job_whose_rayjob_is_gone_or_goes_holds_its_pods_until_they_are_gone() -> None:
    assert rayjob.look(None, Observation("stopping"), (NODE,), None, None).phase == "stopping"
    assert rayjob.look(None, Observation("absent"), (), None, None).phase == "absent"
    going = {"metadata": {"deletionTimestamp": "now"}, "status": {"jobDeploymentStatus": "Complete"}}
    assert rayjob.look(going, READY, (NODE,), None, None).phase == "stopping"


def test_a_service_is_ready_when_kuberay_and_its_head_say_so() -> None:
    assert seen_service("True", "NonZeroServeEndpoints").phase == "ready"
    assert seen_service("True", "NonZeroServeEndpoints", endpoint=None).phase == "starting"
    assert seen_service("True", "NonZeroServeEndpoints", upgrading="True").phase == "starting"
    assert seen_service("False", "ZeroServeEndpoints").reason == "ZeroServeEndpoints"


@pytest.mark.parametrize("reason", ["ValidationFailed", "InitializingTimeout"])
def test_what_kuberay_gives_up_is_failed_with_its_words(reason: str) -> None:
    seen = seen_service("False", reason)
    assert (seen.phase, seen.reason, seen.message) == ("failed", reason, "what the operator says")


def test_what_serve_says_of_nodes_that_come_up_is_passed_on() -> None:
    def pending(status: str) -> dict[str, Any]:
        app = {"status": status, "message": "Deploying.", "serveDeploymentStatuses": {"m": {"message": "No CPU."}}}
        return {"pendingServiceStatus": {"rayClusterName": "c", "applicationStatuses": {"delay": app}}}

    seen = seen_service("False", "Initializing", **pending("DEPLOYING"))
    assert (seen.phase, seen.message) == ("starting", "Deploying. No CPU.")
    seen = seen_service("False", "Initializing", **pending("DEPLOY_FAILED"))
    assert (seen.phase, seen.reason, seen.message) == ("failed", "DEPLOY_FAILED", "Deploying. No CPU.")


def test_a_service_without_its_secret_has_drifted() -> None:
    there = rayservice.trim({"metadata": {"name": "x"}, "status": {}})
    seen = rayservice.look({**there, "drift": ""}, Observation("absent"), (), None, None)
    assert (seen.reason, "Secret" in seen.drift) == ("NotSeen", True)


def test_whoever_changes_what_it_is_to_serve_is_seen() -> None:
    manifest = service()
    manifest["metadata"]["annotations"][SECRETS_HASH] = "h"
    assert rayservice.trim(manifest)["drift"] == ""
    manifest["spec"]["serveConfigV2"] = "applications: []"
    assert "spec.serveConfigV2" in rayservice.trim(manifest)["drift"]


def test_memory_for_a_driver_is_refused() -> None:
    assert rayjob.refusals(Resources()) == []
    [reason] = rayjob.refusals(Resources(memory=2**30))
    assert "job.resources.memory" in reason
