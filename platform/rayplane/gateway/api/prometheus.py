"""Routes for Prometheus: the gateway's own metrics, and the targets to scrape (HTTP service discovery)."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from rayplane.gateway import metrics
from rayplane.gateway.admission.roles import authorize
from rayplane.gateway.api.answers import PlatformDep
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.cluster import Endpoint

router = APIRouter(tags=["platform"])


class TargetGroup(BaseModel):
    """Targets that share labels, as Prometheus' HTTP service discovery reads them."""

    targets: list[str]
    labels: dict[str, str]


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Metrics of the gateway",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def exposition(caller: Caller, platform: PlatformDep) -> Response:
    """Prometheus' text format."""
    authorize(caller, "metrics")
    _count(platform)
    return Response(metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})


@router.get("/sd/prometheus", operation_id="get_targets", summary="Targets to scrape")
def targets(
    caller: Caller,
    platform: PlatformDep,
    component: Annotated[
        Literal["gateway", "ray"] | None, Query(description="Only these: the gateway's need a token, Ray's do not.")
    ] = None,
) -> list[TargetGroup]:
    """The gateway, and every node of every ready cluster, job and service; follows them as they come and go."""
    authorize(caller, "metrics")
    groups = [TargetGroup(targets=[urlsplit(platform.settings.url).netloc], labels={"component": "gateway"})]
    for kind, phases in (("Cluster", {"Ready"}), ("Job", {"Running"}), ("Service", {"Ready"})):
        groups += [group for obj in platform.store.each(kind, phases=phases) if (group := _group(obj))]
    return [group for group in groups if component in (None, group.labels["component"])]


def _group(obj: AnyObject) -> TargetGroup | None:
    """The nodes of a cluster, or of a job or service with nodes of its own; None without endpoint or targets."""
    endpoint: Endpoint | None = obj.status.endpoint
    if endpoint is None or not endpoint.metrics_targets:
        return None
    labels = {"team": obj.team, obj.kind.lower(): obj.metadata.name, "component": "ray"}
    return TargetGroup(targets=endpoint.metrics_targets, labels=labels)


def _count(platform: Platform) -> None:
    metrics.OBJECTS.clear()
    for (kind, phase), count in platform.store.count_by_phase().items():
        metrics.OBJECTS.labels(kind, phase).set(count)
    metrics.LEASES_OPEN.clear()
    for team, count in Counter(lease.team for lease in platform.store.leases(open_only=True)).items():
        metrics.LEASES_OPEN.labels(team).set(count)
