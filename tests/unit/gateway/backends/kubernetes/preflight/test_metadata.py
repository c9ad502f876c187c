"""The metadata of an object."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.gateway.backends.kubernetes.preflight import metadata


def rules(**more: Any) -> list[tuple[str, str]]:
    """(path, rule) of all findings about an object of that metadata."""
    return [(each.path, each.rule) for each in metadata.wrong({"name": "dev", "namespace": "growth", **more})]


def test_plain_metadata_has_no_finding() -> None:
    more = {"labels": {"a.io/b": "", "c": "D_1"}, "annotations": {"A.io/b": "any\ntext"}, "finalizers": ["a.io/b"]}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}
    assert rules(**more, ownerReferences=[owner], creationTimestamp=None, resourceVersion="3") == []
    assert list(metadata.wrong({"generateName": "dev-"})) == []


@pytest.mark.parametrize(
    ("more", "path", "rule"),
    [
        ({"name": "Dev"}, "metadata.name", "metadata.name"),
        ({"name": ""}, "metadata.name", "metadata.name"),
        ({"name": 3}, "metadata.name", "metadata.type"),
        ({"namespace": "a.b"}, "metadata.namespace", "metadata.namespace"),
        ({"lables": {}}, "metadata.lables", "schema.unknown-field"),
        ({"labels": []}, "metadata.labels", "metadata.type"),
        ({"labels": {"a": True}}, "metadata.labels.a", "metadata.type"),
        ({"labels": {"a": "b c"}}, "metadata.labels.a", "metadata.label-value"),
        ({"labels": {"a b": "c"}}, "metadata.labels[a b]", "metadata.label-key"),
        ({"annotations": {"a b": "c"}}, "metadata.annotations[a b]", "metadata.annotation-key"),
        ({"annotations": {"a": 1}}, "metadata.annotations.a", "metadata.type"),
        ({"annotations": {"a": "x" * 2**18}}, "metadata.annotations", "metadata.annotations-size"),
        ({"finalizers": ["a b"]}, "metadata.finalizers[0]", "metadata.finalizer"),
        ({"managedFields": [{}]}, "metadata.managedFields", "metadata.managed-fields"),
    ],
)
def test_a_finding_has_the_path_of_the_problem(more: dict[str, Any], path: str, rule: str) -> None:
    assert (path, rule) in rules(**more)


def test_metadata_that_is_no_object_has_a_finding() -> None:
    assert [each.rule for each in metadata.wrong(None)] == ["metadata.type"]


def test_the_remedy_for_a_number_as_a_label_is_quotes() -> None:
    [finding] = metadata.labels({"team": 7}, "metadata.labels")
    assert finding.remedy == 'Write it in quotes: "7".'
