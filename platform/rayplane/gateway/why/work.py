"""Explain why a job, a service, a pipeline or a pipeline's run is not as wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.gateway.why.clusters import node_causes, silence, verdict_causes
from rayplane.gateway.why.conditions import of_conditions
from rayplane.gateway.why.facts import Facts
from rayplane.gateway.why.rank import ranked
from rayplane.gateway.why.words import clip
from rayplane.nouns.why import Cause, Clue

_WAITING = ("waiting", "starting", "deploying", "other")
"""Codes that are left out if the object that it depends on has causes of its own."""


def work_causes(facts: Facts) -> list[Cause]:
    """Ranked causes; empty for work that is under way or has succeeded."""
    phase = facts.obj.status.phase
    if facts.obj.kind == "Job" and phase == "Stopped" and facts.obj.status.stop_reason:
        return [_stopped(facts)]
    if phase == "Succeeded" or (phase == "Stopped" and facts.obj.metadata.deleted_at is None):
        return []
    if phase == "Failed" and facts.obj.kind in ("Job", "PipelineRun"):
        return [_failed(facts)]
    if facts.obj.metadata.deleted_at is not None:
        return ranked([_deleting(facts)])
    own = [*of_conditions(facts), *verdict_causes(facts.verdicts, facts.where), *silence(facts)]
    own += node_causes(facts.evidence, facts.where)
    if facts.depends:
        own = [cause for cause in own if cause.code not in _WAITING]
    return [*ranked(own), *_of_dependency(facts)]


def _of_dependency(facts: Facts) -> Iterator[Cause]:
    """Causes of the object that it depends on, in their order; the first one's sentence names the dependency."""
    for position, cause in enumerate(facts.depends):
        if position:
            yield cause
            continue
        lead = f"{facts.where[0].upper()}{facts.where[1:]} {facts.link} {facts.depends_on}: "
        yield cause.model_copy(update={"sentence": lead + cause.sentence[0].lower() + cause.sentence[1:]})


def _failed(facts: Facts) -> Cause:
    status = facts.obj.status
    code = status.exit_code if facts.obj.kind == "Job" else None
    ended = f" with exit code {code}" if code is not None else ""
    message = clip(status.message, 600)
    clues = [Clue(source="condition", about=facts.where, reason="Failed", message=status.message)]
    if facts.last_words:
        clues.append(Clue(source="log", about=facts.where, reason="LastWords", message=facts.last_words))
    name, team = facts.obj.metadata.name, facts.obj.metadata.team
    if facts.obj.kind == "Job":
        remedy = f"See its log: rayplane job logs {name} --team {team}; correct it, and submit it again."
        return Cause(
            code="job-failed",
            sentence=f"{facts.where[0].upper()}{facts.where[1:]} failed{ended}{': ' + message if message else ''}.",
            remedy=remedy,
            evidence=clues,
        )
    return Cause(
        code="run-failed",
        sentence=f"{facts.where[0].upper()}{facts.where[1:]} failed{': ' + message if message else ''}.",
        remedy=f"Correct it, and run it again: rayplane pipeline run {facts.obj.spec.pipeline} --team {team}",
        evidence=clues,
    )


def _stopped(facts: Facts) -> Cause:
    name, team = facts.obj.metadata.name, facts.obj.metadata.team
    return Cause(
        code="lifetime-over",
        sentence=f"{facts.where[0].upper()}{facts.where[1:]} was stopped: {clip(facts.obj.status.stop_reason)}",
        remedy=f"Submit it again where it has the time; its log: rayplane job logs {name} --team {team}",
    )


def _deleting(facts: Facts) -> Cause:
    return Cause(
        code="deleting",
        sentence=f"{facts.where[0].upper()}{facts.where[1:]} is being deleted.",
        remedy="Wait until it is gone; then its name is free again.",
    )
