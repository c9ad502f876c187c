"""Roles, and the limits that a team's own admin may not raise."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.errors import Forbidden
from rayplane.gateway.admission.grants import raised
from rayplane.gateway.admission.roles import SYSTEM, Principal, authorize, may
from rayplane.nouns.team import TeamSpec

GIVEN = {
    "quota": {"cpu": 8, "memory": "16Gi", "clusters": 2},
    "sizes": {"small": {"cpu": 2, "memory": "4Gi"}},
    "idle_timeout": "1h",
    "delete_after_idle": "2h",
    "max_lifetime": "8h",
    "max_extension": "4h",
}


@pytest.mark.parametrize("action", ["metrics", "operate"])
def test_actions_on_all_teams_are_forbidden_to_a_teams_own_admin(action: Any) -> None:
    with pytest.raises(Forbidden, match="belongs to team 'growth', and this concerns all teams"):
        authorize(Principal(name="tia", role="admin", team="growth"), action)
    authorize(Principal(name="ada", role="admin"), action)
    authorize(SYSTEM, action)


def test_only_the_metrics_role_and_admins_read_metrics() -> None:
    assert may(Principal(name="prometheus", role="metrics"), "metrics")
    for role in ("member", "viewer", "cluster"):
        assert not may(Principal(name="x", role=role), "metrics")  # type: ignore[arg-type]
        assert not may(Principal(name="x", role=role), "operate")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({}, []),
        ({"members": {"bo": "admin"}}, []),
        ({"quota": {"cpu": 4, "memory": "1Gi", "gpu": 2, "clusters": 1}}, []),
        ({"quota": {"cpu": 9, "memory": "16Gi", "clusters": 2}}, ["quota.cpu"]),
        ({"quota": {}}, ["quota.cpu", "quota.memory", "quota.clusters"]),
        ({"quota": {"cpu": 8, "memory": "16Gi", "clusters": 3}}, ["quota.clusters"]),
        ({"quota": {"cpu": 8, "memory": "16Gi", "clusters": 2, "jobs": 10_001}}, ["quota.jobs"]),
        ({"quota": {"cpu": 8, "memory": "16Gi", "clusters": 2, "jobs": None}}, ["quota.jobs"]),
        ({"sizes": {"small": {"cpu": 1, "memory": "1Gi"}}}, []),
        ({"sizes": {"small": {"cpu": 2, "memory": "4Gi", "gpu": 1}}}, ["sizes.small"]),
        ({"sizes": {"small": {"cpu": 2, "memory": "4Gi"}, "new": {"cpu": 1, "memory": "1Gi"}}}, ["sizes.new"]),
        ({"backend": "existing"}, ["backend"]),
        ({"idle_timeout": "30m", "max_lifetime": "1h", "max_extension": 0}, []),
        ({"idle_timeout": None}, ["idle_timeout"]),
        ({"delete_after_idle": "3h"}, ["delete_after_idle"]),
        ({"max_lifetime": "9h", "max_extension": "5h"}, ["max_lifetime", "max_extension"]),
    ],
)
def test_only_the_limits_that_are_raised_are_named(change: dict[str, Any], more: list[str]) -> None:
    before, wanted = (TeamSpec.model_validate(spec) for spec in (GIVEN, {**GIVEN, **change}))
    assert raised(before, wanted) == more
