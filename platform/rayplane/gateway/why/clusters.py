"""Explain why a cluster, or the nodes of a job or a service of its own, are not as wanted. Pure."""

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
from rayplane.nouns.cluster import ClusterStatus
from rayplane.nouns.why import Cause, Clue

_STUCK = ("operator-silent", "stuck-terminating", "namespace-terminating")
_RESUME = "Resume it: rayplane cluster resume {name} --team {team}"
_SUSPENSION: dict[str, tuple[str, str, str]] = {
    "Idle": ("suspended-idle", "was suspended because nothing used it", _RESUME),
    "Lifetime": (
        "lifetime-over",
        "has reached its maximum lifetime and is being taken down",
        "Extend its lifetime: rayplane cluster extend {name} 2h --team {team}",
    ),
}


def cluster_causes(facts: Facts) -> list[Cause]:
    """Ranked causes of a cluster; empty if it is as wanted."""
    status = facts.obj.status
    if facts.obj.metadata.deleted_at is not None:
        return ranked([*_deleting(facts), *node_causes(facts.evidence, facts.where, going=True), *silence(facts)])
    if facts.obj.spec.suspended or status.suspension is not None:
        return [*_stuck(facts, status), *_suspended_causes(facts, status)]
    causes = [*silence(facts), *node_causes(facts.evidence, facts.where)]
    if status.phase == "Ready":
        # Its head serves: only causes of its workers and of the reconciler are left.
        causes = [c for c in causes if c.node != "head" and c.code != "operator-silent"]
        return ranked([*causes, *(c for c in of_conditions(facts) if c.code not in ("starting", "other"))])
    return ranked([*causes, *verdict_causes(facts.verdicts, facts.where), *of_conditions(facts)])


def node_causes(evidence: Sequence[Evidence], where: str, *, going: bool = False) -> list[Cause]:
    """One cause for each piece of evidence that has one. ``going``: only causes of a stuck deletion."""
    causes = []
    for fact in evidence:
        cause = scheduling(fact, where) or refusal(fact, where) or autoscaler(fact, where) or container(fact, where)
        if cause is not None and (not going or cause.code in ("stuck-terminating", "namespace-terminating")):
            causes.append(cause)
    return _with_quotas(causes, evidence)


def verdict_causes(verdicts: Sequence[Verdict], where: str) -> Iterator[Cause]:
    """Causes from admission's verdicts against the object."""
    for verdict in verdicts:
        yield Cause(
            code=verdict.code,
            sentence=f"{where[0].upper()}{where[1:]} can't be made: {clip(verdict.message, 600)}.",
            remedy=verdict.remedy or "Change it as the reason says.",
            certainty="likely" if verdict.likely else "certain",
            evidence=[Clue(source="admission", about=where, reason=verdict.code, message=verdict.message)],
        )


def _with_quotas(causes: list[Cause], evidence: Sequence[Evidence]) -> list[Cause]:
    """Add a full ResourceQuota as a clue to the refusal that it explains; it is no cause by itself."""
    full = [clue(f) for f in evidence if f.source == "quota" and f.reason == "Full"]
    return [
        c.model_copy(update={"evidence": [*c.evidence, *full]}) if c.code == "namespace-quota" else c for c in causes
    ]


def silence(facts: Facts) -> Iterator[Cause]:
    """The cause for a backend that did not answer, if it did not."""
    if facts.silence:
        yield Cause(
            code="backend-unreachable",
            sentence=f"The backend of {facts.where} does not answer: {clip(facts.silence)}.",
            remedy="Check that it runs and that the gateway can reach it; nothing that runs there is lost.",
        )


def _deleting(facts: Facts) -> Iterator[Cause]:
    since = facts.obj.metadata.deleted_at
    assert since is not None
    seconds = (facts.now - since).total_seconds()
    yield Cause(
        code="deleting",
        sentence=f"{facts.where[0].upper()}{facts.where[1:]} is being deleted, for {seconds:.0f} s so far.",
        remedy="Wait until it is gone; then its name is free again.",
    )


def _suspended_causes(facts: Facts, status: ClusterStatus) -> list[Cause]:
    """Why a suspended cluster is down, and whether the gateway has trouble with suspending it."""
    own = (cause for cause in of_conditions(facts) if cause.code in ("reconcile-error", "not-looked-at"))
    return ranked([_suspended(facts, status), *silence(facts), *own])


def _stuck(facts: Facts, status: ClusterStatus) -> list[Cause]:
    """Causes that keep a cluster from being suspended."""
    if status.phase == "Suspended":
        return []
    return ranked(cause for cause in node_causes(facts.evidence, facts.where) if cause.code in _STUCK)


def _suspended(facts: Facts, status: ClusterStatus) -> Cause:
    ready, why = status.condition("Ready"), status.suspension
    if ready is not None and ready.reason == "Quota":  # work needs it, and the quota has no room for it
        return next(cause for cause in of_conditions(facts) if cause.code == "quota")
    code, words, remedy = (
        ("suspended", "is suspended on request", _RESUME)
        if why is None
        else _SUSPENSION.get(why.reason, ("suspended", "is suspended", _RESUME))
    )
    message = f" ({clip(why.message)})" if why is not None and why.message else ""
    going = "" if status.phase == "Suspended" else " It is being taken down."
    name, team = facts.obj.metadata.name, facts.obj.metadata.team
    return Cause(
        code=code,
        sentence=f"{facts.where[0].upper()}{facts.where[1:]} {words}{message}.{going}",
        remedy=remedy.format(name=name, team=team),
    )
