"""Changes of a team that its own admin may make, and those that only an admin of the platform may."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.errors import Forbidden
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.usecases.plan import plan
from rayplane.nouns.base import Document, Metadata

TIA = Principal(name="tia", role="admin", team="growth")
SIZES = {"small": {"cpu": 2, "memory": "4Gi"}}


@pytest.fixture
def limited(bench: Any) -> Any:
    """Team ``growth`` with a quota."""
    bench.apply("Team", "growth", {"quota": {"cpu": 8}, "sizes": SIZES}, team="")
    return bench


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"quota": {"cpu": 16}, "sizes": SIZES}, "quota.cpu"),
        ({"quota": {}, "sizes": SIZES}, "quota.cpu"),
        ({"quota": {"cpu": 8}, "sizes": {"small": {"cpu": 4, "memory": "4Gi"}}}, "sizes.small"),
    ],
)
def test_a_teams_admin_may_not_raise_the_teams_limits(limited: Any, spec: dict[str, Any], field: str) -> None:
    before = limited.store.get("Team", "", "growth")
    with pytest.raises(Forbidden, match=f"'tia' may not give team 'growth' more than the platform did: {field}"):
        limited.apply("Team", "growth", spec, team="", principal=TIA)
    assert limited.store.get("Team", "", "growth") == before
    document = Document(kind="Team", metadata=Metadata(name="growth"), spec=spec)
    (planned,) = plan([document], team=None, principal=TIA, platform=limited.platform).documents
    assert [refusal.code for refusal in planned.forbidden] == ["forbidden"]


def test_a_teams_admin_may_lower_limits_and_add_members(limited: Any) -> None:
    spec = {"quota": {"cpu": 4}, "sizes": SIZES, "members": {"bo": "member"}}
    assert limited.apply("Team", "growth", spec, team="", principal=TIA)[1] == "changed"
    assert limited.store.get("Team", "", "growth").spec_data["members"] == {"bo": "member"}


def test_a_teams_admin_may_not_create_the_team(empty: Any) -> None:
    with pytest.raises(Forbidden, match="Team 'growth' is not there, and 'tia' may not make it"):
        empty.apply("Team", "growth", {}, team="", principal=TIA)
    assert list(empty.store.each("Team", "")) == []


def test_an_admin_of_the_platform_may_raise_the_teams_limits(limited: Any) -> None:
    assert limited.apply("Team", "growth", {"quota": {"cpu": 64}, "sizes": SIZES}, team="")[1] == "changed"
