"""What nouns refuse: times and amounts that nothing can hold, names, text that can't be written."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rayplane.errors import InvalidSpec
from rayplane.nouns.base import check_name, parse
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.job import JobSpec, Resources
from rayplane.nouns.team import check_team_name


@pytest.mark.parametrize("said", ["9999999d", "999999999999d", 1e300, float("inf"), float("nan")])
def test_a_time_that_no_date_can_hold_is_refused(said: str | float) -> None:
    with pytest.raises(ValidationError, match="is longer than 36500 days"):
        ClusterSpec(max_lifetime=said)  # type: ignore[arg-type]
    assert ClusterSpec(max_lifetime="36500d").max_lifetime == 36_500 * 86_400  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [float("inf"), float("nan"), "9" * 400])
def test_an_amount_that_is_not_finite_is_refused(said: str | float) -> None:
    with pytest.raises(ValidationError, match="is no amount"):
        Resources(cpu=said)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mlflow", "growth\n"])
def test_a_team_may_not_be_called_so(name: str) -> None:
    with pytest.raises(ValueError, match=r"another name|is not a name"):
        check_team_name(check_name(name))


@pytest.mark.parametrize("step", ["nightly", "a/b", "a//c", "a/b/"])
def test_a_step_is_named_whole(step: str) -> None:
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
def test_what_can_not_be_written_is_refused(value: Any, why: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"job\.spec: it .*{why}"):
        parse(JobSpec, {"entrypoint": "true", "cluster": "dev", "values": {"a": value}}, "job.spec")
