"""Teams: what their specs must meet, what a new one must not find of an earlier one, and what forbids to delete one."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Callable, Collection

from rayplane import plugins
from rayplane.errors import Conflict, Forbidden, InvalidSpec, NotFound, Refused
from rayplane.gateway.admission import grants
from rayplane.gateway.admission.roles import Principal, may
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import Object, check_name
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.team import Data, TeamSpec, TeamStatus, archived_name, check_recorded_team, check_team_name
from rayplane.storage import layout


def check_grant(name: str, before: Object | None, spec: TeamSpec, principal: Principal) -> None:
    """Raise Forbidden if a team's own admin makes the team, or gives it more than the platform gave it.

    To be called in the transaction that writes the team.
    """
    if may(principal, "operate"):
        return
    remedy = "Ask an admin of the platform."
    if before is None:
        raise Forbidden(f"Team '{name}' is not there, and '{principal.name}' may not make it.", remedy=remedy)
    more = grants.raised(team_spec(before), spec)
    if more:
        raise Forbidden(
            f"'{principal.name}' may not give team '{name}' more than the platform did: {', '.join(more)}.",
            remedy=remedy,
        )


def first_status(name: str, platform: Platform) -> TeamStatus:
    """The status of a team that is made: in MLflow and Feast it has its name, or another if an earlier team had that.

    To be called in the transaction that writes the team.
    """
    return own_names(name, platform.store.names_elsewhere())


def own_names(name: str, taken: Collection[str]) -> TeamStatus:
    """What a team is called in MLflow and Feast, where ``taken`` are those of all teams that ever were."""
    own = name
    while own in taken:
        own = f"{name}-{secrets.token_hex(4)}"
    return TeamStatus(mlflow_workspace=own, feast_project=own)


def clear_records(name: str, platform: Platform) -> None:
    """Put what was recorded under the name of a team that is gone with what else was recorded of it.

    A request that was under way while the team went may have written after it. To be called in the transaction that
    makes a team, before that.
    """
    earlier = platform.store.predecessors(name)
    if earlier and platform.uid_of_team(name) is None:
        platform.store.file_away(name, archived_name(name, earlier[0]))


def clear_files(team: Object, platform: Platform) -> None:
    """Put away what is in the storage root under the name of a team that was just made, if an earlier one had the name.

    A team that an older version deleted left its folder there, and a process that outlived its team may write anew.
    """
    name = team.metadata.name
    earlier = platform.store.predecessors(name)
    if not earlier or not platform.storage.exists(layout.team(name)):
        return
    archive = layout.archive(archived_name(name, earlier[0]))
    if platform.storage.exists(archive):
        archive = f"{archive}.before-{team.metadata.uid}"
    platform.storage.move(layout.team(name), archive)


def deleting(team: Object, data: Data | None) -> TeamStatus:
    """The status of a team that is to be deleted, which says what becomes of its data: by default it is archived.

    Raises Conflict if it is being deleted already, and the other was asked for.
    """
    status = TeamStatus.model_validate(team.status)
    if team.metadata.deleted_at is not None:
        known = status.data or "archive"
        if data is not None and data != known:
            raise Conflict(
                f"Team '{team.metadata.name}' is being deleted with data: {known}.",
                remedy="Wait until it is gone. The manual says how an archive is removed.",
            )
        return status
    status.data = data or "archive"
    status.archived_as = archived_name(team.metadata.name, team.metadata.uid)
    return status


def check_backend(name: str, where: str, platform: Platform) -> None:
    """Raise InvalidSpec, with the nearest right one, for a backend that is not known; Refused if it is not offered.

    Where the gateway is alone in a container, the backend ``local`` would run teams' code beside its secrets.
    """
    # Third parties' are looked for in every distribution that is installed, which takes a while.
    if name not in plugins.TABLE["backends"] and name not in (known := plugins.names("backends")):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
        raise InvalidSpec(f"{where}: '{name}' is unknown.", remedy=remedy)
    offered = platform.settings.backends
    if offered is not None and name not in offered:
        raise Refused(f"{where}: '{name}' is not offered here.", remedy=f"Write one of: {', '.join(offered)}.")


def require_team_name(name: str) -> None:
    """Raise NotFound for a name that no team can have."""
    _require(lambda: check_team_name(check_name(name)))


def require_recorded_team(name: str) -> None:
    """Raise NotFound for a name under which no ledger can be kept: records are kept of teams that are gone, too."""
    _require(lambda: check_recorded_team(name))


def _require(check: Callable[[], object]) -> None:
    try:
        check()
    except ValueError as exc:
        raise NotFound(f"There is no such team: {exc}.", remedy="'rayplane team list' says which there are.") from exc


def check_deletion(team: Object, platform: Platform) -> None:
    """Raise Conflict while the team has clusters, services, or work under way: those go first."""
    name = team.metadata.name
    kept = [
        f"{obj.kind} '{obj.metadata.name}'"
        for kind in ("Service", "Cluster", "PipelineRun", "Job")
        for obj in platform.store.each(kind, name)
        if kind in ("Service", "Cluster") or obj.status.get("phase") not in TERMINAL
    ]
    if kept:
        shown = ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        raise Conflict(f"Team '{name}' still has {shown}.", remedy="Delete or stop them first.")
