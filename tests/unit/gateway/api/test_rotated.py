"""Secrets that are rotated while a gateway runs: which tokens it accepts over HTTP, and how it refuses the others."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient

from rayplane import rotation
from rayplane.client.up import rotate
from rayplane.client.up.rotate import Secret
from rayplane.gateway.usecases.platform import Platform


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_rotated_user_token_is_refused_with_where_the_new_one_is(
    platform: Platform, growth: TestClient, anonymous: TestClient, token: str, token_path: Path
) -> None:
    home = platform.settings.home_paths
    rotate.rotate_token(home)
    new = token_path.read_text().strip()
    assert anonymous.get("/v1/teams", headers=bearer(new)).status_code == 200  # so the gateway has read the file
    answer = anonymous.get("/v1/teams", headers=bearer(token))
    assert answer.status_code == 401
    assert answer.json()["reason"] == "rotated-token"
    assert "'rayplane token rotate'" in answer.json()["detail"]
    assert str(token_path) in answer.json()["remedy"]
    # A stock Ray client takes 403 for a wrong token, and prints the text.
    stock = anonymous.get("/growth/dev/api/version", headers=bearer(token))
    assert stock.status_code == 403
    assert str(token_path) in stock.text


def test_a_clusters_former_token_is_accepted_until_its_grace_ends(
    platform: Platform, growth: TestClient, anonymous: TestClient
) -> None:
    home, uid = platform.settings.home_paths, platform.store.get("Cluster", "growth", "dev").metadata.uid
    old = platform.signer.cluster_token("growth", uid)
    rotate.rotate_secrets(home, [Secret.SIGNING], grace=3600)
    platform.signer.verify("unknown")  # an unknown token makes the signer look at the files
    new = platform.signer.cluster_token("growth", uid)
    assert new != old
    for token in (old, new):
        assert anonymous.get("/v1/teams/growth/jobs", headers=bearer(token)).status_code == 200
    rotate.rotate_secrets(home, [Secret.SIGNING], grace=0)
    platform.signer.verify("unknown")
    for token in (old, new):
        answer = anonymous.get("/v1/teams/growth/jobs", headers=bearer(token))
        assert (answer.status_code, answer.json()["reason"]) == (401, "rotated-token")
    assert len(rotation.read_notes(home)) == 2
