"""What Kueue refuses of an object that carries a queue's label."""

from __future__ import annotations

from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import kueue
from tests.kubernetes.bed.api import Object
from tests.kubernetes.preflight.shapes import own, put


def queued(shape: str, *changes: tuple[str, Any], queue: str | None = "growth") -> Object:
    """A shape with changes, in a queue."""
    thing = own(shape)
    if queue is not None:
        put(thing, f"metadata.labels['{kueue.QUEUE}']", queue)
    for path, value in changes:
        put(thing, path, value)
    return thing


def rules(thing: Object, old: Object | None = None) -> list[str]:
    return [finding.rule for finding in kueue.wrong(thing, old)]


def test_without_a_queue_nothing_is_asked() -> None:
    assert rules(queued("cluster", queue=None)) == []


def test_a_cluster_of_one_size_and_a_job_that_takes_its_cluster_along_are_taken() -> None:
    assert rules(queued("fixed")) == []
    assert rules(queued("job")) == []


def test_an_autoscaled_cluster_is_taken_only_as_elastic_and_with_its_gates() -> None:
    elastic = (f"metadata.annotations['{kueue.ELASTIC}']", "true")
    gate = [{"name": kueue.ELASTIC}]
    head = ("spec.headGroupSpec.template.spec.schedulingGates", gate)
    workers = ("spec.workerGroupSpecs[0].template.spec.schedulingGates", gate)
    assert rules(queued("cluster")) == ["kueue.autoscaling"]
    assert rules(queued("cluster", elastic)) == ["kueue.gate", "kueue.gate"]
    assert rules(queued("cluster", elastic, head, workers)) == []
    assert rules(queued("service")) == ["kueue.autoscaling"]


def test_a_job_gives_its_quota_back_and_does_not_borrow_a_cluster() -> None:
    assert rules(queued("rules")) == ["kueue.shutdown"]
    assert rules(queued("borrowing")) == []
    own_and_borrowed = ("spec.rayClusterSpec", own("fixed")["spec"])
    assert rules(queued("borrowing", own_and_borrowed)) == ["kueue.selector"]


def test_the_heads_name_and_too_many_groups_are_refused() -> None:
    group = own("fixed")["spec"]["workerGroupSpecs"][0]
    assert rules(queued("fixed", ("spec.workerGroupSpecs[0].groupName", "head"))) == ["kueue.group-head"]
    groups = [{**group, "groupName": f"g{number}"} for number in range(18)]
    assert rules(queued("fixed", ("spec.workerGroupSpecs", groups))) == ["kueue.groups"]


def test_a_queue_that_is_no_name_is_refused() -> None:
    assert rules(queued("fixed", queue="Growth Team")) == ["kueue.queue"]


def test_the_queue_changes_only_while_suspended() -> None:
    assert rules(queued("fixed", queue="other"), queued("fixed")) == ["kueue.queue"]
    assert rules(queued("fixed", queue=None), queued("fixed")) == ["kueue.queue"]
    assert rules(queued("fixed", ("spec.suspend", True), queue="other"), queued("fixed")) == []
