"""Kueue's rules for an object with the label of a queue."""

from __future__ import annotations

from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import kueue
from tests.kubernetes.bed.api import Object
from tests.kubernetes.preflight.shapes import own, put


def queued(shape: str, *changes: tuple[str, Any], queue: str | None = "growth") -> Object:
    """A shape with changes, in a queue."""
    manifest = own(shape)
    if queue is not None:
        put(manifest, f"metadata.labels['{kueue.QUEUE}']", queue)
    for path, value in changes:
        put(manifest, path, value)
    return manifest


def rules(manifest: Object, old: Object | None = None) -> list[str]:
    return [finding.rule for finding in kueue.wrong(manifest, old)]


def test_an_object_without_a_queue_has_no_finding() -> None:
    assert rules(queued("cluster", queue=None)) == []


def test_a_cluster_of_fixed_size_and_a_job_that_deletes_its_cluster_have_no_finding() -> None:
    assert rules(queued("fixed")) == []
    assert rules(queued("job")) == []


def test_an_autoscaled_cluster_must_be_elastic_and_have_its_gates() -> None:
    elastic = (f"metadata.annotations['{kueue.ELASTIC}']", "true")
    gate = [{"name": kueue.ELASTIC}]
    head = ("spec.headGroupSpec.template.spec.schedulingGates", gate)
    workers = ("spec.workerGroupSpecs[0].template.spec.schedulingGates", gate)
    assert rules(queued("cluster")) == ["kueue.autoscaling"]
    assert rules(queued("cluster", elastic)) == ["kueue.gate", "kueue.gate"]
    assert rules(queued("cluster", elastic, head, workers)) == []
    assert rules(queued("service")) == ["kueue.autoscaling"]


def test_a_job_must_free_its_quota_and_not_select_a_cluster() -> None:
    assert rules(queued("rules")) == ["kueue.shutdown"]
    assert rules(queued("borrowing")) == []
    own_and_borrowed = ("spec.rayClusterSpec", own("fixed")["spec"])
    assert rules(queued("borrowing", own_and_borrowed)) == ["kueue.selector"]


def test_a_group_called_head_and_too_many_groups_are_refused() -> None:
    group = own("fixed")["spec"]["workerGroupSpecs"][0]
    assert rules(queued("fixed", ("spec.workerGroupSpecs[0].groupName", "head"))) == ["kueue.group-head"]
    groups = [{**group, "groupName": f"g{number}"} for number in range(18)]
    assert rules(queued("fixed", ("spec.workerGroupSpecs", groups))) == ["kueue.groups"]


def test_an_invalid_name_of_a_queue_is_refused() -> None:
    assert rules(queued("fixed", queue="Growth Team")) == ["kueue.queue"]


def test_the_queue_changes_only_while_suspended() -> None:
    assert rules(queued("fixed", queue="other"), queued("fixed")) == ["kueue.queue"]
    assert rules(queued("fixed", queue=None), queued("fixed")) == ["kueue.queue"]
    assert rules(queued("fixed", ("spec.suspend", True), queue="other"), queued("fixed")) == []
