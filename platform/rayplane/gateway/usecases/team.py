"""Teams: checks of their specs and of their deletion; and a clean start for a team whose name an earlier team had."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection

from rayplane import plugins
from rayplane.errors import Conflict, Forbidden, InvalidSpec, NotFound, Refused
from rayplane.gateway.admission import grants
from rayplane.gateway.admission.roles import Principal, may
from rayplane.gateway.store.typed import Team
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import check_name
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.team import Data, TeamSpec, TeamStatus, archived_name, check_recorded_team, check_team_name
from rayplane.storage import layout


def check_grant(name: str, before: Team | None, spec: TeamSpec, principal: Principal) -> None:
    """Raise Forbidden if a team's own admin creates the team, or gives it more than an admin of the platform did.

    Call it in the transaction that writes the team.
    """
    if may(principal, "operate"):
        return
    remedy = "Ask an admin of the platform."
    if before is None:
        raise Forbidden(f"Team '{name}' is not there, and '{principal.name}' may not make it.", remedy=remedy)
    more = grants.raised(before.spec, spec)
    if more:
        raise Forbidden(
            f"'{principal.name}' may not give team '{name}' more than the platform did: {', '.join(more)}.",
            remedy=remedy,
        )


def first_status(name: str, platform: Platform) -> TeamStatus:
    """The first status of a new team. In MLflow and Feast it gets its own name, or another if an earlier team had that.

    Call it in the transaction that writes the team.
    """
    return own_names(name, platform.store.names_elsewhere())


def own_names(name: str, taken: Collection[str]) -> TeamStatus:
    """Choose a team's names in MLflow and Feast; ``taken`` are the names there of all teams, past and present."""
    own = name
    while own in taken:
        own = f"{name}-{secrets.token_hex(4)}"
    return TeamStatus(mlflow_workspace=own, feast_project=own)


def clear_records(name: str, platform: Platform) -> None:
    """Archive records that are still under the name of a deleted team, with that team's other records.

    A request under way during the deletion may have written after it. Call it in the transaction that creates a team of
    this name, before it writes the team.
    """
    earlier = platform.store.predecessors(name)
    if earlier:
        platform.store.file_away(name, archived_name(name, earlier[0]))


def clear_files(team: Team, platform: Platform) -> None:
    """Archive files in the storage root under the name of a new team, if an earlier team had that name.

    An older version left the folder of a deleted team there, and a process that outlived its team may still write.
    """
    name = team.metadata.name
    earlier = platform.store.predecessors(name)
    if not earlier or not platform.storage.exists(layout.team(name)):
        return
    archive = layout.archive(archived_name(name, earlier[0]))
    if platform.storage.exists(archive):
        archive = f"{archive}.before-{team.metadata.uid}"
    platform.storage.move(layout.team(name), archive)


def deleting(team: Team, data: Data | None) -> TeamStatus:
    """The status of a team that is to be deleted; it says whether its data is archived, the default, or purged.

    Raises Conflict if the team is being deleted already with the other choice of ``data``.
    """
    status = team.status_copy()
    if team.metadata.deleted_at is not None:
        chosen = status.data or "archive"
        if data is not None and data != chosen:
            raise Conflict(
                f"Team '{team.metadata.name}' is being deleted with data: {chosen}.",
                remedy="Wait until it is gone. The manual says how an archive is removed.",
            )
        return status
    status.data = data or "archive"
    status.archived_as = archived_name(team.metadata.name, team.metadata.uid)
    return status


def check_backend(name: str, where: str, platform: Platform) -> None:
    """Raise InvalidSpec, with the nearest name, for an unknown backend; Refused for one that the settings do not offer.

    With the gateway alone in a container, the backend ``local`` would run teams' code beside the gateway's secrets.
    """
    # Look up third parties' backends only if need be: it searches every installed distribution, which is slow.
    if name not in plugins.TABLE["backends"] and name not in plugins.names("backends"):
        raise InvalidSpec(f"{where}: '{name}' is unknown.", remedy=plugins.suggestion("backends", name))
    offered = platform.settings.backends
    if offered is not None and name not in offered:
        raise Refused(f"{where}: '{name}' is not offered here.", remedy=f"Write one of: {', '.join(offered)}.")


def require_team_name(name: str) -> None:
    """Raise NotFound for a name that no team can have."""
    _require(lambda: check_team_name(check_name(name)))


def require_recorded_team(name: str) -> None:
    """Raise NotFound for a name that neither a team nor the records of a deleted team can have."""
    _require(lambda: check_recorded_team(name))


def _require(check: Callable[[], object]) -> None:
    try:
        check()
    except ValueError as exc:
        raise NotFound(f"There is no such team: {exc}.", remedy="'rayplane team list' lists the teams.") from exc


def check_deletion(team: Team, platform: Platform) -> None:
    """Raise Conflict while the team has clusters, services, or unfinished jobs or runs: they must be deleted first."""
    name = team.metadata.name
    blocking = [
        f"{obj.kind} '{obj.metadata.name}'"
        for kind in ("Service", "Cluster", "PipelineRun", "Job")
        for obj in platform.store.each(kind, name)
        if kind in ("Service", "Cluster") or obj.status.phase not in TERMINAL
    ]
    if blocking:
        shown = ", ".join(blocking[:5]) + (f" and {len(blocking) - 5} more" if len(blocking) > 5 else "")
        raise Conflict(f"Team '{name}' still has {shown}.", remedy="Delete or stop them first.")
