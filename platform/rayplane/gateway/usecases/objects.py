"""The common verbs of all nouns: apply, get, list, delete. The checks of each noun are in ``rules``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rayplane.errors import InvalidSpec, PreconditionFailed
from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.store import Page
from rayplane.gateway.store.objects import Change
from rayplane.gateway.store.texts import ObjectText, View
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import datasets, job, operations
from rayplane.gateway.usecases import team as teams
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules import RULES
from rayplane.gateway.usecases.rules.draft import Draft, enforce
from rayplane.nouns import by_kind
from rayplane.nouns.base import Status, check_name, parse
from rayplane.nouns.events import Operation
from rayplane.nouns.job import JobSpec
from rayplane.nouns.noun_type import AnyNoun
from rayplane.nouns.team import Data, check_team_name


def apply(
    kind: str,
    team: str,
    name: str,
    doc_spec: dict[str, Any],
    *,
    labels: dict[str, str],
    principal: Principal,
    platform: Platform,
    if_match: int | None = None,
    if_absent: bool = False,
    dry_run: bool = False,
) -> tuple[AnyObject, Change, Operation | None]:
    """Create or change an object; return it, the kind of change, and the operation that a reconciler will complete.

    The whole spec is checked before anything is written; ``dry_run`` makes the same checks and returns the same, but
    writes nothing. The operation is None if no reconciler has work to do. Raises PreconditionFailed if the object is
    not at version ``if_match``, or exists although ``if_absent``; else what the noun's first failing check raises.
    """
    noun = _noun(kind)
    team = team if noun.team_scoped else ""
    authorize_write(noun, team, name, principal)
    check_name_of(noun, name)
    spec = parse(noun.spec, doc_spec, noun.singular)
    if isinstance(spec, JobSpec):
        submit_or_find = job.prepare(
            spec, team=team, name=name, labels=labels, principal=principal, platform=platform,
            if_match=if_match, if_absent=if_absent, commit=not dry_run,
        )  # fmt: skip
        obj: AnyObject
        obj, change = submit_or_find()
        operation = None
        if change == "created" and not dry_run:
            operation = operations.begin(platform.store, obj, "apply")
            platform.wake()
        return obj, change, operation
    owner = platform.team(team) if noun.team_scoped else None
    before = platform.store.get_or_none(kind, team, name)
    draft = Draft(noun, name, spec, owner, before, principal, platform, labels)
    enforce(RULES[kind].before(draft))
    with platform.store.transaction(commit=not dry_run):
        # Read them again inside the transaction, where no other writer can come between.
        draft = replace(
            draft,
            owner=platform.team(team) if noun.team_scoped else None,
            before=platform.store.get_or_none(kind, team, name),
        )
        if kind == "Team" and draft.before is None and not dry_run:
            teams.clear_records(name, platform)
        obj, change, operation = _write(draft, labels, if_match, if_absent)
        if kind == "Team" and change == "created" and not dry_run:
            teams.clear_files(obj, platform)
    if dry_run:
        return obj, change, None
    if change != "unchanged":
        platform.wake()
    return obj, change, operation


def get(kind: str, team: str, name: str, *, principal: Principal, platform: Platform) -> AnyObject:
    """One object; raises NotFound with the nearest name."""
    noun = by_kind(kind)
    authorize(principal, "read", team if noun.team_scoped else name)
    return platform.store.get(kind, team if noun.team_scoped else "", name)


def text(kind: str, team: str, name: str, *, principal: Principal, platform: Platform) -> ObjectText:
    """One object as JSON text, for callers that only pass it on; raises NotFound with the nearest name."""
    noun = by_kind(kind)
    authorize(principal, "read", team if noun.team_scoped else name)
    return platform.store.text(kind, team if noun.team_scoped else "", name)


def list(
    kind: str,
    team: str | None,
    *,
    labels: dict[str, str] | None = None,
    limit: int = 100,
    cursor: str | None = None,
    view: View = "full",
    principal: Principal,
    platform: Platform,
) -> Page[str]:
    """A page of a team's objects as JSON, oldest first. Raises NotFound for an unknown team.

    ``team`` is None for kind Team: all teams that the principal may read.
    """
    authorize(principal, "read", team)
    store = platform.store
    if team is not None:
        store.require("Team", "", team)
    elif principal.team is not None:
        return Page([store.text(kind, "", principal.team, view=view).json])
    return store.texts(kind, team or "", labels=labels, limit=limit, cursor=cursor, view=view)


def delete(
    kind: str,
    team: str,
    name: str,
    *,
    principal: Principal,
    platform: Platform,
    if_match: int | None = None,
    data: Data | None = None,
) -> tuple[AnyObject, Operation]:
    """Mark an object for deletion; its reconciler deletes what it created for it. A second call changes nothing.

    A dataset's deletion includes the data of all its versions; a model's versions stay in MLflow's registry. ``data``
    says whether a team's data is archived, the default, or purged. Raises Conflict while another object needs this one,
    or if the team's deletion has begun with the other choice of ``data``; PreconditionFailed if the object is not at
    version ``if_match``.
    """
    noun = by_kind(kind)
    team = team if noun.team_scoped else ""
    authorize_write(noun, team, name, principal)
    store = platform.store
    with store.transaction():
        obj = store.get(kind, team, name)
        if if_match is not None and obj.metadata.resource_version != if_match:
            raise PreconditionFailed(
                f"{kind} '{name}' is at version {obj.metadata.resource_version}, not {if_match}.",
                remedy="Get it again and check whether it should still be deleted.",
            )
        leaving = teams.deleting(obj, data) if kind == "Team" else None
        if obj.metadata.deleted_at is None:
            RULES[kind].check_deletion(obj, platform)
            obj = store.mark_deleted(obj.metadata.uid)
            detail = {}
            if leaving is not None:
                obj = store.set_status(obj.metadata.uid, leaving)
                detail = {"data": leaving.data, "archived_as": leaving.archived_as}
            store.audit(principal.name, "delete", kind=kind, team=team or name, name=name, detail=detail)
        operation = operations.begin(store, obj, "delete")
    if RULES[kind].reconciled:
        platform.wake()
        return obj, operation
    if kind == "Dataset":
        datasets.take_down(obj, platform)
    store.remove(obj.metadata.uid)
    return obj, operations.current(store, operation)


def _noun(kind: str) -> AnyNoun:
    noun = by_kind(kind)
    if kind == "PipelineRun":
        raise InvalidSpec("A run can't be applied.", remedy="Start one with 'rayplane pipeline run'.")
    return noun


def authorize_write(noun: AnyNoun, team: str, name: str, principal: Principal) -> None:
    """Raise Forbidden unless the principal may create, change and delete the object; for a team it must be an admin."""
    if noun.team_scoped:
        authorize(principal, "write", team)
    else:
        authorize(principal, "admin", name)


def check_name_of(noun: AnyNoun, name: str) -> None:
    """Raise InvalidSpec if no object of the noun can have the name."""
    try:
        check_name(name)
        if noun.kind == "Team":
            check_team_name(name)
    except ValueError as exc:
        raise InvalidSpec(f"{noun.singular}.metadata.name: {exc}.") from exc


def _write(
    draft: Draft, labels: dict[str, str], if_match: int | None, if_absent: bool
) -> tuple[AnyObject, Change, Operation | None]:
    noun, platform, rules = draft.noun, draft.platform, RULES[draft.noun.kind]
    # Report a stale If-Match, or a deletion under way, before anything else.
    platform.store.check_put(noun.kind, draft.team, draft.name, if_match=if_match, if_absent=if_absent)
    enforce(rules.reserve(draft))
    obj, change = platform.store.put(
        noun.kind,
        draft.team,
        draft.name,
        draft.spec.model_dump(mode="json"),
        labels=labels,
        owner=draft.principal.name,
        if_match=if_match,
        if_absent=if_absent,
        status=rules.first_status(draft) if draft.before is None else None,
    )
    effects = [*(rules.applied(draft) if change != "created" else ())]
    effects += [*(rules.written(draft) if change != "unchanged" else ())]
    for effect in effects:
        obj = effect(obj)
    if change == "unchanged":
        return obj, change, None
    detail = {"change": change, "generation": obj.metadata.generation}
    team = draft.team or draft.name
    platform.store.audit(draft.principal.name, "apply", kind=noun.kind, team=team, name=draft.name, detail=detail)
    if rules.reconciled:
        return obj, change, operations.begin(platform.store, obj, "apply")
    return settle(obj, obj.status_copy(), platform), change, None


def settle(obj: AnyObject, status: Status, platform: Platform) -> AnyObject:
    """Mark an object that has no reconciler as Ready."""
    generation = obj.metadata.generation
    status.phase, status.observed_generation = "Ready", generation
    status.set_condition("Ready", True, "Stored", "", generation)
    return platform.store.set_status(obj.metadata.uid, status)
