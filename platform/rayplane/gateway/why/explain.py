"""Answer `why` for any noun: the first cause's sentence is the answer; an object as wanted has no causes. Pure."""

from __future__ import annotations

from rayplane.gateway.why.clusters import cluster_causes
from rayplane.gateway.why.facts import Facts
from rayplane.gateway.why.work import work_causes
from rayplane.nouns.why import Explanation


def explain(facts: Facts) -> Explanation:
    """Explain the object with ranked causes, or say that it is as wanted."""
    obj = facts.obj
    causes = cluster_causes(facts) if obj.kind == "Cluster" else work_causes(facts)
    phase = str(obj.status.phase)
    return Explanation(
        kind=obj.kind,
        team=obj.metadata.team,
        name=obj.metadata.name,
        phase=phase,
        sentence=causes[0].sentence if causes else _as_wanted(facts, phase),
        causes=causes,
    )


def _as_wanted(facts: Facts, phase: str) -> str:
    subject = f"{facts.where[0].upper()}{facts.where[1:]}"
    if phase in ("Running", "Stopped"):
        return f"{subject} is {phase.lower()}, as wanted."
    return f"{subject} is as wanted."
