"""Events of workers: each is recorded once, and applied to objects, versions and lineage in any order of arrival."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from rayplane.errors import Forbidden, InvalidInput, Unauthenticated
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import datasets, events, job, lineage
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Event
from rayplane.nouns.job import JobSpec
from rayplane.storage import layout

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def submit(bench: Any, ada: Principal, name: str = "prep", **spec: Any) -> AnyObject:
    wanted = JobSpec(**{"entrypoint": "python -m jobs.prepare", "cluster": "dev", **spec})
    return job.submit(wanted, team="growth", name=name, principal=ada, platform=bench.platform)


def event(type: str, data: dict[str, Any], of: AnyObject | None = None, at: float = 0) -> Event:
    return Event(
        id=uuid.uuid4().hex,
        type=type,
        time=START + timedelta(seconds=at),
        submission_id=f"{of.metadata.uid}-1" if of else None,
        data=data,
    )


def version(bench: Any, name: str, id: str, **more: Any) -> dict[str, Any]:
    path = layout.dataset_version("growth", name, id)
    made = DatasetVersion(
        team="growth", name=name, version=id, content_hash=id * 4, uri=bench.platform.storage.uri(path), rows=3,
        bytes=9,
        columns=[], **more,
    )  # fmt: skip
    return made.model_dump(mode="json")


def ingest(bench: Any, *batch: Event, principal: Principal | None = None) -> int:
    return events.ingest(
        "growth", list(batch), principal=principal or bench.cluster_principal(), platform=bench.platform
    )


def edges(bench: Any, node: str, direction: str = "up") -> set[tuple[str, str]]:
    return {(e.source, e.target) for e in bench.store.edges("growth", node, direction)}


def test_a_published_dataset_is_an_object_a_version_an_output_and_lineage(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    published = event(
        "dataset.published", version(bench, "clean", "c" * 16, inputs=[{"name": "raw", "version": "r1"}]), made
    )
    assert ingest(bench, published) == 1
    dataset = bench.store.get("Dataset", "growth", "clean")
    assert {k: dataset.status_data[k] for k in ("phase", "latest", "rows", "versions")} == {
        "phase": "Ready",
        "latest": "c" * 16,
        "rows": 3,
        "versions": 1,
    }
    assert dataset.metadata.owner == "ada"
    assert datasets.version("growth", "clean", None, principal=ada, platform=bench.platform).job == "prep"
    assert bench.store.get("Job", "growth", "prep").status_data["outputs"] == [
        {"schema_version": 1, "kind": "dataset", "name": "clean", "value": "c" * 16}
    ]
    node = f"dataset:clean@{'c' * 16}"
    assert edges(bench, node) == {("dataset:raw@r1", node), ("job:prep", node)}
    downstream = lineage.reachable("growth", "dataset:raw@r1", "down", principal=ada, platform=bench.platform)
    assert [e.target for e in downstream] == [node]
    assert bench.woken


def test_a_second_delivery_changes_nothing(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    batch = [
        event("dataset.published", version(bench, "clean", "c" * 16), made),
        event("output.recorded", {"name": "auc", "value": 0.76}, made, 1),
    ]
    assert ingest(bench, *batch) == 2
    before = [bench.store.get("Dataset", "growth", "clean"), bench.store.get("Job", "growth", "prep")]
    bench.woken.clear()
    assert ingest(bench, *batch, *batch) == 0
    assert [bench.store.get("Dataset", "growth", "clean"), bench.store.get("Job", "growth", "prep")] == before
    assert bench.woken == []


def test_outputs_overwritten_by_another_writer_are_restored_by_the_next_delivery(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    recorded = event("output.recorded", {"name": "auc", "value": 0.76}, made)
    ingest(bench, recorded)
    bench.settle("Job", "prep", "Running", outputs=[])
    assert ingest(bench, recorded) == 0
    assert bench.store.get("Job", "growth", "prep").status_data["outputs"][0]["value"] == 0.76
    assert bench.store.get("Job", "growth", "prep").status_data["phase"] == "Running"


def test_of_two_outputs_with_one_name_the_later_one_counts_in_any_order_of_arrival(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    early = event("output.recorded", {"name": "auc", "value": 0.5}, made, 1)
    late = event("output.recorded", {"name": "auc", "value": 0.8}, made, 2)
    ingest(bench, late)
    ingest(bench, early)
    assert [o["value"] for o in bench.store.get("Job", "growth", "prep").status_data["outputs"]] == [0.8]


def test_the_latest_version_is_the_one_published_last_in_any_order_of_arrival(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    first, second = version(bench, "clean", "a" * 16), version(bench, "clean", "b" * 16)
    ingest(bench, event("dataset.published", second, made, 20), event("dataset.published", first, made, 10))
    assert bench.store.get("Dataset", "growth", "clean").status_data["latest"] == "b" * 16
    ingest(bench, event("dataset.published", first, made, 30))
    status = bench.store.get("Dataset", "growth", "clean").status_data
    assert (status["latest"], status["versions"]) == ("a" * 16, 2)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_lineage_links_a_jobs_source_to_its_datasets_in_any_order_of_events(
    bench: Any, ada: Principal, order: tuple[int, ...]
) -> None:
    made = submit(bench, ada, sources={"raw": "file:///raw.csv"})
    batch = [
        event("source.observed", {"name": "raw", "uri": "file:///raw.csv", "content_hash": "h1", "rows": 3}, made),
        event("dataset.published", version(bench, "a", "a" * 16), made, 1),
        event("dataset.published", version(bench, "b", "b" * 16), made, 2),
    ]
    for index in order:
        ingest(bench, batch[index])
    targets = {target for _, target in edges(bench, "source:file:///raw.csv#h1", "down")}
    assert targets == {f"dataset:a@{'a' * 16}", f"dataset:b@{'b' * 16}"}


def test_lineage_links_a_source_observed_by_another_step_to_the_steps_dataset(bench: Any, ada: Principal) -> None:
    sources = {"flights": "file:///flights.csv"}
    observer = submit(
        bench, ada, "p-1-observe", sources={"ingest.flights": sources["flights"]}, pipeline="p/p-1/observe"
    )
    other = submit(bench, ada, "p-2-observe", sources={"ingest.flights": sources["flights"]}, pipeline="p/p-2/observe")
    step = submit(bench, ada, "p-1-ingest", sources=sources, pipeline="p/p-1/ingest")
    for reporter, content in ((observer, "h1"), (other, "h2")):
        data = {"name": "ingest.flights", "uri": sources["flights"], "content_hash": content, "rows": 3}
        ingest(bench, event("source.observed", data, reporter))
    ingest(bench, event("dataset.published", version(bench, "raw", "a" * 16), step))
    node = f"dataset:raw@{'a' * 16}"
    assert edges(bench, node) == {("source:file:///flights.csv#h1", node), ("job:p-1-ingest", node)}


def test_lineage_links_a_runs_inputs_to_its_model(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada, "train", inputs={"training-set": "t" * 16})
    registered = {"name": "flight-delay", "version": "10", "run_id": "r1", "aliases": ["champion"]}
    ingest(
        bench,
        event("run.started", {"run_id": "r1", "attempt": 1}, made),
        event("model.registered", registered, made, 1),
        event("run.finished", {"run_id": "r1", "status": "FINISHED"}, made, 2),
    )
    ingest(bench, event("model.registered", {**registered, "version": "9", "aliases": []}, made, 3))
    model = bench.store.get("Model", "growth", "flight-delay").status_data
    assert (model["latest"], model["aliases"]) == ("10", {"champion": "10"})
    assert edges(bench, "model:flight-delay/10") == {
        ("run:r1", "model:flight-delay/10"),
        ("job:train", "run:r1"),
        (f"dataset:training-set@{'t' * 16}", "run:r1"),
    }
    outputs = bench.store.get("Job", "growth", "train").status_data["outputs"]
    assert {(o["kind"], o["name"], o["value"]) for o in outputs} == {
        ("run", "run", "r1"),
        ("model", "flight-delay", "9"),
    }


def test_a_materialization_updates_the_teams_feature_and_lineage(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    record = {
        "views": [{"view": "weather", "dataset": "weather-features", "version": "w1"}],
        "end": "2013-10-01T00:00:00Z",
        "rows": {"weather": 3},
        "created_at": "2026-03-01T12:00:00Z",
    }
    older = {**record, "views": [], "created_at": "2026-02-01T12:00:00Z"}
    ingest(bench, event("features.materialized", record, made), event("features.materialized", older, made, 1))
    feature = bench.store.get("Feature", "growth", "features").status_data
    assert (feature["views"], feature["materialized_at"]) == (["weather"], "2026-03-01T12:00:00Z")
    assert ("dataset:weather-features@w1", "view:weather@w1") in edges(bench, "view:weather@w1")


def test_a_gate_report_becomes_a_condition_of_the_job_with_the_failed_checks(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    checks = [
        {"metric": "auc", "value": 0.7, "bound": ">= 0.75", "passed": False},
        {"metric": "gap", "value": 0.2, "bound": ">= 0.11", "passed": True},
    ]
    ingest(bench, event("gate.judged", {"run_id": "r1", "passed": False, "checks": checks}, made))
    gate = next(c for c in bench.store.get("Job", "growth", "prep").status_data["conditions"] if c["type"] == "Gate")
    assert (gate["status"], gate["reason"], gate["message"]) == ("False", "Refused", "auc = 0.7 (must be >= 0.75)")


def test_a_lineage_event_adds_its_edge(bench: Any) -> None:
    assert ingest(bench, event("lineage", {"source": "view:v@1", "target": "run:r1"})) == 1
    assert edges(bench, "run:r1") == {("view:v@1", "run:r1")}


def test_a_bad_event_is_named_in_the_error_and_the_others_are_recorded(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    foreign = version(bench, "clean", "c" * 16)
    foreign["uri"] = bench.platform.storage.uri("ads/datasets/clean/" + "c" * 16)
    bad = [
        event("dataset.published", {"name": "clean"}, made),
        event("dataset.published", foreign, made),
        event("dataset.published", version(bench, "Not A Name", "c" * 16), made),
        event("model.registered", {"name": "Bad Name", "version": "1", "run_id": "r"}, made),
        Event(id="lost", type="lineage", submission_id=f"{'0' * 32}-1", data={"source": "a", "target": "b"}),
    ]
    good = event("output.recorded", {"name": "auc", "value": 1}, made)
    with pytest.raises(InvalidInput, match="5 of 6 events") as caught:
        ingest(bench, *bad, good)
    for one in bad:
        assert one.id in str(caught.value)
    assert bench.store.get("Job", "growth", "prep").status_data["outputs"][0]["name"] == "auc"
    assert bench.store.count("Dataset") == bench.store.count("Model") == 0
    # A refused event is not recorded: once corrected, it is accepted under the same id.
    mended = bad[0].model_copy(update={"data": version(bench, "clean", "c" * 16)})
    assert ingest(bench, mended) == 1


def test_an_event_about_an_object_being_deleted_is_refused_and_others_recorded(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    dataset, _, _ = bench.apply("Dataset", "clean", {})
    bench.store.mark_deleted(dataset.metadata.uid)
    published = event("dataset.published", version(bench, "clean", "c" * 16), made)
    with pytest.raises(InvalidInput, match=r"1 of 2 events.*is being deleted.*Delete it once more, then run the job"):
        ingest(bench, published, event("output.recorded", {"name": "auc", "value": 1}, made))
    assert [o["name"] for o in bench.store.get("Job", "growth", "prep").status_data["outputs"]] == ["auc"]


def test_only_a_jobs_own_cluster_may_report_its_events(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada)
    bench.apply("Cluster", "other", {})
    recorded = event("output.recorded", {"name": "auc", "value": 1}, made)
    with pytest.raises(Forbidden, match="does not run on cluster 'other'"):
        ingest(bench, recorded, principal=bench.cluster_principal("other"))
    with pytest.raises(Forbidden):
        ingest(bench, recorded, principal=ada)
    assert bench.store.get("Job", "growth", "prep").status_data["outputs"] == []


def test_a_deleted_clusters_token_may_not_report_but_the_reconciler_may(
    bench: Any, ada: Principal, system: Principal
) -> None:
    made = submit(bench, ada)
    principal = bench.cluster_principal()
    bench.store.remove(bench.store.get("Cluster", "growth", "dev").metadata.uid)
    recorded = event("output.recorded", {"name": "auc", "value": 1}, made)
    with pytest.raises(Unauthenticated):
        ingest(bench, recorded, principal=principal)
    assert ingest(bench, recorded, principal=system) == 1


def test_an_event_without_a_job_is_applied_too(bench: Any) -> None:
    assert ingest(bench, event("dataset.published", version(bench, "scratch", "s" * 16))) == 1
    assert bench.store.get("Dataset", "growth", "scratch").status_data["latest"] == "s" * 16


def test_the_end_of_an_attempt_is_passed_to_the_reconciler_and_not_recorded(bench: Any, ada: Principal) -> None:
    ended: list[str] = []
    made = submit(bench, ada)
    platform = replace(bench.platform, ended=ended.append)
    batch = [event("attempt.ended", {}, made)]
    assert events.ingest("growth", batch, principal=bench.cluster_principal(), platform=platform) == 0
    assert ended == [made.metadata.uid]
    assert bench.store.events("growth", [made.metadata.uid]) == [], "a hint is not recorded"
    assert bench.store.get("Job", "growth", "prep").status_data.get("outputs", []) == []
