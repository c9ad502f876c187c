"""Contract cases for jobs and services with nodes of their own on a bed of level A, and helpers for their objects."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from rayplane.gateway.backends.base import JobRef, LaunchContext, ServiceRef
from rayplane.gateway.backends.kubernetes import rayjob, rayservice
from rayplane.gateway.backends.kubernetes.backend import KubernetesBackend
from rayplane.gateway.backends.kubernetes.kinds import UID
from rayplane.testing.dedicated_contract import SIZE, DedicatedCase
from tests.kubernetes import gateway
from tests.kubernetes.bed.access import Access
from tests.kubernetes.bed.api import Api, Object, wait_for

RAY = gateway.RAY
LAUNCH = LaunchContext(
    size=SIZE, env={"RAYPLANE_TEAM": "alpha"}, secrets={"RAYPLANE_TOKEN_PATH": "the cluster's own token"}
)
OWN = [(RAY, "RayJob"), (RAY, "RayService"), (RAY, "RayCluster"), ("v1", "Pod"), ("v1", "Secret")]


def case_on(bed: Access, backend: KubernetesBackend, home: Path, team: str) -> DedicatedCase:
    """A new job and a new service of a team that has its namespace."""

    def disturb(ref: ServiceRef) -> None:
        change = {"spec": {"serveConfigV2": "applications: []"}}
        bed.api.patch(RAY, "RayService", rayservice.name_of(ref), change, f"rayplane-{ref.team}")

    def take_away(ref: JobRef) -> None:
        bed.api.delete(RAY, "RayJob", rayjob.name_of(ref), f"rayplane-{ref.team}")

    def leftovers(ref: JobRef | ServiceRef) -> list[object]:
        id = ref.submission_id if isinstance(ref, JobRef) else ref.uid
        return [*map(gateway.named, objects_of(bed.api, ref)), *(home / "secrets").rglob(f"{id}*")]

    return DedicatedCase(
        backend,
        JobRef(team, f"j{secrets.token_hex(3)}", secrets.token_hex(16), 1),
        ServiceRef(team, f"s{secrets.token_hex(3)}", secrets.token_hex(16)),
        launch=LAUNCH,
        disturb=disturb,
        take_away=take_away,
        leftovers=leftovers,
        patience=float(os.environ.get("TEST_PATIENCE", "60")),
    )


def until_synced(case: DedicatedCase) -> None:
    """Wait until its backend's cache is up to date."""
    case.job_until(lambda seen: True)
    case.service_until(lambda seen: True)


def ensure(case: DedicatedCase, noun: str) -> None:
    """Ensure its job or its service."""
    if noun == "job":
        case.ensure_job()
    else:
        case.ensure_service()


def until_up(case: DedicatedCase, noun: str) -> None:
    """Wait until it is complete, with its nodes and its token."""
    if noun == "job":
        case.job_until(lambda seen: seen.phase == "running" and not seen.drift and seen.endpoint is not None)
    else:
        case.service_until(lambda seen: seen.phase in ("starting", "ready") and not seen.drift and bool(seen.nodes))


def delete(case: DedicatedCase, noun: str) -> None:
    """Delete it."""
    if noun == "job":
        case.jobs.delete(case.job)
    else:
        case.services.delete(case.service)


def until_gone(case: DedicatedCase, noun: str) -> None:
    """Wait until it is absent and none of its objects is left."""
    if noun == "job":
        case.job_until(lambda seen: seen.phase == "absent")
        case.until_nothing_is_left(case.job)
    else:
        case.service_until(lambda seen: seen.phase == "absent")
        case.until_nothing_is_left(case.service)


def name_of(ref: JobRef | ServiceRef) -> str:
    """Name of its RayJob or RayService."""
    return rayjob.name_of(ref) if isinstance(ref, JobRef) else rayservice.name_of(ref)


def objects_of(api: Api, ref: JobRef | ServiceRef) -> list[Object]:
    """Every object of an attempt or a service, its own and those that KubeRay made for it."""
    where = f"rayplane-{ref.team}"
    own = [obj for version, kind in OWN for obj in gateway.listed(api, version, kind, where, f"{UID}={ref.uid}")]
    made = [
        obj
        for version, kind in gateway.MADE_BY_KUBERAY
        for obj in gateway.listed(api, version, kind, where, "")
        if obj["metadata"]["name"].startswith(name_of(ref))
    ]
    return [*own, *made]


def one(api: Api, kind: str, ref: JobRef | ServiceRef) -> Object:
    """The only object of a kind that belongs to it, once it exists."""
    version = RAY if kind.startswith("Ray") else "v1"

    def look() -> Object | None:
        objects = api.list(version, kind, f"rayplane-{ref.team}", labels=f"{UID}={ref.uid}")
        return objects[0] if len(objects) == 1 else None

    return wait_for(f"one {kind} of {ref}", look, seconds=60)


def head_of(api: Api, ref: JobRef | ServiceRef) -> Object:
    """Its head pod, once there is exactly one."""

    def look() -> Object | None:
        labels = f"{UID}={ref.uid},ray.io/node-type=head"
        objects = api.list("v1", "Pod", f"rayplane-{ref.team}", labels=labels)
        objects = [pod for pod in objects if "deletionTimestamp" not in pod["metadata"]]
        return objects[0] if len(objects) == 1 else None

    return wait_for(f"the head pod of {ref}", look, seconds=60)


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    """A condition as KubeRay writes it."""
    at = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at}
