"""Decide a cluster's next step from one look at it, its observation and the time. Pure: calls no store, no backend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rayplane.gateway.admission import lifetime
from rayplane.gateway.backends.base import Capability, Observation
from rayplane.gateway.reconcile.cluster_look import (
    AT_REST,
    FOR_ROOM,
    GONE,
    HURRY,
    WATCH,
    Change,
    ClusterLook,
    Decision,
    Head,
    Report,
    soonest,
)
from rayplane.gateway.reconcile.cluster_release import release, remove
from rayplane.gateway.reconcile.idleness import Verdict

START_TIMEOUT = timedelta(seconds=180)
"""Time that a head has to start: it takes 6 s on a quiet host, half a minute on a busy one."""
PATIENCE = timedelta(seconds=60)
"""Time for which a ready cluster may not answer before it counts as failed: a busy host slows its dashboard."""
_STARTING = Report("Ready", False, "Starting", "The Ray head is starting.")


@dataclass(frozen=True)
class Obstacles:
    """The obstacles to the start of a head."""

    preflight: tuple[str, ...] = ()
    """The backend's reasons why the cluster can't be created."""
    team: str = ""
    """The team's missing part without which its cluster can't start."""


def decide(look: ClusterLook, observation: Observation, now: datetime) -> Decision:
    """Decide the cluster's next step: it is to run unless it is deleted, suspended, or past its lifetime."""
    if look.deleted_at is not None:
        return remove(look, observation)
    if look.spec.suspended:
        return release(look, observation, "Suspended", "Suspended on request.")
    end = look.ends_at
    if end is None or look.status.is_over:
        return _drive_to_running(look, observation, now)
    if now >= end:  # whatever its phase, and even if it is in use
        return Decision(suspend=Verdict("suspend", "Lifetime", lifetime.ended(end)))
    decision = _drive_to_running(look, observation, now)
    until_end = max(HURRY, min(AT_REST, (end - now).total_seconds()))
    return replace(decision, again=soonest(decision.again, until_end))


def start(look: ClusterLook, obstacles: Obstacles) -> Decision:
    """Start a head where there is none, unless something forbids it or the last start was a moment ago."""
    if obstacles.preflight:
        return Decision(after=_pending("Preflight", " ".join(obstacles.preflight)), again=FOR_ROOM)
    if not look.can(Capability.CREATE):
        return Decision(again=WATCH)
    if obstacles.team:
        return Decision(after=_pending("TeamNotReady", obstacles.team), again=HURRY)
    if look.start_wait > 0:
        return Decision(again=max(look.start_wait, HURRY))
    return Decision(starts="try", ask="ensure", after=Change("Starting", reports=(_STARTING,)), again=look.wait(HURRY))


def _drive_to_running(look: ClusterLook, observation: Observation, now: datetime) -> Decision:
    """Take the next step towards a running cluster, or keep it suspended if the platform suspended it."""
    if look.status.suspension is not None:
        return Decision(then=("hold",))
    if not look.can(Capability.CREATE) and observation.reason == "Unreachable" and look.status.phase == "Ready":
        # A head that others run, too, only counts as slow until it has not answered for long.
        observation = replace(observation, phase="starting", incarnation=look.status.incarnation)
    if observation.phase == "ready":
        return _keep_ready(look, observation)
    if observation.phase == "stopping" and observation.reason:
        return Decision(ask="delete", again=WATCH)  # its removal failed, and only the reconciler tries again
    if observation.phase == "stopping":
        return Decision(again=look.wait(HURRY))
    if observation.phase == "starting":
        observation = _judge_silence(look, observation, now)
    if observation.phase == "starting":
        return _await_start(look, observation)
    return _replace_head(look, observation)


def _keep_ready(look: ClusterLook, observation: Observation) -> Decision:
    """Keep a ready cluster as its spec wants it."""
    if look.can(Capability.CREATE) and observation.drift:
        return replace(_repair(look, observation), starts="forget", then=("reclaim",))
    is_new = look.status.incarnation != observation.incarnation or look.status.phase != "Ready"
    ready = Change(
        "Ready",
        head=Head(observation.incarnation, observation.endpoint),
        environment=observation.environment,
        reports=(Report("Ready", True, "Ready"), Report("Reachable", True, "Answering", only_known=True)),
        announce=f"cluster {look.ref} is ready" if is_new else "",
    )
    return Decision(
        starts="forget",
        repairs="forget" if look.can(Capability.CREATE) else "keep",
        ask="ensure" if look.can(Capability.CREATE) and not look.is_current else "nothing",
        after=ready,
        then=("renew", "reclaim"),
        again=AT_REST if look.can(Capability.WATCH) else WATCH,
    )


def _repair(look: ClusterLook, observation: Observation) -> Decision:
    """Repair drift, ever later while that does not help."""
    if look.repair_wait > 0:
        return Decision(again=max(look.repair_wait, HURRY))
    return Decision(repairs="try", drift=observation.drift, ask="ensure", again=WATCH)


def _judge_silence(look: ClusterLook, observation: Observation, now: datetime) -> Observation:
    """Take a head that has not answered for too long as failed; until then it is starting, or busy.

    A backend that watches its heads reports failures by itself: there a start may wait for a node, or an image.
    """
    if look.can(Capability.WATCH):
        return observation
    reachable = look.status.condition("Reachable")
    if not _is_briefly_silent(look, observation):
        since, patience = look.start_began or now, START_TIMEOUT
    elif reachable is None or reachable.status == "True":
        return observation
    else:
        since, patience = reachable.last_transition_time, PATIENCE
    if now - since <= patience:
        return observation
    seconds = patience.total_seconds()
    message = f"The Ray head of '{look.ref}' runs but has not answered for {seconds:g} s. {observation.message}"
    return replace(observation, phase="failed", reason="NotAnswering", message=message.strip())


def _await_start(look: ClusterLook, observation: Observation) -> Decision:
    """Wait for a head that starts, or that only does not answer at the moment."""
    request = Decision()
    # Drift: its creation was interrupted, or it was changed from outside.
    if look.can(Capability.CREATE) and observation.drift:
        request = _repair(look, observation)
    elif look.can(Capability.CREATE) and not look.is_current:
        request = Decision(ask="ensure")
    if _is_briefly_silent(look, observation):
        message = observation.message or "The Ray head does not answer."
        silent = Report("Reachable", False, observation.reason or "NotAnswering", message)
        return replace(request, after=Change(reports=(silent,)), again=look.wait(WATCH))
    return replace(
        request,
        starts="keep" if look.can(Capability.WATCH) else "adopt",
        after=Change("Starting", head=Head(observation.incarnation), reports=(_STARTING,)),
        again=look.wait(HURRY),
    )


def _replace_head(look: ClusterLook, observation: Observation) -> Decision:
    """Record the failure of a head, if there was one, and make room for the next."""
    if observation.ended is not None and look.status.incarnation not in (None, observation.ended):
        # Another leader handled this failure: it is not that of the current head.
        return Decision(ask="ensure", again=HURRY)
    failure = _failure(look, observation)
    if observation.incarnation is not None and look.can(Capability.CREATE):
        # Its process runs but does not answer: only a new one will.
        return Decision(before=failure, ask="delete", again=HURRY)
    return Decision(before=failure, then=("start",))


def _failure(look: ClusterLook, observation: Observation) -> Change:
    """Record that the head is gone. ``LastFailure`` keeps the reason while the next head starts."""
    if observation.phase != "failed" and look.status.incarnation is None:
        return Change(head=GONE)
    reason, message = observation.reason, observation.message
    if observation.phase in ("absent", "suspended"):
        reason = "HeadGone"
        message = f"The Ray head of '{look.ref}' was stopped from outside, with all that it ran."
    return Change(
        "Failed",
        head=GONE,
        reports=(Report("LastFailure", True, reason, message), Report("Ready", False, reason, message)),
        announce=f"cluster {look.ref}: {message}" if look.status.phase != "Failed" else "",
    )


def _is_briefly_silent(look: ClusterLook, observation: Observation) -> bool:
    """True if a ready cluster's own head still runs and only does not answer at the moment."""
    incarnation = observation.incarnation
    return look.status.phase == "Ready" and incarnation is not None and incarnation == look.status.incarnation


def _pending(reason: str, message: str) -> Change:
    return Change("Pending", reports=(Report("Ready", False, reason, message),))
