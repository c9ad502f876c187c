"""Onboard a team: set it up on each backend, make its MLflow workspace and its credentials."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from rayplane import rotation
from rayplane.gateway.backends.base import Backend, Capability, TeamRef, teams_of
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.reconcile.team_credentials import credentials, credentials_path, user_in
from rayplane.gateway.reconcile.team_deletion import UNDER_WAY, TeamDeletion, take_away
from rayplane.gateway.store.objects import NO_CLUSTER
from rayplane.gateway.store.typed import Team
from rayplane.gateway.usecases.platform import Platform, project_of, workspace_of
from rayplane.gateway.usecases.team import own_names
from rayplane.nouns import CLUSTER, JOB, SERVICE
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import ClusterSpec, Nodes
from rayplane.nouns.job import UNFINISHED
from rayplane.nouns.team import TeamSpec, TeamStatus, archived_name
from rayplane.settings import read_secret, write_secret

log = logging.getLogger(__name__)

AT_REST = 300.0
"""Seconds between two looks at an onboarded team."""


class TeamReconciler:
    """Reconciler of teams: one is Ready once its jobs can be tracked and its places on backends are there."""

    kind = "Team"

    def __init__(
        self,
        platform: Platform,
        mlflow: MlflowRest | None,
        backends: Callable[[str], Backend],
        *,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._platform = platform
        self._clock = clock
        self._mlflow = mlflow
        self._backends = backends
        self._deletion = TeamDeletion(platform, mlflow, backends)

    def reconcile(self, obj: Team) -> float | None:
        """Make what the team needs and repair what drifted; idempotent."""
        if obj.metadata.deleted_at is not None:
            return self._deletion.go_on(obj)
        team = obj.metadata.name
        again = AT_REST
        if self._mlflow is not None:
            workspace = self._workspace(obj, self._mlflow)
            home = self._platform.settings.home_paths
            self._mlflow.ensure_user(workspace, *credentials(home, team, workspace))
            again = self._rotate(team, workspace, self._mlflow)
        spec, ref = obj.spec, TeamRef(team, obj.metadata.uid)
        wanted = self._wanted(team, spec)
        places = self._record_places(obj, wanted)
        for name in places:
            backend = self._backends(name)
            # The team is removed from a backend that nothing of it uses any more.
            places[name] = teams_of(backend, ref).ensure(ref, spec) if name in wanted else take_away(backend, ref)
        remaining = {name: rest for name, rest in places.items() if name in wanted or rest}
        lacking = [remaining[name] for name in wanted if remaining[name]]
        with editing(self._platform.store, obj.metadata.uid, TeamStatus) as status:
            status.phase = "Pending" if lacking else "Ready"
            status.observed_generation = obj.metadata.generation
            status.mlflow_workspace = status.mlflow_workspace or workspace_of(obj)
            status.feast_project = status.feast_project or project_of(obj)
            status.places = remaining
            message = "" if self._mlflow is not None else "No MLflow server is set: jobs are not tracked."
            reason = "Onboarding" if lacking else "Onboarded"
            status.set_condition("Ready", not lacking, reason, " ".join(lacking) or message, obj.metadata.generation)
        if any(remaining.values()):
            return UNDER_WAY
        return again if remaining or again < AT_REST else None

    def _wanted(self, team: str, spec: TeamSpec) -> list[str]:
        """The backends with the TEAM capability among those that the team's objects use."""
        store = self._platform.store
        nodes: list[Nodes | ClusterSpec | None] = [cluster.spec for cluster in store.each(CLUSTER, team)]
        nodes += [service.spec.nodes for service in store.each(SERVICE, team)]
        nodes += [job.spec.nodes for job in store.each(JOB, team, phases=UNFINISHED, cluster=NO_CLUSTER)]
        named = {of.backend or spec.backend for of in nodes if of is not None}
        return sorted(n for n in {spec.backend, *named} if Capability.TEAM in self._backends(n).capabilities)

    def _record_places(self, obj: Team, wanted: list[str]) -> dict[str, str]:
        """The team's places by backend; a new one is recorded before it is made, so that it is deleted in the end."""
        known = obj.status.places
        new = {name: f"Its place on '{name}' is being made." for name in wanted if name not in known}
        if new:
            with editing(self._platform.store, obj.metadata.uid, TeamStatus) as status:
                status.places = {**new, **status.places}
        return {**new, **known}

    def _workspace(self, obj: Team, mlflow: MlflowRest) -> str:
        """Create the team's workspace in MLflow, before any user gets access to it.

        Chooses another name if MLflow has it as that of another team, of which the store knows nothing.
        """
        store, workspace = self._platform.store, workspace_of(obj)
        owner = archived_name(obj.metadata.name, obj.metadata.uid)
        onboarded = obj.status.observed_generation > 0
        while not mlflow.ensure_workspace(workspace, owner, adopt=onboarded):
            other = own_names(obj.metadata.name, {workspace, *store.names_elsewhere()})
            with editing(store, obj.metadata.uid, TeamStatus) as status:
                status.mlflow_workspace = workspace = other.mlflow_workspace or workspace
        return workspace

    def _rotate(self, team: str, workspace: str, mlflow: MlflowRest) -> float:
        """Switch to the next MLflow user, if one is prepared, and delete the former after its grace period.

        Returns the seconds until the next look. An MLflow user has only one password. With two users, running processes
        go on until they have the new one.
        """
        path = credentials_path(self._platform.settings.home_paths, team)
        coming, former = rotation.next_path(path), rotation.former_path(path)
        if coming.exists():
            user, password = read_secret(coming).splitlines()[:2]
            mlflow.ensure_user(workspace, user, password)
            replaced = rotation.read_former(path)
            # Counted from now: running processes could not get the new one before.
            until = self._clock().timestamp() + replaced.grace
            rotation.write_former(path, replace(replaced, until=until))
            write_secret(path, f"{user}\n{password}\n")
            coming.unlink()
            log.info("team %s is MLflow's user %s", team, user)
        if not former.exists():
            return AT_REST
        replaced = rotation.read_former(path)
        if replaced.name == user_in(path):  # a rotation that was killed before it named the next user
            former.unlink()
            return AT_REST
        left = replaced.until - self._clock().timestamp()
        if left > 0:
            return min(left + 1, AT_REST - 1)
        mlflow.delete_user(replaced.name)
        former.unlink()
        log.info("MLflow's user %s is gone", replaced.name)
        return AT_REST
