"""The ledger of a real gateway that is killed while Kubernetes fails around it: a lease for each pod, for its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from rayplane.gateway.backends.base import ClusterRef
from rayplane.gateway.backends.kubernetes.kinds import UID
from rayplane.gateway.store import Store
from rayplane.nouns.cluster import Lease
from tests.kubernetes import gateway
from tests.kubernetes.bed.api import Api, ApiError, Object, condition, wait_for
from tests.kubernetes.bed.level_a import LevelA
from tests.kubernetes.gateway_process import Gateway, gateway_on

TEAM = {"backend": "kubernetes", "sizes": {"small": {"cpu": 1, "memory": "1Gi"}}}
SPEC = {"size": "small", "workers": {"min": 1, "max": 3}}
CLUSTERS = 5
SECOND = timedelta(seconds=1)
"""Resolution of Kubernetes' times."""
LATE = timedelta(seconds=30)
"""Time that a running gateway has to notice an end: after an outage it retries the API server with growing pauses."""


@dataclass
class Life:
    """Times of one pod, as an observer outside of the gateway saw them."""

    uid: str
    cluster_uid: str
    started: datetime
    last_seen: datetime
    gone_by: datetime | None = None


@dataclass
class Witness:
    """Observer of a namespace: every pod that was scheduled to a node, and the time for which it existed."""

    api: Api
    namespace: str
    lives: dict[str, Life] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look every 0.1 s. While the API server does not answer nothing is recorded: no pod ends without it."""
        while not self._ended.wait(0.1):
            with suppress(ApiError, httpx.TransportError):
                self.look()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def look(self) -> None:
        """Note what is there now, and what is not any more."""
        asked = datetime.now(UTC)
        pods = self.api.list("v1", "Pod", self.namespace)
        live = [pod for pod in pods if pod["status"].get("phase") not in ("Failed", "Succeeded")]
        for pod in live:
            if condition(pod, "PodScheduled") == "True" and UID in pod["metadata"]["labels"]:
                uid = pod["metadata"]["uid"]
                self.lives.setdefault(uid, Life(uid, pod["metadata"]["labels"][UID], _placed(pod), asked))
                self.lives[uid].last_seen = asked
        there = {pod["metadata"]["uid"] for pod in live}
        for life in self.lives.values():
            if life.uid not in there:
                life.gone_by = life.gone_by or datetime.now(UTC)


def _placed(pod: Object) -> datetime:
    (condition,) = (c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    return datetime.fromisoformat(condition["lastTransitionTime"])


@contextmanager
def witnessed(bed: LevelA, namespace: str) -> Iterator[Witness]:
    """A witness for the time of the block."""
    with Api(bed.kubeconfig) as api:
        made = Witness(api, namespace)
        thread = threading.Thread(target=made.run)
        thread.start()
        try:
            yield made
        finally:
            made.end()
            thread.join()
        made.look()  # one last look, to record the ends


@dataclass
class Team:
    """A team with clusters on a gateway that comes and goes."""

    bed: LevelA
    gateway: Gateway
    name: str
    uids: dict[str, str] = field(default_factory=dict)
    away: list[tuple[datetime, datetime]] = field(default_factory=list)
    """When the gateway was killed, and when another one had begun."""

    @property
    def namespace(self) -> str:
        return f"rayplane-{self.name}"

    def make(self) -> None:
        """The team, and its clusters until they are ready."""
        with self.gateway.client() as client:
            client.teams.apply(self.name, spec=TEAM)
            client.teams.wait("", self.name, timeout=120)
            for number in range(CLUSTERS):
                made = client.clusters.apply(self.name, f"c{number}", SPEC)
                self.uids[f"c{number}"] = made.metadata.uid
        for name in self.uids:
            self.wait(name)

    def wait(self, name: str) -> None:
        with self.gateway.client() as client:
            client.clusters.wait(self.name, name, timeout=180)

    def suspend(self, name: str) -> None:
        with self.gateway.client() as client:
            client.clusters.suspend(self.name, name)

    def resume(self, name: str) -> None:
        with self.gateway.client() as client:
            client.clusters.resume(self.name, name)

    def delete(self, name: str) -> None:
        with self.gateway.client() as client:
            client.clusters.delete(self.name, name)
        del self.uids[name]

    def scale(self, name: str, workers: int) -> None:
        """Act as Ray's autoscaler, which runs with or without a gateway."""
        gateway.autoscale(self.bed.api, self._ref(name), workers)

    def pods(self, name: str) -> list[str]:
        """Its pods that stay."""
        kinds = ("head", "worker")
        return [p["metadata"]["name"] for kind in kinds for p in gateway.pods_of(self.bed.api, self._ref(name), kind)]

    def until_pods(self, name: str, count: int) -> None:
        wait_for(f"{count} pods of {name}", lambda: len(self.pods(name)) == count, seconds=120)

    def until_leased(self, name: str, count: int) -> None:
        """Wait until the gateway knows of so many of its pods: one that goes while it is away it must have seen."""

        def known() -> bool:
            with self.gateway.client() as client:
                leases = client.leases(self.name, open_only=True)
            return sum(lease.cluster_uid == self.uids[name] for lease in leases) == count

        wait_for(f"{count} leases of {name}", known, seconds=60)

    def until_looked_at(self) -> None:
        """Wait until this gateway has looked at every cluster."""
        wait_for("a look", lambda: self.gateway.looks() >= len(self.uids), seconds=60)

    @contextmanager
    def no_gateway(self) -> Iterator[None]:
        """It is killed; another one takes over after the block."""
        killed = datetime.now(UTC)
        self.gateway.stop(kill=True)
        try:
            yield
        finally:
            self.gateway.start()
            self.away.append((killed, datetime.now(UTC)))

    def is_gone(self) -> bool:
        with self.gateway.client() as client:
            return client.clusters.list(self.name) == []

    def _ref(self, name: str) -> ClusterRef:
        return ClusterRef(self.name, name, self.uids[name])


@pytest.mark.timeout(900)
def test_no_lease_is_lost_left_open_or_counted_twice(level_a: LevelA, tmp_path: Path) -> None:
    ref, _ = gateway.refs()
    with gateway_on(level_a, tmp_path) as process, witnessed(level_a, f"rayplane-{ref.name}") as witness:
        process.start()
        team = Team(level_a, process, ref.name)
        try:
            team.make()
            live_through_it_all(level_a, team)
            for name in list(team.uids):
                team.delete(name)
            with team.no_gateway():  # while the pods are being deleted
                pass
            wait_for("every cluster gone", team.is_gone, seconds=180)
        finally:
            gateway.remove(level_a.api, ref)
            wait_for("every pod gone", lambda: not level_a.api.list("v1", "Pod", team.namespace), seconds=120)
        store = Store(process.database)
        leases = store.leases(ref.name)
        store.close()
    check(leases, list(witness.lives.values()), team)


def live_through_it_all(bed: LevelA, team: Team) -> None:
    """Nodes come, go and die while the gateway, the API server, etcd and the operator are away, one after the other."""
    team.scale("c1", 3)
    team.until_pods("c1", 4)
    team.until_leased("c1", 4)
    with team.no_gateway():
        team.scale("c1", 1)
        team.scale("c2", 2)
        (head, *_) = team.pods("c3")
        bed.api.delete("v1", "Pod", head, team.namespace)
        team.until_pods("c2", 3)
        wait_for("another head", lambda: head not in team.pods("c3") and len(team.pods("c3")) == 2, seconds=120)
    team.until_looked_at()
    with bed.without("kube-apiserver"):
        team.suspend("c2")
        time.sleep(10)
        with team.no_gateway():  # and it restarts while the API server is down
            pass
    bed.restart("ray-operator")  # after an outage it retries after a minute; a new process connects at once
    team.until_pods("c2", 0)
    bed.restart("etcd")
    team.scale("c0", 2)
    team.until_pods("c0", 3)
    with bed.without("ray-operator"):
        team.suspend("c0")
        team.delete("c4")
        time.sleep(3)
    team.until_pods("c0", 0)
    bed.expire_watches()
    bed.restart("ray-operator")
    team.resume("c2")
    team.wait("c2")
    with team.no_gateway():
        (head, *_) = team.pods("c2")
        gateway.fail(bed.api, head, team.namespace)
        wait_for("another head", lambda: head not in team.pods("c2") and len(team.pods("c2")) == 2, seconds=120)
    team.until_looked_at()


def check(leases: list[Lease], lives: list[Life], team: Team) -> None:
    """One lease for each pod that ever held a place, from when it did until it was gone."""
    by_id = {lease.id: lease for lease in leases}
    assert len(by_id) == len(leases)
    assert set(by_id) == {f"{life.cluster_uid}-{life.uid}" for life in lives}
    late, away = timedelta(0), timedelta(0)
    for life in lives:
        lease = by_id[f"{life.cluster_uid}-{life.uid}"]
        assert lease.started_at == life.started, life
        assert lease.ended_at is not None, f"left open: {life}"
        assert life.gone_by is not None, life
        # For a pod that ended without a gateway, the lease ends when the next gateway notices.
        heard = max([life.gone_by, *(back for killed, back in team.away if killed <= life.gone_by <= back)])
        assert life.last_seen - SECOND <= lease.ended_at <= heard + LATE, (life, lease)
        late, away = max(late, lease.ended_at - heard), max(away, heard - life.gone_by)
    leased = sum(((lease.ended_at or lease.started_at) - lease.started_at for lease in leases), timedelta())
    alive = sum(((life.gone_by or life.started) - life.started for life in lives), timedelta())
    print(
        f"{len(leases)} leases of {len(lives)} pods: {leased.total_seconds():.1f} node-seconds held, "
        f"{alive.total_seconds():.1f} seen; an end was heard of {late.total_seconds():.1f} s late at most, "
        f"and {away.total_seconds():.1f} s before that there was no gateway"
    )
