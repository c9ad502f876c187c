"""The structural schema of a CRD, applied as the API server applies it."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.gateway.backends.kubernetes.preflight.schema import ABSENT, Node, filled, twice, unknown, wrong

SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "string", "minLength": 2, "maxLength": 8},
        "count": {"type": "integer", "format": "int32", "minimum": 0, "default": 1},
        "big": {"type": "integer", "format": "int64"},
        "share": {"type": "number", "maximum": 1, "exclusiveMaximum": True},
        "on": {"type": "boolean"},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "amount": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 2},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "maybe": {"type": "string", "nullable": True},
        "names": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "minItems": 1},
        "until": {"type": "string", "format": "date-time"},
        "code": {"type": "string", "pattern": "^[a-z]+$"},
        "object": {
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "properties": {"spec": {"type": "object"}},
        },
        "ports": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {
                "type": "object",
                "required": ["port"],
                "properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}},
            },
        },
    },
}
NODE = Node({"type": "object", "properties": {"spec": SPEC}})


def rules(spec: Any, *, old: Any = ABSENT) -> list[tuple[str, str]]:
    """(path, rule) of all findings about a spec."""
    manifest = {"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "x"}, "spec": spec}
    stored = filled(manifest, NODE)
    before = old if old is ABSENT else filled({"spec": old}, NODE)
    findings = [*unknown(manifest, NODE), *wrong(stored, NODE, old=before), *twice(stored, NODE)]
    return [(finding.path.removeprefix("spec."), finding.rule.removeprefix("schema.")) for finding in findings]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"count": 0},
        {"count": 3.0},
        {"share": 0},
        {"amount": 3},
        {"amount": "3"},
        {"labels": {"a": "b"}},
        {"free": {"any": [1, {"thing": None}]}},
        {"maybe": None},
        {"count": None},
        {"names": ["a", "b"]},
        {"until": "2026-01-31T12:00:00Z"},
        {"big": 2**62},
        {"ports": [{"port": 1}, {"port": 1, "protocol": "UDP"}]},
        {"object": {"apiVersion": "v1", "kind": "Pod", "spec": {}}},
    ],
)
def test_a_value_that_fits_the_schema_has_no_finding(more: dict[str, Any]) -> None:
    assert rules({"size": "small", **more}) == []


@pytest.mark.parametrize(
    ("more", "path", "rule"),
    [
        ({"size": 3}, "size", "type"),
        ({"size": "s"}, "size", "min-length"),
        ({"size": "s" * 9}, "size", "max-length"),
        ({"size": None}, "size", "null"),
        ({"count": "1"}, "count", "type"),
        ({"count": True}, "count", "type"),
        ({"count": 1.5}, "count", "type"),
        ({"count": -1}, "count", "minimum"),
        ({"count": 2**31}, "count", "format"),
        ({"big": 2**63}, "big", "format"),
        ({"share": 1}, "share", "maximum"),
        ({"on": "yes"}, "on", "type"),
        ({"mode": "Fast"}, "mode", "enum"),
        ({"amount": 1.5}, "amount", "type"),
        ({"amount": True}, "amount", "type"),
        ({"labels": {"a": 1}}, "labels.a", "type"),
        ({"labels": {"a/b": 1}}, "labels[a/b]", "type"),
        ({"labels": {"a": "1", "b": "2", "c": "3"}}, "labels", "max-properties"),
        ({"names": []}, "names", "min-items"),
        ({"names": ["a", "a"]}, "names[1]", "duplicate"),
        ({"until": "tomorrow"}, "until", "format"),
        ({"code": "a\n"}, "code", "pattern"),
        ({"ports": [{"port": 1}, {"port": 1, "protocol": "TCP"}]}, "ports[1]", "duplicate"),
        ({"ports": [{}]}, "ports[0].port", "required"),
        ({"sizes": "x"}, "sizes", "unknown-field"),
        ({"ports": [{"port": 1, "prot": "TCP"}]}, "ports[0].prot", "unknown-field"),
        ({"object": {"kind": "Pod"}}, "object.apiVersion", "embedded"),
    ],
)
def test_a_value_that_does_not_fit_the_schema_has_a_finding_with_its_path(
    more: dict[str, Any], path: str, rule: str
) -> None:
    assert rules({"size": "small", **more}) == [(path, rule)]


def test_a_missing_required_field_has_a_finding() -> None:
    assert rules({}) == [("size", "required")]


def test_an_unknown_field_names_the_one_that_was_meant() -> None:
    [finding] = unknown({"spec": {"size": "ab", "modes": "fast"}}, NODE)
    assert finding.remedy == "Did you mean 'mode'?"
    assert str(finding) == "spec.modes: unknown field. Did you mean 'mode'?"


def test_defaults_are_filled_in_at_every_depth() -> None:
    stored = filled({"spec": {"size": "ab", "count": None, "ports": [{"port": 1}], "other": 1}}, NODE)
    assert stored == {"spec": {"size": "ab", "count": 1, "ports": [{"port": 1, "protocol": "TCP"}]}}


def test_filling_in_defaults_does_not_modify_its_argument() -> None:
    argument = {"spec": {"size": "ab", "ports": [{"port": 1}]}}
    filled(argument, NODE)
    assert argument == {"spec": {"size": "ab", "ports": [{"port": 1}]}}


def test_an_old_mistake_in_an_unchanged_value_passes() -> None:
    assert rules({"size": "small", "mode": "old"}, old={"size": "small", "mode": "old"}) == []
    assert rules({"size": "small", "mode": "odd"}, old={"size": "small", "mode": "old"}) == [("mode", "enum")]
    ports = [{"port": "x"}, {"port": "y"}]
    assert rules({"size": "small", "ports": ports}, old={"size": "small", "ports": ports[:1]}) == [
        ("ports[1].port", "type")
    ]


def test_the_number_one_is_not_equal_to_true() -> None:
    assert rules({"size": "small", "on": 1}, old={"size": "small", "on": True}) == [("on", "type")]


def test_all_of_any_of_one_of_and_not_are_checked() -> None:
    either = Node({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}})
    assert [finding.rule for finding in wrong({"a": 1}, either)] == []
    assert [finding.rule for finding in wrong({"a": 1, "b": 1}, either)] == ["schema.one-of"]
    assert [finding.rule for finding in wrong({"a": 1, "c": 1}, either)] == ["schema.not"]
    both = Node({"type": "integer", "allOf": [{"minimum": 1}], "anyOf": [{"maximum": 2}, {"minimum": 9}]})
    assert [finding.rule for finding in wrong(0, both)] == ["schema.minimum"]
    assert [finding.rule for finding in wrong(5, both)] == ["schema.any-of"]
