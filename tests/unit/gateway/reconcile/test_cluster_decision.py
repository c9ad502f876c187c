"""A cluster's next step follows from one look at it alone: each row is a state and the decision it leads to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.gateway.admission.lifetime import Terms
from rayplane.gateway.backends.base import Capability, ClusterRef, Node, Observation
from rayplane.gateway.reconcile.cluster_decision import PATIENCE, START_TIMEOUT, Obstacles, decide, start
from rayplane.gateway.reconcile.cluster_look import (
    AT_REST,
    FOR_ROOM,
    GONE,
    HURRY,
    UNDER_WAY,
    WATCH,
    Change,
    ClusterLook,
    Decision,
    Head,
    Idleness,
    Report,
)
from rayplane.gateway.reconcile.cluster_release import DRAIN, Load, deletion_of, hold, report_use
from rayplane.gateway.reconcile.idleness import Activity, Verdict
from rayplane.nouns.base import Condition
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus, Endpoint, Suspension
from rayplane.nouns.environment import Environment

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
REF = ClusterRef("alpha", "dev", "u1")
POLLED = frozenset(set(Capability) - {Capability.WATCH})
"""Abilities of a backend that the reconciler polls."""
WATCHED = frozenset(Capability)
FOREIGN = frozenset({Capability.SERVE})
"""Abilities of a backend whose clusters others run."""
ENDPOINT = Endpoint(dashboard_url="http://ray:8265")
ENVIRONMENT = Environment(python="3.11", interpreter="python", ray="2.60.0", lock_hash="l1", rayplane="1.0.0")


def at(seconds: float) -> datetime:
    """Return the instant ``seconds`` from now."""
    return NOW + timedelta(seconds=seconds)


def look(status: ClusterStatus | None = None, **facts: Any) -> ClusterLook:
    """Return a look at a cluster of generation 1 on a backend that is polled."""
    known: dict[str, Any] = {"generation": 1, "spec": ClusterSpec(), "backend": "fake", "capabilities": POLLED}
    return ClusterLook(ref=REF, status=status or ClusterStatus(), **{**known, **facts})


def ready(**fields: Any) -> ClusterStatus:
    """Return the status of a cluster that is ready with the head h1."""
    return ClusterStatus(**{"phase": "Ready", "incarnation": "h1", "observed_generation": 1, **fields})


def silent_since(instant: datetime) -> ClusterStatus:
    """Return the status of a ready cluster whose head does not answer."""
    silence = Condition(type="Reachable", status="False", reason="NotAnswering", last_transition_time=instant)
    return ready(conditions=[silence])


def node(ended_at: datetime | None = None) -> Node:
    return Node("n1", "head", cpu=1, memory=1, gpu=0, started_at=at(-600), ended_at=ended_at)


def not_ready(reason: str, message: str) -> Report:
    return Report("Ready", False, reason, message)


UP = Observation("ready", incarnation="h1", endpoint=ENDPOINT, environment=ENVIRONMENT)
COMING = Observation("starting")
QUIET = Observation("starting", incarnation="h1", message="Connection refused.")
FALLEN = Observation("failed", reason="Killed", message="The raylet was killed.", ended="h1")
ABSENT = Observation("absent")
STARTING = Change("Starting", head=GONE, reports=(not_ready("Starting", "The Ray head is starting."),))
READY = Change(
    "Ready",
    head=Head("h1", ENDPOINT),
    environment=ENVIRONMENT,
    reports=(Report("Ready", True, "Ready"), Report("Reachable", True, "Answering", only_known=True)),
)
NEWLY_READY = Change(
    "Ready", head=READY.head, environment=ENVIRONMENT, reports=READY.reports, announce="cluster alpha/dev is ready"
)
UNREACHABLE = Change(reports=(Report("Reachable", False, "NotAnswering", "Connection refused."),))


def fallen(reason: str, message: str, *, announced: bool = True) -> Change:
    return Change(
        "Failed",
        head=GONE,
        reports=(Report("LastFailure", True, reason, message), not_ready(reason, message)),
        announce=f"cluster alpha/dev: {message}" if announced else "",
    )


WITHOUT_ANSWER = f"The Ray head of 'alpha/dev' runs but has not answered for {PATIENCE.total_seconds():g} s."
FROM_OUTSIDE = "The Ray head of 'alpha/dev' was stopped from outside, with all that it ran."
SUSPENDED = ClusterSpec(suspended=True)
ON_REQUEST = not_ready("Suspended", "Suspended on request.")
GOING = Change(
    "Suspending", head=GONE, reports=(not_ready("Suspended", "It is being suspended. Suspended on request."),)
)
DOWN = Decision(starts="forget", after=Change("Suspended", head=GONE, reports=(ON_REQUEST,)))
IDLE = Suspension(reason="Idle", message="Unused since noon.", at=at(-60), delete_at=at(3600))
OVER = Suspension(reason="Lifetime", message="Its lifetime ended.", at=at(-60), delete_at=at(-60))

ROWS: dict[str, tuple[ClusterLook, Observation, Decision]] = {
    # A head is started, and awaited.
    "a new cluster is to start": (look(), ABSENT, Decision(before=Change(head=GONE), then=("start",))),
    "a starting head is awaited": (
        look(ClusterStatus(phase="Starting", observed_generation=1)),
        COMING,
        Decision(starts="adopt", after=STARTING, again=HURRY),
    ),
    "a backend that reports changes lets a start take its time": (
        look(ClusterStatus(phase="Starting", observed_generation=1), capabilities=WATCHED, start_began=at(-9000)),
        COMING,
        Decision(after=STARTING, again=UNDER_WAY),
    ),
    "a spec that changes during the start is asked for": (
        look(ClusterStatus(phase="Starting", observed_generation=1), generation=2),
        COMING,
        Decision(starts="adopt", ask="ensure", after=STARTING, again=HURRY),
    ),
    "an interrupted creation is completed": (
        look(ClusterStatus(phase="Starting", observed_generation=1)),
        Observation("starting", drift="its Secret"),
        Decision(starts="adopt", repairs="try", drift="its Secret", ask="ensure", after=STARTING, again=HURRY),
    ),
    "a head that does not start in time is replaced": (
        look(ClusterStatus(phase="Starting", observed_generation=1), start_began=at(-1) - START_TIMEOUT),
        COMING,
        Decision(
            before=fallen("NotAnswering", "The Ray head of 'alpha/dev' runs but has not answered for 180 s."),
            then=("start",),
        ),
    ),
    # A ready head is kept as its spec wants it.
    "a head that is ready is announced": (
        look(ClusterStatus(phase="Starting", observed_generation=1)),
        UP,
        Decision(starts="forget", repairs="forget", after=NEWLY_READY, then=("renew", "reclaim"), again=WATCH),
    ),
    "a ready cluster is looked at seldom where the backend reports changes": (
        look(ready(), capabilities=WATCHED),
        UP,
        Decision(starts="forget", repairs="forget", after=READY, then=("renew", "reclaim"), again=AT_REST),
    ),
    "a changed spec is asked for": (
        look(ready(), generation=2),
        UP,
        Decision(starts="forget", repairs="forget", ask="ensure", after=READY, then=("renew", "reclaim"), again=WATCH),
    ),
    "a cluster that others run is never asked for": (
        look(ready(), generation=2, capabilities=FOREIGN),
        UP,
        Decision(starts="forget", after=READY, then=("renew", "reclaim"), again=WATCH),
    ),
    "drift is repaired": (
        look(ready()),
        Observation("ready", incarnation="h1", drift="2 workers"),
        Decision(starts="forget", repairs="try", drift="2 workers", ask="ensure", then=("reclaim",), again=WATCH),
    ),
    "drift that a repair did not end waits for the next repair": (
        look(ready(), repair_wait=7.0),
        Observation("ready", incarnation="h1", drift="2 workers"),
        Decision(starts="forget", then=("reclaim",), again=7.0),
    ),
    # A head that does not answer, or is gone.
    "a ready head that does not answer keeps its phase": (
        look(ready()),
        QUIET,
        Decision(after=UNREACHABLE, again=WATCH),
    ),
    "a ready head may be silent for a while": (
        look(silent_since(NOW - PATIENCE)),
        QUIET,
        Decision(after=UNREACHABLE, again=WATCH),
    ),
    "a ready head that stays silent is deleted": (
        look(silent_since(at(-1) - PATIENCE)),
        QUIET,
        Decision(before=fallen("NotAnswering", f"{WITHOUT_ANSWER} Connection refused."), ask="delete", again=HURRY),
    ),
    "a head that others run counts as slow at first": (
        look(ready(), capabilities=FOREIGN),
        Observation("failed", reason="Unreachable", message="Connection refused."),
        Decision(
            after=Change(reports=(Report("Reachable", False, "Unreachable", "Connection refused."),)), again=WATCH
        ),
    ),
    "a dead head is replaced": (
        look(ready()),
        FALLEN,
        Decision(before=fallen("Killed", "The raylet was killed."), then=("start",)),
    ),
    "a failure is announced once": (
        look(ClusterStatus(phase="Failed", observed_generation=1)),
        FALLEN,
        Decision(before=fallen("Killed", "The raylet was killed.", announced=False), then=("start",)),
    ),
    "a failure that another leader handled is not reported again": (
        look(ready(incarnation="h2")),
        FALLEN,
        Decision(ask="ensure", again=HURRY),
    ),
    "a head that was stopped from outside is a failure": (
        look(ready()),
        ABSENT,
        Decision(before=fallen("HeadGone", FROM_OUTSIDE), then=("start",)),
    ),
    "a removal is awaited": (look(), Observation("stopping"), Decision(again=HURRY)),
    "a failed removal is repeated": (
        look(),
        Observation("stopping", reason="OSError", message="The folder is busy."),
        Decision(ask="delete", again=WATCH),
    ),
    # A suspended cluster.
    "a user's suspension is asked for": (
        look(ready(), spec=SUSPENDED),
        UP,
        Decision(ask="suspend", after=GOING, again=HURRY),
    ),
    "a suspension under way is awaited": (
        look(spec=SUSPENDED),
        Observation("stopping", nodes=(node(),)),
        Decision(after=GOING, again=HURRY),
    ),
    "a failed suspension is repeated": (
        look(spec=SUSPENDED),
        Observation("stopping", reason="OSError", nodes=(node(),)),
        Decision(ask="suspend", after=GOING, again=HURRY),
    ),
    "a suspended cluster waits for its last node": (
        look(spec=SUSPENDED),
        Observation("suspended", nodes=(node(),)),
        Decision(after=GOING, again=HURRY),
    ),
    "a suspended cluster is at rest once its nodes are gone": (
        look(spec=SUSPENDED),
        Observation("suspended", nodes=(node(ended_at=NOW),)),
        DOWN,
    ),
    "a backend that can't suspend says so": (
        look(spec=SUSPENDED, capabilities=FOREIGN),
        UP,
        Decision(after=Change(reports=(not_ready("Unsupported", "The backend 'fake' can't suspend a cluster."),))),
    ),
    "a cluster that the platform suspended is held so": (
        look(ClusterStatus(phase="Suspended", suspension=IDLE)),
        ABSENT,
        Decision(then=("hold",)),
    ),
    # Its lifetime, and its end.
    "a cluster is looked at when its lifetime ends": (
        look(ready(), ends_at=at(1)),
        UP,
        Decision(starts="forget", repairs="forget", after=READY, then=("renew", "reclaim"), again=1.0),
    ),
    "a suspended cluster is looked at when its lifetime ends": (
        look(ClusterStatus(phase="Suspended", suspension=IDLE), ends_at=at(100)),
        ABSENT,
        Decision(then=("hold",), again=100.0),
    ),
    "a lifetime ends in any phase": (
        look(ends_at=NOW),
        COMING,
        Decision(suspend=Verdict("suspend", "Lifetime", "Its lifetime ended 2026-01-01 12:00:00 UTC.")),
    ),
    "a cluster whose lifetime is over is held": (
        look(ClusterStatus(suspension=OVER), ends_at=at(-60)),
        UP,
        Decision(then=("hold",)),
    ),
    "a deleted cluster's compute is deleted": (
        look(ready(), deleted_at=at(-60)),
        UP,
        Decision(ask="delete", again=HURRY),
    ),
    "a deleted cluster waits for its last node": (
        look(deleted_at=at(-60)),
        Observation("absent", nodes=(node(),)),
        Decision(ask="delete", again=HURRY),
    ),
    "a deleted cluster's object goes last": (
        look(deleted_at=at(-60)),
        Observation("absent", nodes=(node(ended_at=NOW),)),
        Decision(starts="forget", repairs="forget", then=("remove",)),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_state_leads_to_its_decision(row: str) -> None:
    cluster, observation, decision = ROWS[row]
    assert decide(cluster, observation, NOW) == decision


NO_MEMORY = Change("Pending", reports=(not_ready("Preflight", "No memory. No quota."),))
NO_TEAM = Change("Pending", reports=(not_ready("TeamNotReady", "Team 'alpha' is being onboarded."),))
START = Change("Starting", reports=STARTING.reports)


@pytest.mark.parametrize(
    ("cluster", "obstacles", "decision"),
    [
        (look(), Obstacles(), Decision(starts="try", ask="ensure", after=START, again=HURRY)),
        (look(capabilities=WATCHED), Obstacles(), Decision("try", ask="ensure", after=START, again=UNDER_WAY)),
        (look(start_wait=4.0), Obstacles(), Decision(again=4.0)),
        (look(), Obstacles(preflight=("No memory.", "No quota.")), Decision(after=NO_MEMORY, again=FOR_ROOM)),
        (look(), Obstacles(team="Team 'alpha' is being onboarded."), Decision(after=NO_TEAM, again=HURRY)),
        (look(capabilities=FOREIGN), Obstacles(), Decision(again=WATCH)),
    ],
)
def test_a_head_starts_unless_something_forbids_it(
    cluster: ClusterLook, obstacles: Obstacles, decision: Decision
) -> None:
    assert start(cluster, obstacles) == decision


def rest(reason: str, message: str, **fields: Any) -> Decision:
    return Decision("forget", after=Change("Suspended", head=GONE, reports=(not_ready(reason, message),)), **fields)


UNUSED = "Unused since noon. It is deleted 2026-01-01 13:00:00 UTC."
DELETED_NOW = "Unused since noon. It is deleted 2026-01-01 12:00:00 UTC."
ENDED = "Its lifetime ended."
DUE = IDLE.model_copy(update={"delete_at": NOW})


@pytest.mark.parametrize(
    ("suspension", "observation", "load", "decision"),
    [
        (IDLE, ABSENT, Load(), rest("Idle", UNUSED, again=AT_REST)),
        (
            IDLE.model_copy(update={"delete_at": None}),
            ABSENT,
            Load(),
            rest("Idle", "Unused since noon."),
        ),
        (
            IDLE,
            UP,
            Load(),
            Decision(
                ask="suspend",
                after=Change("Suspending", head=GONE, reports=(not_ready("Idle", f"It is being suspended. {UNUSED}"),)),
                again=HURRY,
            ),
        ),
        (
            DUE,
            ABSENT,
            Load(),
            rest("Idle", DELETED_NOW, then=("delete",)),
        ),
        (
            IDLE,
            ABSENT,
            Load("job 'task'", lacking="The quota is full."),
            rest("Quota", "It is needed by job 'task', but: The quota is full.", again=FOR_ROOM),
        ),
        (OVER, ABSENT, Load(), rest("Lifetime", ENDED, then=("delete",))),
        (OVER, ABSENT, Load(jobs_left=1), rest("Lifetime", ENDED, then=("delete",))),
        (OVER.model_copy(update={"at": at(1) - DRAIN}), UP, Load(jobs_left=1), Decision(again=HURRY)),
        (
            OVER,
            ABSENT,
            Load("service 'delay'"),
            rest("Lifetime", f"{ENDED} It is not deleted while service 'delay' is on it.", again=60.0),
        ),
    ],
)
def test_a_cluster_that_the_platform_suspended_rests_until_it_is_needed_or_due(
    suspension: Suspension, observation: Observation, load: Load, decision: Decision
) -> None:
    cluster = look(ClusterStatus(suspension=suspension))
    assert hold(cluster, suspension, observation, load, NOW) == decision


def test_a_suspended_cluster_is_deleted_by_its_terms() -> None:
    terms = Terms(idle_timeout=timedelta(minutes=1), delete_after_idle=timedelta(hours=1))
    assert deletion_of(look(), IDLE, None) is None
    assert deletion_of(look(terms=terms), IDLE, None) == at(3540)
    assert deletion_of(look(terms=terms), IDLE, at(9000)) == at(9000)
    assert deletion_of(look(terms=terms), OVER, at(9000)) == OVER.at


KEEP = "Keep it: rayplane cluster extend dev 2h --team alpha"


@pytest.mark.parametrize(
    ("verdict", "activity", "idle"),
    [
        (
            Verdict("keep", idle_since=at(-60), idle_until=at(60)),
            None,
            Report(
                "Idle",
                True,
                "Unused",
                f"Unused since 2026-01-01 11:59:00 UTC; it is suspended 2026-01-01 12:01:00 UTC. {KEEP}",
            ),
        ),
        (Verdict("keep"), Activity("active", "job 'task'"), Report("Idle", False, "InUse", only_known=True)),
        (
            Verdict("keep"),
            Activity("unknown", "Ray is down."),
            Report("Idle", False, "Unknown", "Its use is unknown: Ray is down."),
        ),
        (Verdict("keep"), None, None),
    ],
)
def test_a_clusters_use_is_reported(verdict: Verdict, activity: Activity | None, idle: Report | None) -> None:
    life = Report("Expiring", False, "Lifetime", only_known=True)
    change = Change(idleness=Idleness(verdict.idle_since), reports=(life,) if idle is None else (idle, life))
    assert report_use(look(), verdict, activity) == change


def test_a_change_leaves_the_parts_of_a_status_that_it_does_not_name() -> None:
    status = ready(endpoint=ENDPOINT, environment=ENVIRONMENT, idle_since=at(-60), ready_at=at(-600))
    before = status.model_copy(deep=True)
    Change().apply(status, 2, NOW)
    assert status == before
    Change(reports=(Report("Reachable", False, "NotAnswering"), Report("Idle", False, "", only_known=True))).apply(
        status, 2, NOW
    )
    assert [condition.type for condition in status.conditions] == ["Reachable"]
    assert status.model_copy(update={"conditions": []}) == before, "only Ready tells that the generation was observed"


def test_a_change_to_ready_is_dated_unless_the_head_was_ready_before() -> None:
    status = ready(ready_at=at(-600))
    READY.apply(status, 2, NOW)
    assert (status.ready_at, status.endpoint, status.environment) == (at(-600), ENDPOINT, ENVIRONMENT)
    assert (status.observed_generation, [condition.type for condition in status.conditions]) == (2, ["Ready"])
    Change("Ready", head=Head("h2", ENDPOINT)).apply(status, 2, NOW)
    assert (status.ready_at, status.incarnation, status.environment) == (NOW, "h2", None)
    again = ready(phase="Failed", ready_at=at(-600))
    READY.apply(again, 2, NOW)
    assert again.ready_at == NOW, "it was not ready in between"


def test_a_change_to_another_head_keeps_the_environment() -> None:
    status = ready(endpoint=ENDPOINT, environment=ENVIRONMENT)
    STARTING.apply(status, 1, NOW)
    assert (status.phase, status.incarnation, status.endpoint) == ("Starting", None, None)
    assert status.environment == ENVIRONMENT


instants = st.none() | st.integers(-7200, 7200).map(at)
heads = st.sampled_from([None, "h1", "h2"])
texts = st.sampled_from(["", "Unreachable"])
nodes = st.lists(st.builds(node, st.none() | st.just(NOW)), max_size=2).map(tuple)
observations = st.builds(
    Observation,
    phase=st.sampled_from(["absent", "starting", "ready", "failed", "stopping", "suspended"]),
    reason=texts,
    message=texts,
    incarnation=heads,
    endpoint=st.sampled_from([None, ENDPOINT]),
    nodes=nodes,
    drift=texts,
    ended=heads,
)
statuses = st.builds(
    ClusterStatus,
    phase=st.sampled_from(["", "Pending", "Starting", "Ready", "Failed", "Suspending", "Suspended", "Deleting"]),
    incarnation=heads,
    observed_generation=st.integers(0, 2),
    suspension=st.sampled_from([None, IDLE, OVER]),
    conditions=st.sampled_from([[], silent_since(at(-5)).conditions, silent_since(at(-500)).conditions]),
)
looks = st.builds(
    look,
    statuses,
    spec=st.sampled_from([ClusterSpec(), SUSPENDED]),
    capabilities=st.frozensets(st.sampled_from(list(Capability))),
    deleted_at=instants,
    ends_at=instants,
    start_wait=st.sampled_from([0.0, 4.0]),
    start_began=instants,
    repair_wait=st.sampled_from([0.0, 4.0]),
)


@given(looks, observations)
def test_deciding_twice_on_one_look_gives_the_same(cluster: ClusterLook, observation: Observation) -> None:
    before = cluster.status.model_copy(deep=True)
    assert decide(cluster, observation, NOW) == decide(cluster, observation, NOW)
    assert cluster.status == before


@given(looks, observations)
def test_a_deleted_cluster_is_never_ensured(cluster: ClusterLook, observation: Observation) -> None:
    decision = decide(cluster, observation, NOW)
    if cluster.deleted_at is not None:
        assert (decision.ask, decision.then) in [("delete", ()), ("nothing", ("remove",))]
    else:
        assert "remove" not in decision.then


@given(looks, observations)
def test_a_cluster_that_should_not_run_is_never_started(cluster: ClusterLook, observation: Observation) -> None:
    decision = decide(cluster, observation, NOW)
    ended = cluster.ends_at is not None and cluster.ends_at <= NOW
    if cluster.deleted_at or cluster.spec.suspended or cluster.status.suspension or ended:
        assert decision.ask != "ensure"
        assert "start" not in decision.then


@given(looks, observations.filter(lambda observation: observation.phase in ("absent", "suspended")))
def test_a_suspended_cluster_without_compute_is_at_rest(cluster: ClusterLook, observation: Observation) -> None:
    holds_nodes = any(node.ended_at is None for node in observation.nodes)
    if not cluster.spec.suspended or cluster.deleted_at is not None or holds_nodes:
        return
    decision = decide(cluster, observation, NOW)
    assert (decision.ask, decision.then, decision.again) == ("nothing", (), None)
    if cluster.can(Capability.SUSPEND):
        assert decision == DOWN


@given(looks, observations)
def test_a_cluster_that_others_run_is_neither_repaired_nor_given_a_spec(
    cluster: ClusterLook, observation: Observation
) -> None:
    decision = decide(cluster, observation, NOW)
    if Capability.CREATE not in cluster.capabilities and observation.ended is None:
        assert decision.ask != "ensure"


@given(looks, observations, st.sampled_from([IDLE, OVER, DUE]), st.builds(Load, texts, texts, st.integers(0, 1)))
def test_a_cluster_that_the_platform_suspended_is_never_ensured_and_never_deleted_under_work(
    cluster: ClusterLook, observation: Observation, suspension: Suspension, load: Load
) -> None:
    decision = hold(cluster, suspension, observation, load, NOW)
    assert decision.ask in ("nothing", "suspend")
    if load.work:
        assert "delete" not in decision.then
