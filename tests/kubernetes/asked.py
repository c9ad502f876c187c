"""A platform on a bed whose clusters the tests break on purpose, and whose API they ask why over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from rayplane.gateway.admission import tokens
from rayplane.gateway.api.app import create_app
from rayplane.gateway.backends.base import ClusterRef, LaunchContext, TeamRef
from rayplane.gateway.backends.kubernetes import owned_objects, raycluster
from rayplane.gateway.backends.kubernetes.backend import KubernetesBackend
from rayplane.gateway.backends.kubernetes.kinds import RAYCLUSTER
from rayplane.gateway.backends.kubernetes.pods import AUTH_TOKEN
from rayplane.gateway.reconcile.cluster import ClusterReconciler
from rayplane.gateway.reconcile.rays import RayClients
from rayplane.gateway.store import Store
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.team import Size, TeamSpec
from rayplane.nouns.why import Explanation
from rayplane.settings import GatewaySettings
from rayplane.storage.root import open_root
from tests.kubernetes import gateway
from tests.kubernetes.bed.access import Access
from tests.kubernetes.bed.api import Api, Object, wait_for

Change = Callable[[Object], None]


class Asked:
    """The platform, its one team, and how its clusters are made and asked about."""

    def __init__(self, bed: Access, platform: Platform, backend: KubernetesBackend, team: TeamRef, root: str) -> None:
        self.bed, self.platform, self.backend, self.team = bed, platform, backend, team
        self.namespace = f"rayplane-{team.name}"
        self._root = root
        self.rays = RayClients()
        self._reconciler = ClusterReconciler(platform, lambda _: backend, self.rays)
        token = platform.settings.home_paths.token.read_text().strip()
        self._http = TestClient(create_app(platform), headers={"Authorization": f"Bearer {token}"})

    @property
    def api(self) -> Api:
        """A client of the API server with an admin's rights."""
        return self.bed.api

    def want(self, name: str, **spec: Any) -> ClusterRef:
        """Apply a cluster to the platform, without reconciling it."""
        body = {"spec": {"size": "small", **spec}}
        answer = self._http.put(f"/v1/teams/{self.team.name}/clusters/{name}", json=body)
        assert answer.is_success, answer.text
        return ClusterRef(self.team.name, name, answer.json()["metadata"]["uid"])

    def reconcile(self, ref: ClusterRef) -> None:
        """Have the platform's reconciler look at the cluster once."""
        self._reconciler.reconcile(self.platform.store.get_by_uid(ref.uid))

    def make(self, ref: ClusterRef, change: Change, *, secrets: bool = True) -> Object:
        """Apply a cluster's RayCluster as the platform would, with a change that breaks it."""
        obj = self.platform.store.get_by_uid(ref.uid)
        spec = obj.spec
        size = self.platform.store.get("Team", "", ref.team).spec.sizes[spec.size]
        launch = LaunchContext(size=Size(cpu=size.cpu, memory=size.memory, gpu=size.gpu))
        manifest = raycluster.render(ref, spec, launch, self.backend._settings, self._root)
        change(manifest)
        made = self.api.apply(manifest)
        if secrets:  # the pods mount it, so that only the change is a fault
            owner = raycluster.owner_of(ref)
            self.api.apply(owned_objects._secret(RAYCLUSTER, made["metadata"], owner, {AUTH_TOKEN: "x" * 32}))
        return made

    def why(self, noun: str, name: str) -> Explanation:
        """The API's answer to `why`."""
        answer = self._http.get(f"/v1/teams/{self.team.name}/{noun}/{name}/why")
        assert answer.is_success, answer.text
        return Explanation.model_validate(answer.json())

    def until(
        self, ref: ClusterRef, *codes: str, seconds: float = 60, reconciled: bool = False, only: bool = True
    ) -> Explanation:
        """Ask until the answer has these causes in order (``only``: and no other); print and return the answer."""
        deadline = time.monotonic() + seconds
        while True:
            if reconciled:
                self.reconcile(ref)
            answer = self.why("clusters", ref.name)
            cause_codes = [cause.code for cause in answer.causes if cause.code != "not-looked-at"]
            if cause_codes == list(codes) or (not only and cause_codes[: len(codes)] == list(codes)):
                self.tell(answer)
                return answer
            assert time.monotonic() < deadline, f"not {codes} but {cause_codes}: {answer.model_dump_json(indent=1)}"
            time.sleep(0.3)

    def tell(self, answer: Explanation) -> None:
        """Print an answer with its evidence, for the log of a test."""
        print(f"why {self.team.name}/{answer.name}: {answer.sentence}")
        for cause in answer.causes:
            print(f"  {cause.code} ({cause.certainty}): {cause.sentence} -> {cause.remedy}")
            for clue in cause.evidence[:2]:
                print(f"    {clue.source} {clue.about} {clue.reason} x{clue.count}: {clue.message[:300]}")
        if answer.causes and answer.causes[0].code == "backend-unreachable":
            return
        for pod in self.api.list("v1", "Pod", self.namespace):
            meta, status = pod["metadata"], pod["status"]
            print(f"    pod {meta['name']} {meta['uid']} on {pod['spec'].get('nodeName')}: {status.get('phase')}")

    def submit(self, name: str, cluster: str) -> None:
        """A job that waits for a cluster."""
        body = {"metadata": {"name": name}, "spec": {"entrypoint": "true", "cluster": cluster, "tracked": False}}
        answer = self._http.post(f"/v1/teams/{self.team.name}/jobs", json=body)
        assert answer.is_success, answer.text


@contextmanager
def asked(bed: Access, kubeconfig: Path, home: Path, *, sizes: dict[str, Size], **settings: Any) -> Iterator[Asked]:
    """A platform and its team's namespace for the time of the block; both go with it."""
    with gateway.backend_on(kubeconfig, home, **settings) as backend:
        store = Store(f"sqlite:///{home / 'gateway.db'}")
        store.migrate()
        gateway_settings = GatewaySettings(home=home, storage_root="s3://bucket/root")
        platform = Platform(
            store=store,
            storage=open_root(f"file://{home / 'storage'}"),
            settings=gateway_settings,
            readers=lambda _: backend,
            wake=lambda: None,
            signer=tokens.load(gateway_settings.home_paths),
        )
        name = gateway.refs()[0].name
        spec = TeamSpec(backend="kubernetes", sizes=sizes)
        onboarded = {"phase": "Ready", "places": {"kubernetes": ""}}
        obj, _ = store.put("Team", "", name, spec.model_dump(mode="json"), owner="test", status=onboarded)
        team = TeamRef(name, obj.metadata.uid)
        wait_for("team's place", lambda: backend.teams.ensure(team, spec) == "", seconds=60)
        made = Asked(bed, platform, backend, team, gateway_settings.root_uri)
        try:
            yield made
        finally:
            gateway.remove(bed.api, team)
            wait_for("namespace gone", lambda: bed.api.get("v1", "Namespace", made.namespace) is None, seconds=120)
            made.rays.close()
            store.close()
