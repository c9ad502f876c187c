"""The audit log over HTTP: refused requests with their address, rights to read it, pages, and forwarded addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.api.app import create_app
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.refusals import Refusals
from rayplane.settings import GatewaySettings
from tests.unit.gateway.api.served import platform_without_compute, serve


@pytest.fixture
def refusals(platform: Platform) -> Refusals:
    return Refusals(platform.store)


@pytest.fixture
def noting(platform: Platform, refusals: Refusals) -> TestClient:
    """A client without a token, of an app that notes its refusals."""
    return TestClient(create_app(platform, refusals=refusals), client=("10.1.2.3", 4711))


def rows(platform: Platform, refusals: Refusals) -> list[dict[str, Any]]:
    assert refusals.write(all_of_them=True)
    return platform.store.audit_log(None, action="refuse").items


def headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_request_without_a_token_is_in_the_audit_log(
    platform: Platform, refusals: Refusals, noting: TestClient
) -> None:
    for _ in range(3):
        assert noting.get("/v1/teams/growth?token=abcdef").status_code == 401
    (row,) = rows(platform, refusals)
    assert (row["principal"], row["team"]) == ("", "")
    detail = row["detail"]
    assert (detail["address"], detail["method"], detail["path"]) == ("10.1.2.3", "GET", "/v1/teams/growth")
    assert (detail["status"], detail["reason"], detail["count"]) == (401, "unauthenticated", 3)


def test_a_wrong_token_has_its_own_reason_and_is_not_in_the_audit_row(
    platform: Platform, refusals: Refusals, noting: TestClient
) -> None:
    assert noting.get("/v1/teams", headers=headers("wrong-token-of-a-stranger")).status_code == 401
    assert noting.get("/growth/dev/api/version", headers=headers("wrong-token-of-a-stranger")).status_code == 403
    refused = rows(platform, refusals)
    assert {(row["detail"]["status"], row["detail"]["reason"]) for row in refused} == {
        (401, "unknown-token"),
        (403, "unknown-token"),
    }
    assert "stranger" not in str(refused)


def test_only_refusals_of_a_teams_own_principals_are_in_the_teams_log(
    platform: Platform, refusals: Refusals, growth: TestClient, noting: TestClient
) -> None:
    cluster = platform.store.get("Cluster", "growth", "dev")
    token = platform.signer.cluster_token("growth", cluster.metadata.uid)
    answer = noting.put("/v1/teams/growth/clusters/more", json={"spec": {}}, headers=headers(token))
    assert answer.status_code == 403
    assert noting.get("/v1/teams/growth").status_code == 401
    refusals.write(all_of_them=True)
    (row,) = growth.get("/v1/teams/growth/audit?action=refuse").json()["items"]
    assert row["principal"] == f"cluster:{cluster.metadata.uid}"
    assert row["name"] == "/v1/teams/{team}/clusters/{name}"
    assert (row["detail"]["status"], row["detail"]["reason"]) == (403, "forbidden")
    assert len(growth.get("/v1/audit?action=refuse").json()["items"]) == 2


def test_a_logged_path_is_short_and_has_no_control_characters_and_no_token(
    platform: Platform, refusals: Refusals, noting: TestClient
) -> None:
    secret = "s3cr3t" * 8
    assert noting.get(f"/v1/{secret}/%1b%5b31m/%00/{'a' * 30}/{'long/' * 200}").status_code == 401
    (row,) = rows(platform, refusals)
    path = row["detail"]["path"]
    assert path.startswith(r"/v1/***/\x1b[31m/\x00/aaa")
    assert len(path) == 200
    assert (row["name"], row["detail"]["reason"]) == ("unmatched", "unauthenticated")


def test_a_refused_websocket_is_in_the_audit_log(platform: Platform, refusals: Refusals, noting: TestClient) -> None:
    with pytest.raises(Exception), noting.websocket_connect("/growth/dev/api/jobs/x/logs/tail"):  # noqa: B017
        pass
    (row,) = rows(platform, refusals)
    assert row["detail"]["method"] == "WEBSOCKET"
    assert row["detail"]["reason"] == "unauthenticated"


@pytest.mark.parametrize(
    "principal",
    [
        Principal("ada", "admin", team="growth"),
        Principal("bob", "member", team="growth"),
        Principal("vera", "viewer"),
        Principal("prometheus", "metrics"),
        Principal("cluster:u1", "cluster", team="growth", cluster_uid="u1"),
    ],
)
def test_only_the_platforms_admins_read_the_log_of_all_teams(
    growth: TestClient, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def identify(*_: object) -> Principal:
        return principal

    monkeypatch.setattr("rayplane.gateway.api.auth._identify", identify)
    assert growth.get("/v1/audit").status_code == 403


def test_the_log_of_all_teams_has_pages_and_filters_by_action_team_and_time(api: TestClient) -> None:
    for team in ("growth", "ads", "search"):
        assert api.put(f"/v1/teams/{team}", json={"spec": {}}).is_success
        assert api.put(f"/v1/teams/{team}/clusters/dev", json={"spec": {}}).is_success
    assert api.post("/v1/teams/ads/clusters/dev/suspend").is_success
    names, cursor = [], ""
    while cursor is not None:
        page = api.get(f"/v1/audit?limit=2&action=apply{cursor and f'&cursor={cursor}'}").json()
        names += [(item["team"], item["kind"]) for item in page["items"]]
        cursor = page["next_cursor"]
    assert names == [(team, kind) for team in ("search", "ads", "growth") for kind in ("Cluster", "Team")]
    assert [i["action"] for i in api.get("/v1/audit?team=ads").json()["items"]] == ["suspend", "apply", "apply"]
    newest = api.get("/v1/audit?limit=1").json()["items"][0]
    assert newest["action"] == "suspend"
    since = api.get("/v1/audit", params={"since": newest["time"]}).json()["items"]
    assert since[0]["id"] == newest["id"]
    assert len(since) < 7
    assert api.get("/v1/audit?since=2999-01-01T00:00:00Z").json()["items"] == []
    assert api.get("/v1/audit?since=2026-01-01T00:00:00").status_code == 422
    assert api.get("/v1/audit?cursor=WyJ4Il0").status_code == 422


@pytest.fixture(params=[[], ["127.0.0.0/8"]], ids=["no-proxy", "a-trusted-proxy"])
def behind(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[tuple[bool, str, Refusals, Platform]]:
    with platform_without_compute(tmp_path) as platform:
        settings = GatewaySettings.model_validate({**platform.settings.model_dump(), "trusted_proxies": request.param})
        refusals = Refusals(platform.store)
        with serve(platform, settings=settings, refusals=refusals) as url:
            yield bool(request.param), url, refusals, platform


def test_a_forwarded_address_is_only_trusted_from_a_trusted_proxy(
    behind: tuple[bool, str, Refusals, Platform],
) -> None:
    trusted, url, refusals, platform = behind
    assert httpx.get(f"{url}/v1/teams", headers={"X-Forwarded-For": "6.6.6.6, 10.9.8.7"}).status_code == 401
    (row,) = rows(platform, refusals)
    assert row["detail"]["address"] == ("10.9.8.7" if trusted else "127.0.0.1")
