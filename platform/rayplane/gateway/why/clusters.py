"""Why a cluster is not as wanted, and what holds up nodes that a job or a service has for itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.why.autoscaler import autoscaler
from rayplane.gateway.why.conditions import of_conditions
from rayplane.gateway.why.containers import container
from rayplane.gateway.why.facts import Facts, Verdict
from rayplane.gateway.why.rank import ranked
from rayplane.gateway.why.refusals import refusal
from rayplane.gateway.why.scheduling import scheduling
from rayplane.gateway.why.words import clip, clue
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus
from rayplane.nouns.why import Cause, Clue

_STUCK = ("operator-silent", "stuck-terminating", "namespace-terminating")
_RESUME = "Resume it: rayplane cluster resume {name} --team {team}"
_SUSPENSION: dict[str, tuple[str, str, str]] = {
    "Idle": ("suspended-idle", "was suspended because nothing used it", _RESUME),
    "Lifetime": (
        "lifetime-over",
        "has reached its longest life and is being given back",
        "Put its end off: rayplane cluster extend {name} 2h --team {team}",
    ),
}


def cluster_causes(facts: Facts) -> list[Cause]:
    """Ranked; nothing for a cluster that is as wanted."""
    status = ClusterStatus.model_validate(facts.obj.status)
    if facts.obj.metadata.deleted_at is not None:
        return ranked([*_deleting(facts), *node_causes(facts.evidence, facts.where, going=True), *silence(facts)])
    if ClusterSpec.model_validate(facts.obj.spec).suspended or status.suspension is not None:
        return [*_holding_up(facts, status), *_down(facts, status)]
    causes = [*silence(facts), *node_causes(facts.evidence, facts.where)]
    if status.phase == "Ready":
        # Its head serves: only what its workers lack is left to be told, and what the reconciler could not do.
        causes = [c for c in causes if c.node != "head" and c.code != "operator-silent"]
        return ranked([*causes, *(c for c in of_conditions(facts) if c.code not in ("starting", "other"))])
    return ranked([*causes, *verdict_causes(facts.verdicts, facts.where), *of_conditions(facts)])


def node_causes(evidence: Sequence[Evidence], where: str, *, going: bool = False) -> list[Cause]:
    """What facts from below tell, one cause for each fact that tells one; ``going`` where only leaving matters."""
    found = []
    for fact in evidence:
        told = scheduling(fact, where) or refusal(fact, where) or autoscaler(fact, where) or container(fact, where)
        if told is not None and (not going or told.code in ("stuck-terminating", "namespace-terminating")):
            found.append(told)
    return _with_quotas(found, evidence)


def verdict_causes(verdicts: Sequence[Verdict], where: str) -> Iterator[Cause]:
    """What admission has against it."""
    for verdict in verdicts:
        yield Cause(
            code=verdict.code,
            sentence=f"{where[0].upper()}{where[1:]} can't be made: {clip(verdict.message, 600)}.",
            remedy=verdict.remedy or "Change it as the reason says.",
            certainty="likely" if verdict.likely else "certain",
            evidence=[Clue(source="admission", about=where, reason=verdict.code, message=verdict.message)],
        )


def _with_quotas(causes: list[Cause], evidence: Sequence[Evidence]) -> list[Cause]:
    """A full ResourceQuota is no cause by itself, but it bears out the refusal that is one."""
    full = [clue(f) for f in evidence if f.source == "quota" and f.reason == "Full"]
    return [
        c.model_copy(update={"evidence": [*c.evidence, *full]}) if c.code == "namespace-quota" else c for c in causes
    ]


def silence(facts: Facts) -> Iterator[Cause]:
    """That what runs it could not be asked."""
    if facts.silence:
        yield Cause(
            code="backend-unreachable",
            sentence=f"What runs {facts.where} can't be asked: {clip(facts.silence)}.",
            remedy="See that it runs and that the gateway may reach it; nothing that runs there is lost.",
        )


def _deleting(facts: Facts) -> Iterator[Cause]:
    since = facts.obj.metadata.deleted_at
    assert since is not None
    seconds = (facts.now - since).total_seconds()
    yield Cause(
        code="deleting",
        sentence=f"{facts.where[0].upper()}{facts.where[1:]} is being deleted since {seconds:.0f} s.",
        remedy="Wait until it is gone; then its name is free again.",
    )


def _down(facts: Facts, status: ClusterStatus) -> list[Cause]:
    """Who wants it suspended, and whether the gateway is at it."""
    own = (cause for cause in of_conditions(facts) if cause.code in ("reconcile-error", "not-looked-at"))
    return ranked([_suspended(facts, status), *silence(facts), *own])


def _holding_up(facts: Facts, status: ClusterStatus) -> list[Cause]:
    """What keeps a cluster that is to be suspended from going down."""
    if status.phase == "Suspended":
        return []
    return ranked(cause for cause in node_causes(facts.evidence, facts.where) if cause.code in _STUCK)


def _suspended(facts: Facts, status: ClusterStatus) -> Cause:
    ready, why = status.condition("Ready"), status.suspension
    if ready is not None and ready.reason == "Quota":  # it is needed, and there is no room for it
        return next(cause for cause in of_conditions(facts) if cause.code == "quota")
    code, words, remedy = ("suspended", "is suspended on request", _RESUME) if why is None else _SUSPENSION[why.reason]
    message = f" ({clip(why.message)})" if why is not None and why.message else ""
    going = "" if status.phase == "Suspended" else " It is being taken down."
    name, team = facts.obj.metadata.name, facts.obj.metadata.team
    return Cause(
        code=code,
        sentence=f"{facts.where[0].upper()}{facts.where[1:]} {words}{message}.{going}",
        remedy=remedy.format(name=name, team=team),
    )
