"""Plan: it checks documents together, lists every reason against them, and writes nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import InvalidSpec, Refused, Unsupported
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.usecases.plan import plan
from rayplane.nouns.base import Document, Metadata, utcnow
from rayplane.nouns.plan import Cost, Plan, PlannedDocument
from rayplane.storage import layout
from tests.unit.gateway.usecases.conftest import ADA

GIB = 2**30
SIZES = {"small": {"cpu": 2, "memory": "4Gi"}, "large": {"cpu": 8, "memory": "16Gi", "gpu": 1}}


def doc(kind: str, name: str, spec: dict[str, Any], team: str | None = "growth", **labels: str) -> Document:
    return Document(kind=kind, metadata=Metadata(name=name, team=team, labels=labels), spec=spec)


def planned(bench: Any, *documents: Document, principal: Principal = ADA, team: str | None = None) -> Plan:
    return plan(list(documents), team=team, principal=principal, platform=bench.platform)


def only(bench: Any, document: Document, **more: Any) -> PlannedDocument:
    (answer,) = planned(bench, document, **more).documents
    return answer


def messages(document: PlannedDocument) -> list[str]:
    return [refusal.message for refusal in document.forbidden]


def contents(bench: Any) -> dict[str, list[Any]]:
    """Every row of every table of the store."""
    path = str(bench.store._url.database)
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
        return {table: database.execute(f"select * from {table} order by rowid").fetchall() for table in tables}


def test_a_plan_writes_nothing_and_wakes_no_reconciler(bench: Any, tmp_path: Path) -> None:
    before = contents(bench)
    answer = planned(
        bench,
        doc("Team", "ads", {"sizes": SIZES}, team=None),
        doc("Cluster", "dev", {"suspended": True}),
        doc("Cluster", "new", {}),
        doc("Job", "train", {"entrypoint": "true", "cluster": "new"}),
        doc("Pipeline", "p", {"cluster": "dev", "steps": {"a": {"entrypoint": "true"}}}),
        doc("Dataset", "d", {}),
        doc("Service", "s", {"model": "models:/m@champion", "cluster": "new"}),
        doc("Cluster", "wrong", {"sice": "x"}),
    )
    assert [d.change for d in answer.documents].count("created") >= 6
    assert contents(bench) == before
    assert bench.woken == []
    assert not list((tmp_path / "storage").rglob("*"))


def test_a_new_object_is_planned_with_all_its_fields(bench: Any) -> None:
    answer = only(bench, doc("Cluster", "train", {"size": "small"}, stage="dev"))
    assert (answer.change, answer.forbidden) == ("created", [])
    fields = {change.field: change.new for change in answer.fields}
    assert fields["spec.size"] == "small"
    assert fields["metadata.labels.stage"] == "dev"
    assert all(change.old is None for change in answer.fields)


def test_a_change_is_planned_field_by_field(bench: Any) -> None:
    bench.apply("Team", "growth", {"quota": {"cpu": 32}}, team="")
    answer = only(
        bench, doc("Team", "growth", {"quota": {"cpu": "16", "clusters": 2}, "members": {"bo": "viewer"}}, None)
    )
    assert answer.change == "changed"
    assert {(c.field, c.old, c.new) for c in answer.fields} == {
        ("spec.quota.cpu", 32.0, 16.0),
        ("spec.quota.clusters", None, 2),
        ("spec.members.bo", None, "viewer"),
    }


def test_an_existing_object_with_the_same_spec_is_unchanged(bench: Any) -> None:
    answer = only(bench, doc("Cluster", "dev", {"size": "small"}))
    assert (answer.change, answer.fields, answer.forbidden) == ("unchanged", [], [])


def test_apply_makes_the_changes_that_the_plan_lists(bench: Any) -> None:
    documents = [
        doc("Cluster", "dev", {"suspended": True}),
        doc("Cluster", "new", {}),
        doc("Dataset", "d", {"description": "x"}),
        doc("Team", "growth", {}, None),
    ]
    expected = {(d.kind, d.name): d.change for d in planned(bench, *documents).documents}
    actual = {}
    for document in documents:
        _, change, _ = bench.apply(document.kind, document.metadata.name, document.spec)
        actual[document.kind, document.metadata.name] = change
    assert expected == actual


def test_documents_are_in_the_order_in_which_they_would_be_applied(bench: Any) -> None:
    answer = planned(bench, doc("Job", "j", {"entrypoint": "x", "cluster": "c"}), doc("Cluster", "c", {}))
    assert [d.kind for d in answer.documents] == ["Cluster", "Job"]
    assert answer.allowed


def test_a_document_may_use_objects_that_other_documents_create(bench: Any) -> None:
    answer = planned(
        bench,
        doc("Service", "s", {"model": "models:/m@champion", "cluster": "c"}, team="ads"),
        doc("Job", "j", {"entrypoint": "true", "cluster": "c"}, team="ads"),
        doc("Cluster", "c", {"size": "large"}, team="ads"),
        doc("Team", "ads", {"sizes": SIZES}, team=None),
    )
    assert [(d.kind, d.change, messages(d)) for d in answer.documents] == [
        ("Team", "created", []),
        ("Cluster", "created", []),
        ("Job", "created", []),
        ("Service", "created", []),
    ]


def test_an_object_that_no_document_creates_is_reported_as_missing(bench: Any) -> None:
    answer = planned(
        bench,
        doc("Service", "s", {"model": "models:/m@champion", "cluster": "no"}),
        doc("Job", "j", {"entrypoint": "true", "cluster": "no"}),
        doc("Cluster", "c", {}, team="nobody"),
    )
    assert not answer.allowed
    assert [messages(d)[0] for d in answer.documents] == [
        "Team 'nobody' is not there.",
        "Cluster 'growth/no' is not there.",
        "Cluster 'growth/no' is not there.",
    ]
    assert all(len(d.forbidden) == 1 for d in answer.documents)


def test_the_quota_counts_the_documents_together(bench: Any) -> None:
    bench.apply("Team", "growth", {"quota": {"cpu": 16, "clusters": 2}}, team="")
    answer = planned(bench, doc("Cluster", "a", {}), doc("Cluster", "b", {}))
    one, two = answer.documents
    assert one.forbidden == []
    assert "quota 'clusters' is exceeded (2 used + 1 wanted of 2)" in messages(two)[0]
    assert "quota 'cpu' is exceeded (16 used + 8 wanted of 16 cores)" in messages(two)[0]
    with_more = planned(
        bench,
        doc("Cluster", "a", {}),
        doc("Cluster", "b", {}),
        doc("Team", "growth", {"quota": {"cpu": 64}}, None),
    )
    assert with_more.allowed


def test_every_reason_is_listed_and_not_only_the_first(bench: Any) -> None:
    bench.apply("Team", "growth", {"quota": {"cpu": 8}}, team="")
    bench.backend.reasons = ["No disk. Free some.", "No GPU. Choose another size."]
    answer = only(bench, doc("Cluster", "more", {}))
    assert [refusal.code for refusal in answer.forbidden] == ["refused", "refused", "refused"]
    assert messages(answer)[:2] == ["No disk. Free some.", "No GPU. Choose another size."]
    assert "does not fit: quota 'cpu' is exceeded" in messages(answer)[2]
    viewer = Principal(name="vi", role="viewer", team="growth")
    answer = only(bench, doc("Cluster", "more", {}), principal=viewer)  # pre-flights are for writers only
    assert [refusal.code for refusal in answer.forbidden] == ["forbidden", "refused"]
    assert "does not fit: quota 'cpu' is exceeded" in messages(answer)[1]


def test_a_wrong_size_and_a_wrong_backend_are_both_listed_with_the_nearest_names(bench: Any) -> None:
    answer = only(bench, doc("Cluster", "c", {"size": "smal", "backend": "locl"}))
    assert [refusal.remedy for refusal in answer.forbidden] == ["Did you mean 'small'?", "Did you mean 'local'?"]


def test_an_unknown_backend_is_reported_on_its_own_document(bench: Any) -> None:
    bench.apply("Cluster", "dev", {"max_lifetime": "2h"})
    known = bench.backend

    def readers(name: str) -> Any:
        if name != "local":
            raise Unsupported(f"'{name}' is not in backends.", remedy="Known: local.")
        return known

    bench.platform = replace(bench.platform, readers=readers)
    team, broken = planned(
        bench, doc("Team", "growth", {"backend": "locl"}, team=None), doc("Cluster", "dev", {"sice": "x"})
    ).documents
    assert messages(team) == ["team.backend: 'locl' is unknown."]
    assert messages(broken) == ["cluster.sice: unknown field. Did you mean 'size'?"]
    answer = only(bench, doc("Cluster", "dev", {"backend": "locl", "max_lifetime": "1h"}))
    assert messages(answer)[0] == "cluster.backend: 'locl' is unknown."


def test_a_name_that_apply_refuses_is_refused(bench: Any) -> None:
    (refusal,) = only(bench, doc("Team", "api", {}, team=None)).forbidden
    with pytest.raises(InvalidSpec) as refused:
        bench.apply("Team", "api", {}, team="")
    assert (refusal.code, refusal.message) == (refused.value.code, refused.value.detail)


def test_a_longer_lifetime_of_an_ended_cluster_needs_room_in_the_quota(bench: Any) -> None:
    bench.apply("Team", "growth", {"sizes": SIZES, "quota": {"cpu": 2}}, team="")
    bench.apply("Cluster", "dev", {"max_lifetime": "1h"})
    over = {"reason": "Lifetime", "message": "Its lifetime ended.", "at": "2026-11-25T12:00:00Z"}
    bench.settle("Cluster", "dev", "Suspended", suspension=over)
    again = doc("Cluster", "dev", {"max_lifetime": "2h"})
    assert only(bench, again).forbidden == []
    bench.apply("Cluster", "other", {})
    assert "quota 'cpu' is exceeded" in messages(only(bench, again))[0]
    with pytest.raises(Refused, match="quota 'cpu' is exceeded"):
        bench.apply("Cluster", "dev", {"max_lifetime": "2h"})


def test_a_document_that_changes_nothing_is_not_forbidden(bench: Any, make_zip: Any) -> None:
    sha, content = make_zip()
    path = layout.package("growth", sha)
    bench.platform.storage.write(path, content)
    service = {"model": "models:/m@champion", "cluster": "dev"}
    job = {"entrypoint": "true", "cluster": "dev", "package": f"sha256:{sha}"}
    bench.apply("Service", "s", service)
    bench.apply("Job", "train", job)
    bench.apply("Cluster", "dev", {"max_lifetime": "1h"})
    bench.platform.storage.delete(path)
    bench.platform = replace(bench.platform, clock=lambda: utcnow() + timedelta(hours=3))
    for document in (doc("Service", "s", service), doc("Job", "train", job)):
        answer = only(bench, document)
        assert (answer.change, answer.forbidden) == ("unchanged", [])
        assert bench.apply(document.kind, document.metadata.name, document.spec)[1] == "unchanged"
    other = only(bench, doc("Job", "other", {**job, "cluster": "no"}))
    assert [message.partition(":")[0] for message in messages(other)] == [
        "job.package",
        "Cluster 'growth/no' is not there.",
    ]


def test_a_spec_that_can_not_be_parsed_is_reported_on_its_own_document_and_hides_no_other_error(bench: Any) -> None:
    answer = planned(
        bench,
        doc("Cluster", "c", {"sice": "small"}),
        doc("Job", "j", {"entrypoint": "true", "cluster": "c"}),
        doc("Job", "k", {"entrypoint": "", "cluster": "c"}),
    )
    assert messages(answer.documents[0]) == ["cluster.sice: unknown field. Did you mean 'size'?"]
    assert answer.documents[1].forbidden == []
    assert "job.entrypoint" in messages(answer.documents[2])[0]


def test_a_refused_change_is_listed_with_its_reason(bench: Any) -> None:
    answer = only(bench, doc("Cluster", "dev", {"size": "medium"}))
    assert answer.change == "changed"
    assert "which can't become 'medium'" in messages(answer)[0]
    bench.delete("Cluster", "dev")
    assert "is being deleted" in messages(only(bench, doc("Cluster", "dev", {"suspended": True})))[0]


def test_the_same_document_twice_is_refused(bench: Any) -> None:
    answer = planned(bench, doc("Dataset", "d", {}), doc("Dataset", "d", {"description": "x"}))
    assert [bool(d.forbidden) for d in answer.documents] == [False, True]


def test_a_plan_reveals_nothing_of_another_teams_objects(bench: Any) -> None:
    stranger = Principal(name="eve", role="admin", team="ads")
    for document in (doc("Cluster", "dev", {"suspended": True}), doc("Team", "growth", {}, None)):
        answer = only(bench, document, principal=stranger)
        assert (answer.change, answer.fields, answer.cost) == ("unknown", [], None)
        assert [refusal.code for refusal in answer.forbidden] == ["forbidden"]


def test_a_document_without_a_team_or_of_no_noun_is_refused(bench: Any) -> None:
    with pytest.raises(InvalidSpec, match="names no team"):
        planned(bench, doc("Cluster", "c", {}, team=None))
    assert planned(bench, doc("Cluster", "c", {}, team=None), team="growth").documents[0].team == "growth"
    with pytest.raises(InvalidSpec, match="'Custer' is unknown"):
        planned(bench, doc("Custer", "c", {}))


def test_the_plan_states_the_maximum_cost(bench: Any) -> None:
    bench.apply("Team", "growth", {"sizes": SIZES}, team="")
    answer = planned(
        bench,
        doc("Cluster", "a", {"size": "large", "workers": {"max": 2}, "max_lifetime": "30m"}),
        doc("Cluster", "b", {"size": "small"}),
        doc("Cluster", "c", {"size": "small", "suspended": True}),
        doc("Cluster", "dev", {}),
    )
    costs = {d.name: d.cost for d in answer.documents}
    assert costs["a"] == Cost(cpu=24, memory=48 * GIB, gpu=3, hours=0.5)
    assert costs["b"] == Cost(cpu=2, memory=4 * GIB, hours=None)
    assert costs["c"] is None
    assert (answer.cost.core_hours, answer.cost.gib_hours, answer.cost.gpu_hours) == (12, 24, 1.5)
    assert answer.cost.endless == Cost(cpu=2, memory=4 * GIB)


def test_own_nodes_of_jobs_and_services_have_a_cost_and_count_against_the_quota(bench: Any) -> None:
    bench.apply("Team", "growth", {"sizes": SIZES, "quota": {"cpu": 12}}, team="")
    nodes = {"size": "large", "workers": {"max": 1}}
    job = {"entrypoint": "true", "nodes": {"size": "small"}, "timeout": "2h", "retries": 3}
    answer = planned(
        bench,
        doc("Job", "j", job),
        doc("Service", "s", {"model": "models:/m@champion", "nodes": nodes}),
    )
    assert answer.documents[0].cost == Cost(cpu=2, memory=4 * GIB, hours=2)
    assert answer.documents[1].cost == Cost(cpu=16, memory=32 * GIB, gpu=2, hours=None)
    assert answer.cost.core_hours == 4
    assert answer.documents[0].forbidden == []
    assert "quota 'cpu' is exceeded" in messages(answer.documents[1])[0]


def test_the_teams_maximum_lifetime_limits_the_cost_of_a_cluster(bench: Any) -> None:
    bench.apply("Team", "growth", {"sizes": SIZES, "max_lifetime": "1h"}, team="")
    answer = planned(bench, doc("Cluster", "a", {}), doc("Cluster", "b", {"max_lifetime": "2h"}))
    assert answer.documents[0].cost == Cost(cpu=2, memory=4 * GIB, hours=1)
    assert answer.documents[1].forbidden[0].message.startswith("cluster.max_lifetime: Cluster 'growth/b' asks for 2h")


def test_the_plan_warns_of_work_that_would_end(bench: Any) -> None:
    bench.apply("Job", "train", {"entrypoint": "true", "cluster": "dev"})
    (warning,) = only(bench, doc("Cluster", "dev", {"suspended": True})).warnings
    assert "job 'train' ends" in warning
    warnings = only(
        bench, doc("Team", "growth", {"quota": {"cpu": 4}, "sizes": {"tiny": SIZES["small"]}}, None)
    ).warnings
    assert any("Its clusters ask for more than that already: quota 'cpu'" in w for w in warnings)
    assert any("Size 'small' goes, but cluster 'dev' has it" in w for w in warnings)
    (rerun,) = only(bench, doc("Job", "train", {"entrypoint": "true", "cluster": "dev"})).warnings
    assert rerun == "It is there already, and is not run again."
    missing = only(bench, doc("Pipeline", "p", {"cluster": "no", "steps": {"a": {"entrypoint": "true"}}}))
    assert "'growth/no' is not there yet" in missing.warnings[0]


def test_the_plan_warns_of_a_lifetime_that_would_be_over_at_once(bench: Any) -> None:
    bench.apply("Team", "growth", {"sizes": SIZES}, team="")
    uid = bench.store.get("Cluster", "growth", "dev").metadata.uid
    bench.platform = replace(bench.platform, clock=lambda: utcnow() + timedelta(hours=3))
    answer = only(bench, doc("Team", "growth", {"sizes": SIZES, "max_lifetime": "2h"}, None))
    assert any("lifetime of cluster 'dev' is over then" in warning for warning in answer.warnings)
    answer = only(bench, doc("Team", "growth", {"sizes": SIZES, "max_lifetime": "4h"}, None))
    assert answer.warnings == []
    answer = only(bench, doc("Cluster", "dev", {"max_lifetime": "1h"}))
    assert "That time is over: it is suspended and deleted at once." in answer.warnings
    bench.store.set_status(uid, {**bench.store.get_by_uid(uid).status_data, "lives_until": "2099-01-01T00:00:00Z"})
    answer = only(bench, doc("Cluster", "dev", {"max_lifetime": "1h"}))
    assert "That time is over: it is suspended and deleted at once." not in answer.warnings


def test_the_plan_refuses_work_for_a_cluster_past_its_lifetime(bench: Any) -> None:
    bench.apply("Cluster", "dev", {"max_lifetime": "1h", "suspended": True})
    bench.platform = replace(bench.platform, clock=lambda: utcnow() + timedelta(hours=3))
    for refused in (
        doc("Service", "s", {"model": "models:/m@champion", "cluster": "dev"}),
        doc("Job", "train", {"entrypoint": "true", "cluster": "dev"}),
        doc("Cluster", "dev", {"max_lifetime": "1h"}),
    ):
        assert any("takes nothing new" in message for message in messages(only(bench, refused))), refused.kind


def test_the_quota_of_jobs_counts_the_documents_together(bench: Any) -> None:
    bench.apply("Team", "growth", {"quota": {"jobs": 1}}, team="")
    jobs = [doc("Job", name, {"entrypoint": "true", "cluster": "dev"}) for name in ("a", "b")]
    answer = planned(bench, *jobs).documents
    assert messages(answer[0]) == []
    assert "quota 'jobs' is exceeded (1 have not ended + 1 wanted of 1)" in messages(answer[1])[0]
