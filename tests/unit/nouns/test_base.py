"""Input that the nouns' base types refuse: times and amounts out of range, names, text that can't be encoded."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rayplane.errors import InvalidSpec
from rayplane.nouns.base import MOST_LEVELS, Condition, Document, Object, check_json, check_name, parse, parse_duration
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.job import JobSpec, Resources
from rayplane.nouns.model import Threshold
from rayplane.nouns.team import TeamSpec, check_team_name


@pytest.mark.parametrize("said", ["9999999d", "999999999999d", 1e300, float("inf"), float("nan")])
def test_a_duration_too_long_to_add_to_a_date_is_refused(said: str | float) -> None:
    with pytest.raises(ValidationError, match="is longer than 36500 days"):
        ClusterSpec(max_lifetime=said)  # type: ignore[arg-type]
    assert ClusterSpec(max_lifetime="36500d").max_lifetime == 36_500 * 86_400  # type: ignore[arg-type]


@pytest.mark.parametrize(("said", "seconds"), [("1h30m", 5400), ("1.5s20ms", 1.52), (" 2d ", 172_800), ("7", None),
    ("1", None), ("1 h", None), ("1h 30m", None), ("h", None), ("1.h", None), ("", None), ("-1s", None)])  # fmt: skip
def test_a_duration_is_numbers_that_each_have_a_unit(said: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError, match="is not a duration"):
            parse_duration(said)
    else:
        assert parse_duration(said) == pytest.approx(seconds)


def test_a_number_of_a_million_digits_is_no_duration_and_is_refused_before_the_test_gives_up() -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration("9" * 1_000_000)


@pytest.mark.parametrize("said", [float("inf"), float("nan"), "9" * 400])
def test_an_amount_that_is_not_finite_is_refused(said: str | float) -> None:
    with pytest.raises(ValidationError, match="is no amount"):
        Resources(cpu=said)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mlflow", "growth\n"])
def test_a_reserved_or_malformed_team_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"another name|is not a name"):
        check_team_name(check_name(name))


@pytest.mark.parametrize("step", ["nightly", "a/b", "a//c", "a/b/"])
def test_a_step_is_named_by_pipeline_run_and_step(step: str) -> None:
    with pytest.raises(ValidationError, match="is no step of a run"):
        JobSpec(entrypoint="true", cluster="dev", pipeline=step)
    assert JobSpec(entrypoint="true", cluster="dev", pipeline="a/b/c.d").pipeline == "a/b/c.d"


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)  # in YAML: &a [*a]
    return circle


@pytest.mark.parametrize(
    ("value", "why"),
    [("\ud800", "half of a surrogate pair"), (_circle(), "holds itself"), (_deep(), "nested too deeply")],
)
def test_a_value_that_cannot_be_stored_as_json_is_refused(value: Any, why: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"job\.spec: it .*{why}"):
        parse(JobSpec, {"entrypoint": "true", "cluster": "dev", "values": {"a": value}}, "job.spec")


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_an_instant_that_has_no_date_in_utc_is_refused(at: str) -> None:
    with pytest.raises(InvalidSpec, match="is in no year of UTC"):
        parse(Condition, {"type": "Ready", "status": "True", "last_transition_time": at}, "condition")
    at = at.replace("+", "*").replace("-23:59", "+23:59").replace("*", "-")
    parse(Condition, {"type": "Ready", "status": "True", "last_transition_time": at}, "condition")


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_a_whole_number_too_large_for_a_float_is_refused(number: int) -> None:
    with pytest.raises(InvalidSpec, match=r"job\.resources\.cpu: .* is no amount"):
        parse(JobSpec, {"entrypoint": "true", "cluster": "dev", "resources": {"cpu": number}}, "job")
    with pytest.raises(InvalidSpec, match=r"cluster\.max_lifetime: "):
        parse(ClusterSpec, {"max_lifetime": number}, "cluster")


def test_a_value_of_a_hundred_levels_is_accepted_and_a_deeper_one_refused() -> None:
    value: Any = "x"
    for _ in range(MOST_LEVELS - 1):
        value = [value]
    assert check_json(value) == value
    with pytest.raises(ValueError, match="nested too deeply"):
        check_json({"a": value})


@pytest.mark.parametrize(
    "labels", [{"a\0": "x"}, {"a": "x\x1b[2J"}, {"a": "\u202e"}, {"": "x"}, {'"': "x"}, {"\\": "x"}]
)
def test_a_label_with_control_characters_or_a_key_that_no_query_can_name_is_refused(labels: dict[str, str]) -> None:
    document = {"kind": "Team", "metadata": {"name": "growth", "labels": labels}}
    with pytest.raises(InvalidSpec, match=r"team\.metadata: "):
        parse(Document, document, "team")
    # An object that was stored before this rule can still be read.
    assert Object.model_validate(document).metadata.labels == labels


def test_a_count_above_the_maximum_is_read_from_the_store_but_refused_in_a_request() -> None:
    stored = {"quota": {"clusters": 5_000_000_000}}
    assert TeamSpec.model_validate(stored).quota.clusters == 5_000_000_000
    with pytest.raises(InvalidSpec, match=r"quota\.clusters: Input should be less than or equal to 2147483647"):
        parse(TeamSpec, stored, "team.spec")


@pytest.mark.parametrize(("asked", "bound"), [(0.5, 0.5), (1, 1.0), ("1e-3", 0.001), ("5E4", 50_000.0)])
def test_a_bound_is_a_number_also_as_yaml_reads_it(asked: object, bound: float) -> None:
    assert parse(Threshold, {"max": asked}, "threshold").max == bound


@pytest.mark.parametrize("asked", ["0.5", "five", True, "1e-3 "])
def test_a_bound_that_is_another_text_or_a_truth_value_is_refused(asked: object) -> None:
    with pytest.raises(InvalidSpec, match="max"):
        parse(Threshold, {"max": asked}, "threshold")
