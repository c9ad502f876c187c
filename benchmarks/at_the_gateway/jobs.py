"""Fill a store with a team, its suspended cluster, and many jobs that have ended on it, as the platform stores them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rayplane.gateway.store import Store
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import Attempt, JobSpec, JobStatus, Output
from rayplane.nouns.team import TeamSpec, TeamStatus

TEAM, CLUSTER = "bench", "dev"
_AT_ONCE = 500
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def name_of(number: int) -> str:
    """The name of the n-th job that has ended."""
    return f"ended-{number:05}"


def fill(store: Store, ended: int) -> None:
    """Write the team, its cluster and the jobs with the store's own API."""
    team = TeamSpec().model_dump(mode="json")
    store.put("Team", "", TEAM, team, owner="bench", status=TeamStatus())
    cluster = ClusterSpec(suspended=True).model_dump(mode="json")
    store.put("Cluster", TEAM, CLUSTER, cluster, owner="bench", status=ClusterStatus())
    for first in range(0, ended, _AT_ONCE):
        with store.transaction():
            for number in range(first, min(first + _AT_ONCE, ended)):
                _put(store, number)


def _put(store: Store, number: int) -> None:
    spec = JobSpec(
        entrypoint="python -m jobs.train --days 30",
        cluster=CLUSTER,
        package="sha256:" + "ab" * 32,
        parameters={"days": "30", "seed": str(number)},
        metadata={"rayplane.git_commit": "0" * 40},
    )
    job, _ = store.put(
        "Job", TEAM, name_of(number), spec.model_dump(mode="json"), owner="bench", labels={"row": str(number % 100)}
    )
    store.set_status(job.metadata.uid, _status(job.metadata.uid, number))


def _status(uid: str, number: int) -> JobStatus:
    began = _BEGAN + timedelta(seconds=number)
    ended = began + timedelta(seconds=90)
    failed = number % 10 == 0
    attempt = Attempt(
        number=1, submission_id=f"{uid}-1", incarnation="a" * 32, started_at=began, ended_at=ended, log_kept=True,
        status="Failed" if failed else "Succeeded",
    )  # fmt: skip
    status = JobStatus(
        phase=attempt.status,
        observed_generation=1,
        attempts=[attempt],
        run_id=uid,
        experiment_id="1",
        exit_code=int(failed),
        message="Job entrypoint command failed with exit code 1." if failed else "",
        started_at=began,
        ended_at=ended,
        log_uri=f"file:///storage/{TEAM}/jobs/{uid}/driver.log",
        environment=Environment(interpreter="local", ray="2.60.0", python="3.11", lock_hash="e" * 64, rayplane="0.1.0"),
        outputs=[Output(kind="value", name="auc", value=0.75)],
        git_commit="0" * 40,
    )
    status.set_condition("Scheduled", True, "Submitted", "", 1)
    status.set_condition("Ready", not failed, attempt.status, status.message, 1)
    return status
