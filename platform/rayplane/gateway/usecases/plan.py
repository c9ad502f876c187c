"""Plan: what documents would change, all that forbids it, what it may cost. Writes nothing: what it tries is undone.

The documents are tried together, in the order in which they would be applied, in one transaction that is rolled back:
so a cluster counts against the quota of its neighbours, and a job finds the cluster that the same file makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel

from rayplane.errors import Conflict, InvalidSpec, NotFound, RayplaneError
from rayplane.gateway.admission import lifetime
from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases import job as jobs
from rayplane.gateway.usecases import pipeline, plan_effects, service
from rayplane.gateway.usecases import team as teams
from rayplane.gateway.usecases.objects import authorize_write, check_name_of
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.gateway.usecases.preflights import PLAN_PATIENCE
from rayplane.nouns import NOUNS, RUN, by_kind
from rayplane.nouns.base import Document, NounType, Object, parse
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.job import JobSpec
from rayplane.nouns.pipeline import PipelineSpec
from rayplane.nouns.plan import Plan, PlannedDocument, Refusal
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import TeamSpec

NOT_ASKED = "Pre-flight was not made: a backend is asked only for those who may write this."


def plan(documents: list[Document], *, team: str | None, principal: Principal, platform: Platform) -> Plan:
    """What applying the documents would do. ``team`` is for those that name none.

    A backend is asked about what the principal may write alone, and only until the plan's time is over.

    Raises InvalidSpec for a kind that is not known or a document without a team; all else that is wrong with a document
    is told in its place.
    """
    items = [_Item.of(document, team) for document in documents]
    order = {noun.kind: place for place, noun in enumerate(NOUNS)}
    items.sort(key=lambda item: order[item.noun.kind])
    _refuse_twins(items)
    for item in items:
        _parse(item, principal)
    until = time.monotonic() + PLAN_PATIENCE
    made = {item.name: item.object(principal) for item in items if item.noun.kind == "Team" and item.readable}
    for item in items:
        # May ask where compute comes from, which takes time: not while the writers' turn is held.
        if isinstance(item.spec, ClusterSpec) and item.readable:
            _preflight(item, item.spec, made.get(item.team), principal, platform, until=until)
    with platform.store.transaction(commit=False):
        for item in items:
            if item.readable:
                _try(item, principal, platform)
    found = [item.result for item in items]
    costs = (d.cost for d in found if d.change in ("created", "changed"))
    return Plan(documents=found, allowed=not any(d.forbidden for d in found), cost=plan_effects.total(costs))


@dataclass
class _Item:
    """One document, and what has been found out about it."""

    noun: NounType
    team: str
    name: str
    document: Document
    spec: BaseModel | None = None
    """None if it can't be parsed."""
    readable: bool = False
    writable: bool = False
    before: Object | None = None
    result: PlannedDocument = field(init=False)

    def __post_init__(self) -> None:
        self.result = PlannedDocument(kind=self.noun.kind, team=self.team, name=self.name, change="unknown")

    @classmethod
    def of(cls, document: Document, team: str | None) -> _Item:
        noun = by_kind(document.kind)
        name = document.metadata.name
        if noun is RUN:
            raise InvalidSpec("kind: a PipelineRun is not applied.", remedy="Run 'rayplane pipeline run'.")
        of = (document.metadata.team or team) if noun.team_scoped else ""
        if of is None:
            raise InvalidSpec(f"{noun.kind} '{name}' names no team.", remedy="Set metadata.team, or say --team.")
        return cls(noun, of, name, document)

    def object(self, principal: Principal) -> Object:
        """The object as it would be made; of a spec that can't be parsed, what there is if one says nothing."""
        spec = self.spec if self.spec is not None else self.noun.spec()
        meta = self.document.metadata.model_copy(update={"team": self.team or None, "owner": principal.name})
        return Object(kind=self.noun.kind, metadata=meta, spec=spec.model_dump(mode="json"))

    def refuse(self, error: RayplaneError) -> None:
        """Note an error against it, once."""
        refusal = Refusal(code=error.code, message=error.detail, remedy=error.remedy)
        if all(refusal.message != known.message for known in self.result.forbidden):
            self.result.forbidden.append(refusal)

    def check(self, act: Callable[[], Any]) -> Any:
        """The answer of a check; None if it refuses, which is noted."""
        try:
            return act()
        except RayplaneError as exc:
            self.refuse(exc)
            return None


def _refuse_twins(items: list[_Item]) -> None:
    seen: set[tuple[str, str, str]] = set()
    for item in items:
        key = (item.noun.kind, item.team, item.name)
        if key in seen:
            title = f"{item.noun.kind} '{f'{item.team}/' if item.team else ''}{item.name}'"
            item.refuse(Conflict(f"{title} is there twice in these documents.", remedy="Keep one of them."))
        seen.add(key)


def _parse(item: _Item, principal: Principal) -> None:
    """Whether the principal may, and what the spec says."""
    try:
        authorize(principal, "read", item.team or None)
        if not item.noun.team_scoped and principal.team is not None:
            authorize(principal, "read", item.name)
        item.readable = True
    except RayplaneError as exc:
        item.refuse(exc)
        return
    try:
        authorize_write(item.noun, item.team, item.name, principal)
        item.writable = True
    except RayplaneError as exc:
        item.refuse(exc)
    item.check(lambda: check_name_of(item.noun, item.name))
    item.spec = item.check(lambda: parse(item.noun.spec, item.document.spec, item.noun.singular))


def _preflight(
    item: _Item, spec: ClusterSpec, team: Object | None, principal: Principal, platform: Platform, *, until: float
) -> None:
    """All reasons why the team can't have such a cluster, whatever else it has."""
    owner = team if team is not None else item.check(lambda: platform.team(item.team))
    if owner is None:
        return
    of_team = team_spec(owner)
    size = item.check(lambda: size_of(of_team, spec.size, team_name=item.team))
    backend = clusters.backend_of(spec, of_team)
    known = len(item.result.forbidden)
    item.check(lambda: teams.check_backend(backend, "cluster.backend", platform))
    if len(item.result.forbidden) > known:
        return
    reader = item.check(lambda: platform.readers(backend))
    if reader is None:
        return
    item.check(lambda: clusters.check_acted_on(spec, reader))
    before = _before(item, platform)
    if before is None:
        item.check(lambda: clusters.check_address(spec, reader))
    held = None if before is None else ClusterSpec.model_validate(before.spec)
    ref = clusters.ref_of(item.team, item.name, spec, before, principal)
    item.check(lambda: lifetime.require(spec, of_team, what=f"Cluster '{ref}'", before=held))
    if size is None:
        return
    item.result.cost = plan_effects.cost(spec, size, clusters.terms_of(spec, of_team, reader))
    if not item.writable:
        item.result.warnings.append(NOT_ASKED)
        return
    ask = partial(reader.preflight, ref, spec, size)
    for reason in item.check(lambda: platform.preflights.make(ask, until=until)) or ():
        item.result.forbidden.append(Refusal(code="refused", message=reason))


def _before(item: _Item, platform: Platform) -> Object | None:
    """The object as it is, if it is there."""
    return _found(item.noun.kind, item.team, item.name, platform)


def _found(kind: str, team: str, name: str, platform: Platform) -> Object | None:
    try:
        return platform.store.get(kind, team, name)
    except NotFound:
        return None


def _try(item: _Item, principal: Principal, platform: Platform) -> None:
    """Do what applying it would do to the store, noting all that refuses it and what changes."""
    kind = item.noun.kind
    item.before = _before(item, platform)
    if item.spec is None:
        item.result.change = "created" if item.before is None else "changed"
        if item.before is None and kind in ("Team", "Cluster"):
            _put(item, principal, platform)  # what needs it is not to be refused for that
        return
    owner = item.check(lambda: platform.team(item.team)) if item.noun.team_scoped else None
    if owner is None and item.noun.team_scoped:
        item.result.change = "created"
        return
    if isinstance(item.spec, JobSpec):
        _try_job(item, item.spec, principal, platform)
    else:
        _check(item, item.spec, owner, principal, platform)
        found = _put(item, principal, platform)
        if item.result.change != "unchanged":
            _check_change(item, item.spec, found, platform)
    if isinstance(item.spec, JobSpec | ServiceSpec) and owner is not None:
        item.result.cost = plan_effects.cost_of_nodes(item.spec, team_spec(owner))
    plan_effects.describe(item.result, item.before, item.object(principal), owner, platform)


def _check(item: _Item, spec: BaseModel, owner: Object | None, principal: Principal, platform: Platform) -> None:
    before = item.before
    if isinstance(spec, TeamSpec):
        item.check(lambda: teams.check(spec, platform))
        if item.writable:
            item.check(lambda: teams.check_grant(item.name, before, spec, principal))
    elif isinstance(spec, ClusterSpec):
        assert owner is not None
        item.check(lambda: clusters.check_quota(owner, item.name, spec, before, platform))
        if before is not None:
            item.check(lambda: clusters.check_change(owner, before, spec))
    elif isinstance(spec, PipelineSpec):
        item.check(lambda: pipeline.check(item.team, spec, platform))
    elif isinstance(spec, ServiceSpec):
        assert owner is not None
        item.check(lambda: service.check(owner, item.name, spec, platform, ask=item.writable))
        if spec.nodes is not None:
            if not item.writable:
                item.result.warnings.append(NOT_ASKED)
            item.check(lambda: service.check_place(owner, item.name, spec, before, platform))
        if before is not None:
            item.check(lambda: service.check_change(owner, before, spec))


def _check_change(item: _Item, spec: BaseModel, found: Object | None, platform: Platform) -> None:
    """What is asked only of an object that is new or other than before; ``found`` is what was written, if it was."""
    before = item.before
    if isinstance(spec, ClusterSpec) and before is not None and found is not None:
        item.check(lambda: clusters.note_wish(before, found, spec, platform))
    elif isinstance(spec, ServiceSpec) and spec.cluster is not None:
        host = _found("Cluster", item.team, spec.cluster, platform)
        if host is not None:
            item.check(lambda: clusters.note_work(host, platform))


def _try_job(item: _Item, spec: JobSpec, principal: Principal, platform: Platform) -> None:
    placed = item.check(
        lambda: jobs.place(
            spec,
            team=item.team,
            name=item.name,
            labels=item.document.metadata.labels,
            principal=principal,
            platform=platform,
        )
    )
    if placed is None:  # that is one reason; what it holds may be another
        item.check(lambda: jobs.check_content(spec, item.team, platform))
    item.result.change = placed[1] if placed is not None else "created" if item.before is None else "changed"


def _put(item: _Item, principal: Principal, platform: Platform) -> Object | None:
    """Write it; None if that is refused."""
    wanted = item.object(principal)
    try:
        found, item.result.change = platform.store.put(
            item.noun.kind,
            item.team,
            item.name,
            wanted.spec,
            labels=wanted.metadata.labels,
            owner=principal.name,
            status=item.noun.status(),
        )
    except (Conflict, NotFound) as exc:
        item.result.change = "changed"
        item.refuse(exc)
        return None
    return found
