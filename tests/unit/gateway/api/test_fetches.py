"""Requests that the gateway makes to addresses in specs: plan, apply and why by every kind of principal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.admission.tokens import TokenSigner
from rayplane.gateway.api.app import create_app
from rayplane.gateway.backends import existing
from rayplane.gateway.backends.existing import ExistingBackend
from rayplane.gateway.usecases.platform import Platform
from rayplane.settings import write_secret
from rayplane.testing.fakes import FakeBackend
from tests.support.strange_server import RAY, StrangeServer, drip, plain, redirect, strange_server
from tests.unit.gateway.api.served import serve

OTHERS = {
    "member": Principal(name="mia", role="member", team="growth"),
    "viewer": Principal(name="vic", role="viewer", team="growth"),
    "teams-admin": Principal(name="tia", role="admin", team="growth"),
    "stranger": Principal(name="sue", role="member", team="ads"),
    "reader-of-all": Principal(name="rob", role="viewer"),
}
WRITERS = ("admin", "member", "teams-admin")
OTHER_READERS = ("viewer", "stranger", "reader-of-all", "cluster", "metrics")


class Signer(TokenSigner):
    """The platform's signer, which also accepts the key of each principal in ``OTHERS`` as its token."""

    def __init__(self) -> None:
        super().__init__(key=b"k" * 32, user_token="admin", metrics_token="metrics")

    def verify(self, token: str) -> Principal | None:
        return OTHERS.get(token) or super().verify(token)


class Bench:
    """The gateway's API on a platform with the backend ``existing``, and a client for each principal."""

    def __init__(self, platform: Platform) -> None:
        fake = FakeBackend()
        self.existing = ExistingBackend(platform.settings)
        backends: dict[str, Any] = {"existing": self.existing}
        self.platform = replace(platform, readers=lambda name: backends.get(name, fake), signer=Signer())
        self._app = create_app(self.platform)
        assert self.put("admin", "/v1/teams/growth", {"quota": {"cpu": 64}}).is_success
        assert self.put("admin", "/v1/teams/growth/clusters/dev", {}).is_success

    def token(self, who: str) -> str:
        if who != "cluster":
            return who
        uid = self.platform.store.get("Cluster", "growth", "dev").metadata.uid
        return self.platform.signer.cluster_token("growth", uid)

    def client(self, who: str) -> TestClient:
        return TestClient(self._app, headers={"Authorization": f"Bearer {self.token(who)}"})

    def put(self, who: str, path: str, spec: dict[str, Any]) -> httpx.Response:
        return self.client(who).put(path, json={"spec": spec})

    def plan(self, who: str, address: str, name: str = "theirs") -> httpx.Response:
        return self.client(who).post("/v1/plan", json=planned(address, name))

    def refusals(self, who: str, address: str, name: str = "theirs") -> list[str]:
        answer = self.plan(who, address, name)
        assert answer.status_code == 200, answer.text
        return [refusal["message"] for refusal in answer.json()["documents"][0]["forbidden"]]


def planned(address: str, name: str = "theirs") -> dict[str, Any]:
    spec = {"backend": "existing", "address": address}
    return {"documents": [{"kind": "Cluster", "metadata": {"name": name}, "spec": spec}], "team": "growth"}


@pytest.fixture
def bench(platform: Platform) -> Bench:
    return Bench(platform)


@pytest.fixture
def ray() -> Iterator[StrangeServer]:
    with strange_server(plain(RAY)) as server:
        yield server


@pytest.mark.parametrize("who", WRITERS)
def test_a_plan_asks_the_address_for_principals_that_may_write_the_cluster(
    bench: Bench, ray: StrangeServer, who: str
) -> None:
    assert bench.refusals(who, ray.url) == []
    assert len(ray.requests) == 1


@pytest.mark.parametrize("who", OTHER_READERS)
def test_a_plan_asks_no_address_for_principals_that_may_not_write(bench: Bench, ray: StrangeServer, who: str) -> None:
    assert bench.refusals(who, ray.url), "it is refused with a reason"
    assert ray.requests == []
    assert ray.most_at_once == 0


@pytest.mark.parametrize("who", ["viewer", "reader-of-all", "cluster"])
def test_a_plan_warns_a_reader_that_preflight_was_not_made(bench: Bench, ray: StrangeServer, who: str) -> None:
    (document,) = bench.plan(who, ray.url).json()["documents"]
    assert document["warnings"] == ["Pre-flight was not made: a backend is asked only for those who may write this."]


def test_a_plan_without_a_token_is_refused_and_asks_no_address(bench: Bench, ray: StrangeServer) -> None:
    answer = TestClient(create_app(bench.platform)).post("/v1/plan", json=planned(ray.url))
    assert answer.status_code == 401
    assert ray.requests == []


@pytest.mark.parametrize("who", OTHER_READERS)
def test_applying_asks_no_address_for_principals_that_may_not_write(bench: Bench, ray: StrangeServer, who: str) -> None:
    path, spec = "/v1/teams/growth/clusters/theirs", {"backend": "existing", "address": ray.url}
    assert bench.put(who, path, spec).status_code == 403
    assert bench.client(who).put(f"{path}?dry_run=true", json={"spec": spec}).status_code == 403
    assert ray.requests == []


@pytest.mark.parametrize(("who", "asked"), [("member", 1), ("viewer", 0), ("cluster", 0)])
def test_why_asks_the_cluster_only_for_principals_that_may_write_it(
    bench: Bench, ray: StrangeServer, who: str, asked: int
) -> None:
    path = "/v1/teams/growth/clusters/theirs"
    assert bench.put("admin", path, {"backend": "existing", "address": ray.url}).is_success
    ray.requests.clear()
    assert bench.client(who).get(f"{path}/why").status_code == 200
    assert len(ray.requests) == asked


@pytest.mark.parametrize("who", WRITERS)
@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "0.0.0.0"])
def test_a_metadata_address_is_never_asked_for_any_principal(bench: Bench, who: str, host: str) -> None:
    (reason,) = bench.refusals(who, f"http://{host}")
    assert "is link-local, a cloud's metadata service, or no single host" in reason
    answer = bench.put(who, "/v1/teams/growth/clusters/theirs", {"backend": "existing", "address": f"http://{host}"})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:rayplane:problem:refused")


@pytest.mark.parametrize("end", ["/v1/teams", "/?x=1", "#x"])
@pytest.mark.parametrize("who", WRITERS)
def test_an_address_with_a_path_or_query_is_refused(bench: Bench, ray: StrangeServer, who: str, end: str) -> None:
    (reason,) = bench.refusals(who, ray.url + end)
    assert "has a path, a query or a fragment" in reason
    assert ray.requests == []


def test_a_password_in_an_address_is_refused_and_not_repeated(bench: Bench, ray: StrangeServer) -> None:
    (reason,) = bench.refusals("admin", ray.url.replace("//", "//ada:geheim@"))
    assert "user or a password" in reason
    assert "geheim" not in reason
    assert ray.requests == []


@pytest.fixture
def strict(platform: Platform) -> Bench:
    """A platform whose settings allow no address of clusters that others run."""
    return Bench(replace(platform, settings=platform.settings.model_copy(update={"existing_addresses": []})))


@pytest.mark.parametrize("who", ["member", "teams-admin"])
def test_only_a_platform_admin_may_set_an_address_that_the_settings_do_not_allow(
    strict: Bench, ray: StrangeServer, who: str
) -> None:
    path, spec = "/v1/teams/growth/clusters/theirs", {"backend": "existing", "address": ray.url}
    (reason,) = strict.refusals(who, ray.url)
    assert "is not among the addresses that this platform allows" in reason
    assert strict.put(who, path, spec).status_code == 403
    assert ray.requests == []
    assert strict.put("admin", path, spec).is_success
    assert len(ray.requests) == 1
    # Now every principal that may write the cluster may use this address for it, but no other address.
    assert strict.refusals(who, ray.url) == []
    assert strict.put(who, path, spec).is_success
    with strange_server(plain(RAY)) as other:
        assert any("is not among the addresses" in reason for reason in strict.refusals(who, other.url))
        assert strict.put(who, path, {**spec, "address": other.url}).status_code == 403
        assert strict.refusals(who, other.url, "another") != []
        assert other.requests == []


def test_a_platform_admin_who_applies_anothers_cluster_approves_its_address(
    bench: Bench, strict: Bench, ray: StrangeServer
) -> None:
    path, spec = "/v1/teams/growth/clusters/theirs", {"backend": "existing", "address": ray.url}
    assert bench.put("member", path, spec).is_success
    assert not bench.platform.store.get("Cluster", "growth", "theirs").status_data["placed"]
    assert strict.refusals("member", ray.url) != []
    assert strict.put("admin", path, spec).is_success
    assert strict.platform.store.get("Cluster", "growth", "theirs").status_data["placed"]
    assert strict.refusals("member", ray.url) == []


def test_an_address_on_a_backend_that_creates_clusters_is_refused(bench: Bench) -> None:
    # The cluster would count as one that others run, and use no quota.
    answer = bench.put("member", "/v1/teams/growth/clusters/free", {"address": "http://127.0.0.1:1"})
    assert answer.status_code == 422
    assert "cluster.address: the backend 'local' makes its clusters" in answer.json()["detail"]
    spec = {"kind": "Cluster", "metadata": {"name": "free"}, "spec": {"address": "http://127.0.0.1:1"}}
    plan = bench.client("member").post("/v1/plan", json={"documents": [spec], "team": "growth"}).json()
    assert [refusal["code"] for refusal in plan["documents"][0]["forbidden"]] == ["invalid-spec"]


@pytest.mark.parametrize("who", WRITERS)
def test_the_token_of_a_cluster_is_sent_to_no_other_address(bench: Bench, ray: StrangeServer, who: str) -> None:
    secrets: Path = bench.platform.settings.home_paths.secrets
    write_secret(secrets / "clusters" / "growth.theirs.ray", f"geheim\n{ray.url}\n")
    spec = {"backend": "existing", "address": ray.url}
    assert bench.put("admin", "/v1/teams/growth/clusters/theirs", spec).is_success
    assert ray.header("Authorization") == ["Bearer geheim"]
    with strange_server(plain(RAY)) as other:
        bench.plan(who, other.url)
        bench.put(who, "/v1/teams/growth/clusters/theirs", {**spec, "address": other.url})
        assert len(other.requests) == 2
        assert other.header("Authorization") == []


@pytest.mark.parametrize(
    "answer",
    [
        plain(b"<html>geheim</html>"),
        plain(b'{"geheim": "geheim"}'),
        plain(b"geheim", status="500 Oops"),
        plain(b"geheim", status="403 No"),
        plain(b"[" * 100_000),
        plain(b"\xff\xfe"),
    ],
)
@pytest.mark.parametrize("who", WRITERS)
def test_a_plan_repeats_nothing_of_a_server_that_is_no_ray(bench: Bench, who: str, answer: Any) -> None:
    with strange_server(answer) as server:
        response = bench.plan(who, server.url)
    assert response.status_code == 200
    (document,) = response.json()["documents"]
    assert [refusal["code"] for refusal in document["forbidden"]] == ["refused"]
    assert "Ray" in document["forbidden"][0]["message"]
    assert "geheim" not in response.text


def test_a_plan_follows_no_redirect(bench: Bench, ray: StrangeServer) -> None:
    with strange_server(redirect(f"{ray.url}/api/version")) as server:
        (reason,) = bench.refusals("admin", server.url)
    assert "answered 302" in reason
    assert ray.requests == []


@pytest.mark.parametrize("path", ["/metrics", "/sd/prometheus"])
@pytest.mark.parametrize(
    ("who", "status"),
    [
        ("admin", 200),
        ("metrics", 200),
        ("teams-admin", 403),
        ("member", 403),
        ("viewer", 403),
        ("reader-of-all", 403),
        ("cluster", 403),
    ],
)
def test_no_principal_of_a_team_reads_the_metrics_of_all_teams(bench: Bench, path: str, who: str, status: int) -> None:
    assert bench.client(who).get(path).status_code == status


@pytest.mark.parametrize(("who", "status"), [("admin", 200), ("teams-admin", 403), ("member", 403), ("viewer", 403)])
def test_only_a_platform_admin_raises_a_teams_quota(bench: Bench, who: str, status: int) -> None:
    answer = bench.put(who, "/v1/teams/growth", {"quota": {"cpu": 128}})
    assert answer.is_success == (status == 200)
    assert status == 200 or answer.status_code == status


def test_many_plans_and_applies_against_a_slow_server_do_not_block_the_gateway(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(existing, "PATIENCE", 2.0)
    done, waits = threading.Event(), []
    lock, now, most = threading.Lock(), 0, 0
    preflight = bench.existing.clusters.preflight

    def counted(*args: Any) -> list[str]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return preflight(*args)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(bench.existing.clusters, "preflight", counted)

    def probe(url: str) -> None:
        while not done.is_set():
            began = time.monotonic()
            assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.05)

    with (
        strange_server(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")) as server,
        serve(bench.platform) as url,
        httpx.Client(base_url=url, headers={"Authorization": "Bearer member"}, timeout=120, limits=_MANY) as client,
        ThreadPoolExecutor(121) as pool,
    ):
        probing = pool.submit(probe, url)
        asking = [pool.submit(client.post, "/v1/plan", json=planned(server.url)) for _ in range(60)]
        spec = {"backend": "existing", "address": server.url}
        asking += [
            pool.submit(client.put, f"/v1/teams/growth/clusters/c{number}", json={"spec": spec}) for number in range(60)
        ]
        answers = [future.result(timeout=200) for future in asking]
        done.set()
        probing.result(timeout=60)
    assert most <= 8
    assert max(waits) < 15, "the event loop waits for no slow server, and no thread of a probe does for long"
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused, "there were more than the limit"
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    plans = [answer.json()["documents"][0]["forbidden"] for answer in answers[:60] if answer.status_code == 200]
    assert plans, "some were made"
    for reasons in plans:
        assert [reason["code"] for reason in reasons] in (["refused"], ["unavailable"])
    assert {answer.status_code for answer in answers} <= {200, 403, 503}


_MANY = httpx.Limits(max_connections=None)
