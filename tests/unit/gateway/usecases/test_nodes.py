"""Nodes that belong to one job or service: their checks, their quota, and the rights of their token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rayplane.errors import Conflict, Forbidden, InvalidSpec, Refused, Unauthenticated, Unsupported
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.backends.base import Capability
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import events, job
from rayplane.nouns.events import Event
from rayplane.nouns.job import JobSpec
from rayplane.testing.fakes import ENVIRONMENT

NODES = {"size": "small", "workers": {"min": 0, "max": 1}}
SERVICE = {"model": "models:/delay@champion", "nodes": NODES}


def submit(bench: Any, ada: Principal, name: str = "train", **spec: Any) -> AnyObject:
    wanted = JobSpec(**{"entrypoint": "python -m jobs.train", "nodes": NODES, **spec})
    return job.submit(wanted, team="growth", name=name, principal=ada, platform=bench.platform)


def own_principal(bench: Any, kind: str, name: str) -> Principal:
    uid = bench.store.get(kind, "growth", name).metadata.uid
    principal = bench.platform.signer.verify(bench.platform.signer.cluster_token("growth", uid))
    assert principal is not None
    return principal


@pytest.mark.parametrize(
    ("target", "message"),
    [({}, "say where"), ({"cluster": "dev", "nodes": NODES}, "exclude each other")],
)
@pytest.mark.parametrize(
    ("kind", "spec"), [("Job", {"entrypoint": "true"}), ("Service", {"model": "models:/delay@champion"})]
)
def test_a_spec_must_name_either_a_cluster_or_nodes(
    bench: Any, kind: str, spec: dict[str, Any], target: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        bench.apply(kind, "it", {**spec, **target})
    assert bench.store.count(kind, "growth") == 0


def test_a_job_with_own_nodes_needs_no_cluster_and_has_the_environment_of_its_nodes(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    assert made.status_data["environment"] == ENVIRONMENT.model_dump()
    assert made.spec_data["cluster"] is None
    audited = bench.store.audit_log("growth").items[0]["detail"]
    assert audited["nodes"]["size"] == "small"
    assert submit(bench, ada) == made


@pytest.mark.parametrize("kind", ["Job", "Service"])
def test_a_backend_without_own_nodes_is_refused_before_anything_is_written(bench: Any, kind: str) -> None:
    bench.backend.capabilities = frozenset(Capability) - {Capability.JOB, Capability.SERVICE}
    spec = SERVICE if kind == "Service" else {"entrypoint": "true", "nodes": NODES}
    with pytest.raises(Unsupported, match=rf"{kind.lower()}\.nodes: the backend 'local'.*{kind.lower()}\.cluster"):
        bench.apply(kind, "it", spec)
    assert bench.store.count(kind, "growth") == 0


@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        ({"size": "smal"}, Refused, r"nodes\.size: team 'growth' has no size 'smal'\. Did you mean 'small'\?"),
        ({"backend": "kubernets"}, InvalidSpec, r"nodes\.backend: 'kubernets' is unknown\. Did you mean 'kubernetes'"),
        ({"wokers": 1}, InvalidSpec, r"nodes\.wokers: unknown field\. Did you mean 'workers'\?"),
    ],
)
def test_a_wrong_field_of_the_nodes_is_named_in_the_error(
    bench: Any, ada: Principal, nodes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"job\.{message}"):
        bench.apply("Job", "train", {"entrypoint": "true", "nodes": {**NODES, **nodes}})
    with pytest.raises(error, match=rf"service\.{message}"):
        bench.apply("Service", "delay", {**SERVICE, "nodes": {**NODES, **nodes}})


def test_a_preflight_that_finds_no_room_for_the_nodes_refuses_them(bench: Any, ada: Principal) -> None:
    bench.backend.reasons = ["No node is large enough."]
    with pytest.raises(Refused, match="Job 'growth/train' can't have nodes of its own: No node is large enough"):
        submit(bench, ada)
    with pytest.raises(Refused, match="Service 'growth/delay' can't have nodes of its own"):
        bench.apply("Service", "delay", SERVICE)


def test_quota_counts_clusters_jobs_and_services_together(bench: Any, ada: Principal) -> None:
    # dev has 8 cores, the service 16, the job 16.
    bench.apply("Team", "growth", {"quota": {"cpu": 39}}, team="")
    bench.apply("Service", "delay", SERVICE)
    with pytest.raises(Refused, match=r"Job 'growth/train' does not fit: .*24 used \+ 16 wanted of 39 cores"):
        submit(bench, ada)
    bench.apply("Team", "growth", {"quota": {"cpu": 40}}, team="")
    submit(bench, ada)
    with pytest.raises(Refused, match="quota 'cpu' is exceeded"):
        bench.apply("Cluster", "more", {})


def test_a_job_counts_in_the_quota_until_it_has_ended_and_a_service_while_it_exists(bench: Any, ada: Principal) -> None:
    bench.apply("Team", "growth", {"quota": {"clusters": 3}}, team="")
    submit(bench, ada, "first")
    bench.apply("Service", "delay", SERVICE)
    bench.settle("Service", "delay", "Failed")
    with pytest.raises(Refused, match="quota 'clusters' is exceeded"):
        submit(bench, ada, "second")
    bench.settle("Job", "first", "Failed")
    submit(bench, ada, "second")


def test_a_service_may_shrink_when_the_quota_is_exceeded(bench: Any) -> None:
    bench.apply("Service", "delay", SERVICE)
    bench.apply("Team", "growth", {"quota": {"cpu": 10}}, team="")
    assert bench.apply("Service", "delay", {**SERVICE, "nodes": {"size": "small"}})[1] == "changed"
    with pytest.raises(Refused, match="quota 'cpu'"):
        bench.apply("Service", "delay", SERVICE)


def test_jobs_and_services_on_a_cluster_need_no_quota_beside_the_clusters(bench: Any, ada: Principal) -> None:
    bench.apply("Team", "growth", {"quota": {"clusters": 1, "cpu": 8}}, team="")
    submit(bench, ada, nodes=None, cluster="dev")
    bench.apply("Service", "delay", {"model": "models:/delay@champion", "cluster": "dev"})


@pytest.mark.parametrize("change", [{"nodes": None, "cluster": "dev"}, {"nodes": {**NODES, "backend": "existing"}}])
def test_a_service_can_not_move_off_its_nodes(bench: Any, change: dict[str, Any]) -> None:
    bench.apply("Service", "delay", SERVICE)
    with pytest.raises(Refused, match=r"it can't move to .*Delete it and apply it anew\."):
        bench.apply("Service", "delay", {**SERVICE, **change})
    bigger = {**SERVICE, "nodes": {"size": "medium"}}
    assert bench.apply("Service", "delay", bigger)[1] == "changed"


def test_own_nodes_of_jobs_and_services_do_not_block_the_deletion_of_a_cluster(bench: Any, ada: Principal) -> None:
    submit(bench, ada)
    bench.apply("Service", "delay", SERVICE)
    bench.delete("Cluster", "dev")
    with pytest.raises(Conflict, match="Service 'delay'"):
        bench.delete("Team", "growth", team="")


def test_a_worker_on_a_jobs_own_nodes_gets_the_context_of_the_job(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada, parameters={"days": "30"})
    context = job.run_context(
        f"{made.metadata.uid}-1", principal=own_principal(bench, "Job", "train"), platform=bench.platform
    )
    assert (context.team, context.cluster, context.job, context.parameters) == ("growth", None, "train", {"days": "30"})
    assert context.environment == ENVIRONMENT
    alone = job.run_context(None, principal=own_principal(bench, "Job", "train"), platform=bench.platform)
    assert (alone.team, alone.cluster, alone.job) == ("growth", None, None)


def test_a_replica_on_a_services_own_nodes_gets_the_context_of_the_team(bench: Any) -> None:
    bench.apply("Service", "delay", SERVICE)
    context = job.run_context(None, principal=own_principal(bench, "Service", "delay"), platform=bench.platform)
    assert (context.team, context.cluster, context.job) == ("growth", None, None)


def test_the_token_of_one_jobs_nodes_is_not_valid_for_another_job(bench: Any, ada: Principal) -> None:
    submit(bench, ada, "mine")
    theirs = submit(bench, ada, "theirs")
    on_dev = submit(bench, ada, "on-dev", nodes=None, cluster="dev")
    mine = own_principal(bench, "Job", "mine")
    for other in (theirs, on_dev):
        with pytest.raises(Forbidden, match="does not run on job 'mine'"):
            job.run_context(f"{other.metadata.uid}-1", principal=mine, platform=bench.platform)
        event = Event(id="e", type="output.recorded", submission_id=f"{other.metadata.uid}-1", data={"name": "x"})
        with pytest.raises(Forbidden):
            events.ingest("growth", [event], principal=mine, platform=bench.platform)
    with pytest.raises(Forbidden, match="does not run on cluster 'dev'"):
        job.run_context(f"{theirs.metadata.uid}-1", principal=bench.cluster_principal(), platform=bench.platform)


def test_a_jobs_own_nodes_may_report_its_outputs(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    event = Event(
        id="e", type="output.recorded", submission_id=f"{made.metadata.uid}-1", data={"name": "rows", "value": 3}
    )
    assert (
        events.ingest("growth", [event], principal=own_principal(bench, "Job", "train"), platform=bench.platform) == 1
    )
    assert bench.store.get("Job", "growth", "train").status_data["outputs"][0]["value"] == 3


def test_the_token_of_a_jobs_nodes_is_not_valid_after_the_job_has_ended(bench: Any, ada: Principal) -> None:
    submit(bench, ada)
    principal = own_principal(bench, "Job", "train")
    assert job.reporting_cluster(principal, bench.platform) is not None
    bench.settle("Job", "train", "Succeeded")
    with pytest.raises(Unauthenticated):
        job.reporting_cluster(principal, bench.platform)


def test_stored_nodes_that_todays_rules_refuse_count_in_the_quota_and_forbid_nothing(
    bench: Any, ada: Principal
) -> None:
    bench.apply("Team", "growth", {"quota": {"cpu": 100}}, team="")
    bench.store.put("Service", "growth", "old", {**SERVICE, "nodes": {"size": "OLD"}}, owner="test")
    assert submit(bench, ada).status.phase == "Pending"


def test_feast_is_that_of_the_backend_that_provides_the_jobs_own_nodes(
    bench: Any, ada: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = submit(bench, ada, nodes={**NODES, "backend": bench.backend.name})
    asked = []
    readers = bench.platform.readers
    platform = replace(bench.platform, readers=lambda name: asked.append(name) or readers(name))
    monkeypatch.setattr(bench.backend, "name", "of-the-team")
    principal = own_principal(bench, "Job", "train")
    job.run_context(f"{made.metadata.uid}-1", principal=principal, platform=platform)
    assert asked == [made.spec.nodes.backend]
