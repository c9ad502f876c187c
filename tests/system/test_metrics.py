"""Prometheus discovers the gateway and all clusters as they come and go; rules and dashboard work on real data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.local_platform import LocalPlatform, until

pytestmark = pytest.mark.slow

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "rayplane.json"
TEAM, CLUSTER = "metered", "gauge"


@pytest.fixture(scope="module")
def prometheus(platform_up: LocalPlatform, prometheus_binary: Path) -> str:
    """URL of the running Prometheus."""
    url = platform_up.state.prometheus_url
    assert url is not None, f"{prometheus_binary} is there, so `up` must have started it"
    return url


@pytest.fixture(scope="module")
def cluster(platform_up: LocalPlatform, prometheus: str) -> Iterator[str]:
    """A real cluster that Prometheus has scraped; deleted at the end, when it must vanish from the targets."""
    with platform_up.client as api:
        api.teams.apply(TEAM, spec={})
        api.clusters.apply(TEAM, CLUSTER, {"size": "small"})
        api.clusters.wait(TEAM, CLUSTER, timeout=180)
        until(lambda: any_up(prometheus), seconds=90, what="Prometheus has read the cluster's nodes")
        yield CLUSTER
        api.clusters.delete(TEAM, CLUSTER)
        api.clusters.wait_deleted(TEAM, CLUSTER, timeout=120)
        until(lambda: not of_cluster(prometheus), seconds=60, what="the deleted cluster is no target any more")


def targets(url: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/targets", params={"state": "active"})
    active: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["activeTargets"]
    return active


def of_cluster(url: str) -> list[dict[str, Any]]:
    return [t for t in targets(url) if t["labels"].get("cluster") == CLUSTER]


def any_up(url: str) -> bool:
    scraped = of_cluster(url)
    return bool(scraped) and all(t["health"] == "up" for t in scraped)


def query(url: str, expression: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", f"{expression}: {answer}"
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def expressions() -> list[tuple[str, str]]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(p["title"], t["expr"]) for p in panels for t in p.get("targets", [])]


def filled_in(expression: str) -> str:
    """The expression as Grafana sends it with all teams and clusters selected."""
    return expression.replace("$team", ".*").replace("$cluster", ".*").replace("$__rate_interval", "1m")


def test_the_gateway_is_found_and_answers(prometheus: str) -> None:
    until(
        lambda: any(t["labels"]["job"] == "gateway" and t["health"] == "up" for t in targets(prometheus)),
        seconds=60,
        what="Prometheus reads the gateway",
    )
    assert query(prometheus, "rayplane_build_info")


def test_metrics_and_targets_need_the_metrics_token_which_opens_nothing_else(platform_up: LocalPlatform) -> None:
    url = platform_up.state.gateway_url
    token = (platform_up.home.secrets / "metrics.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/metrics", "/sd/prometheus"):
        assert httpx.get(url + path).status_code == 401
        assert httpx.get(url + path, headers=headers).status_code == 200
    assert httpx.get(f"{url}/v1/teams", headers=headers).status_code == 403


def test_every_node_of_a_cluster_is_found_with_its_team(prometheus: str, cluster: str) -> None:
    nodes = of_cluster(prometheus)
    assert {t["labels"]["team"] for t in nodes} == {TEAM}
    assert {t["labels"]["job"] for t in nodes} == {"ray"}
    assert all(t["health"] == "up" for t in nodes), nodes


def test_every_rule_is_loaded_and_none_is_broken(prometheus: str) -> None:
    groups = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 8
    until(
        lambda: all(
            r["health"] == "ok"
            for g in httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
            for r in g["rules"]
        ),
        seconds=60,
        what="every rule was evaluated",
    )


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_every_query_of_the_dashboard_is_understood(prometheus: str, title: str, expression: str) -> None:
    query(prometheus, filled_in(expression))


NEEDS_MORE = {
    "Errors",
    "Requests",
    "Latency",
    "Healthy replicas",
    "Tasks",
    "Actors",
    "Events from workers",
    "Reconcile errors",
}
"""Panels that are empty without jobs and services; the quickstart's test covers those of services."""


def test_the_dashboard_shows_gateway_and_cluster(prometheus: str, cluster: str) -> None:
    empty: list[str] = []

    def all_show() -> bool:
        empty[:] = [
            f"{title}: {expression}"
            for title, expression in expressions()
            if title not in NEEDS_MORE and not query(prometheus, filled_in(expression))
        ]
        return not empty

    try:
        until(all_show, seconds=60, what="every panel has data")
    except AssertionError as exc:
        raise AssertionError(f"panels without data: {empty}") from exc
