"""Clusters that others run: allowed addresses, the token's recipient, the time limit, the messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import InvalidInput
from rayplane.gateway.backends import existing
from rayplane.gateway.backends.base import ClusterRef, Observation
from rayplane.gateway.backends.existing import ExistingBackend
from rayplane.gateway.reconcile.rays import RayClients
from rayplane.nouns.cluster import ClusterSpec, Endpoint
from rayplane.nouns.team import Size
from rayplane.settings import GatewaySettings, write_secret
from tests.support.strange_server import RAY, StrangeServer, drip, plain, redirect, strange_server

REF = ClusterRef(team="growth", name="theirs", uid="0" * 32)
PLACED = ClusterRef(team="growth", name="theirs", uid="0" * 32, placed=True)
SIZE = Size(cpu=1, memory=1)


@pytest.fixture
def ray() -> Iterator[StrangeServer]:
    """A server that answers as Ray does."""
    with strange_server(plain(RAY)) as server:
        yield server


@pytest.fixture
def other() -> Iterator[StrangeServer]:
    """Another such server."""
    with strange_server(plain(RAY)) as server:
        yield server


def backend(home: Path, **settings: Any) -> ExistingBackend:
    return ExistingBackend(GatewaySettings(home=home, **settings))


def place_token(home: Path, text: str) -> Path:
    path = GatewaySettings(home=home).home_paths.secrets / "clusters" / "growth.theirs.ray"
    write_secret(path, text)
    return path


def look(made: ExistingBackend, address: str, ref: ClusterRef = REF) -> Observation:
    return made.clusters.observe(ref, ClusterSpec(backend="existing", address=address))


def test_a_ray_on_loopback_is_ready_with_its_own_version_and_session(tmp_path: Path, ray: StrangeServer) -> None:
    sight = look(backend(tmp_path), f"{ray.url}/")
    assert (sight.phase, sight.incarnation) == ("ready", "session_2026-11-30_1")
    assert sight.endpoint == Endpoint(dashboard_url=ray.url, reach="allowed")
    assert sight.environment is not None
    assert sight.environment.ray == "2.60.0"


def test_the_environment_is_unknown_without_an_observation_and_sends_no_request(
    tmp_path: Path, ray: StrangeServer
) -> None:
    assert backend(tmp_path).environment(ClusterSpec(backend="existing", address=ray.url)) is None
    assert ray.requests == []


def test_an_address_that_the_settings_do_not_allow_is_asked_only_if_an_admin_placed_it(
    tmp_path: Path, ray: StrangeServer
) -> None:
    made = backend(tmp_path, existing_addresses=["10.0.0.0/8"])
    sight = look(made, ray.url)
    assert (sight.phase, sight.reason) == ("failed", "AddressRefused")
    assert "ask an admin to place the cluster or to add it to RAYPLANE_EXISTING_ADDRESSES" in sight.message
    assert ray.requests == []
    placed = look(made, ray.url, PLACED)
    assert placed.phase == "ready"
    assert placed.endpoint is not None
    assert placed.endpoint.reach == "placed"


def test_an_address_that_the_settings_allow_is_asked(tmp_path: Path, ray: StrangeServer) -> None:
    assert look(backend(tmp_path, existing_addresses=[f"127.0.0.1:{ray.port}"]), ray.url).phase == "ready"
    assert look(backend(tmp_path, existing_addresses=[f"127.0.0.1:{ray.port + 1}"]), ray.url).phase == "failed"


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "[fd00:ec2::254]", "2852039166", "0xa9fea9fe"]
)
@pytest.mark.parametrize("ref", [REF, PLACED])
def test_a_metadata_address_is_refused_in_every_spelling_even_if_an_admin_placed_it(
    tmp_path: Path, host: str, ref: ClusterRef
) -> None:
    made = backend(tmp_path, existing_addresses=["0.0.0.0/0", "::/0"])
    sight = look(made, f"http://{host}:80", ref)
    assert (sight.phase, sight.reason) == ("failed", "AddressRefused")
    assert "is link-local, a cloud's metadata service, or no single host" in sight.message


@pytest.mark.parametrize("end", ["/api/delete", "/?x=1", "#x"])
def test_an_address_with_a_path_or_query_is_refused_without_a_request(
    tmp_path: Path, ray: StrangeServer, end: str
) -> None:
    made = backend(tmp_path)
    reasons = made.clusters.preflight(PLACED, ClusterSpec(backend="existing", address=ray.url + end), SIZE)
    assert "has a path, a query or a fragment" in reasons[0]
    assert ray.requests == []


def test_an_invalid_address_in_the_settings_is_an_error_at_the_gateways_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="RAYPLANE_EXISTING_ADDRESSES"):
        RayClients(["http://x"])
    with pytest.raises(InvalidInput, match="RAYPLANE_EXISTING_ADDRESSES"):
        backend(tmp_path, existing_addresses=["10.1"])


def test_a_token_is_sent_to_the_address_in_its_file(tmp_path: Path, ray: StrangeServer) -> None:
    path = place_token(tmp_path, f"geheim\n{ray.url}/\n")
    sight = look(backend(tmp_path), ray.url)
    assert ray.header("Authorization") == ["Bearer geheim"]
    assert sight.endpoint is not None
    assert sight.endpoint.token_path == str(path)
    RayClients(["127.0.0.0/8"])(sight.endpoint).version()
    assert ray.header("Authorization") == ["Bearer geheim", "Bearer geheim"]


@pytest.mark.parametrize(
    "text", ["geheim\nhttp://ray.example.org:8265", "geheim", "geheim\nno address", "geheim\n\n{url}"]
)
@pytest.mark.parametrize("ref", [REF, PLACED])
def test_a_token_is_sent_to_no_other_address(tmp_path: Path, other: StrangeServer, text: str, ref: ClusterRef) -> None:
    path = place_token(tmp_path, text.replace("{url}", other.url))
    sight = look(backend(tmp_path), other.url, ref)
    assert sight.phase == "ready", "it asks for no token"
    assert sight.endpoint is not None
    assert sight.endpoint.token_path is None
    # An endpoint that was stored while the token file named this address.
    noted = sight.endpoint.model_copy(update={"token_path": str(path)})
    RayClients(["127.0.0.0/8"])(noted).version()
    assert len(other.requests) == 2
    assert other.header("Authorization") == []


def test_the_error_of_a_ray_that_needs_a_token_names_the_tokens_file_and_address(tmp_path: Path) -> None:
    with strange_server(plain(b"", status="401 No")) as ray:
        made = backend(tmp_path)
        sight = look(made, ray.url)
        assert (sight.phase, sight.reason) == ("failed", "TokenRefused")
        assert f"growth.theirs.ray' (0600), and '{ray.url}' on its second line" in sight.message
        place_token(tmp_path, "geheim\nhttp://secret-place.example.org:8265")
        sight = look(made, ray.url)
        assert "is for another address" in sight.message
        assert "secret-place" not in sight.message
        assert "geheim" not in sight.message
        assert ray.header("Authorization") == []


def test_observing_a_server_that_answers_byte_by_byte_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(existing, "PATIENCE", 1.0)
    with strange_server(drip(b"HTTP/1.1 200 OK\r\n\r\n")) as server:
        began = time.monotonic()
        sight = look(backend(tmp_path), server.url)
    assert (sight.phase, sight.reason) == ("failed", "Unreachable")
    assert time.monotonic() - began < 25


@pytest.mark.parametrize(
    "body",
    [
        b"geheim",
        b'{"geheim": 1}',
        b'{"ray_version": "geheim"}',
        b'{"ray_version": "2.60.0"}',
        b'{"ray_version": "2.60.0", "session_name": "geheim\\u0000"}',
        b'{"ray_version": ["geheim"], "session_name": "s"}',
    ],
)
def test_the_error_for_an_answer_that_is_not_rays_does_not_quote_it(tmp_path: Path, body: bytes) -> None:
    with strange_server(plain(body)) as server:
        (reason,) = backend(tmp_path).clusters.preflight(REF, ClusterSpec(address=server.url), SIZE)
    assert "is that a Ray dashboard?" in reason
    assert "geheim" not in reason


def test_a_redirect_is_not_followed(tmp_path: Path, other: StrangeServer) -> None:
    with strange_server(redirect(f"{other.url}/api/version")) as server:
        place_token(tmp_path, f"geheim\n{server.url}")
        sight = look(backend(tmp_path), server.url)
    assert (sight.phase, sight.reason) == ("failed", "Unreachable")
    assert "answered 302" in sight.message
    assert other.requests == []
