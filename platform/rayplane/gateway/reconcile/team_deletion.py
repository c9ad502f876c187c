"""Delete a team, and archive or purge its data: a new team of its name finds nothing of it.

Each step is idempotent, so that the next gateway continues after a kill. The last step frees the name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rayplane.errors import Conflict, NotFound
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.backends.base import Backend, TeamRef
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.reconcile.team_credentials import files_of, user_in, user_of
from rayplane.gateway.store import feast_registry
from rayplane.gateway.store.typed import Team
from rayplane.gateway.usecases.platform import Platform, feast_name, project_of, workspace_of
from rayplane.nouns.team import TeamStatus, archived_name
from rayplane.storage import layout

log = logging.getLogger(__name__)

UNDER_WAY = 2.0
"""Seconds between two looks at a team whose places are being deleted."""


class TeamDeletion:
    """The steps of a team's deletion."""

    def __init__(self, platform: Platform, mlflow: MlflowRest | None, backends: Callable[[str], Backend]) -> None:
        self._platform = platform
        self._mlflow = mlflow
        self._backends = backends

    def go_on(self, team: Team) -> float | None:
        """Do the next steps; the seconds until the next look, None once the team is gone."""
        status = team.status
        left = self._places_left(team, status)
        if left:
            return UNDER_WAY
        # Access is revoked before data moves, and no writes go under the name any more when it becomes free.
        self._take_access(team)
        archived = status.archived_as or archived_name(team.metadata.name, team.metadata.uid)
        purge = status.data == "purge"
        self._put_files_away(team.metadata.name, layout.archive(archived), purge=purge)
        if purge:
            self._purge_elsewhere(team)
        self._put_rows_away(team, archived, purge=purge)
        log.info("team %s is gone", team.metadata.name, extra={"data": status.data, "archived_as": archived})
        return None

    def _places_left(self, team: Team, status: TeamStatus) -> dict[str, str]:
        ref = TeamRef(team.metadata.name, team.metadata.uid)
        left = {name: rest for name in status.places if (rest := take_away(self._backends(name), ref))}
        if left:
            generation = team.metadata.generation
            with editing(self._platform.store, team.metadata.uid, TeamStatus) as now:
                now.phase, now.places, now.observed_generation = "Deleting", left, generation
                now.set_condition("Ready", False, "Deleting", " ".join(left.values()), generation)
        return left

    def _take_access(self, team: Team) -> None:
        name, home = team.metadata.name, self._platform.settings.home_paths
        files = files_of(home, name)
        if self._mlflow is not None:
            for user in sorted({user_of(workspace_of(team)), *map(user_in, files)} - {""}):
                self._mlflow.delete_user(user)
        placed = home.placed_token(name, "*")
        for file in (*files, *placed.parent.glob(placed.name)):
            file.unlink(missing_ok=True)

    def _put_files_away(self, name: str, archive: str, *, purge: bool) -> None:
        storage = self._platform.storage
        target, number = archive, 1
        while True:
            try:
                storage.move(layout.team(name), target)
            except NotFound:
                break
            except Conflict:  # it was moved before, and a surviving process wrote again
                number += 1
                target = f"{archive}.{number}"
        if purge:
            entries = [
                entry for entry in storage.list(layout.ARCHIVE) if f"{layout.ARCHIVE}/{entry}".startswith(archive)
            ]
            for entry in entries:
                storage.delete(f"{layout.ARCHIVE}/{entry}")

    def _purge_elsewhere(self, team: Team) -> None:
        """Purge MLflow's workspace with the artifacts of its runs, and Feast's project."""
        workspace, project = workspace_of(team), project_of(team)
        if self._mlflow is not None:
            self._mlflow.delete_workspace(workspace)
        self._platform.storage.delete(layout.mlflow_workspace(workspace))
        settings = self._platform.settings
        feast_registry.forget_project(settings.registry_url, feast_name(project))
        online = settings.home_paths.feast_online(project)
        for path in (online, *(Path(f"{online}{end}") for end in ("-wal", "-shm", "-journal"))):
            with suppress(FileNotFoundError):
                path.unlink()

    def _put_rows_away(self, team: Team, archived: str, *, purge: bool) -> None:
        store, name, uid = self._platform.store, team.metadata.name, team.metadata.uid
        detail = {
            "records": archived,
            "files": None if purge else self._platform.storage.uri(layout.archive(archived)),
            "mlflow_workspace": workspace_of(team),
            "feast_project": project_of(team),
        }
        if purge and self._mlflow is None:
            detail["left"] = "MLflow's workspace: this gateway has no MLflow server to ask."
        with store.transaction():
            store.file_away(name, archived)
            action = "purge" if purge else "archive"
            store.audit(SYSTEM.name, action, kind="Team", team=archived, name=name, detail=detail)
            store.remove(uid)
            if purge:
                store.purge(archived, uid)


def take_away(backend: Backend, team: TeamRef) -> str:
    """Ask for deletion of the team's place; the rest that is left, as one sentence. Empty where the backend, by changed
    settings, keeps no places any more."""
    return "" if backend.teams is None else backend.teams.delete(team)
