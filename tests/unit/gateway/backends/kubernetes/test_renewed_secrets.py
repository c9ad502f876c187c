"""The Secret of what runs on Kubernetes: changed where other secrets are to be in it, else not asked about."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.errors import NotFound, Unavailable
from rayplane.gateway.backends.kubernetes import owned_objects, pods
from rayplane.gateway.backends.kubernetes.kinds import RAYCLUSTER, RAYJOB, RAYSERVICE, UID, Kind
from rayplane.gateway.backends.kubernetes.pods import Owner
from rayplane.gateway.backends.kubernetes.raycluster import SECRETS_HASH
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings

OWNER = Owner("alpha", "dev", "0123456789abcdef0123456789abcdef", "dev-secrets")
FIRST, SECOND = ({"RAYPLANE_TOKEN_PATH": f"token-{number}"} for number in (1, 2))


class Api:
    """An API server that has one object and its Secret, as far as this asks for it."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None
        self.annotations: dict[str, str] = {}
        self.calls: list[str] = []
        self.down = False

    def get(self, kind: Kind, name: str, namespace: str) -> dict[str, Any]:
        self._call("get")
        if self.secret is None:
            raise NotFound(f"There is no {name}.")
        return self.secret

    def apply(self, kind: Kind, manifest: dict[str, Any]) -> dict[str, Any]:
        self._call("apply")
        self.secret = manifest
        return manifest

    def merge(self, kind: Kind, name: str, namespace: str, change: dict[str, Any]) -> dict[str, Any]:
        self._call("merge")
        self.annotations |= change["metadata"]["annotations"]
        return {}

    def held(self, **more: str) -> dict[str, Any]:
        meta = {"name": "dev", "namespace": "rayplane-alpha", "uid": "u", "annotations": dict(self.annotations)}
        return {"metadata": {**meta, **more}}

    def text(self, key: str) -> str:
        assert self.secret is not None
        return base64.b64decode(self.secret["data"][key]).decode()

    def _call(self, name: str) -> None:
        if self.down:
            raise Unavailable("The API server does not answer.")
        self.calls.append(name)


@pytest.fixture(params=[RAYCLUSTER, RAYJOB, RAYSERVICE], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def shared(api: Api, kind: Kind) -> Any:
    cache = {kind: SimpleNamespace(learn=lambda obj: obj)}
    return SimpleNamespace(api=api, cache=cache, settings=KubernetesSettings())


@pytest.fixture
def token(shared: Any, api: Api, kind: Kind, tmp_path: Path) -> Path:
    """The file of Ray's token, once the object has its Secret."""
    path = tmp_path / "token"
    owned_objects.put_secrets(shared, kind, api.held(), OWNER, FIRST, path, new=True)
    api.calls.clear()
    return path


def test_other_secrets_are_put_into_the_secret_and_rays_token_stays(
    shared: Any, api: Api, kind: Kind, token: Path
) -> None:
    ray = api.text(pods.AUTH_TOKEN)
    owned_objects.renew(shared, kind, api.held(), OWNER, SECOND, token)
    assert api.calls == ["get", "apply", "merge"]
    assert api.text("RAYPLANE_TOKEN_PATH") == "token-2"
    assert api.text(pods.AUTH_TOKEN) == ray == token.read_text()
    assert api.secret is not None
    assert api.secret["metadata"]["labels"][UID] == OWNER.uid


def test_the_same_secrets_cost_no_call(shared: Any, api: Api, kind: Kind, token: Path) -> None:
    for texts in (FIRST, SECOND):
        owned_objects.renew(shared, kind, api.held(), OWNER, texts, token)
        api.calls.clear()
        for _ in range(50):
            owned_objects.renew(shared, kind, api.held(), OWNER, texts, token)
        assert api.calls == []


def test_what_is_not_there_is_leaving_or_has_no_secret_yet_is_left_alone(
    shared: Any, api: Api, kind: Kind, token: Path
) -> None:
    without = api.held()
    del without["metadata"]["annotations"][SECRETS_HASH]
    for held in (None, without, api.held(deletionTimestamp="2026-01-01T00:00:00Z")):
        owned_objects.renew(shared, kind, held, OWNER, SECOND, token)
    assert api.calls == []
    assert api.text("RAYPLANE_TOKEN_PATH") == "token-1"


def test_while_the_api_server_is_away_it_is_unavailable_and_done_later(
    shared: Any, api: Api, kind: Kind, token: Path
) -> None:
    api.down = True
    with pytest.raises(Unavailable):
        owned_objects.renew(shared, kind, api.held(), OWNER, SECOND, token)
    api.down = False
    owned_objects.renew(shared, kind, api.held(), OWNER, SECOND, token)
    assert api.text("RAYPLANE_TOKEN_PATH") == "token-2"
