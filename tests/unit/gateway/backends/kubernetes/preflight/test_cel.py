"""CEL rules of a schema, on creation and on change."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.gateway.backends.kubernetes.preflight.cel import broken, unjudged
from rayplane.gateway.backends.kubernetes.preflight.schema import ABSENT, Json, Node

TEXT = {"type": "string"}
NUMBERS = {"type": "array", "items": {"type": "integer"}}


def said(rule: dict[str, Any] | str, schema: dict[str, Any], value: Json, *, old: Json = ABSENT) -> list[str]:
    """Messages of the rules that a value breaks."""
    rule = {"rule": rule} if isinstance(rule, str) else rule
    node = Node({**schema, "x-kubernetes-validations": [rule]})
    return [finding.message for finding in broken(value, node, "here", old, root=False)]


@pytest.mark.parametrize(
    ("rule", "schema", "good", "bad"),
    [
        ("self in ['a', 'b']", TEXT, "a", "c"),
        ("self.startsWith('a') && self.size() < 3", TEXT, "ab", "abc"),
        ("self.matches('^[0-9]+$')", TEXT, "12", "x"),
        ("self.find('[0-9]+') == '12'", TEXT, "a12b", "a1b"),
        ("self.findAll('[0-9]').size() == 2", TEXT, "1a2", "1a"),
        ("self.split('/')[0] == 'a'", TEXT, "a/b", "b/a"),
        ("self.lowerAscii() == 'ab'", TEXT, "Ab", "c"),
        ("self.replace('a', 'b').substring(1) == 'b'", TEXT, "aa", "ac"),
        ("self.trim().charAt(0) == 'x'", TEXT, " x", "y"),
        ("self.indexOf('b') == 1 && self.lastIndexOf('b') == 2", TEXT, "abb", "bab"),
        ("self.sum() <= 3 && self.isSorted()", NUMBERS, [1, 2], [2, 1]),
        ("self.max() == 2 && self.min() == 1", NUMBERS, [2, 1], [3, 1]),
        ("self.all(x, x > 0) && self.exists(x, x == 2)", NUMBERS, [1, 2], [0, 2]),
        ("self.map(x, x * 2).filter(x, x > 2).size() == 1", NUMBERS, [1, 2], [2, 2]),
        ("isQuantity(self) && quantity(self).isLessThan(quantity('1Gi'))", TEXT, "900Mi", "2Gi"),
        ("quantity(self).add(quantity('1')).compareTo(quantity('3')) == 0", TEXT, "2", "3"),
        ("quantity(self).isInteger() && quantity(self).asInteger() == 2", TEXT, "2k", "2"),
    ],
)
def test_a_rule_holds_for_valid_values_and_is_broken_by_others(
    rule: str, schema: dict[str, Any], good: Json, bad: Json
) -> None:
    if "asInteger() == 2" in rule:
        good, bad = "2", "2500m"
    assert said(rule, schema, good) == []
    assert said({"rule": rule, "message": "no."}, schema, bad) == ["no"]


def test_cel_sees_fields_by_their_type_and_their_escaped_name() -> None:
    schema = {
        "type": "object",
        "properties": {"share": {"type": "number"}, "a-b": TEXT, "in": TEXT, "tags": {"type": "object"}},
    }
    assert said("self.share < 2.0", schema, {"share": 1}) == []
    assert said("self.a__dash__b == 'x' && self.__in__ == 'y'", schema, {"a-b": "x", "in": "y"}) == []
    assert said("has(self.share) || has(self.tags)", schema, {}) != []


def test_the_keys_of_a_map_are_not_escaped() -> None:
    schema = {"type": "object", "additionalProperties": TEXT}
    assert said("self.all(key, self[key] == 'x') && 'a-b' in self", schema, {"a-b": "x"}) == []


def test_a_rule_of_the_whole_object_sees_only_the_name_of_its_metadata() -> None:
    node = Node(
        {
            "type": "object",
            "properties": {"metadata": {"type": "object"}, "spec": {"type": "object", "properties": {"a": TEXT}}},
            "x-kubernetes-validations": [{"rule": "self.metadata.name == self.spec.a && !has(self.metadata.labels)"}],
        }
    )
    assert list(broken({"metadata": {"name": "x", "labels": {}}, "spec": {"a": "x"}}, node)) == []


def test_a_rule_with_oldself_applies_to_changes_only() -> None:
    fixed = {"rule": "self == oldSelf", "message": "is immutable"}
    assert said(fixed, TEXT, "a") == []
    assert said(fixed, TEXT, "a", old="a") == []
    assert said(fixed, TEXT, "a", old="b") == ["is immutable"]


def test_an_optional_oldself_has_a_value_on_changes_only() -> None:
    rule = {"rule": "oldSelf.hasValue() ? oldSelf.value() == self : self == 'first'", "optionalOldSelf": True}
    assert said(rule, TEXT, "first") == []
    assert said(rule, TEXT, "second") != []
    assert said(rule, TEXT, "second", old="second") == []
    assert said({"rule": "self == oldSelf.orValue('x')", "optionalOldSelf": True}, TEXT, "x") == []


def test_an_old_violation_in_an_unchanged_value_passes() -> None:
    assert said("self == 'a'", TEXT, "b", old="b") == []
    assert said("self == 'a'", TEXT, "b", old="c") != []


def test_items_of_maps_are_matched_by_key_and_those_of_other_lists_are_not() -> None:
    entry = {
        "type": "object",
        "properties": {
            "name": TEXT,
            "size": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]},
        },
    }
    schema = {"type": "array", "items": entry, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    old, new = (
        [{"name": "a", "size": 5}, {"name": "b", "size": 1}],
        [{"name": "b", "size": 2}, {"name": "a", "size": 4}],
    )
    assert [finding.path for finding in broken(new, Node(schema), "groups", old)] == ["groups[1].size"]
    assert list(broken(new, Node({**schema, "x-kubernetes-list-type": "atomic"}), "groups", old)) == []


def test_the_order_of_a_set_has_no_meaning() -> None:
    schema = {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"}
    assert said("self == oldSelf", schema, ["a", "b"], old=["b", "a"]) == []
    assert said("self == oldSelf", {**schema, "x-kubernetes-list-type": "atomic"}, ["a", "b"], old=["b", "a"]) != []


def test_a_message_may_be_an_expression_and_name_a_field() -> None:
    rule = {"rule": "self.a < 3", "messageExpression": "'has ' + string(self.a)", "fieldPath": ".a"}
    node = Node({"type": "object", "properties": {"a": {"type": "integer"}}, "x-kubernetes-validations": [rule]})
    [finding] = broken({"a": 7}, node, "spec", root=False)
    assert (finding.path, finding.message) == ("spec.a", "has 7")
    assert "self.a < 3" in finding.remedy


def test_a_rule_that_ends_in_an_error_counts_as_broken() -> None:
    assert "no such member" in said("self.a == 1", {"type": "object", "properties": {"a": {"type": "integer"}}}, {})[0]


def test_rules_that_cel_python_can_not_evaluate_are_left_to_the_api_server_and_listed() -> None:
    rules = ["self.?a.orValue(1) == 1", "cel.bind(x, self, x == 1)", "url(self).getHost() == 'x'", "self == 'a'"]
    node = Node(
        {
            "type": "object",
            "properties": {"a": {**TEXT, "x-kubernetes-validations": [{"rule": each} for each in rules]}},
        }
    )
    assert unjudged(node) == rules[:3]
    assert [finding.remedy for finding in broken({"a": "b"}, node)] == ["The resource's own rule is: self == 'a'"]
