"""Checks of a whole object: its kind and version, which rules apply when, and the resulting sentences."""

from __future__ import annotations

import copy
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight.check import check, compiled, preflight
from tests.kubernetes.preflight.shapes import own, put

TEMPLATE = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
GROUP = {
    "type": "object",
    "required": ["template"],
    "properties": {
        "groupName": {"type": "string"},
        "replicas": {"type": "integer", "format": "int32"},
        "minReplicas": {"type": "integer", "format": "int32", "default": 0},
        "maxReplicas": {"type": "integer", "format": "int32"},
        "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
        "template": TEMPLATE,
    },
}
FIXED = {"rule": "self == oldSelf", "message": "the managedBy field is immutable"}
CRD: dict[str, Any] = {
    "kind": "CustomResourceDefinition",
    "spec": {
        "group": "ray.io",
        "scope": "Namespaced",
        "names": {"kind": "RayCluster", "plural": "rayclusters"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["headGroupSpec"],
                                "properties": {
                                    "rayVersion": {"type": "string"},
                                    "managedBy": {"type": "string", "x-kubernetes-validations": [FIXED]},
                                    "headGroupSpec": GROUP,
                                    "workerGroupSpecs": {"type": "array", "items": GROUP},
                                    "suspend": {"type": "boolean"},
                                },
                            }
                        },
                    }
                },
            },
            {"name": "v1alpha1", "served": False},
        ],
    },
}


def cluster(*changes: tuple[str, Any]) -> dict[str, Any]:
    """A RayCluster that the definition above takes, changed."""
    manifest = own("fixed")
    manifest["spec"] = {key: manifest["spec"][key] for key in ("rayVersion", "headGroupSpec", "workerGroupSpecs")}
    for path, value in changes:
        put(manifest, path, value)
    return manifest


def rules(manifest: dict[str, Any], **more: Any) -> list[str]:
    return [finding.rule for finding in check(manifest, CRD, **more)]


def test_a_valid_object_has_no_finding_and_is_not_modified() -> None:
    manifest = cluster()
    before = copy.deepcopy(manifest)
    assert check(manifest, CRD) == []
    assert manifest == before


def test_all_problems_are_found_at_once() -> None:
    manifest = cluster(
        ("metadata.labels['team']", "a b"),
        ("spec.workerGroupSpecs[0].minReplicas", 5),
        ("spec.workersGroupSpecs", []),
        ("spec.headGroupSpec.template.spec.volumes", []),
    )
    broken = rules(manifest)
    assert sorted(broken) == ["metadata.label-value", "pod.mount", "ray.min-over-max", "schema.unknown-field"]


def test_the_operators_rules_are_skipped_while_types_are_wrong() -> None:
    manifest = cluster(("spec.workerGroupSpecs[0].minReplicas", "5"), ("spec.headGroupSpec.template.spec.volumes", []))
    assert rules(manifest) == ["schema.type"]


def test_another_kind_is_refused() -> None:
    assert rules(own("job")) == ["schema.kind"]
    assert rules(cluster(("apiVersion", "ray.com/v1"))) == ["schema.kind"]


def test_a_version_that_is_not_served_is_refused_with_one_that_is() -> None:
    [finding] = check(cluster(("apiVersion", "ray.io/v1alpha1")), CRD)
    assert (finding.rule, finding.remedy) == ("schema.version", "Known here: v1.")


def test_a_change_of_an_immutable_field_has_a_finding() -> None:
    mine = cluster(("spec.managedBy", "a"))
    assert rules(mine) == []
    assert rules(mine, old=mine) == []
    assert rules(cluster(("spec.managedBy", "b")), old=mine) == ["cel"]
    assert rules(cluster(), old=mine) == ["ray.managed-by-unset"]


def test_a_definition_is_compiled_once_and_another_one_again() -> None:
    other = copy.deepcopy(CRD)
    assert compiled(CRD) is compiled(CRD)
    assert compiled(CRD) is not compiled(other)
    assert compiled(CRD).versions.keys() == {"v1"}


def test_findings_become_sentences_with_their_remedies() -> None:
    said = preflight([cluster(("spec.workerGroupSpecs[0].minReplicas", 5))], {"RayCluster": CRD})
    assert said == [
        "RayCluster 'shape': spec.workerGroupSpecs[0].minReplicas: 5 is more than maxReplicas, 2. "
        "Lower minReplicas, or raise maxReplicas."
    ]


def test_preflight_compares_the_present_object_with_the_new_one() -> None:
    mine = cluster(("spec.managedBy", "a"))
    [said] = preflight([cluster()], {"RayCluster": CRD}, old={"RayCluster": mine})
    assert "can't be taken away" in said


def test_a_missing_kuberay_has_a_finding() -> None:
    [said] = preflight([cluster()], {})
    assert "knows no such kind. Install KubeRay" in said


def test_kubernetes_own_kinds_are_left_to_the_api_server() -> None:
    assert preflight([{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}], {}) == []
