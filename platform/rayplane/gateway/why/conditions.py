"""Explain from an object's own status why it is not as wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from rayplane.gateway.why.facts import Facts
from rayplane.gateway.why.words import clip
from rayplane.nouns.base import Condition, Status
from rayplane.nouns.why import Cause, Clue

UNSEEN = timedelta(seconds=20)
"""Time that the reconcilers have to look at a written object; they take a second."""
GOOD = frozenset({"Ready", "Succeeded", "Suspended", "Stopped"})

_SUSPENDED = ("Suspended", "Idle", "Lifetime")
"""Reasons for which a cluster is down; a user may have resumed it since."""

_LOGS = "See the gateway's log; it tries again by itself."
_HEAD = "The gateway restarts it. If this goes on, see the log that the message names."

# Reason of a condition -> (code, remedy). For other reasons the cause has the condition's own message.
_REASONS: dict[str, tuple[str, str]] = {
    "Starting": ("starting", "Wait: a head takes 6 to 30 s to start."),
    "NodesStarting": ("starting", "Wait: its nodes take 6 to 30 s to start."),
    "NodesStopping": ("stopping", "Wait: nodes of an earlier time must be gone first."),
    "Onboarding": (
        "team-not-onboarded",
        "Wait: the gateway makes what is missing, unless the reason asks an admin to.",
    ),
    "Stopping": ("stopping", "Wait."),
    "Deleting": ("deleting", "Wait."),
    "Deploying": ("deploying", "Wait: a replica takes seconds to start, and longer for a large model."),
    "TeamNotReady": ("team-not-onboarded", "Wait; if it goes on: rayplane why team/{team}."),
    "Quota": ("quota", "Suspend or delete another cluster of the team, or ask for a smaller size or fewer workers."),
    "Preflight": ("preflight", "Change it as the reason says."),
    "Unsupported": ("unsupported", "Leave it out, or use another backend."),
    "PortTaken": ("port-taken", "Free the port, or wait: the gateway tries another block of ports."),
    "StorageFull": ("disk-full", "Free some space; the gateway then goes on by itself."),
    "HeadDied": ("head-died", _HEAD),
    "HeadGone": ("head-died", _HEAD),
    "Unrecorded": ("head-died", _HEAD),
    "NotAnswering": ("head-not-answering", "It may be busy. The gateway restarts it if this goes on."),
    "TokenRefused": ("token-refused", "Give the platform the cluster's own token, as the reason says."),
    "NotRenewed": (
        "token-not-renewed",
        "See that what the reason names works again, it is tried by itself; or suspend and resume it.",
    ),
    "AddressRefused": ("address-refused", "Use an address that is allowed, or have an admin of the platform apply it."),
    "Unreachable": ("unreachable", "Check that Ray runs at this address and that the gateway can reach it."),
    "Unavailable": ("backend-unreachable", "Check that it runs; the gateway tries again by itself."),
    "Timeout": ("backend-unreachable", "Check that it runs; the gateway tries again by itself."),
    "ClusterNotReady": ("waiting", "See why: rayplane why {team}/{cluster}."),
    "ClusterGone": ("cluster-missing", "Apply the cluster again, or delete this."),
    "NoModel": ("model-missing", "Register the model, or give the alias to one of its versions; it goes on by itself."),
    "Refused": ("serve-refused", "Correct 'app' or its package, then apply it again."),
    "DEPLOY_FAILED": ("deploy-failed", "Correct the model or the application, then move the alias or apply it again."),
    "UNHEALTHY": ("deploy-failed", "See the replicas' log; Ray Serve restarts them by itself."),
    "StartupTimeout": ("startup-timeout", "Give it longer with 'startup_timeout', or see the replicas' log."),
}


def of_conditions(facts: Facts) -> Iterator[Cause]:
    """Causes from the object's false conditions, and from a spec that no reconciler has looked at."""
    status = facts.obj.status
    yield from _unseen(facts, status)
    for condition in status.conditions:
        if condition.status == "True" or not condition.reason:
            continue
        if condition.type in ("Ready", "Scheduled") and not _is_over(facts, status, condition):
            yield _cause(facts, condition, "")
        elif condition.type == "Reconciled":
            yield _failed_look(facts, condition)
        elif condition.type == "TokenCurrent":
            yield _cause(facts, condition, "token-not-renewed")
        elif condition.type == "Reachable":
            yield _cause(facts, condition, "head-not-answering")
    failure = status.condition("LastFailure")
    # Explain the last head's end while the next one starts.
    if failure is not None and failure.status == "True" and status.phase in ("Failed", "Starting"):
        yield _cause(facts, failure, "head-died")


def clue_of(condition: Condition, facts: Facts) -> Clue:
    """A condition as a clue."""
    return Clue(
        source="condition",
        about=f"{facts.obj.kind.lower()}/{facts.obj.metadata.name}",
        reason=condition.reason,
        message=condition.message,
        at=condition.last_transition_time,
    )


def _cause(facts: Facts, condition: Condition, default: str) -> Cause:
    code, remedy = _REASONS.get(condition.reason, (default or "other", "See its status: -o json."))
    if condition.reason == "OSError" and "No space left" in condition.message:
        code, remedy = _REASONS["StorageFull"]
    words = clip(condition.message, 600) or f"it is {facts.obj.status.phase} ({condition.reason})"
    name = f"'{facts.obj.metadata.team}/{facts.obj.metadata.name}'"
    names = {
        "team": facts.obj.metadata.team or facts.obj.metadata.name,
        "cluster": facts.obj.spec_data.get("cluster") or "",
    }
    return Cause(
        code=code,
        sentence=f"{words}." if name in words else f"{_capital(facts.where)}: {words}.",
        remedy=remedy.format(**names),
        evidence=[clue_of(condition, facts)],
    )


def _failed_look(facts: Facts, condition: Condition) -> Cause:
    """The cause for an error in the reconciler's last look."""
    code, remedy = _REASONS.get(condition.reason, ("reconcile-error", _LOGS))
    return Cause(
        code=code,
        sentence=f"The last look at {facts.where} failed: {clip(condition.message, 600)}.",
        remedy=remedy,
        evidence=[clue_of(condition, facts)],
    )


def _unseen(facts: Facts, status: Status) -> Iterator[Cause]:
    meta = facts.obj.metadata
    written = meta.updated_at or facts.now
    if status.observed_generation >= meta.generation:
        return
    if facts.now - written <= UNSEEN:
        yield Cause(
            code="starting",
            sentence=f"{_capital(facts.where)} was written a moment ago; the gateway is about to look at it.",
            remedy="Wait.",
            certainty="likely",
        )
        return
    if status.phase in GOOD and facts.obj.kind == "Job":
        return
    if any(c.type == "Reconciled" and c.status == "False" for c in status.conditions):
        return  # a reconciler did look at it: its error is the cause
    seconds = (facts.now - written).total_seconds()
    yield Cause(
        code="not-looked-at",
        sentence=f"No gateway has looked at {facts.where} since it was written {seconds:.0f} s ago.",
        remedy="Check that a gateway runs and leads: rayplane status, and its log.",
        certainty="likely",
    )


def _is_over(facts: Facts, status: Status, condition: Condition) -> bool:
    """True if a false condition is outdated: its subject has started or ended since, or is no longer wanted."""
    if condition.reason in _SUSPENDED and condition.observed_generation < facts.obj.metadata.generation:
        return True
    return condition.type == "Scheduled" and status.phase not in ("Pending", "Starting", "")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
