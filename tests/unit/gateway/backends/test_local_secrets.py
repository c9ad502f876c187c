"""The secrets of a local cluster: renewed in their files, which its processes read at each use."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from rayplane.errors import Unavailable
from rayplane.gateway.backends import local
from rayplane.gateway.backends.base import ClusterRef
from rayplane.gateway.backends.local import LocalBackend
from rayplane.settings import GatewaySettings, read_secret, write_secret

REF = ClusterRef("alpha", "dev", "0123456789abcdef0123456789abcdef")


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(GatewaySettings(home=tmp_path))


@pytest.fixture
def path(backend: LocalBackend) -> Path:
    made = backend.clusters._secret_path(REF.uid, "RAYPLANE_TOKEN_PATH")
    write_secret(made, "the-first-token")
    return made


def test_a_changed_secret_is_replaced_atomically_and_stays_private(backend: LocalBackend, path: Path) -> None:
    before = path.stat().st_ino
    with path.open() as opened:
        backend.clusters.renew(REF, {"RAYPLANE_TOKEN_PATH": "the-second-token"})
        assert opened.read() == "the-first-token"  # a reader at this moment gets one or the other, whole
    assert read_secret(path) == "the-second-token"
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_unchanged_secret_is_left_alone(backend: LocalBackend, path: Path) -> None:
    before = path.stat()
    backend.clusters.renew(REF, {"RAYPLANE_TOKEN_PATH": "the-first-token"})
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_secret_that_the_cluster_did_not_start_with_is_not_created(backend: LocalBackend, path: Path) -> None:
    backend.clusters.renew(REF, {"RAYPLANE_MLFLOW_CREDENTIALS": "user\npassword"})
    assert list(path.parent.iterdir()) == [path]


def test_an_unwritable_secret_file_raises_unavailable(
    backend: LocalBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local, "write_secret", full)
    with pytest.raises(Unavailable, match="No space left"):
        backend.clusters.renew(REF, {"RAYPLANE_TOKEN_PATH": "the-second-token"})
    assert read_secret(path) == "the-first-token"
