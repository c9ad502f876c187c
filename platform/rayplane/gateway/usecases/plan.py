"""Plan: the changes that documents would make, everything that forbids them, and their cost. Writes nothing.

The documents are tried together, in the order in which they would be applied, in one transaction that is rolled back.
So each cluster counts against the quota of the others, and a job finds the cluster that the same file creates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel

from rayplane.errors import Conflict, InvalidSpec, NotFound, RayplaneError
from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.store.typed import AnyObject, Team, TypedObject
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases import job as jobs
from rayplane.gateway.usecases import plan_effects
from rayplane.gateway.usecases.objects import authorize_write, check_name_of
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.preflights import PLAN_PATIENCE
from rayplane.gateway.usecases.rules import RULES
from rayplane.gateway.usecases.rules.cluster import reader_of
from rayplane.gateway.usecases.rules.draft import Draft
from rayplane.nouns import NOUNS, RUN, by_kind
from rayplane.nouns.base import Document, parse
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.job import JobSpec
from rayplane.nouns.noun_type import AnyNoun
from rayplane.nouns.plan import Plan, PlannedDocument, Refusal
from rayplane.nouns.service import ServiceSpec

NOT_ASKED = "Pre-flight was not made: a backend is asked only for those who may write this."


def plan(documents: list[Document], *, team: str | None, principal: Principal, platform: Platform) -> Plan:
    """Plan the application of the documents. ``team`` applies to documents that name none.

    Pre-flights are made only for documents that the principal may write, and only until the plan's time is over.

    Raises InvalidSpec for an unknown kind or a document without a team; any other error of a document is listed in the
    plan, with the document.
    """
    items = [_Item.of(document, team) for document in documents]
    order = {noun.kind: index for index, noun in enumerate(NOUNS)}
    items.sort(key=lambda item: order[item.noun.kind])
    _refuse_twins(items)
    for item in items:
        _parse(item, principal)
    until = time.monotonic() + PLAN_PATIENCE
    new_teams = {item.name: item.object(principal) for item in items if item.noun.kind == "Team" and item.readable}
    for item in items:
        # It may ask a backend, which can be slow, so it runs before the transaction begins.
        if item.readable and item.spec is not None:
            _check_before(item, new_teams.get(item.team), principal, platform, until=until)
    with platform.store.transaction(commit=False):
        for item in items:
            if item.readable:
                _try(item, principal, platform)
    planned = [item.result for item in items]
    costs = (d.cost for d in planned if d.change in ("created", "changed"))
    return Plan(documents=planned, allowed=not any(d.forbidden for d in planned), cost=plan_effects.total(costs))


@dataclass
class _Item:
    """One document, and the results of its checks."""

    noun: AnyNoun
    team: str
    name: str
    document: Document
    spec: BaseModel | None = None
    """None if it can't be parsed."""
    readable: bool = False
    writable: bool = False
    before: AnyObject | None = None
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

    def object(self, principal: Principal) -> AnyObject:
        """The object as it would be created; with the noun's default spec if the document's can't be parsed."""
        spec = self.spec if self.spec is not None else self.noun.spec()
        meta = self.document.metadata.model_copy(update={"team": self.team or None, "owner": principal.name})
        return TypedObject.of(self.noun, meta, spec)

    def draft(
        self,
        owner: Team | None,
        before: AnyObject | None,
        principal: Principal,
        platform: Platform,
        *,
        until: float = float("inf"),
    ) -> Draft:
        """The draft that the rules check."""
        return Draft(
            self.noun,
            self.name,
            self.spec,
            owner,
            before,
            principal,
            platform,
            labels=self.document.metadata.labels,
            ask=self.writable,
            until=until,
        )

    def refuse(self, error: RayplaneError) -> None:
        """Add an error to the document's refusals, once; each of a backend's reasons as a refusal of its own."""
        if reasons := error.fields.get("reasons"):
            refusals = [Refusal(code=error.code, message=reason) for reason in reasons]
        else:
            refusals = [Refusal(code=error.code, message=error.detail, remedy=error.remedy)]
        known = {refusal.message for refusal in self.result.forbidden}
        self.result.forbidden += [refusal for refusal in refusals if refusal.message not in known]

    def check(self, act: Callable[[], Any]) -> Any:
        """Run a check and return its result; None if it raised an error, which is added to the refusals."""
        try:
            return act()
        except RayplaneError as exc:
            self.refuse(exc)
            return None


def _refuse_twins(items: list[_Item]) -> None:
    keys: set[tuple[str, str, str]] = set()
    for item in items:
        key = (item.noun.kind, item.team, item.name)
        if key in keys:
            title = f"{item.noun.kind} '{f'{item.team}/' if item.team else ''}{item.name}'"
            item.refuse(Conflict(f"{title} is there twice in these documents.", remedy="Keep one of them."))
        keys.add(key)


def _parse(item: _Item, principal: Principal) -> None:
    """Check the principal's rights to the document and parse its spec; note all that is wrong."""
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


def _check_before(
    item: _Item, new_team: Team | None, principal: Principal, platform: Platform, *, until: float
) -> None:
    """Note everything but the team's other objects that forbids the document, and the cost of a cluster.

    ``new_team`` is the document's team, if the same documents create or change it.
    """
    noun = item.noun
    owner = None
    if noun.team_scoped:
        owner = new_team if new_team is not None else item.check(lambda: platform.team(item.team))
        if owner is None:
            return
    if isinstance(item.spec, JobSpec):
        asked = item.spec
        spec = item.check(lambda: jobs.tracking(asked, platform)) or asked.model_copy(update={"tracked": False})
        item.spec = spec
        if item.check(lambda: jobs.find_existing(spec, item.team, item.name, platform)) is not None:
            return  # an existing job is not checked again
    before = platform.store.get_or_none(noun.kind, item.team, item.name)
    draft = item.draft(owner, before, principal, platform, until=until)
    rules = RULES[noun.kind]
    for check in rules.before(draft):
        item.check(check.act)
    if not item.writable and rules.asks(draft):
        item.result.warnings.append(NOT_ASKED)
    if isinstance(draft.spec, ClusterSpec) and (reader := reader_of(draft)) is not None:
        size = draft.of_team.sizes.get(draft.spec.size)
        if size is not None:
            terms = clusters.terms_of(draft.spec, draft.of_team, reader)
            item.result.cost = plan_effects.cost(draft.spec, size, terms)


def _try(item: _Item, principal: Principal, platform: Platform) -> None:
    """Make the writes that applying the document would make, noting all refusals and the changes."""
    kind = item.noun.kind
    before = item.before = platform.store.get_or_none(kind, item.team, item.name)
    if item.spec is None:
        item.result.change = "created" if before is None else "changed"
        if before is None and kind in ("Team", "Cluster"):
            _put(item, principal, platform)  # so that documents which need it are not refused for its absence
        return
    owner = item.check(lambda: platform.team(item.team)) if item.noun.team_scoped else None
    if owner is None and item.noun.team_scoped:
        item.result.change = "created"
        return
    draft = item.draft(owner, before, principal, platform)
    if isinstance(item.spec, JobSpec):
        _try_job(item, draft)
    else:
        for check in RULES[kind].reserve(draft):
            item.check(check.act)
        obj = _put(item, principal, platform)
        if obj is not None and item.result.change != "unchanged":
            for effect in RULES[kind].written(draft):
                obj = item.check(partial(effect, obj)) or obj
    if isinstance(item.spec, JobSpec | ServiceSpec) and owner is not None:
        item.result.cost = plan_effects.cost_of_nodes(item.spec, owner.spec)
    plan_effects.describe(item.result, before, item.object(principal), owner, platform)


def _try_job(item: _Item, draft: Draft) -> None:
    """Write the job as a submission would, unless something forbids it. Only the labels of an existing job change."""
    item.result.change = "created" if item.before is None else "changed"
    options = jobs.SubmitOptions(item.document.metadata.labels, None, False)
    try:
        job = jobs.find_existing(draft.spec, draft.team, draft.name, draft.platform)
    except RayplaneError as exc:
        item.refuse(exc)
        return
    if job is not None:
        relabelled = item.check(lambda: jobs.relabel(job, options, draft.principal, draft.platform))
        item.result.change = relabelled[1] if relabelled is not None else "changed"
        return
    for check in RULES["Job"].reserve(draft):
        item.check(check.act)
    if not item.result.forbidden:
        item.check(lambda: jobs.put(draft, options))


def _put(item: _Item, principal: Principal, platform: Platform) -> AnyObject | None:
    """Write the document's object; None if the store refuses it."""
    wanted = item.object(principal)
    try:
        obj, item.result.change = platform.store.put(
            item.noun.kind,
            item.team,
            item.name,
            wanted.spec_data,
            labels=wanted.metadata.labels,
            owner=principal.name,
            status=item.noun.status(),
        )
    except (Conflict, NotFound) as exc:
        item.result.change = "changed"
        item.refuse(exc)
        return None
    return obj
