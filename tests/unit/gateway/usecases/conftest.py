"""A platform with a real store and storage, a backend without compute, and a team with a cluster."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import SYSTEM, Principal
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import objects
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.events import Operation
from rayplane.settings import GatewaySettings
from rayplane.storage.root import open_root
from rayplane.testing.fakes import FakeBackend
from tests.support import stores

ADA = Principal(name="ada", role="admin")


@dataclass
class Bench:
    """A platform, and the calls that tests make to it."""

    platform: Platform
    backend: FakeBackend
    woken: list[int] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return self.platform.store

    def apply(
        self, kind: str, name: str, spec: dict[str, Any], *, team: str = "growth", **more: Any
    ) -> tuple[AnyObject, str, Operation | None]:
        more = {"labels": {}, "principal": ADA, **more}
        return objects.apply(kind, team, name, spec, platform=self.platform, **more)

    def delete(self, kind: str, name: str, team: str = "growth", **more: Any) -> tuple[AnyObject, Operation]:
        return objects.delete(kind, team, name, principal=ADA, platform=self.platform, **more)

    def settle(self, kind: str, name: str, phase: str, team: str = "growth", **status: Any) -> AnyObject:
        """Write an object's status as its reconciler would."""
        obj = self.store.get(kind, team, name)
        new = {**obj.status_data, **status, "phase": phase, "observed_generation": obj.metadata.generation}
        return self.store.set_status(obj.metadata.uid, new)

    def cluster_principal(self, name: str = "dev", team: str = "growth") -> Principal:
        uid = self.store.get("Cluster", team, name).metadata.uid
        principal = self.platform.signer.verify(self.platform.signer.cluster_token(team, uid))
        assert principal is not None
        return principal


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Bench]:
    """A platform with nothing on it."""
    settings = GatewaySettings(home=tmp_path / "home", mlflow_url="http://127.0.0.1:5000")
    store = Store(stores.migrate(f"sqlite:///{tmp_path / 'gateway.db'}"))
    backend = FakeBackend()
    woken: list[int] = []
    platform = Platform(
        store=store,
        storage=open_root(f"file://{tmp_path / 'storage'}"),
        settings=settings,
        readers=lambda _: backend,
        wake=lambda: woken.append(1),
        signer=tokens.load(settings.home_paths),
    )
    yield Bench(platform, backend, woken)
    store.close()


@pytest.fixture
def bench(empty: Bench) -> Bench:
    """The platform with a team ``growth`` and its cluster ``dev``."""
    empty.apply("Team", "growth", {}, team="")
    empty.apply("Cluster", "dev", {})
    empty.woken.clear()
    return empty


@pytest.fixture
def make_zip() -> Callable[..., tuple[str, bytes]]:
    """A function that makes a package: (SHA-256, bytes)."""

    def make(files: dict[str, str] | None = None) -> tuple[str, bytes]:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in (files or {"train.py": "print('hello')\n"}).items():
                archive.writestr(zipfile.ZipInfo(name), text)
        return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()

    return make


@pytest.fixture
def ada() -> Principal:
    """The local user."""
    return ADA


@pytest.fixture
def system() -> Principal:
    """The reconcilers' principal."""
    return SYSTEM
