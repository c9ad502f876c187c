"""A Ray cluster that somebody else runs, at an address: it is read and used, never made, suspended or deleted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from rayplane.errors import RayplaneError, Unauthenticated, Unsupported
from rayplane.gateway.backends.base import (
    Capability,
    ClusterRef,
    Evidence,
    LaunchContext,
    Observation,
    SharedNodesOnly,
    TeamRef,
)
from rayplane.gateway.ray_rest import RayRest
from rayplane.nouns.cluster import ClusterSpec, Endpoint
from rayplane.nouns.environment import Environment
from rayplane.nouns.team import Size, TeamSpec
from rayplane.settings import GatewaySettings, read_secret

UNKNOWN = "unknown"


class ExistingBackend(SharedNodesOnly):
    """Clusters known by ``spec.address``, the URL of their dashboard. Their token is a 0600 file of the home."""

    name = "existing"
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, settings: GatewaySettings) -> None:
        self._secrets = settings.home_paths.secrets

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """An address is needed, and the cluster must answer there."""
        if spec.address is None:
            return ["A cluster of the backend 'existing' needs 'address': the URL of its Ray dashboard."]
        if urlsplit(spec.address).scheme not in ("http", "https"):
            return [f"'{spec.address}' is not a URL. Write the dashboard's, such as http://host:8265."]
        seen = self.observe(ref, spec)
        return [] if seen.phase == "ready" else [seen.message]

    def real_cores(self) -> int | None:
        """Not known: the platform did not start its nodes."""
        return None

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """What the cluster says of itself: its Ray. It does not tell its Python, nor what is installed."""
        if spec.address is None:
            return None
        try:
            with_token = self._ask(spec.address, None)
        except RayplaneError:
            return None  # it is not known before the cluster answers, and observe() tells why it does not
        return _environment(spec.address, with_token["ray_version"])

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """Whether the dashboard answers; its session is the incarnation."""
        if spec.address is None:
            return Observation(phase="absent")
        token = self._token_path(ref)
        try:
            answer = self._ask(spec.address, token)
        except Unauthenticated:
            remedy = f"Put the cluster's Ray token into '{token}' (0600)."
            message = f"Ray at {spec.address} refuses the token of '{ref}'. {remedy}"
            return Observation(phase="failed", reason="TokenRefused", message=message)
        except RayplaneError as exc:
            return Observation(phase="failed", reason="Unreachable", message=str(exc))
        return Observation(
            phase="ready",
            incarnation=str(answer.get("session_name")),
            endpoint=Endpoint(
                dashboard_url=spec.address.rstrip("/"), token_path=str(token) if token.exists() else None
            ),
            environment=_environment(spec.address, answer["ray_version"]),
        )

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Raises Unsupported."""
        raise Unsupported(
            f"The backend 'existing' can't make cluster '{ref}'.", remedy="Start it yourself, or use another backend."
        )

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """Raises Unsupported: what somebody else runs is not ours to stop."""
        raise Unsupported(f"The backend 'existing' can't suspend cluster '{ref}'.", remedy="Stop it yourself.")

    def delete(self, ref: ClusterRef) -> None:
        """Raises Unsupported."""
        raise Unsupported(f"The backend 'existing' can't delete cluster '{ref}'.", remedy="Stop it yourself.")

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """Nothing beyond what ``observe`` says."""
        return []

    def ensure_team(self, team: TeamRef, spec: TeamSpec) -> str:
        """Raises Unsupported."""
        raise Unsupported(f"The backend 'existing' keeps no place for team '{team}'.", remedy="None is needed.")

    def delete_team(self, team: TeamRef) -> str:
        """Raises Unsupported."""
        raise Unsupported(f"The backend 'existing' keeps no place for team '{team}'.", remedy="None is needed.")

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Raises Unsupported: clusters are looked at."""
        raise Unsupported("The backend 'existing' tells of no changes.", remedy="Look at its clusters.")

    def close(self) -> None:
        """Nothing is held between two calls."""

    def _ask(self, address: str, token_path: Path | None) -> dict[str, str]:
        token = read_secret(token_path) if token_path is not None and token_path.exists() else None
        client = RayRest(address, token, timeout=5.0)
        try:
            return client.version()
        finally:
            client.close()

    def _token_path(self, ref: ClusterRef) -> Path:
        return self._secrets / "clusters" / f"{ref.team}.{ref.name}.ray"


def _environment(address: str, ray: str) -> Environment:
    return Environment(interpreter=address, ray=ray, python=UNKNOWN, lock_hash=UNKNOWN, rayplane=UNKNOWN)
