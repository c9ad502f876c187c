"""The ledger has each node's exact lifetime, whatever happens and whenever the gateway is killed.

Each history is random but for its seed: a cluster is made, scaled, suspended, resumed, loses its head, is deleted,
while the gateway is killed before or after any call to the store or the backend and starts again with an empty memory.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.backends.base import Capability, ClusterRef, Node
from rayplane.gateway.reconcile.cluster import ClusterReconciler
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases import objects
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus, Lease, Workers
from rayplane.nouns.team import Size, TeamSpec
from rayplane.settings import GatewaySettings
from rayplane.storage.root import open_root
from rayplane.testing.fakes import FakeBackend
from tests.unit.gateway.reconcile.doubles import TEAM, Clock

HISTORIES = 200
STEPS = 9


class Killed(BaseException):
    """Raised where the gateway's process is killed. No handler of the product catches it."""


class Fuse:
    """Kills the gateway at the n-th call from now; calls are counted as each begins and as each has ended."""

    def __init__(self) -> None:
        self.left: int | None = None

    def burn(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Killed


class CountingStore(Store):
    """Dies before a transaction is begun, before it is committed, or after it was."""

    fuse = Fuse()

    @contextlib.contextmanager
    def transaction(self, *, commit: bool = True) -> Iterator[None]:
        if self._connection is not None:
            with super().transaction(commit=commit):
                yield
            return
        self.fuse.burn()
        with super().transaction(commit=commit):
            yield
            self.fuse.burn()
        self.fuse.burn()


class Doomed:
    """The fake backend, whose clusters are behind calls that may be the gateway's last."""

    def __init__(self, backend: FakeBackend, fuse: Fuse) -> None:
        self._backend, self.clusters = backend, DoomedClusters(backend, fuse)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class DoomedClusters:
    """The fake backend's port to clusters behind calls that may be the gateway's last."""

    def __init__(self, backend: FakeBackend, fuse: Fuse) -> None:
        self._clusters, self._fuse = backend.clusters, fuse

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._clusters, name)
        if name not in ("ensure", "suspend", "delete", "observe"):
            return attribute

        def call(*args: Any) -> Any:
            self._fuse.burn()
            answer = attribute(*args)
            self._fuse.burn()
            return answer

        return call


class History:
    """One cluster's life."""

    def __init__(self, platform: Platform, store: CountingStore, seed: int, *, forgetful: bool) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.fuse = store.fuse
        self.store, self.platform = store, platform
        able = frozenset(set(Capability) - {Capability.WATCH, Capability.TEAM})
        self.backend = FakeBackend(capabilities=able, clock=self.clock, forgetful=forgetful)
        self.found_gone: dict[str, datetime] = {}
        spec = ClusterSpec(workers=Workers(min=self.random.randint(0, 2), max=4))
        self.cluster, _ = store.put(
            "Cluster", TEAM, f"c{seed}", spec.model_dump(mode="json"), owner="test", status=ClusterStatus()
        )
        self.ref = ClusterRef(TEAM, self.cluster.metadata.name, self.cluster.metadata.uid)
        self.kills = 0
        self.start()

    def start(self) -> None:
        """Start a gateway that knows only the store's content."""
        backend: Any = Doomed(self.backend, self.fuse)
        rays: Any = None
        self.reconciler = ClusterReconciler(self.platform, lambda name: backend, rays, clock=self.clock)

    @property
    def there(self) -> bool:
        return any(o.metadata.uid == self.ref.uid for o in self.store.each("Cluster", TEAM))

    def object(self) -> AnyObject:
        return self.store.get_by_uid(self.ref.uid)

    def live(self, seed: int) -> None:
        for _ in range(STEPS):
            self.tick()
            if not self.there:
                return
            self.random.choice(self.events())()
            self.clock.forward(self.random.choice((0.5, 7.25, 61.0)))
        self.delete()
        for _ in range(60):
            if not self.there:
                return
            self.tick()
            self.clock.forward(0.5)
        raise AssertionError(f"history {seed} does not come to its end: {self.object().status}")

    def tick(self) -> None:
        """Reconcile the cluster; in half of the calls the gateway is killed at some point, and another one starts."""
        for _ in range(self.random.randint(1, 3)):
            if not self.there:
                return
            self.fuse.left = self.random.randint(0, 12) if self.random.random() < 0.5 else None
            obj = self.object()
            try:
                self.reconciler.reconcile(obj)
            except Killed:
                self.kills += 1
                self.start()
            finally:
                self.fuse.left = None
            self.clock.forward(self.random.choice((0.0, 0.25)))

    def events(self) -> list[Callable[[], object]]:
        phase = self.backend.clusters.observe(self.ref, ClusterSpec()).phase
        able: list[Callable[[], object]] = [lambda: None]
        if self.object().metadata.deleted_at is not None:
            return able
        able += [self.suspend, self.resume, self.respec]
        if phase == "ready":
            able += [self.scale, self.scale, lambda: self.backend.crash(self.ref)]
        if self.random.random() < 0.1:
            able += [self.delete]
        return able

    def scale(self) -> None:
        self.backend.scale(self.ref, self.random.randint(0, 4))

    def respec(self) -> None:
        workers = {"min": self.random.randint(0, 1), "max": self.random.randint(1, 4)}
        self.store.update_spec(self.ref.uid, {**self.object().spec_data, "workers": workers})

    def suspend(self) -> None:
        clusters.suspend(TEAM, self.ref.name, principal=SYSTEM, platform=self.platform)

    def resume(self) -> None:
        clusters.resume(TEAM, self.ref.name, principal=SYSTEM, platform=self.platform)

    def delete(self) -> None:
        objects.delete("Cluster", TEAM, self.ref.name, principal=SYSTEM, platform=self.platform)

    def leases(self) -> list[Lease]:
        return [lease for lease in self.store.leases(TEAM) if lease.cluster_uid == self.ref.uid]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Platform, CountingStore]:
    folder: Path = tmp_path_factory.mktemp("ledger")
    settings = GatewaySettings(home=folder, mlflow_url=None)
    store = CountingStore(settings.store_url)
    store.migrate()
    sizes = {"small": Size(cpu=2, memory=2**30)}
    store.put("Team", "", TEAM, TeamSpec(sizes=sizes).model_dump(mode="json"), owner="test")
    reader: Any = FakeBackend()
    platform = Platform(
        store=store,
        storage=open_root(settings.root_uri),
        settings=settings,
        readers=lambda name: reader,
        wake=lambda: None,
        signer=tokens.load(settings.home_paths),
    )
    return platform, store


def seconds_alive(nodes: list[Node]) -> timedelta:
    return sum((n.ended_at - n.started_at for n in nodes if n.ended_at is not None), timedelta())


def check_shape(history: History) -> tuple[list[Lease], list[Node]]:
    """Check the invariants: one lease for each node that ever existed, from its start, none left open."""
    leases, nodes = history.leases(), history.backend.nodes(history.ref)
    assert all(node.ended_at is not None for node in nodes), "a node outlives its cluster"
    assert all(lease.ended_at is not None for lease in leases), "a lease is left open"
    assert len({lease.id for lease in leases}) == len(leases)
    by_id = {f"{history.ref.uid}-{node.id}": node for node in nodes}
    for lease in leases:
        node = by_id[lease.id]
        assert (lease.cpu, lease.memory, lease.gpu) == (node.cpu, node.memory, node.gpu)
        assert lease.started_at == node.started_at.astimezone(UTC)
    return leases, nodes


@pytest.mark.parametrize("batch", range(8))
def test_leases_sum_exactly_to_the_nodes_lifetimes_through_crashes(
    made: tuple[Platform, CountingStore], batch: int
) -> None:
    share, kills, heads = HISTORIES // 8, 0, 0
    for seed in range(batch * share, (batch + 1) * share):
        history = History(*made, seed, forgetful=False)
        history.live(seed)
        leases, nodes = check_shape(history)
        assert {lease.id for lease in leases} == {f"{history.ref.uid}-{node.id}" for node in nodes}, seed
        leased = sum(((lease.ended_at or lease.started_at) - lease.started_at for lease in leases), timedelta())
        assert leased == seconds_alive(nodes), f"history {seed}"
        kills, heads = kills + history.kills, heads + sum(node.kind == "head" for node in nodes)
    assert kills > share, "the gateway was not killed often enough for this to mean anything"
    assert heads > share


def test_if_the_backend_forgets_ended_nodes_a_lease_ends_when_the_absence_is_observed(
    made: tuple[Platform, CountingStore],
) -> None:
    for seed in range(10_000, 10_010):
        history = History(*made, seed, forgetful=True)
        history.live(seed)
        leases, nodes = check_shape(history)
        by_id = {f"{history.ref.uid}-{node.id}": node for node in nodes}
        for lease in leases:
            ended = by_id[lease.id].ended_at
            assert ended is not None
            assert lease.ended_at is not None
            assert lease.ended_at >= ended, "a node was held for longer than its lease"
