"""A team with a run, a model, a dataset, a package and a log on a real platform: deleted, made anew, and empty."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayplane.nouns.base import Object
from rayplane.nouns.job import JobStatus
from rayplane.nouns.team import TeamStatus
from rayplane.storage import layout
from tests.support import mlflow_places, team_routes
from tests.support.local_platform import LocalPlatform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MARK = "written-before-the-deletion"
WORK = f"""
import mlflow
import pyarrow as pa
from mlflow import MlflowClient

from rayplane.runtime import datasets

with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    mlflow.log_text("{MARK}", "note.txt")
    client = MlflowClient()
    client.create_registered_model("old-model")
    version = client.create_model_version("old-model", run.info.artifact_uri, run.info.run_id)
    client.set_registered_model_alias("old-model", "champion", version.version)
datasets.publish("old-data", pa.table({{"mark": ["{MARK}"]}}))
print("{MARK}", flush=True)
"""
LOOK = """
import json
import os

from mlflow import MlflowClient

from rayplane.errors import NotFound
from rayplane.runtime import context, datasets

client = MlflowClient()
try:
    data = str(datasets.read("old-data"))
except NotFound:
    data = None
print("SEEN", json.dumps({
    "workspace": os.environ["MLFLOW_WORKSPACE"],
    "project": context.current().feast.project,
    "experiments": [found.name for found in client.search_experiments()],
    "models": [found.name for found in client.search_registered_models()],
    "data": data,
}), flush=True)
"""


class Bench:
    """A team on the platform, under one name all the while."""

    def __init__(self, platform: LocalPlatform, name: str, folder: Path) -> None:
        self.platform = platform
        self.name = name
        self.folder = folder
        self.client = platform.client
        self.root = platform.home.storage

    def make(self) -> TeamStatus:
        self.client.teams.apply(self.name, spec={})
        return TeamStatus.model_validate(self.client.teams.wait("", self.name, timeout=240).status)

    def make_cluster(self) -> Object:
        self.client.clusters.apply(self.name, "dev", {})
        return self.client.clusters.wait(self.name, "dev", timeout=400)

    def run(self, name: str, code: str, **spec: Any) -> tuple[Object, str, str]:
        """(the job, its log, its package) once it has succeeded."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "work.py").write_text(code)
        package = self.client.packages.upload(self.name, self.folder)
        wanted = {"entrypoint": "python work.py", "cluster": "dev", "package": package, **spec}
        self.client.jobs.submit(self.name, wanted, name)
        log = "".join(self.client.jobs.logs(self.name, name))
        job = self.client.jobs.wait(self.name, name, phases=["Succeeded", "Failed", "Stopped"], timeout=300)
        assert job.status["phase"] == "Succeeded", log
        return job, log, package.removeprefix("sha256:")

    def drop_cluster(self) -> None:
        self.client.clusters.delete(self.name, "dev")
        self.client.clusters.wait_deleted(self.name, "dev")

    def delete(self, data: str) -> dict[str, Any]:
        done = self.platform.rayplane("team", "delete", self.name, "--data", data, "-o", "json")
        gone: dict[str, Any] = json.loads(done.stdout)
        return gone

    def credentials(self) -> tuple[str, str]:
        user, password = (self.platform.home.secrets / "teams" / f"{self.name}.mlflow").read_text().split()
        return user, password

    def marked(self) -> list[str]:
        """The files of the storage root that hold what the old team wrote; a package's bytes are deflated."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(
            str(path.relative_to(self.root))
            for path in files
            if MARK.encode() in path.read_bytes() or path.suffix == ".zip"
        )


@pytest.fixture(params=["archive", "purge"])
def bench(request: pytest.FixtureRequest, platform_up: LocalPlatform, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(platform_up, f"passing-{request.param}", tmp_path / "code")
    before = made.marked()
    yield made
    if made.name in [team.metadata.name for team in made.client.teams.list()]:
        if made.client.clusters.list(made.name):
            made.drop_cluster()
        made.delete("purge")
    assert [p for p in made.marked() if p not in before and not p.startswith(("_archive", "mlflow/workspaces"))] == []


def test_a_team_that_is_deleted_and_made_anew_reaches_nothing_of_the_old_one(bench: Bench) -> None:
    data = bench.name.removeprefix("passing-")
    first = bench.make()
    assert (first.mlflow_workspace, first.feast_project) == (bench.name, bench.name)
    cluster = bench.make_cluster()
    job, log, package = bench.run("old-job", WORK, experiment="old-experiment")
    assert MARK in log
    status = JobStatus.model_validate(job.status)
    (version,) = bench.client.datasets.versions(bench.name, "old-data")
    old_user = bench.credentials()
    known: dict[str, Sequence[str]] = {
        "name": ["old-job", "old-data", job.metadata.uid],
        "run": ["old-pipeline-1"],
        "version": [version.version],
        "sha256": [package],
        "id": [],
        "protocol": ["gcs"],
        "package_name": [f"{package}.zip"],
        "cluster": ["dev"],
        "job_or_submission_id": ["old-job", job.metadata.uid, status.attempts[-1].submission_id],
    }
    queries = {"node": [f"dataset:old-data@{version.version}", f"run:{status.run_id}", "job:old-job"]}
    old = [MARK, *known["name"], str(status.run_id), version.version, package, cluster.metadata.uid]
    old += known["job_or_submission_id"][2:]
    with admin(bench) as api:
        assert len(team_routes.leaks(team_routes.walk(api, bench.name, known, queries), old)) > 10
    url, places = bench.platform.state.mlflow_url, mlflow_places.places(str(status.run_id), str(status.experiment_id))
    assert list(mlflow_places.found(url, old_user, bench.name, places)) == places, "the places are right"
    bench.drop_cluster()
    uid = bench.client.teams.get(bench.name).metadata.uid
    gone = bench.delete(data)
    archived = f"{bench.name}~{uid}"
    assert (gone["status"]["data"], gone["status"]["archived_as"]) == (data, archived)

    # The storage root.
    if data == "purge":
        assert [path for path in bench.marked() if bench.name in path] == []
    else:
        folders = (layout.archive(archived), layout.mlflow_workspace(bench.name))
        kept = [path for path in bench.marked() if bench.name in path]
        assert {next(f for f in folders if path.startswith(f"{f}/")) for path in kept} == set(folders)
    assert not (bench.root / bench.name).exists()

    # MLflow, with the new team's password, as what a job of the new team sees, and with the old password.
    second = bench.make()
    assert second.mlflow_workspace not in (None, bench.name)
    new_user = bench.credentials()
    assert (new_user[0] != old_user[0], new_user[1] != old_user[1]) == (True, True)
    for workspace in (str(second.mlflow_workspace), bench.name):
        assert mlflow_places.found(url, new_user, workspace, places) == {}, workspace
    empty = {"experiments": [], "runs": [], "models": [], "versions": []}
    assert mlflow_places.listed(url, new_user, str(second.mlflow_workspace)) == {
        **empty,
        "workspaces": [second.mlflow_workspace],
    }
    assert mlflow_places.found(url, old_user, bench.name, places) == {}
    alive = mlflow_places.found(url, bench_admin(bench), bench.name, places)
    assert list(alive) == (places if data == "archive" else [])
    new_cluster = bench.make_cluster()
    _, log, _ = bench.run("look", LOOK, tracked=False)
    seen = json.loads(next(line for line in log.splitlines() if line.startswith("SEEN "))[5:])
    assert second.feast_project is not None
    assert seen.pop("project") == second.feast_project.replace("-", "_")
    assert set(seen.pop("experiments")) <= {"Default"}
    assert seen == {"workspace": second.mlflow_workspace, "models": [], "data": None}

    # The API, with the tokens of an admin and of the new team's cluster.
    secret = bench.platform.home.secrets / "clusters" / f"{new_cluster.metadata.uid}.rayplane_token_path"
    with admin(bench) as api:
        assert team_routes.leaks(team_routes.walk(api, bench.name, known, queries), old) == []
    with admin(bench, secret.read_text().strip()) as api:
        assert team_routes.leaks(team_routes.walk(api, bench.name, known, queries), old) == []
        assert api.get(f"/v1/teams/{archived}/audit").status_code == 403
    with admin(bench) as api:
        newest = api.get(f"/v1/teams/{archived}/audit").json()["items"][0]
        assert (newest["action"], newest["detail"]["mlflow_workspace"]) == (data, bench.name)
        assert [entry["cluster_uid"] for entry in api.get(f"/v1/teams/{archived}/usage").json()["items"]] == [
            cluster.metadata.uid
        ]


def admin(bench: Bench, token: str | None = None) -> httpx.Client:
    """A client of the gateway with the local user's token, or another."""
    headers = {"Authorization": f"Bearer {token or bench.platform.home.token.read_text().strip()}"}
    return httpx.Client(base_url=bench.platform.state.gateway_url, headers=headers, timeout=60)


def bench_admin(bench: Bench) -> tuple[str, str]:
    """MLflow's admin."""
    user, password = (bench.platform.home.secrets / "mlflow-admin").read_text().split()
    return user, password
