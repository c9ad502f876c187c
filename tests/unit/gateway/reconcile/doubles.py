"""A platform on a real store and storage root, with compute, Ray and MLflow in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rayplane.errors import NotFound, Unavailable
from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.backends.base import Capability
from rayplane.gateway.reconcile.cluster import ClusterReconciler
from rayplane.gateway.reconcile.team_credentials import credentials_path
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import job as jobs
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus
from rayplane.nouns.job import JobSpec, JobStatus
from rayplane.nouns.team import TeamSpec, TeamStatus
from rayplane.settings import GatewaySettings, write_secret
from rayplane.storage.root import open_root
from rayplane.testing.fakes import FakeBackend
from tests.support import stores

TEAM = "alpha"


class Clock:
    """Clock that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class World:
    """The parts of a platform that reconcilers need."""

    def __init__(self, folder: Path, *, mlflow_url: str | None = "http://mlflow") -> None:
        self.settings = GatewaySettings(home=folder, mlflow_url=mlflow_url)
        self.clock = Clock()
        self.store = Store(stores.migrate(self.settings.store_url))
        # As on a single host: the reconciler polls clusters, and a team needs no place.
        able = frozenset(set(Capability) - {Capability.WATCH, Capability.TEAM})
        self.backend = FakeBackend(capabilities=able, clock=self.clock)
        self.ray = FakeRay()
        self.mlflow = FakeMlflow()
        self.woken = 0
        self.platform = Platform(
            store=self.store,
            storage=open_root(self.settings.root_uri),
            settings=self.settings,
            readers=lambda name: self.backend,
            wake=self._wake,
            signer=tokens.load(self.settings.home_paths),
            clock=self.clock,
        )

    def team(self, phase: str = "Ready") -> AnyObject:
        if phase == "Ready":
            write_secret(credentials_path(self.settings.home_paths, TEAM), "rayplane-alpha\npassword\n")
        obj, _ = self.store.put(
            "Team", "", TEAM, TeamSpec().model_dump(mode="json"), owner="test", status=TeamStatus(phase=phase)
        )
        return obj

    def clusters(self, **more: Any) -> ClusterReconciler:
        return ClusterReconciler(
            self.platform,
            lambda name: self.backend,
            lambda endpoint: self.ray,  # type: ignore[arg-type, return-value]
            clock=self.clock,
            **more,
        )

    def cluster(self, name: str = "dev", **spec: Any) -> AnyObject:
        wanted = ClusterSpec(**spec).model_dump(mode="json")
        obj, _ = self.store.put("Cluster", TEAM, name, wanted, owner="test", status=ClusterStatus())
        return obj

    def job(self, name: str = "task", **spec: Any) -> AnyObject:
        wanted = JobSpec(**{"entrypoint": "python task.py", "cluster": "dev", "tracked": False, **spec})
        return jobs.submit(wanted, team=TEAM, name=name, principal=SYSTEM, platform=self.platform)

    def get(self, obj: AnyObject) -> AnyObject:
        return self.store.get_by_uid(obj.metadata.uid)

    def status(self, obj: AnyObject) -> dict[str, Any]:
        return self.get(obj).status_data

    def job_status(self, obj: AnyObject) -> JobStatus:
        return JobStatus.model_validate(self.status(obj))

    def log(self, obj: AnyObject) -> str:
        data, _, _ = jobs.logs(TEAM, obj.metadata.name, 0, principal=SYSTEM, platform=self.platform)
        return data.decode()

    def _wake(self) -> None:
        self.woken += 1


@dataclass
class RayJob:
    """A job in the fake Ray."""

    request: dict[str, Any]
    status: str = "RUNNING"
    message: str = ""
    exit_code: int | None = None
    log: str = ""


@dataclass
class FakeRay:
    """Fake of Ray's REST API for any cluster: a submitted job runs until the test changes it."""

    jobs: dict[str, RayJob] = field(default_factory=dict)
    down: bool = False
    configurations: list[Mapping[str, Any]] = field(default_factory=list)
    applications: dict[str, dict[str, Any]] = field(default_factory=dict)
    components: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"driver": {"is_active": "INACTIVE", "reason": None, "last_activity_at": None}}
    )
    """The answer to Ray's component activities."""
    asked: int = 0
    """Number of calls for those activities."""

    def submit(self, entrypoint: str, submission_id: str, **request: Any) -> None:
        self._check()
        self.jobs.setdefault(submission_id, RayJob({"entrypoint": entrypoint, **request}))

    def job(self, submission_id: str) -> dict[str, Any] | None:
        self._check()
        job = self.jobs.get(submission_id)
        if job is None:
            return None
        return {"status": job.status, "message": job.message, "driver_exit_code": job.exit_code}

    def stop(self, submission_id: str) -> None:
        self._check()
        self.jobs[submission_id].status = "STOPPED"

    def log_from(self, submission_id: str, offset: int) -> Iterator[bytes]:
        self._check()
        if submission_id not in self.jobs:
            raise NotFound(f"Ray knows no job '{submission_id}'.")
        yield self.jobs[submission_id].log.encode()[offset:]

    def activities(self) -> dict[str, Any]:
        self._check()
        self.asked += 1
        return self.components

    def put_serve(self, config: Mapping[str, Any]) -> None:
        self._check()
        self.configurations.append(config)
        wanted = {app["name"]: app for app in config["applications"]}
        self.applications = {
            name: {"status": "DEPLOYING", "message": "", "deployments": {}, "deployed_app_config": app}
            for name, app in wanted.items()
        }

    def serve_status(self) -> dict[str, Any]:
        self._check()
        return {"applications": self.applications}

    def _check(self) -> None:
        if self.down:
            raise Unavailable("Ray does not answer.")


@dataclass
class FakeMlflow:
    """Fake of MLflow's REST API: runs, workspaces, users, and the registry's aliases."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    down: bool = False
    workspaces: dict[str, str] = field(default_factory=dict)
    """Name -> owner."""
    users: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name -> (workspace, password)."""

    def ensure_workspace(self, workspace: str, owner: str, *, adopt: bool = False) -> bool:
        self._check()
        return self.workspaces.setdefault(workspace, owner) == owner or adopt

    def delete_workspace(self, workspace: str) -> None:
        self._check()
        self.workspaces.pop(workspace, None)

    def ensure_user(self, workspace: str, user: str, password: str) -> None:
        self._check()
        self.users[user] = (workspace, password)

    def delete_user(self, user: str) -> None:
        self._check()
        self.users.pop(user, None)

    def ensure_experiment(self, team: str, name: str) -> str:
        self._check()
        return f"{team}-{name}"

    def create_run(self, team: str, experiment_id: str, *, tags: Mapping[str, str], name: str) -> str:
        self._check()
        run_id = f"run-{len(self.runs) + 1}"
        self.runs[run_id] = {"experiment": experiment_id, "tags": dict(tags), "name": name, "status": "RUNNING"}
        return run_id

    def find_run(self, team: str, experiment_id: str, tag: str, value: str) -> str | None:
        self._check()
        run_ids = (i for i, r in self.runs.items() if r["experiment"] == experiment_id and r["tags"].get(tag) == value)
        return next(run_ids, None)

    def get_run(self, team: str, run_id: str) -> dict[str, Any] | None:
        self._check()
        return self.runs.get(run_id)

    def set_tags(self, team: str, run_id: str, tags: Mapping[str, str]) -> None:
        self._check()
        self.runs[run_id]["tags"].update(tags)

    def resume_run(self, team: str, run_id: str) -> None:
        self._check()
        self.runs[run_id]["status"] = "RUNNING"

    def end_run(self, team: str, run_id: str, status: str) -> None:
        self._check()
        self.runs[run_id]["status"] = status

    def alias_version(self, team: str, model: str, alias: str) -> str | None:
        self._check()
        return self.aliases.get(f"{model}@{alias}")

    def model_version(self, team: str, model: str, version: str) -> dict[str, Any] | None:
        self._check()
        return {"name": model, "version": version, "run_id": f"run-of-{version}"}

    def _check(self) -> None:
        if self.down:
            raise Unavailable("MLflow does not answer.")
