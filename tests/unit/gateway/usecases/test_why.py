"""Why: evidence of the store, admission and the backend is combined to one ranked answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rayplane.errors import Forbidden, NotFound, Unavailable
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.backends.base import Capability, ClusterRef, Evidence, ObjectRef
from rayplane.gateway.usecases.why import explain
from rayplane.nouns.base import utcnow
from rayplane.nouns.why import Explanation
from rayplane.storage import layout
from tests.unit.gateway.usecases.conftest import ADA

PULL = Evidence("pod", "pod/dev-head", "ErrImagePull", 'Failed to pull image "r/x:1": not found', node="head")


def why(bench: Any, kind: str, name: str, principal: Principal = ADA, later: float = 0) -> Explanation:
    return explain(
        kind,
        "growth",
        name,
        principal=principal,
        platform=bench.platform,
        clock=lambda: utcnow() + timedelta(seconds=later),
    )


def codes(answer: Explanation) -> list[str]:
    return [cause.code for cause in answer.causes]


def report(bench: Any, *facts: Evidence, name: str = "dev") -> None:
    """Let the backend report evidence about a cluster."""
    uid = bench.store.get("Cluster", "growth", name).metadata.uid
    bench.backend.facts[ClusterRef("growth", name, uid)] = list(facts)


def condition(bench: Any, kind: str, name: str, phase: str, reason: str, message: str, type_: str = "Ready") -> None:
    row = {"type": type_, "status": "False", "reason": reason, "message": message}
    bench.settle(kind, name, phase, conditions=[row])


def test_a_cluster_as_wanted_has_no_causes(bench: Any) -> None:
    bench.settle("Cluster", "dev", "Ready")
    answer = why(bench, "Cluster", "dev")
    assert (answer.causes, answer.sentence) == ([], "Cluster 'growth/dev' is as wanted.")


def test_the_backends_evidence_is_the_cause(bench: Any) -> None:
    condition(bench, "Cluster", "dev", "Starting", "Starting", "The Ray head is starting.")
    bench.settle("Team", "growth", "Ready", team="")
    report(bench, PULL)
    answer = why(bench, "Cluster", "dev")
    assert codes(answer) == ["image-not-found"]
    assert answer.sentence == "The head of cluster 'growth/dev' can't start: its image 'r/x:1' is not there."
    assert answer.causes[0].evidence[0].about == "pod/dev-head"


def test_admissions_present_verdict_is_a_cause(bench: Any) -> None:
    bench.settle("Cluster", "dev", "Pending")
    bench.backend.reasons = ["No disk. Free some."]
    assert codes(why(bench, "Cluster", "dev")) == ["preflight", "team-not-onboarded"]
    bench.settle("Team", "growth", "Ready", team="")
    assert codes(why(bench, "Cluster", "dev")) == ["preflight"]


def test_a_lowered_quota_is_a_likely_cause(bench: Any) -> None:
    bench.settle("Cluster", "dev", "Pending")
    bench.apply("Team", "growth", {"quota": {"cpu": 4}}, team="")
    bench.settle("Team", "growth", "Ready", team="")
    (cause,) = why(bench, "Cluster", "dev").causes
    assert (cause.code, cause.certainty) == ("quota", "likely")
    assert "quota 'cpu' is exceeded (0 used + 8 wanted of 4 cores)" in cause.sentence


def test_a_removed_size_is_a_cause(bench: Any) -> None:
    bench.settle("Cluster", "dev", "Pending")
    bench.apply("Team", "growth", {"sizes": {"tiny": {"cpu": 1, "memory": "1Gi"}}}, team="")
    assert "size-gone" in codes(why(bench, "Cluster", "dev"))


def test_a_backend_that_can_not_be_asked_is_the_cause(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(ref: ClusterRef) -> list[Evidence]:
        raise Unavailable("The API server does not answer.", remedy="Look at it.")

    monkeypatch.setattr(bench.backend.clusters, "evidence", away)
    bench.settle("Cluster", "dev", "Ready")
    answer = why(bench, "Cluster", "dev")
    assert codes(answer) == ["backend-unreachable"]
    assert "The API server does not answer" in answer.sentence


def test_an_object_that_no_gateway_reconciles_is_reported_after_a_while(bench: Any) -> None:
    bench.settle("Team", "growth", "Ready", team="")
    assert codes(why(bench, "Cluster", "dev")) == ["starting"]
    assert codes(why(bench, "Cluster", "dev", later=60)) == ["not-looked-at"]


def test_a_waiting_job_is_explained_by_its_clusters_causes(bench: Any) -> None:
    report(bench, PULL)
    bench.apply("Job", "train", {"entrypoint": "true", "cluster": "dev"})
    message = "Cluster 'growth/dev' is Starting."
    condition(bench, "Job", "train", "Pending", "ClusterNotReady", message, "Scheduled")
    answer = why(bench, "Job", "train")
    assert codes(answer)[0] == "image-not-found"
    assert answer.sentence.startswith("Job 'growth/train' waits for cluster 'growth/dev': the head of cluster")


def test_a_running_job_is_explained_by_its_clusters_causes_if_there_are_any(bench: Any) -> None:
    bench.settle("Cluster", "dev", "Ready")
    bench.apply("Job", "train", {"entrypoint": "true", "cluster": "dev"})
    bench.settle("Job", "train", "Running")
    answer = why(bench, "Job", "train")
    assert (answer.causes, answer.sentence) == ([], "Job 'growth/train' is running, as wanted.")
    report(bench, Evidence("autoscaler", "raycluster/dev", "AtMaxWorkers", "2 of at most 2", node="worker"))
    answer = why(bench, "Job", "train")
    assert codes(answer) == ["autoscaler-at-max"]
    assert answer.sentence.startswith("Job 'growth/train' runs on cluster 'growth/dev': cluster 'growth/dev' has all")


def test_a_failed_job_is_explained_by_the_end_of_its_log(bench: Any) -> None:
    bench.apply("Job", "train", {"entrypoint": "true", "cluster": "dev"})
    job = bench.settle("Job", "train", "Failed", exit_code=3, message="The entrypoint failed.")
    log = "".join(f"line {n}\n" for n in range(2000)) + "\nValueError: no rows\n"
    bench.platform.storage.append(layout.job_log("growth", job.metadata.uid), log.encode())
    (cause,) = why(bench, "Job", "train").causes
    assert cause.sentence == "Job 'growth/train' failed with exit code 3: The entrypoint failed."
    assert cause.evidence[-1].message.splitlines()[-1] == "ValueError: no rows"
    assert len(cause.evidence[-1].message.splitlines()) == 5


def test_a_job_with_own_nodes_is_explained_by_their_evidence(bench: Any) -> None:
    bench.apply("Job", "train", {"entrypoint": "true", "nodes": {"size": "small"}})
    job = bench.store.get("Job", "growth", "train")
    condition(bench, "Job", "train", "Starting", "NodesStarting", "The job's nodes are starting.", "Scheduled")
    assert codes(why(bench, "Job", "train")) == ["starting"]
    bench.backend.facts[ObjectRef("growth", "train", job.metadata.uid)] = [PULL]
    answer = why(bench, "Job", "train")
    assert codes(answer) == ["image-not-found"]
    assert answer.sentence == "The head of job 'growth/train' can't start: its image 'r/x:1' is not there."


def test_a_service_with_own_nodes_is_explained_by_their_evidence(bench: Any) -> None:
    bench.apply("Service", "delay", {"model": "models:/delay@champion", "nodes": {"size": "small"}})
    service = bench.store.get("Service", "growth", "delay")
    condition(bench, "Service", "delay", "Starting", "NodesStarting", "Its nodes are starting.")
    bench.backend.facts[ObjectRef("growth", "delay", service.metadata.uid)] = [PULL]
    answer = why(bench, "Service", "delay")
    assert codes(answer) == ["image-not-found"]
    assert answer.sentence == "The head of service 'growth/delay' can't start: its image 'r/x:1' is not there."


def test_own_nodes_on_a_backend_that_has_none_any_more_are_explained_by_the_status_alone(bench: Any) -> None:
    bench.apply("Job", "train", {"entrypoint": "true", "nodes": {"size": "small"}})
    condition(bench, "Job", "train", "Starting", "NodesStarting", "The job's nodes are starting.", "Scheduled")
    bench.backend.capabilities -= {Capability.JOB}
    assert codes(why(bench, "Job", "train")) == ["starting"]


def test_a_suspended_cluster_is_explained_by_the_reason_and_by_what_blocks_its_resumption(
    bench: Any,
) -> None:
    suspension = {"reason": "Idle", "message": "It was not used for 30m.", "at": "2026-11-25T12:00:00Z"}
    bench.settle("Cluster", "dev", "Suspended", suspension=suspension)
    answer = why(bench, "Cluster", "dev")
    assert codes(answer) == ["suspended-idle"]
    assert "because nothing used it (It was not used for 30m)" in answer.sentence
    unmet = {"type": "Ready", "status": "False", "reason": "Quota", "message": "It is needed by job 'j', but: full."}
    bench.settle("Cluster", "dev", "Suspended", suspension=suspension, conditions=[unmet])
    answer = why(bench, "Cluster", "dev")
    assert (codes(answer), answer.sentence) == (["quota"], "Cluster 'growth/dev': It is needed by job 'j', but: full.")


def test_a_service_is_explained_by_its_model_or_its_cluster(bench: Any) -> None:
    bench.settle("Cluster", "dev", "Ready")
    bench.apply("Service", "delay", {"model": "models:/delay@champion", "cluster": "dev"})
    condition(bench, "Service", "delay", "Pending", "NoModel", "Model 'models:/delay@champion' is not there.")
    assert codes(why(bench, "Service", "delay")) == ["model-missing"]
    condition(bench, "Service", "delay", "Pending", "ClusterNotReady", "Cluster 'dev' is Starting.")
    bench.apply("Cluster", "dev", {"suspended": True})
    bench.settle("Cluster", "dev", "Suspended")
    answer = why(bench, "Service", "delay")
    assert codes(answer) == ["suspended"]
    assert answer.sentence.startswith("Service 'growth/delay' waits for cluster 'growth/dev': cluster 'growth/dev' is")


def test_a_pipeline_is_explained_by_the_failure_of_its_last_run(bench: Any) -> None:
    bench.apply("Pipeline", "p", {"cluster": "dev", "steps": {"a": {"entrypoint": "true"}}})
    assert why(bench, "Pipeline", "p").causes == []
    bench.store.put("PipelineRun", "growth", "p-1", {"pipeline": "p"}, owner="ada", status={"phase": "Failed"})
    bench.settle("PipelineRun", "p-1", "Failed", message="step 'a': it failed.")
    bench.settle("Pipeline", "p", "Ready", last_run="p-1")
    answer = why(bench, "Pipeline", "p")
    assert codes(answer) == ["run-failed"]
    assert "Pipeline 'growth/p' last ran as run 'growth/p-1'" in answer.sentence
    assert "step 'a': it failed" in answer.sentence


@pytest.mark.parametrize("kind", ["Dataset", "Feature", "Model"])
def test_a_kind_without_a_reconciler_is_as_wanted(bench: Any, kind: str) -> None:
    bench.apply(kind, "x", {})
    answer = why(bench, kind, "x")
    assert (answer.causes, answer.sentence) == ([], f"{kind} 'growth/x' is as wanted.")


def test_a_team_is_explained_by_what_its_onboarding_waits_for(bench: Any) -> None:
    unmet = {"type": "Reconciled", "status": "False", "reason": "Unavailable", "message": "MLflow does not answer."}
    bench.settle("Team", "growth", "Pending", team="", conditions=[unmet])
    answer = explain("Team", "", "growth", principal=ADA, platform=bench.platform)
    assert codes(answer) == ["backend-unreachable"]
    assert "MLflow does not answer" in answer.sentence


def test_explaining_needs_the_right_to_read_and_an_existing_object(bench: Any) -> None:
    with pytest.raises(Forbidden):
        why(bench, "Cluster", "dev", principal=Principal(name="eve", role="admin", team="ads"))
    with pytest.raises(NotFound, match="dve"):
        why(bench, "Cluster", "dve")
