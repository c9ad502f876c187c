"""A gateway's backend on a bed, acting as its own service account with the role of deploy/, never as an admin."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayplane.gateway.backends.base import ClusterRef, LaunchContext, TeamRef
from rayplane.gateway.backends.kubernetes.backend import KubernetesBackend
from rayplane.gateway.backends.kubernetes.kinds import UID
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.nouns.team import Quota, Size, TeamSpec
from rayplane.settings import GatewaySettings
from rayplane.testing.backend_contract import BackendCase
from tests.kubernetes.bed.access import Access
from tests.kubernetes.bed.api import Api, Object
from tests.kubernetes.bed.level_a import HOLD

ROLE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "gateway-role.yaml"
RAY = "ray.io/v1"
RBAC = "rbac.authorization.k8s.io/v1"

OF_A_CLUSTER = [(RAY, "RayCluster"), ("v1", "Pod"), ("v1", "Secret")]
MADE_BY_KUBERAY = [("v1", "Service"), ("v1", "ServiceAccount"), (RBAC, "Role"), (RBAC, "RoleBinding")]
OF_A_TEAM = [
    ("v1", "ResourceQuota"),
    ("v1", "LimitRange"),
    ("v1", "ServiceAccount"),
    (RBAC, "RoleBinding"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
]

SPEC = ClusterSpec(workers=Workers(min=0, max=3))
LAUNCH = LaunchContext(
    size=Size(cpu=2, memory=2**30), env={"RAYPLANE_TEAM": "alpha"}, secrets={"RAYPLANE_TOKEN_PATH": "text"}
)
TEAM_SPEC = TeamSpec(
    backend="kubernetes",
    members={"ada": "admin"},
    quota=Quota(cpu=64, memory=2**36),
    sizes={"small": Size(cpu=2, memory=2**30)},
)


ACCOUNT, NAMESPACE = "rayplane-gateway", "rayplane"
"""The gateway's own."""


def install(bed: Access) -> Path:
    """Give the gateway its service account and role, as its admin does; the kubeconfig of that account."""
    for manifest in yaml.safe_load_all(ROLE.read_text()):
        bed.api.apply(manifest)
    return bed.kubeconfig_for(ACCOUNT, NAMESPACE)


@contextmanager
def backend_on(
    kubeconfig: Path, home: Path, *, root: str = "s3://bucket/root", **settings: Any
) -> Iterator[KubernetesBackend]:
    """The backend of a gateway with this home and storage root. ``settings`` are of RAYPLANE_KUBERNETES_*."""
    with pytest.MonkeyPatch.context() as environment:
        variables = {
            "kubeconfig": str(kubeconfig),
            "operator_namespace": "kuberay",
            "watch_patience": "30",
            "termination_seconds": "1",
            # Nothing retries a request here that times out on a stalled machine.
            "request_timeout": "60",
            **settings,
        }
        for key, value in variables.items():
            text = value if isinstance(value, str) else json.dumps(value)
            environment.setenv(f"RAYPLANE_KUBERNETES_{key.upper()}", text)
        backend = KubernetesBackend(GatewaySettings(home=home, storage_root=root))
    try:
        yield backend
    finally:
        backend.close()


class _KilledError(BaseException):
    """Not an Exception: nothing on the way may catch it."""


def killed_before(call: int, backend: KubernetesBackend, act: Callable[[], object]) -> bool:
    """Have a gateway act and be killed before its n-th API call, counted from 0; True if it finished before that."""
    left = [call]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise _KilledError
            left[0] -= 1
            return real(*args, **options)

        return ask

    with pytest.MonkeyPatch.context() as patch:
        for verb in ("apply", "merge", "delete", "get", "list"):
            patch.setattr(backend.api, verb, counted(getattr(backend.api, verb)))
        try:
            act()
        except _KilledError:
            return False
    return True


def refs(team: str | None = None) -> tuple[TeamRef, ClusterRef]:
    """A new team and a cluster of it."""
    name = team or f"t{secrets.token_hex(4)}"
    return TeamRef(name, secrets.token_hex(16)), ClusterRef(name, "dev", secrets.token_hex(16))


def case_on(bed: Access, backend: KubernetesBackend, home: Path, **more: Any) -> BackendCase:
    """A contract case on a bed of level A, where the test acts as the autoscaler."""
    team, ref = refs()
    namespace = f"rayplane-{team.name}"
    api: Api = bed.api

    def crash(ref: ClusterRef) -> None:
        (head,) = pods_of(api, ref, "head")
        fail(api, head["metadata"]["name"], namespace)

    def scale(ref: ClusterRef, workers: int) -> None:
        autoscale(api, ref, workers)

    def disturb(ref: ClusterRef) -> None:
        change_json(api, ref, [{"op": "replace", "path": "/spec/workerGroupSpecs/0/maxReplicas", "value": 99}])

    def leftovers(ref: ClusterRef) -> list[object]:
        files: list[object] = list((home / "secrets").rglob(f"{ref.uid}*"))
        return [*(named(obj) for obj in objects_of(api, ref)), *files]

    def disturb_team(team: TeamRef) -> None:
        api.patch("v1", "ResourceQuota", "rayplane", {"spec": {"hard": {"requests.cpu": "4000"}}}, namespace)
        api.delete("networking.k8s.io/v1", "NetworkPolicy", "rayplane-deny", namespace)
        api.patch("v1", "Namespace", namespace, {"metadata": {"labels": {_ENFORCE: "privileged"}}})

    return BackendCase(
        backend,
        ref,
        spec=SPEC,
        launch=LAUNCH,
        crash=crash,
        heals=True,
        scale=scale,
        disturb=disturb,
        leftovers=leftovers,
        team=team,
        disturb_team=disturb_team,
        team_leftovers=lambda team: place_of(api, team),
        **{"team_spec": TEAM_SPEC, "patience": float(os.environ.get("TEST_PATIENCE", "60")), "at_once": 30.0, **more},
    )


@contextmanager
def placed(bed: Access, kubeconfig: Path, home: Path, spec: TeamSpec) -> Iterator[BackendCase]:
    """A case whose team has its namespace for the time of the block."""
    with backend_on(kubeconfig, home) as backend:
        case = case_on(bed, backend, home, team_spec=spec)
        case.until_nothing_is_missing(lambda: backend.teams.ensure(case.team, case.team_spec))
        yield case
        remove(bed.api, case.team)


_ENFORCE = "pod-security.kubernetes.io/enforce"


def fail(api: Api, head: str, namespace: str) -> None:
    """Set a head pod's status as a kubelet does after an out-of-memory kill; kwok leaves it so."""
    state = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": _now()}}
    status = {"name": "ray-head", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    api.patch("v1", "Pod", head, {"metadata": {"annotations": {HOLD: "yes"}}}, namespace)
    api.patch_status("v1", "Pod", head, {"phase": "Failed", "containerStatuses": [status]}, namespace)


def autoscale(api: Api, ref: ClusterRef, workers: int) -> None:
    """Act as Ray's autoscaler: set the number of workers, and which ones to remove."""
    there = [pod["metadata"]["name"] for pod in pods_of(api, ref, "worker")]
    group = "/spec/workerGroupSpecs/0"
    change: list[Object] = [
        {"op": "replace", "path": f"{group}/replicas", "value": workers},
        {"op": "replace", "path": f"{group}/scaleStrategy", "value": {"workersToDelete": there[workers:]}},
    ]
    change_json(api, ref, change)


def change_json(api: Api, ref: ClusterRef, change: list[Object]) -> None:
    """A JSON patch of a cluster's RayCluster, by another writer than the gateway."""
    api.request(
        "PATCH",
        api.path(RAY, "RayCluster", name=ref.name, namespace=f"rayplane-{ref.team}"),
        headers={"Content-Type": "application/json-patch+json"},
        content=json.dumps(change),
    )


def pods_of(api: Api, ref: ClusterRef, kind: str) -> list[Object]:
    """The pods of a cluster that are not being deleted."""
    labels = f"{UID}={ref.uid},ray.io/node-type={kind}"
    pods = api.list("v1", "Pod", f"rayplane-{ref.team}", labels=labels)
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def objects_of(api: Api, ref: ClusterRef) -> list[Object]:
    """Every object of a cluster, its own and those that KubeRay made for it."""
    where = f"rayplane-{ref.team}"
    own = [obj for version, kind in OF_A_CLUSTER for obj in listed(api, version, kind, where, f"{UID}={ref.uid}")]
    made = [
        obj
        for version, kind in MADE_BY_KUBERAY
        for obj in listed(api, version, kind, where, f"ray.io/cluster={ref.name}")
    ]
    return [*own, *made]


def place_of(api: Api, team: TeamRef) -> list[object]:
    """Every object of a team, with its content."""
    namespace = api.get("v1", "Namespace", f"rayplane-{team.name}")
    if namespace is None:
        return []
    labels = f"{UID}={team.uid}"
    objects = [
        obj for version, kind in OF_A_TEAM for obj in listed(api, version, kind, f"rayplane-{team.name}", labels)
    ]
    said = ("spec", "roleRef", "subjects", "automountServiceAccountToken", "imagePullSecrets")
    return [
        (named(obj), json.dumps({key: obj[key] for key in said if key in obj} | _labels(obj), sort_keys=True))
        for obj in [{"kind": "Namespace", **namespace}, *objects]
    ]


def listed(api: Api, version: str, kind: str, namespace: str, labels: str) -> list[Object]:
    """The objects of a kind, each with its kind, which a list leaves out."""
    return [{"kind": kind, **obj} for obj in api.list(version, kind, namespace, labels=labels)]


def named(obj: Mapping[str, Any]) -> str:
    """Kind and name."""
    return f"{obj['kind']}/{obj['metadata']['name']}"


def remove(api: Api, team: TeamRef) -> None:
    """Delete a team's namespace with all of its objects."""
    api.delete("v1", "Namespace", f"rayplane-{team.name}")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _labels(obj: Mapping[str, Any]) -> dict[str, Any]:
    return {"labels": obj["metadata"].get("labels", {})} if obj["kind"] == "Namespace" else {}
