"""Explain why work waits although its cluster runs, from evidence of Ray's autoscaler. Pure."""

from __future__ import annotations

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.why.words import cause, clip
from rayplane.nouns.why import Cause


def autoscaler(fact: Evidence, where: str) -> Cause | None:
    """The cause behind evidence of the autoscaler; None for any other evidence."""
    if fact.source != "autoscaler":
        return None
    said = clip(fact.message)
    if fact.reason == "Infeasible":
        sentence = f"No node that {where} can have is large enough for what its work asks for: {said}."
        return cause(
            "autoscaler-infeasible", sentence, "Ask for less in the code, or use a cluster of a larger size.", fact
        )
    if fact.reason == "AtMaxWorkers":
        sentence = f"{where[0].upper()}{where[1:]} has all the workers that it may have, and work still waits: {said}."
        remedy = "Wait, or raise 'workers.max' within the team's quota."
        return cause("autoscaler-at-max", sentence, remedy, fact)
    if fact.reason == "WorkersPending":
        sentence = f"Workers of {where} are not there yet: {said}."
        return cause(
            "workers-pending", sentence, "Wait; a worker takes about as long to start as a head.", fact, likely=True
        )
    return None
