"""A Ray cluster at an address, run by others: the platform observes and uses it, but never makes or deletes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from rayplane.errors import InvalidSpec, RayplaneError, Unauthenticated, Unsupported
from rayplane.gateway import ray_address, ray_token
from rayplane.gateway.backends.base import (
    Capability,
    ClusterRef,
    Evidence,
    LaunchContext,
    Observation,
)
from rayplane.gateway.ray_reach import NOT_ALLOWED, Reach
from rayplane.gateway.ray_rest import RayRest
from rayplane.nouns.cluster import ClusterSpec, Endpoint
from rayplane.nouns.environment import Environment
from rayplane.nouns.team import Size
from rayplane.settings import GatewaySettings

UNKNOWN = "unknown"
PATIENCE = 5.0
"""Limit in seconds of one observation of such a cluster."""

_VERSION = re.compile(r"\d{1,4}(\.[0-9A-Za-z+_-]{1,30}){1,4}")
_SESSION = re.compile(r"[\w.-]{1,128}", re.ASCII)


class ExistingClusters:
    """Clusters at ``spec.address``, the URL of their dashboard, which the settings must allow or an admin have placed.

    An admin places the token in a 0600 file of the home: the token, and on a second line the address that it is for.
    It is sent nowhere else.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._home = settings.home_paths
        self._allowed = ray_address.AllowList(settings.existing_addresses)

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """Require an address at which the cluster answers."""
        if spec.address is None:
            return ["A cluster of the backend 'existing' needs 'address': the URL of its Ray dashboard."]
        observation = self.observe(ref, spec)
        return [] if observation.phase == "ready" else [observation.message]

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """Ask the dashboard, for at most ``PATIENCE``; Ray's session is the incarnation."""
        if spec.address is None:
            return Observation(phase="absent")
        try:
            address = ray_address.parse(spec.address)
        except InvalidSpec as exc:
            return Observation(phase="failed", reason="AddressRefused", message=str(exc))
        path = self._token_path(ref)
        try:
            placed = ray_token.token_for(address, path)
            answer = self._ask(address, placed.token, Reach(self._allowed, placed=ref.placed))
        except Unauthenticated:
            return Observation(phase="failed", reason="TokenRefused", message=_refused(ref, address, path, placed))
        except RayplaneError as exc:
            refused = exc.fields.get("reason") == NOT_ALLOWED
            return Observation(phase="failed", reason="AddressRefused" if refused else "Unreachable", message=str(exc))
        ray, session = str(answer.get("ray_version") or ""), str(answer.get("session_name") or "")
        if not (_VERSION.fullmatch(ray) and _SESSION.fullmatch(session)):
            message = f"What answers at {address} names no version and session of Ray: is that a Ray dashboard?"
            return Observation(phase="failed", reason="Unreachable", message=message)
        return Observation(
            phase="ready",
            incarnation=session,
            endpoint=Endpoint(
                dashboard_url=str(address),
                reach="placed" if ref.placed else "allowed",
                token_path=str(path) if placed.token is not None else None,
            ),
            environment=_environment(str(address), ray),
        )

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Raises Unsupported."""
        raise Unsupported(
            f"The backend 'existing' can't make cluster '{ref}'.", remedy="Start it yourself, or use another backend."
        )

    def renew(self, ref: ClusterRef, secrets: Mapping[str, str]) -> None:
        """Do nothing: such a cluster has no secrets of the platform."""

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """Raises Unsupported: the platform must not stop a cluster that others run."""
        raise Unsupported(f"The backend 'existing' can't suspend cluster '{ref}'.", remedy="Stop it yourself.")

    def delete(self, ref: ClusterRef) -> None:
        """Raises Unsupported."""
        raise Unsupported(f"The backend 'existing' can't delete cluster '{ref}'.", remedy="Stop it yourself.")

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """No evidence: ``observe`` says everything."""
        return []

    def _ask(self, address: ray_address.Address, token: str | None, reach: Reach) -> dict[str, object]:
        client = RayRest(str(address), token, timeout=PATIENCE, reach=reach)
        try:
            return client.version()
        finally:
            client.close()

    def _token_path(self, ref: ClusterRef) -> Path:
        return self._home.placed_token(ref.team, ref.name)


class ExistingBackend:
    """Clusters at addresses, which others run: no nodes of a job's or a service's own, and no places of teams."""

    name = "existing"
    capabilities: frozenset[Capability] = frozenset()
    jobs = None
    services = None
    teams = None

    def __init__(self, settings: GatewaySettings) -> None:
        self.clusters = ExistingClusters(settings)

    def real_cores(self) -> int | None:
        """None: the platform did not start its nodes and does not know their cores."""
        return None

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """None: only ``observe`` learns it."""
        return None

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Raises Unsupported: the reconciler polls such clusters."""
        raise Unsupported("The backend 'existing' reports no changes.", remedy="Observe its clusters instead.")

    def close(self) -> None:
        """Do nothing: no resources are held between calls."""


def _environment(address: str, ray: str) -> Environment:
    return Environment(interpreter=address, ray=ray, python=UNKNOWN, lock_hash=UNKNOWN, rayplane=UNKNOWN)


def _refused(ref: ClusterRef, address: ray_address.Address, path: Path, placed: ray_token.PlacedToken) -> str:
    remedy = f"Put the cluster's Ray token into '{path}' (0600), and '{address}' on its second line."
    if placed.token is not None:
        return f"Ray at {address} refuses the token of '{ref}'. {remedy}"
    return f"Ray at {address} asks for a token, and '{ref}' has none for it: {placed.problem} {remedy}"
