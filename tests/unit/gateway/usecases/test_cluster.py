"""A cluster's own verbs: suspend and resume by a user or the platform, extend within the team's limits, usage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rayplane.errors import Conflict, Forbidden, InvalidInput, InvalidSpec, Refused, Unsupported
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.backends.base import Capability
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import cluster, job, operations
from rayplane.nouns.cluster import ClusterStatus, Lease, Suspension
from rayplane.nouns.job import JobSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = {"model": "models:/delay@champion", "cluster": "dev"}


def of(bench: Any, name: str = "dev") -> tuple[AnyObject, ClusterStatus]:
    obj = bench.store.get("Cluster", "growth", name)
    return obj, ClusterStatus.model_validate(obj.status)


def give_back(bench: Any, reason: str = "Idle", name: str = "dev", **more: Any) -> None:
    """Write the status that the reconciler writes when it suspends a cluster by itself."""
    obj, status = of(bench, name)
    status.phase, status.suspension = "Suspended", Suspension(reason=reason, message="It is so.", at=NOW, **more)  # type: ignore[arg-type]
    status.observed_generation = obj.metadata.generation
    bench.store.set_status(obj.metadata.uid, status)


def submit(bench: Any, ada: Principal, name: str = "task") -> AnyObject:
    spec = JobSpec(entrypoint="true", cluster="dev", tracked=False)
    return job.submit(spec, team="growth", name=name, principal=ada, platform=bench.platform)


def test_suspend_and_resume_change_the_spec_are_audited_and_return_an_operation(bench: Any, ada: Principal) -> None:
    before, _ = of(bench)
    obj, operation = cluster.suspend("growth", "dev", principal=ada, platform=bench.platform)
    assert obj.spec_data["suspended"] is True
    assert operation.generation == obj.metadata.generation == before.metadata.generation + 1
    assert (operation.action, operation.state) == ("suspend", "running")
    bench.settle("Cluster", "dev", "Suspending")
    assert operations.current(bench.store, operation).state == "running"
    bench.settle("Cluster", "dev", "Suspended")
    assert operations.current(bench.store, operation).state == "succeeded"
    again, _ = cluster.suspend("growth", "dev", principal=ada, platform=bench.platform)
    assert again.metadata.generation == obj.metadata.generation
    obj, operation = cluster.resume("growth", "dev", principal=ada, platform=bench.platform)
    assert obj.spec_data["suspended"] is False
    bench.settle("Cluster", "dev", "Starting")
    assert operations.current(bench.store, operation).state == "running"
    bench.settle("Cluster", "dev", "Ready")
    assert operations.current(bench.store, operation).state == "succeeded"
    actions = [row["action"] for row in bench.store.audit_log("growth").items][:2]
    assert actions == ["resume", "suspend"], "a request that changed nothing leaves no row"


def test_a_viewer_may_not_suspend_resume_or_extend(bench: Any) -> None:
    viewer = Principal(name="vic", role="viewer", team="growth")
    for verb in (cluster.suspend, cluster.resume):
        with pytest.raises(Forbidden):
            verb("growth", "dev", principal=viewer, platform=bench.platform)
    with pytest.raises(Forbidden):
        cluster.extend("growth", "dev", 60, principal=viewer, platform=bench.platform)


def test_a_cluster_that_is_being_deleted_is_neither_suspended_nor_resumed(bench: Any, ada: Principal) -> None:
    bench.delete("Cluster", "dev")
    for verb in (cluster.suspend, cluster.resume):
        with pytest.raises(Conflict, match="being deleted"):
            verb("growth", "dev", principal=ada, platform=bench.platform)


def test_a_verb_or_field_that_the_backend_does_not_support_is_refused(bench: Any, ada: Principal) -> None:
    bench.backend.capabilities = frozenset({Capability.CREATE})
    with pytest.raises(Unsupported, match="Stop it yourself"):
        cluster.suspend("growth", "dev", principal=ada, platform=bench.platform)
    for spec in ({"idle_timeout": "1h"}, {"max_lifetime": "1h"}, {"delete_after_idle": "1h"}, {"suspended": True}):
        (field,) = spec
        with pytest.raises(InvalidSpec, match=rf"cluster\.{field}: the backend 'local' can't take .* Leave it out"):
            bench.apply("Cluster", "other", spec)
    with pytest.raises(InvalidSpec, match=r"cluster\.workers: the backend 'local' has no worker nodes"):
        bench.apply("Cluster", "other", {"workers": "0..4"})
    bench.apply("Team", "growth", {"idle_timeout": "1h"}, team="")
    bench.apply("Cluster", "other", {})
    with pytest.raises(Refused, match="nothing to extend"):
        cluster.extend("growth", "other", 60, principal=ada, platform=bench.platform)


def test_applying_the_same_file_leaves_an_idle_cluster_suspended(bench: Any) -> None:
    give_back(bench)
    before, _ = of(bench)
    obj, change, _ = bench.apply("Cluster", "dev", {})
    assert (change, obj) == ("unchanged", before)


def test_a_job_resumes_an_idle_suspended_cluster_but_not_one_suspended_by_a_user(bench: Any, ada: Principal) -> None:
    give_back(bench)
    before, _ = of(bench)
    submit(bench, ada)
    obj, status = of(bench)
    assert status.suspension is None
    assert obj.metadata.generation == before.metadata.generation + 1, "so that the reconciler looks at it"
    cluster.suspend("growth", "dev", principal=ada, platform=bench.platform)
    submit(bench, ada, "another")
    assert of(bench)[0].spec_data["suspended"] is True


def test_a_service_resumes_an_idle_suspended_cluster(bench: Any) -> None:
    give_back(bench)
    bench.apply("Service", "delay", MODEL)
    assert of(bench)[1].suspension is None


def test_a_user_who_suspends_an_idle_suspended_cluster_keeps_it_suspended(bench: Any, ada: Principal) -> None:
    give_back(bench, delete_at=NOW + timedelta(hours=1))
    cluster.suspend("growth", "dev", principal=ada, platform=bench.platform)
    obj, status = of(bench)
    assert (obj.spec_data["suspended"], status.suspension) == (True, None)


def test_a_submitted_job_ends_the_idle_time(bench: Any, ada: Principal) -> None:
    bench.settle("Cluster", "dev", "Ready", idle_since=NOW.isoformat())
    submit(bench, ada)
    assert of(bench)[1].idle_since is None


def test_a_suspended_cluster_frees_its_quota_and_resumes_only_when_there_is_room(bench: Any, ada: Principal) -> None:
    bench.apply("Team", "growth", {"quota": {"cpu": 8}}, team="")
    with pytest.raises(Refused, match="quota 'cpu' is exceeded"):
        bench.apply("Cluster", "other", {})
    give_back(bench)
    bench.apply("Cluster", "other", {})
    bench.apply("Cluster", "dev", {})
    with pytest.raises(Refused, match=r"'growth/dev' does not fit: quota 'cpu' is exceeded"):
        cluster.resume("growth", "dev", principal=ada, platform=bench.platform)
    waiting = submit(bench, ada)
    assert waiting.status_data["phase"] == "Pending"
    obj, status = of(bench)
    assert status.suspension is not None
    with bench.store.transaction():
        assert "quota 'cpu'" in cluster.resume_for_work(obj, bench.platform)
    cluster.suspend("growth", "other", principal=ada, platform=bench.platform)
    with bench.store.transaction():
        assert cluster.resume_for_work(obj, bench.platform) == ""
    assert of(bench)[1].suspension is None


def test_extending_postpones_every_deadline_of_the_cluster(bench: Any, ada: Principal) -> None:
    bench.apply("Cluster", "dev", {"idle_timeout": "30m", "max_lifetime": "8h"})
    before, _ = of(bench)
    made = before.metadata.created_at
    assert made is not None

    def extend(seconds: float) -> ClusterStatus:
        cluster.extend("growth", "dev", seconds, principal=ada, platform=bench.platform, clock=lambda: made)
        return of(bench)[1]

    status = extend(7200)
    assert status.kept_until == status.lives_until == made + timedelta(hours=2)
    status = extend(3600)
    assert status.kept_until == made + timedelta(hours=2), "a later deadline stays"
    assert of(bench)[0].spec == before.spec
    for wrong in (0, -1):
        with pytest.raises(InvalidInput):
            extend(wrong)


def test_extending_is_limited_by_the_teams_settings(bench: Any, ada: Principal) -> None:
    bench.apply("Team", "growth", {"max_lifetime": "8h", "max_extension": "4h"}, team="")
    created = of(bench)[0].metadata.created_at
    assert created is not None

    def extend(hours: float, *, at: float) -> None:
        now = created + timedelta(hours=at)
        cluster.extend("growth", "dev", hours * 3600, principal=ada, platform=bench.platform, clock=lambda: now)

    with pytest.raises(Refused, match="can't be extended by 5h: its team allows 4h at once"):
        extend(5, at=0)
    extend(4, at=8)
    with pytest.raises(Refused, match="its team allows 8h and 4h of extension"):
        extend(4, at=9)
    assert of(bench)[1].lives_until == created + timedelta(hours=12)


def test_a_cluster_past_its_lifetime_accepts_no_work_until_it_is_extended(bench: Any, ada: Principal) -> None:
    bench.apply("Cluster", "dev", {"max_lifetime": "8h"})
    give_back(bench, "Lifetime", delete_at=NOW)
    for act in (
        lambda: submit(bench, ada),
        lambda: bench.apply("Service", "delay", MODEL),
        lambda: cluster.resume("growth", "dev", principal=ada, platform=bench.platform),
    ):
        with pytest.raises(Conflict, match="rayplane cluster extend dev 2h --team growth"):
            act()
    cluster.extend("growth", "dev", 3600, principal=ada, platform=bench.platform)
    assert of(bench)[1].suspension is None
    submit(bench, ada)


def test_extending_an_idle_suspended_cluster_postpones_its_deletion(bench: Any, ada: Principal) -> None:
    bench.apply("Cluster", "dev", {"idle_timeout": "30m", "delete_after_idle": "1h"})
    give_back(bench, delete_at=NOW + timedelta(hours=1))
    cluster.extend("growth", "dev", 7200, principal=ada, platform=bench.platform, clock=lambda: NOW)
    suspension = of(bench)[1].suspension
    assert suspension is not None
    assert suspension.delete_at == NOW + timedelta(hours=2)


def test_a_teams_timeouts_are_the_defaults_and_the_maxima_of_its_clusters(bench: Any) -> None:
    bench.apply("Team", "growth", {"idle_timeout": "1h", "max_lifetime": "1d"}, team="")
    with pytest.raises(Refused, match=r"cluster\.idle_timeout: .* asks for 2h, its team allows 1h\. Say 1h or less"):
        bench.apply("Cluster", "other", {"idle_timeout": "2h"})
    bench.apply("Cluster", "other", {"idle_timeout": "10m"})
    bench.apply("Team", "growth", {"idle_timeout": "5m"}, team="")
    assert bench.apply("Cluster", "other", {"idle_timeout": "10m"})[1] == "unchanged", "unchanged, so not refused"


def test_usage_sums_the_leases_in_resource_seconds(bench: Any, ada: Principal) -> None:
    def lease(id: str, uid: str, hours: float, until: float | None, **size: float) -> None:
        amounts = {"cpu": 2, "memory": 4 * 2**30, "gpu": 0, **size}
        end = None if until is None else NOW + timedelta(hours=until)
        began = NOW + timedelta(hours=hours)
        bench.store.open_lease(
            Lease(id=id, team="growth", cluster="dev", cluster_uid=uid, started_at=began, ended_at=end, **amounts)
        )

    lease("a-head", "a", 0, 2)
    lease("a-worker", "a", 1, 2, cpu=4, gpu=1)
    lease("b-head", "b", 3, None)

    def usage(since: float | None, until: float | None) -> list[tuple[object, ...]]:
        at = [None if hours is None else NOW + timedelta(hours=hours) for hours in (since, until)]
        usages = cluster.usage(
            "growth",
            since=at[0],
            until=at[1],
            principal=ada,
            platform=bench.platform,
            clock=lambda: NOW + timedelta(hours=5),
        )
        return [
            (u.cluster_uid, *(s / 3600 for s in (u.node_seconds, u.core_seconds, u.gib_seconds, u.gpu_seconds)), u.open)
            for u in usages
        ]

    assert usage(None, None) == [("a", 3, 8, 12, 1, 0), ("b", 2, 4, 8, 0, 1)]
    assert usage(1.5, 2.5) == [("a", 1, 3, 4, 0.5, 0)]
    assert usage(1, 4) == [("a", 2, 6, 8, 1, 0), ("b", 1, 2, 4, 0, 1)]
    with pytest.raises(InvalidInput):
        usage(4, 1)
