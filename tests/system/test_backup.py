"""A backup of a platform under load, restored elsewhere: every table is equal, and the jobs go on."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path

import pytest

from rayplane.client.backup import archive
from rayplane.client.sdk import Client
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.pipeline import RunStatus
from rayplane.settings import GatewaySettings, Home
from tests.support.local_platform import LocalPlatform, local_platform, until
from tests.unit.client.backup import homes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TEAM, CLUSTER = "growth", "dev"


def submit(api: Client, name: str, entrypoint: str, *, tracked: bool = False) -> None:
    spec = {"entrypoint": entrypoint, "cluster": CLUSTER, "tracked": tracked, "retries": 1}
    api.jobs.submit(TEAM, spec, name)


def status(api: Client, name: str) -> dict[str, object]:
    return dict(api.jobs.get(TEAM, name).status)


def phases(api: Client, run: str) -> list[str]:
    """The phase of each step of a run."""
    steps = RunStatus.model_validate(api.pipelines.get_run(TEAM, "main", run).status).steps
    return [step.phase for step in sorted(steps, key=lambda step: step.name)]


def ended(api: Client, name: str) -> dict[str, object]:
    until(lambda: status(api, name)["phase"] in TERMINAL, seconds=240, what=f"{name} ends")
    return status(api, name)


def backed_up_under_load(platform: LocalPlatform, file: Path) -> None:
    """Make a backup while jobs are submitted continuously."""
    done = threading.Event()

    def load() -> None:
        with platform.client as api:
            for number in itertools.count():
                submit(api, f"load-{number}", "echo loaded")
                if done.wait(0.7):
                    return

    loading = threading.Thread(target=load)
    loading.start()
    try:
        platform.rayplane("backup", "--to", str(file), "--files")
    finally:
        done.set()
        loading.join()


def test_a_backup_under_load_is_restored_elsewhere_and_the_jobs_go_on(tmp_path: Path) -> None:
    go, volume, file = tmp_path / "go", tmp_path / "volume", tmp_path / "platform.backup"
    root = {"RAYPLANE_STORAGE_ROOT": f"file://{volume}"}
    with local_platform(tmp_path / "one" / "home", root) as one, one.client as api:
        api.teams.apply(TEAM, spec={})
        api.clusters.apply(TEAM, CLUSTER, {"size": "small"})
        submit(api, "waits", f"echo begun; while [ ! -e '{go}' ]; do sleep 0.2; done; echo ended")
        submit(api, "before", "echo tracked", tracked=True)
        run_id = ended(api, "before")["run_id"]
        steps = {
            "first": {"entrypoint": "echo first", "cache": False},
            "second": {"entrypoint": f"while [ ! -e '{go}' ]; do sleep 0.2; done", "needs": ["first"], "cache": False},
        }
        api.pipelines.apply(TEAM, "main", {"cluster": CLUSTER, "steps": steps})
        run = api.pipelines.run(TEAM, "main").metadata.name
        until(lambda: status(api, "waits")["phase"] == "Running", seconds=120, what="the job runs")
        until(lambda: phases(api, run) == ["Succeeded", "Running"], seconds=240, what="the run is at its second step")
        backed_up_under_load(one, file)
        ports = one.state.ports
    shutil.rmtree(tmp_path / "one")
    shutil.rmtree(volume)

    two = LocalPlatform(Home(tmp_path / "two" / "home"), {})
    answer = json.loads(two.rayplane("restore", str(file), "-o", "json").stdout)
    assert answer["storage"] == {"checked": answer["backup"]["file_count"], "missing": [], "changed": []}
    with archive.reading(file) as backup:
        wanted = backup.contents.store.tables
    restored_tables = homes.tables(GatewaySettings(home=two.home.path)).tables
    assert {name: count.sha256 for name, count in restored_tables.items()} == {n: c.sha256 for n, c in wanted.items()}

    with local_platform(two.home.path) as two, two.client as api:
        assert two.state.ports != ports
        jobs = {job.metadata.name for job in api.jobs.list(TEAM)}
        assert {"waits", "before"} < jobs, "jobs were submitted while the backup was made"
        until(
            lambda: len(status(api, "waits")["attempts"]) == 2,  # type: ignore[arg-type]
            seconds=240,
            what="the job that ran is submitted anew",
        )
        go.touch()
        for name in sorted(jobs):
            assert ended(api, name)["phase"] == "Succeeded", status(api, name)
        over = RunStatus.model_validate(api.pipelines.wait_run(TEAM, "main", run, timeout=240).status)
        assert over.phase == "Succeeded", over.message
        [first] = [step.job for step in over.steps if step.name == "first"]
        assert len(status(api, str(first))["attempts"]) == 1, "a step that was over is not done again"  # type: ignore[arg-type]
        attempts = status(api, "waits")["attempts"]
        assert [a["status"] for a in attempts] == ["Lost", "Succeeded"]  # type: ignore[attr-defined]
        log = "".join(api.jobs.logs(TEAM, "waits", follow=False))
        assert log.index("\nbegun\n") < log.index("--- rayplane: attempt 2") < log.index("\nended\n")
        admin = (two.home.secrets / "mlflow-admin").read_text().split()
        tracked = MlflowRest(two.state.mlflow_url, *admin).get_run(TEAM, str(run_id))
        assert tracked is not None
        assert tracked["info"]["status"] == "FINISHED"
        submit(api, "after", "echo new", tracked=True)
        assert ended(api, "after")["phase"] == "Succeeded", status(api, "after")
