"""The common verbs (apply, get, list, delete), and the operations that they begin."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayplane.errors import Conflict, Forbidden, InvalidSpec, NotFound, PreconditionFailed, Refused
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.usecases import objects, operations, records
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Operation
from rayplane.storage import layout


def test_a_new_cluster_is_pending_is_audited_and_returns_an_operation(bench: Any) -> None:
    obj, change, operation = bench.apply("Cluster", "train", {"workers": {"max": 0}}, labels={"a": "b"})
    assert change == "created"
    assert obj.status_data["phase"] == "Pending"
    assert obj.spec_data["size"] == "small"
    assert (obj.metadata.owner, obj.metadata.labels) == ("ada", {"a": "b"})
    assert operation is not None
    assert (operation.state, operation.action, operation.uid) == ("running", "apply", obj.metadata.uid)
    assert bench.woken == [1]
    row = bench.store.audit_log("growth").items[0]
    assert (row["principal"], row["action"], row["kind"], row["name"]) == ("ada", "apply", "Cluster", "train")


def test_applying_the_same_spec_again_changes_nothing_and_wakes_no_reconciler(bench: Any) -> None:
    before = len(bench.store.audit_log("growth").items)
    obj, change, operation = bench.apply("Cluster", "dev", {"size": "small"})
    assert (change, operation) == ("unchanged", None)
    assert obj.metadata.generation == 1
    assert bench.woken == []
    assert len(bench.store.audit_log("growth").items) == before


def test_the_same_quantity_in_another_notation_is_no_change(empty: Any) -> None:
    empty.apply("Team", "ads", {"quota": {"memory": "16Gi"}}, team="")
    assert empty.apply("Team", "ads", {"quota": {"memory": 2.0**34}}, team="")[1] == "unchanged"


def test_a_dry_run_checks_and_answers_the_same_and_writes_nothing(bench: Any) -> None:
    obj, change, operation = bench.apply("Cluster", "train", {}, dry_run=True)
    assert (obj.metadata.name, change, operation) == ("train", "created", None)
    assert bench.apply("Cluster", "dev", {"suspended": True}, dry_run=True)[1] == "changed"
    assert [o.metadata.name for o in bench.store.list("Cluster").items] == ["dev"]
    assert bench.store.get("Cluster", "growth", "dev").metadata.generation == 1
    with pytest.raises(InvalidSpec):
        bench.apply("Cluster", "train", {"sice": "small"}, dry_run=True)
    assert bench.woken == []


@pytest.mark.parametrize(
    ("kind", "name", "spec", "message"),
    [
        ("Cluster", "train", {"sice": "small"}, "cluster.sice: unknown field. Did you mean 'size'?"),
        ("Cluster", "Train", {}, "cluster.metadata.name: 'Train' is not a name"),
        ("Cluster", "x" * 41, {}, "at most 40"),
        ("Team", "x", {}, "team.metadata.name: 'x' has 1 character; a team's name has at least 2"),
        ("Team", "api", {}, "'api' is a part of MLflow's own addresses; give the team another name"),
        ("Cluster", "train", {"backend": "locl"}, "cluster.backend: 'locl' is unknown. Did you mean 'local'?"),
        ("Cluster", "train", {"workers": {"min": 3, "max": 1}}, "above max"),
        ("Cluster", "train", {"workers": "3..1"}, "cluster.workers: min (3) is above max (1)"),
        ("Cluster", "train", {"workers": "a few"}, "cluster.workers: 'a few' is no number of workers: write 4 for"),
        ("Cluster", "train", {"idle_timeout": "0s"}, "cluster.idle_timeout: 0s would end it at once"),
        (
            "Service",
            "delay",
            {"model": "models:/delay@champion", "cluster": "dev", "app": "my_app.build"},
            "service.app: 'my_app.build' is not an application: write module:callable",
        ),
        ("Team", "ads", {"backend": "moon"}, "team.backend: 'moon' is unknown. Known:"),
        ("Pipeline", "p", {"cluster": "dev", "steps": {}}, "pipeline.steps"),
        ("PipelineRun", "p-1", {"pipeline": "p"}, "A run can't be applied"),
        ("Clusters", "train", {}, "kind: 'Clusters' is unknown. Did you mean 'Cluster'?"),
    ],
)
def test_a_wrong_document_is_refused_and_nothing_is_written(
    bench: Any, kind: str, name: str, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        bench.apply(kind, name, spec)
    assert message in str(caught.value)
    assert bench.store.count("Cluster") == 1
    assert bench.store.count("Team") == 1
    assert bench.woken == []


def test_nothing_is_applied_to_a_team_that_is_missing_or_being_deleted(bench: Any) -> None:
    with pytest.raises(NotFound, match=r"Team 'grwth' is not there. Did you mean 'growth'?"):
        bench.apply("Cluster", "train", {}, team="grwth")
    bench.apply("Team", "ads", {}, team="")
    bench.delete("Team", "ads", team="")
    with pytest.raises(Conflict, match="'ads' is being deleted"):
        bench.apply("Cluster", "train", {}, team="ads")


def test_a_size_that_the_team_does_not_have_is_refused(bench: Any) -> None:
    with pytest.raises(Refused, match=r"has no size 'huge'. It may use: medium, small"):
        bench.apply("Cluster", "train", {"size": "huge"})


def test_a_backend_that_is_not_offered_here_is_refused(bench: Any) -> None:
    bench.platform.settings.backends = ["kubernetes"]
    with pytest.raises(Refused, match=r"team\.backend: 'local' is not offered here\. Write one of: kubernetes\."):
        bench.apply("Team", "ads", {}, team="")
    with pytest.raises(Refused, match=r"cluster\.backend: 'local' is not offered here"):
        bench.apply("Cluster", "train", {"backend": "local"})


def test_a_preflight_that_finds_no_room_for_the_cluster_refuses_it(bench: Any) -> None:
    bench.backend.reasons = ["There is no Ray here. Install it."]
    with pytest.raises(Refused, match=r"Cluster 'growth/train' can't be made: There is no Ray here. Install it\."):
        bench.apply("Cluster", "train", {})
    assert bench.store.count("Cluster") == 1


def test_quota_counts_all_clusters_of_the_team_and_lets_one_shrink(bench: Any) -> None:
    bench.apply("Team", "growth", {"quota": {"cpu": 24, "clusters": 3}}, team="")
    bench.apply("Cluster", "two", {"size": "medium"})
    with pytest.raises(Refused, match=r"quota 'cpu' is exceeded \(24 used \+ 8 wanted of 24 cores\)"):
        bench.apply("Cluster", "three", {})
    with pytest.raises(Refused, match="quota 'cpu'"):
        bench.apply("Cluster", "dev", {"size": "medium"})
    bench.apply("Cluster", "three", {"suspended": True})
    bench.apply("Team", "growth", {"quota": {"cpu": 8}}, team="")
    assert bench.apply("Cluster", "two", {"size": "medium", "suspended": True})[1] == "changed"


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("size", {"size": "medium"}),
        ("size", {"size": "medium", "suspended": True}),
        ("backend", {"backend": "existing", "address": "http://ray:8265"}),
        ("address", {"address": "http://ray:8265"}),
    ],
)
def test_the_size_backend_and_address_of_a_cluster_can_not_change(bench: Any, field: str, spec: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=rf"cluster\.{field}: 'growth/dev' .*Delete it and apply it anew\."):
        bench.apply("Cluster", "dev", spec)
    assert bench.store.get("Cluster", "growth", "dev").metadata.generation == 1
    assert bench.woken == []
    assert bench.apply("Cluster", "dev", {"backend": "local"})[1] == "changed"  # the backend that it has from its team


def test_a_suspended_cluster_may_change_its_size_once_it_is_down(bench: Any) -> None:
    bench.apply("Cluster", "dev", {"suspended": True})
    with pytest.raises(Refused, match=r"cluster\.size"):
        bench.apply("Cluster", "dev", {"size": "medium"})
    bench.settle("Cluster", "dev", "Suspended")
    assert bench.apply("Cluster", "dev", {"size": "medium"})[1] == "changed"
    with pytest.raises(Refused, match=r"cluster\.size"):  # the cluster is starting again
        bench.apply("Cluster", "dev", {"size": "small"})


def test_a_service_can_not_move_to_another_cluster(bench: Any) -> None:
    bench.apply("Cluster", "prod", {})
    spec = {"model": "models:/delay@champion", "cluster": "dev"}
    bench.apply("Service", "delay", spec)
    with pytest.raises(Refused, match=r"service\.cluster: 'growth/delay' is on 'dev'.*Delete it and apply it anew\."):
        bench.apply("Service", "delay", {**spec, "cluster": "prod"})
    assert bench.store.get("Service", "growth", "delay").spec_data["cluster"] == "dev"
    assert bench.apply("Service", "delay", {**spec, "max_ongoing_requests": 5})[1] == "changed"


def test_concurrent_creations_do_not_both_take_the_last_of_a_quota(bench: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    bench.apply("Team", "growth", {"quota": {"clusters": 2}}, team="")

    def make(number: int) -> bool:
        try:
            bench.apply("Cluster", f"c{number}", {})
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(make, range(6))).count(True) == 1
    assert bench.store.count("Cluster") == 2


def test_if_match_guards_apply_and_delete(bench: Any) -> None:
    version = bench.store.get("Cluster", "growth", "dev").metadata.resource_version
    with pytest.raises(PreconditionFailed):
        bench.apply("Cluster", "dev", {"suspended": True}, if_match=version + 1)
    with pytest.raises(PreconditionFailed):
        bench.delete("Cluster", "dev", if_match=version + 1)
    assert bench.apply("Cluster", "dev", {"suspended": True}, if_match=version)[1] == "changed"


def test_a_pipeline_is_ready_as_soon_as_it_is_stored(bench: Any) -> None:
    spec: dict[str, Any] = {"cluster": "dev", "steps": {"a": {"entrypoint": "python -m jobs.a"}}}
    obj, change, operation = bench.apply("Pipeline", "flights", spec)
    assert (change, operation) == ("created", None)
    assert (obj.status.phase, obj.status.observed_generation) == ("Ready", 1)
    spec["steps"]["b"] = {"entrypoint": "python -m jobs.b"}
    obj, _, _ = bench.apply("Pipeline", "flights", spec)
    assert (obj.status.phase, obj.status.observed_generation, obj.metadata.generation) == ("Ready", 2, 2)


def test_a_service_needs_an_existing_cluster(bench: Any) -> None:
    with pytest.raises(
        NotFound, match=r"Cluster 'growth/prod' is not there. .*rayplane cluster apply prod --team growth"
    ):
        bench.apply("Service", "delay", {"model": "models:/delay@champion", "cluster": "prod"})
    assert bench.apply("Service", "delay", {"model": "models:/delay@champion", "cluster": "dev"})[1] == "created"


def test_a_deletion_runs_until_the_object_is_removed(bench: Any) -> None:
    obj, operation = bench.delete("Cluster", "dev")
    assert obj.metadata.deleted_at is not None
    assert operation.state == "running"
    assert bench.woken == [1]
    again, second = bench.delete("Cluster", "dev")
    assert again == obj
    bench.store.remove(obj.metadata.uid)
    for op in (operation, second):
        assert operations.current(bench.store, op).state == "succeeded"
    with pytest.raises(NotFound):
        bench.delete("Cluster", "dev")


def test_a_cluster_in_use_is_not_deleted(bench: Any) -> None:
    bench.apply("Job", "j", {"entrypoint": "true", "cluster": "dev"})
    with pytest.raises(Conflict, match=r"runs job 'j'.*rayplane job stop j --team growth"):
        bench.delete("Cluster", "dev")
    bench.settle("Job", "j", "Succeeded")
    bench.apply("Service", "delay", {"model": "models:/delay@champion", "cluster": "dev"})
    with pytest.raises(Conflict, match="hosts service 'delay'"):
        bench.delete("Cluster", "dev")
    bench.store.remove(bench.store.get("Service", "growth", "delay").metadata.uid)
    bench.delete("Cluster", "dev")


def test_a_team_in_use_is_not_deleted(bench: Any) -> None:
    with pytest.raises(Conflict, match="Team 'growth' still has Cluster 'dev'"):
        bench.delete("Team", "growth", team="")


def test_deleting_a_dataset_deletes_its_versions_and_their_data(bench: Any, ada: Principal) -> None:
    storage = bench.platform.storage
    bench.apply("Dataset", "raw", {})
    path = layout.dataset_version("growth", "raw", "a" * 16)
    storage.write(f"{path}/part-0.parquet", b"x")
    bench.store.put_dataset_version(
        DatasetVersion(
            team="growth", name="raw", version="a" * 16, content_hash="a" * 64, uri=storage.uri(path), rows=1, bytes=1,
            columns=[],
        )
    )  # fmt: skip
    _, operation = bench.delete("Dataset", "raw")
    assert operation.state == "succeeded"
    assert not storage.exists(layout.dataset("growth", "raw"))
    assert bench.store.list_dataset_versions("growth", "raw") == []
    with pytest.raises(NotFound):
        bench.store.get("Dataset", "growth", "raw")


def test_only_principals_with_the_right_role_write_and_read(bench: Any) -> None:
    viewer = Principal(name="vic", role="viewer", team="growth")
    stranger = Principal(name="sue", role="member", team="ads")
    for principal in (viewer, stranger, bench.cluster_principal()):
        with pytest.raises(Forbidden):
            bench.apply("Cluster", "train", {}, principal=principal)
    with pytest.raises(Forbidden):
        objects.get("Cluster", "growth", "dev", principal=stranger, platform=bench.platform)
    with pytest.raises(Forbidden):
        bench.apply("Team", "growth", {}, team="", principal=Principal(name="mia", role="member", team="growth"))
    assert objects.get("Cluster", "growth", "dev", principal=viewer, platform=bench.platform).metadata.name == "dev"


def test_a_teams_principal_lists_its_own_team_alone(bench: Any, ada: Principal) -> None:
    bench.apply("Team", "ads", {}, team="")
    member = Principal(name="mia", role="member", team="growth")

    def names(principal: Principal) -> list[str]:
        page = objects.list("Team", None, principal=principal, platform=bench.platform)
        return [json.loads(team)["metadata"]["name"] for team in page.items]

    assert names(ada) == ["growth", "ads"]
    assert names(member) == ["growth"]
    with pytest.raises(NotFound, match="Team 'nope' is not there"):
        objects.list("Cluster", "nope", principal=ada, platform=bench.platform)


def op(action: str, generation: int = 1) -> Operation:
    return Operation(
        id="o", team="growth", kind="Cluster", name="dev", uid="u", generation=generation, action=action
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({"phase": "Pending", "observed_generation": 0}, "running"),
        ({"phase": "Ready", "observed_generation": 1}, "running"),
        ({"phase": "Failed", "observed_generation": 1}, "running"),
        ({"phase": "Starting", "observed_generation": 2}, "running"),
        ({"phase": "Ready", "observed_generation": 2}, "succeeded"),
        ({"phase": "Succeeded", "observed_generation": 3}, "succeeded"),
        ({"phase": "Suspended", "observed_generation": 2}, "succeeded"),
        ({"phase": "Failed", "observed_generation": 2, "message": "It broke."}, "failed"),
        ({"phase": "Stopped", "observed_generation": 2}, "failed"),
    ],
)
def test_an_operations_state_is_derived_from_its_object(bench: Any, status: dict[str, Any], state: str) -> None:
    obj = bench.store.set_status(bench.store.get("Cluster", "growth", "dev").metadata.uid, status)
    judged, message = operations.judge(op("apply", 2), obj)
    assert judged == state
    if state == "failed":
        assert message
    assert message == status.get("message", message)


def test_an_operation_about_a_removed_object_has_ended(bench: Any, ada: Principal) -> None:
    _, _, operation = bench.apply("Cluster", "train", {})
    bench.store.remove(bench.store.get("Cluster", "growth", "train").metadata.uid)
    current = records.operation(operation.id, principal=ada, platform=bench.platform)
    assert current.state == "failed"
    assert "deleted" in current.message
    assert operations.judge(op("delete"), None)[0] == "succeeded"
    stopped = bench.store.set_status(bench.store.get("Cluster", "growth", "dev").metadata.uid, {"phase": "Stopped"})
    assert operations.judge(op("stop"), stopped)[0] == "succeeded"
