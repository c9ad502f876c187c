"""Dependencies of the use cases and routes (store, storage, settings, backends), in one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from rayplane.errors import Conflict, NotFound
from rayplane.gateway.admission.tokens import Signer
from rayplane.gateway.backends.base import Reader
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import Cluster, Team
from rayplane.gateway.usecases.preflights import Preflights
from rayplane.nouns import CLUSTER, TEAM
from rayplane.nouns.base import utcnow
from rayplane.settings import GatewaySettings
from rayplane.storage.root import Storage


@dataclass(frozen=True)
class Platform:
    """The dependencies of every use case. Only the composition root (``gateway/__main__.py``) makes one."""

    store: Store
    storage: Storage
    settings: GatewaySettings
    readers: Callable[[str], Reader]
    """Returns the reader of a backend by its name; raises Unsupported for an unknown one."""
    wake: Callable[[], None]
    """Tells the reconcilers that an object was written."""
    signer: Signer
    ended: Callable[[str], None] = lambda uid: None
    """Tells the job reconciler, by a job's uid, that its entrypoint has ended: Ray will report the end in a moment."""
    clock: Callable[[], datetime] = utcnow
    preflights: Preflights = field(default_factory=Preflights)
    """Limits the pre-flights that users' requests cause."""

    def team(self, name: str) -> Team:
        """A team that accepts new objects; raises NotFound if it does not exist, Conflict if it is being deleted."""
        try:
            team = self.store.get(TEAM, "", name)
        except NotFound as exc:
            remedy = f"{exc.remedy or ''} Make one with 'rayplane apply -f' and a document of kind Team.".strip()
            raise NotFound(f"Team '{name}' is not there.", remedy=remedy) from exc
        if team.metadata.deleted_at is not None:
            raise Conflict(f"Team '{name}' is being deleted and takes nothing new.", remedy="Use another team.")
        return team

    def uid_of_team(self, name: str) -> str | None:
        """The uid of a team, also of one that is being deleted; None if it does not exist."""
        team = self.store.get_or_none(TEAM, "", name)
        return None if team is None else team.metadata.uid

    def workspace(self, team: str) -> str:
        """The name of the team's own workspace in MLflow; raises NotFound for an unknown team."""
        return workspace_of(self.store.get(TEAM, "", team))

    def cluster(self, team: str, name: str) -> Cluster:
        """A cluster that accepts new work; raises NotFound if it does not exist, Conflict if it is being deleted."""
        try:
            cluster = self.store.get(CLUSTER, team, name)
        except NotFound as exc:
            remedy = f"{exc.remedy or ''} Make it with 'rayplane cluster apply {name} --team {team}'.".strip()
            raise NotFound(f"Cluster '{team}/{name}' is not there.", remedy=remedy) from exc
        if cluster.metadata.deleted_at is not None:
            raise Conflict(
                f"Cluster '{team}/{name}' is being deleted and takes nothing new.", remedy="Wait, then apply it again."
            )
        return cluster


def workspace_of(team: Team) -> str:
    """The name of a team's own workspace in MLflow. For a team older than this field it is the team's name."""
    return team.status.mlflow_workspace or team.metadata.name


def project_of(team: Team) -> str:
    """The name from which a team's project in Feast is made. For a team older than this field it is the team's name."""
    return team.status.feast_project or team.metadata.name


def feast_name(project: str) -> str:
    """A project's name in Feast, which allows no '-'."""
    return project.replace("-", "_")
