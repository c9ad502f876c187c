"""Ask whether a cluster is used: the platform's own work on it, then Ray. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable

from rayplane.errors import RayplaneError
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile.idleness import Activity, from_ray
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.cluster import Endpoint


class ActivityProbe:
    """Probe of one cluster at a time; makes at most two short calls to its dashboard. Thread-safe."""

    def __init__(self, platform: Platform, rays: Callable[[Endpoint], RayRest]) -> None:
        self._platform = platform
        self._rays = rays

    def ask(self, team: str, cluster: str, endpoint: Endpoint | None) -> Activity:
        """The cluster's use now; unknown, with the reason, if its head does not answer."""
        work = clusters.work_of(team, cluster, self._platform)
        if work:
            return Activity("active", work)
        if endpoint is None:
            return Activity("unknown", "Its address is not known.")
        try:
            ray = self._rays(endpoint)
            return from_ray(ray.activities(), ray.serve_status().get("applications") or {})
        except RayplaneError as exc:
            return Activity("unknown", str(exc))
