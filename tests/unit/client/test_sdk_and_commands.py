"""SDK and commands against the real API over HTTP, with a fake backend."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayplane import errors
from rayplane.client import sdk
from rayplane.client.sdk import Client
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Document, Metadata, Object, utcnow
from rayplane.nouns.cluster import ClusterStatus, Endpoint, Suspension
from rayplane.nouns.job import JobStatus
from rayplane.nouns.pipeline import RunStatus, StepRun
from rayplane.nouns.team import TeamStatus
from rayplane.storage import layout
from tests.support.clock import FakeClock
from tests.unit.client.command import run
from tests.unit.gateway.api.served import platform_without_compute, serve

STEPS = {"one": {"entrypoint": "true"}}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with platform_without_compute(tmp_path) as made:
        yield made


@pytest.fixture
def client(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    with serve(platform) as url:
        monkeypatch.setenv("RAYPLANE_URL", url)
        monkeypatch.setenv("RAYPLANE_TOKEN_PATH", str(platform.settings.home_paths.token))
        monkeypatch.delenv("RAYPLANE_TEAM", raising=False)
        with Client() as made:
            yield made


@pytest.fixture
def growth(client: Client) -> Client:
    client.teams.apply("growth", spec={})
    client.clusters.apply("growth", "dev", {})
    return client


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "train.py").write_text("print(1)\n")
    return folder


def _finish(platform: Platform, log: bytes, **status: object) -> None:
    while not (jobs := platform.store.list("Job", "growth").items):  # on a busy host the job may not be submitted yet
        time.sleep(0.1)
    (job,) = jobs
    platform.storage.append(layout.job_log("growth", job.metadata.uid), log)
    platform.store.set_status(job.metadata.uid, JobStatus.model_validate(status))


def _document(kind: str, name: str, spec: dict[str, object], team: str | None = None) -> Document:
    return Document(kind=kind, metadata=Metadata(name=name, team=team), spec=spec)


def test_the_common_verbs_work_for_a_noun(growth: Client) -> None:
    made = growth.datasets.apply("growth", "flights", {"description": "all"}, labels={"a": "b"})
    assert made.status["phase"] == "Ready"
    assert growth.datasets.get("growth", "flights").metadata.labels == {"a": "b"}
    assert [d.metadata.name for d in growth.datasets.list("growth", labels={"a": "b"})] == ["flights"]
    growth.datasets.delete("growth", "flights")
    growth.datasets.wait_deleted("growth", "flights", timeout=5)
    with pytest.raises(errors.NotFound):
        growth.datasets.get("growth", "flights")


def test_an_error_of_the_gateway_raises_the_same_error_in_the_client(growth: Client) -> None:
    with pytest.raises(errors.InvalidSpec, match="Did you mean 'size'"):
        growth.clusters.apply("growth", "dev", {"sise": "small"})
    with pytest.raises(errors.Refused) as refused:
        growth.clusters.apply("growth", "dev", {"size": "smal"})
    assert "small" in (refused.value.remedy or "")


def test_waiting_returns_the_object_or_raises_its_failure_or_a_timeout(growth: Client, platform: Platform) -> None:
    uid = growth.clusters.get("growth", "dev").metadata.uid
    with pytest.raises(errors.Timeout, match="growth/dev"):
        growth.clusters.wait("growth", "dev", timeout=0.3)
    failed = ClusterStatus(phase="Failed", observed_generation=1)
    failed.set_condition("Ready", False, "HeadDied", "the head ended with code 1.", 1)
    platform.store.set_status(uid, failed)
    with pytest.raises(errors.Failed, match="the head ended with code 1"):
        growth.clusters.wait("growth", "dev", timeout=5)
    platform.store.set_status(uid, ClusterStatus(phase="Ready", observed_generation=1))
    assert growth.clusters.wait("growth", "dev", timeout=5).status["phase"] == "Ready"
    growth.clusters.apply("growth", "dev", {"suspended": True})
    with pytest.raises(errors.Timeout):
        growth.clusters.wait("growth", "dev", timeout=0.3)


def test_a_wait_outlasts_a_restart_of_the_gateway(
    growth: Client, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = growth.clusters.get("growth", "dev").metadata.uid
    clusters, calls = Client(clock=FakeClock()).clusters, 0
    get, away = clusters.get, range(2, 4)

    def flaky(team: str, name: str) -> Object:
        nonlocal calls
        calls += 1
        if calls in away:
            raise errors.Unavailable("The gateway can't be reached.")
        obj = get(team, name)
        platform.store.set_status(uid, ClusterStatus(phase="Ready", observed_generation=1))
        return obj

    monkeypatch.setattr(clusters, "get", flaky)
    assert clusters.wait("growth", "dev", timeout=30).status["phase"] == "Ready"
    assert calls == 4
    # Unreachable from the first request on, for longer than PATIENCE, or past the deadline: an error.
    for gone, timeout in ((range(1, 2), 30), (range(2, 1000), 600), (range(2, 5), 0.5)):
        away, calls = gone, 0
        with pytest.raises(errors.Unavailable, match="can't be reached"):
            clusters.wait("growth", "dev", phases={"Suspended"}, timeout=timeout)


def test_a_folder_is_uploaded_once(growth: Client, platform: Platform, code: Path) -> None:
    address = growth.packages.upload("growth", code)
    assert growth.packages.upload("growth", code) == address
    assert growth.packages.has("growth", address)
    assert platform.storage.exists(layout.package("growth", address.removeprefix("sha256:")))


def test_documents_are_applied_in_order_and_applying_them_again_changes_nothing(client: Client, code: Path) -> None:
    documents = [
        _document("Pipeline", "daily", {"cluster": "dev", "package": str(code), "steps": STEPS}),
        _document("Cluster", "dev", {}),
        _document("Team", "growth", {}),
    ]
    planned = client.apply_documents(documents, team="growth", dry_run=True)
    assert client.teams.list() == []
    done = client.apply_documents(documents, team="growth")
    assert planned == done
    assert [(c.kind, c.change) for c in done] == [("Team", "created"), ("Cluster", "created"), ("Pipeline", "created")]
    assert client.pipelines.get("growth", "daily").spec["package"].startswith("sha256:")
    again = client.apply_documents(documents, team="growth")
    assert {change.change for change in again} == {"unchanged"}
    (code / "new.py").write_text("")
    changed = client.apply_documents(documents, team="growth", dry_run=True)
    assert [c.change for c in changed] == ["unchanged", "unchanged", "changed"]


def test_a_refusal_that_arises_from_the_documents_together_comes_before_any_is_written(client: Client) -> None:
    documents = [
        _document("Team", "growth", {"quota": {"clusters": 1}}),
        _document("Cluster", "a", {}, team="growth"),
        _document("Cluster", "b", {}, team="growth"),
    ]
    for dry_run in (True, False):
        with pytest.raises(errors.Refused, match=r"Cluster 'b': .*quota.* Nothing was made\."):
            client.apply_documents(documents, dry_run=dry_run)
        assert client.teams.list() == []


def test_the_same_object_twice_in_one_call_is_refused(growth: Client) -> None:
    twice = [_document("Dataset", "a", {"description": text}) for text in ("one", "two")]
    with pytest.raises(errors.Conflict, match=r"Dataset 'growth/a' is there twice") as caught:
        growth.apply_documents(twice, team="growth")
    assert caught.value.remedy == "Keep one of them."
    assert growth.datasets.list("growth") == []


def test_a_write_that_fails_after_others_lists_those(growth: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    request, puts = growth.request, 0

    def broken(method: str, path: str, **options: Any) -> httpx.Response:
        nonlocal puts
        puts += method == "PUT"
        if puts == 3:
            raise errors.Unavailable("The gateway can't be reached.", remedy="Run 'rayplane up'.")
        return request(method, path, **options)

    monkeypatch.setattr(growth, "request", broken)
    documents = [_document("Cluster", "dev", {}), *(_document("Dataset", name, {}) for name in ("a", "b"))]
    with pytest.raises(errors.Unavailable, match=r"can't be reached\. Before it: dataset growth/a created\.") as caught:
        growth.apply_documents(documents, team="growth")
    assert (caught.value.remedy or "").startswith("Run 'rayplane up'. Then apply the same again")
    assert caught.value.fields["made"] == ["dataset growth/a created"]


@pytest.mark.parametrize("name", ["..", ".", "", "\udcff"])
def test_a_name_that_would_change_the_url_path_is_refused_and_nothing_is_sent(growth: Client, name: str) -> None:
    growth.teams.apply("empty", spec={})
    for act in (
        lambda: growth.clusters.delete("empty", name),
        lambda: growth.clusters.list(name),
        lambda: growth.teams.delete(name),
        lambda: growth.pipelines.stop_run("empty", "daily", name),
        lambda: growth.packages.has("empty", name),
    ):
        with pytest.raises(errors.InvalidInput, match="is no name"):
            act()
    assert growth.teams.get("empty").metadata.deleted_at is None


def test_deleting_dot_dot_deletes_no_team(growth: Client, capsys: pytest.CaptureFixture[str]) -> None:
    growth.teams.apply("empty", spec={})
    exit_code, _, err = run(capsys, "cluster", "delete", "..", "--team", "empty")
    assert (exit_code, "'..' is no name" in err) == (2, True)
    assert growth.teams.get("empty").metadata.deleted_at is None


def test_waiting_for_a_deletion_ends_when_the_name_is_taken_again(
    growth: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = growth.datasets.apply("growth", "d", {})
    growth.datasets.delete("growth", "d")
    growth.datasets.apply("growth", "d", {})
    growth.datasets.wait_deleted("growth", "d", uid=gone.metadata.uid, timeout=5)
    get = growth.datasets.get

    def overtaken(team: str, name: str) -> Object:
        obj = get(team, name)
        growth.datasets.delete(team, name)
        growth.datasets.apply(team, name, {})
        return obj

    monkeypatch.setattr(growth.datasets, "get", overtaken)
    growth.datasets.wait_deleted("growth", "d", timeout=5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_document("Cluster", "b", {"sise": "x"}), "Did you mean 'size'"),
        (_document("Cluster", "b", {"size": "huge"}), "no size 'huge'"),
        (_document("Custer", "b", {}), "unknown"),
        (_document("PipelineRun", "b", {"pipeline": "a"}), "pipeline run"),
    ],
)
def test_if_one_document_is_wrong_none_is_written(growth: Client, wrong: Document, message: str) -> None:
    with pytest.raises(errors.RayplaneError, match=message):
        growth.apply_documents([_document("Dataset", "a", {}), wrong], team="growth")
    assert growth.datasets.list("growth") == []


def test_following_a_log_ends_with_the_job(growth: Client, platform: Platform) -> None:
    job = growth.jobs.submit("growth", {"entrypoint": "true", "cluster": "dev"}, name="train")
    assert job.metadata.name == "train"
    assert list(growth.jobs.logs("growth", "train", follow=False)) == []
    threading.Timer(0.5, _finish, (platform, "grüße\n".encode()), {"phase": "Succeeded"}).start()
    assert "".join(growth.jobs.logs("growth", "train")) == "grüße\n"


def test_job_submit_prints_the_log_and_exits_with_the_jobs_exit_code(
    growth: Client, platform: Platform, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = {"phase": "Failed", "exit_code": 3, "message": "boom"}
    threading.Timer(1.0, _finish, (platform, b"epoch 1\n"), outcome).start()
    command = ["job", "submit", "--cluster", "dev", "--working-dir", str(code), "--env", "A=b", "--param", "n=1"]
    exit_code, out, err = run(capsys, *command, "--", "python", "-m", "jobs.train", "--fast", "a b")
    assert (exit_code, out) == (3, "epoch 1\n")
    assert "boom" in err
    (job,) = platform.store.list("Job", "growth").items
    assert job.spec_data["entrypoint"] == "python -m jobs.train --fast 'a b'"
    assert (job.spec_data["env"], job.spec_data["parameters"]) == ({"A": "b"}, {"n": "1"})
    assert job.spec_data["package"].startswith("sha256:")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "Neither --cluster nor --size is given"),
        (["--cluster", "dev", "--size", "small"], "Both --cluster and --size are given"),
        (["--size", "small", "--workers", "0..x"], "--workers: '0..x' is no number"),
        (["--size", "small", "--workers", ".."], "--workers: '..' is no number"),
        (["--cluster", "dev", "--workers", "4"], "Both --cluster and --workers are given"),
        (["--cluster", "dev", "--retires", "2"], "--retires"),
    ],
)
def test_job_submit_needs_either_a_cluster_or_a_size(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    exit_code, _, err = run(capsys, "job", "submit", *given, "--", "true")
    assert exit_code == 2
    assert message in err
    assert platform.store.count("Job", "growth") == 0


@pytest.mark.parametrize("separator", [[], ["--"]])
def test_job_submit_does_not_parse_the_entrypoints_options(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str], separator: list[str]
) -> None:
    entrypoint = ["python", "-m", "jobs.train", "--timeout", "5", "--name", "x", "--unknown"]
    exit_code, out, _ = run(capsys, "job", "submit", "--cluster", "dev", "--no-wait", *separator, *entrypoint)
    job = platform.store.get("Job", "growth", out.strip())
    assert (exit_code, job.spec_data["entrypoint"]) == (0, "python -m jobs.train --timeout 5 --name x --unknown")
    assert job.spec_data["timeout"] is None


def test_interrupting_job_submit_says_that_the_job_goes_on(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[str]:
        yield "epoch 1\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(sdk.Jobs, "logs", interrupted)
    exit_code, out, err = run(capsys, "job", "submit", "--cluster", "dev", "--name", "train", "--", "true")
    assert (exit_code, out) == (130, "epoch 1\n")
    assert "job growth/train goes on. Follow it: rayplane job logs -f train --team growth" in err
    assert "rayplane job stop train --team growth" in err


def test_a_log_as_json_is_one_object(growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    growth.jobs.submit("growth", {"entrypoint": "true", "cluster": "dev"}, name="train")
    _finish(platform, b"epoch 1\n", phase="Succeeded")
    exit_code, out, _ = run(capsys, "job", "logs", "train", "-o", "json")
    assert (exit_code, json.loads(out)) == (0, {"job": "train", "team": "growth", "log": "epoch 1\n"})


def test_job_submit_asks_for_nodes_of_its_own(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["job", "submit", "--size", "small", "--workers", "0..2", "--no-wait"]
    exit_code, out, err = run(capsys, *command, "--", "true")
    assert (exit_code, err.count("submitted")) == (0, 1)
    job = platform.store.get("Job", "growth", out.strip())
    assert (job.spec_data["cluster"], job.spec_data["nodes"]["workers"]) == (None, {"min": 0, "max": 2})
    exit_code, out, _ = run(capsys, "job", "list")
    assert out.splitlines()[0].split()[:4] == ["NAME", "PHASE", "CLUSTER", "NODES"]
    assert "small" in out.splitlines()[1].split()


def test_job_submit_as_json_prints_only_the_job(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    threading.Timer(1.0, _finish, (platform, b"hello\n"), {"phase": "Succeeded", "exit_code": 0}).start()
    exit_code, out, err = run(capsys, "job", "submit", "--cluster", "dev", "-o", "json", "--", "true")
    assert exit_code == 0
    assert json.loads(out)["status"]["phase"] == "Succeeded"
    assert "hello" in err


def test_apply_uploads_folders_relative_to_the_file(
    client: Client, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code / "all.yaml").write_text(
        "kind: Team\nmetadata: {name: growth}\n---\nkind: Cluster\nmetadata: {name: dev}\n---\n"
        "kind: Pipeline\nmetadata: {name: daily}\n"
        "spec: {cluster: dev, package: ., steps: {one: {entrypoint: 'true'}}}\n"
    )
    exit_code, out, err = run(capsys, "apply", "-f", str(code / "all.yaml"), "--dry-run")
    assert (exit_code, err) == (0, "")
    assert out.count("(dry run)") == 3
    exit_code, out, _ = run(capsys, "apply", "-f", str(code / "all.yaml"), "-o", "json")
    assert exit_code == 0
    assert [c["change"] for c in json.loads(out)] == ["created"] * 3
    assert client.pipelines.get("growth", "daily").spec["package"].startswith("sha256:")


def test_an_unknown_key_exits_2_and_names_the_right_one(
    growth: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("kind: Cluster\nmetadata: {name: b}\nspec: {sise: small}\n")
    exit_code, _, err = run(capsys, "apply", "-f", str(tmp_path / "a.yaml"))
    assert exit_code == 2
    assert "cluster.sise: unknown field. Did you mean 'size'?" in err


def test_a_run_is_shown_step_by_step(growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    growth.pipelines.apply("growth", "daily", {"cluster": "dev", "steps": STEPS})

    def end() -> None:
        while not (runs := platform.store.list("PipelineRun", "growth").items):
            time.sleep(0.1)
        (run,) = runs
        step = StepRun(name="one", phase="Failed", job="daily-1-one", message="exit code 1")
        status = RunStatus(phase="Failed", steps=[step], message="step 'one' failed")
        platform.store.set_status(run.metadata.uid, status)

    threading.Timer(1.0, end).start()
    exit_code, _, err = run(capsys, "pipeline", "run", "daily")
    assert exit_code == 1
    assert "Failed    " in err
    assert "step 'one' failed" in err
    exit_code, out, _ = run(capsys, "pipeline", "runs", "daily")
    assert (exit_code, out.splitlines()[1].split()[:2]) == (0, ["daily-1", "Failed"])


def test_a_clusters_address_is_printed_as_exports(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, _, err = run(capsys, "cluster", "address", "dev", "--no-wait")
    assert exit_code == 8
    assert "not ready" in err
    endpoint = Endpoint(dashboard_url="http://x", client_address="ray://127.0.0.1:10001", token_path="/a b/token")
    uid = growth.clusters.get("growth", "dev").metadata.uid
    platform.store.set_status(uid, ClusterStatus(phase="Ready", observed_generation=1, endpoint=endpoint))
    exit_code, out, _ = run(capsys, "cluster", "address", "dev")
    assert exit_code == 0
    assert "export RAY_ADDRESS=ray://127.0.0.1:10001\n" in out
    assert "export RAY_AUTH_TOKEN_PATH='/a b/token'\n" in out


def test_cluster_create_takes_simple_options_and_its_errors_say_what_to_do(
    growth: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--size", "medium", "--workers", "0..4", "--idle-timeout", "30m", "--max-lifetime", "8h", "--no-wait"]
    exit_code, _, err = run(capsys, "cluster", "create", "train", *words)
    assert (exit_code, err) == (0, "cluster growth/train is Pending\n")
    spec = growth.clusters.get("growth", "train").spec
    assert (spec["size"], spec["workers"]) == ("medium", {"min": 0, "max": 4})
    assert (spec["idle_timeout"], spec["max_lifetime"]) == (1800, 28800)
    for wrong, taught in (
        (("--workers", "4-8"), "write 4 for that many always, or 0..4 for as many as the work needs"),
        (("--workers", "5..2"), "min (5) is above max (2)"),
        (("--idle-timeout", "half an hour"), "write it as 30s, 10m, 1h30m or 14d"),
        (("--size", "smal"), "Did you mean 'small'?"),
    ):
        exit_code, _, err = run(capsys, "cluster", "create", "other", *wrong, "--no-wait")
        assert exit_code != 0
        assert taught in err


def test_creating_an_existing_cluster_changes_only_the_given_options(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    growth.clusters.apply("growth", "dev", {"workers": "0..2", "idle_timeout": "20m"}, {"owner": "ann"})
    assert run(capsys, "cluster", "create", "dev", "--idle-timeout", "30m", "--no-wait")[0] == 0
    cluster = growth.clusters.get("growth", "dev")
    assert (cluster.spec["workers"], cluster.spec["idle_timeout"]) == ({"min": 0, "max": 2}, 1800)
    assert cluster.metadata.labels == {"owner": "ann"}
    growth.clusters.suspend("growth", "dev")
    assert run(capsys, "cluster", "create", "dev", "--no-wait")[0] == 0
    assert growth.clusters.get("growth", "dev").spec["suspended"] is True
    exit_code, _, err = run(capsys, "cluster", "create", "dev")
    assert (exit_code, "was suspended by a person" in err) == (6, True)


def test_creating_a_cluster_that_is_suspended_for_idleness_resumes_it(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = growth.clusters.get("growth", "dev").metadata.uid
    suspension = Suspension(reason="Idle", at=utcnow())
    platform.store.set_status(uid, ClusterStatus(phase="Suspended", observed_generation=1, suspension=suspension))
    assert run(capsys, "cluster", "create", "dev", "--no-wait")[0] == 0
    assert ClusterStatus.model_validate(growth.clusters.get("growth", "dev").status).suspension is None


def test_a_cluster_is_suspended_resumed_and_extended_by_command(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "cluster", "suspend", "dev", "--no-wait")[0] == 0
    assert growth.clusters.get("growth", "dev").spec["suspended"] is True
    exit_code, _, err = run(capsys, "cluster", "address", "dev")
    assert exit_code != 0
    assert "was suspended by a person. Resume it: rayplane cluster resume dev --team growth" in " ".join(err.split())
    assert run(capsys, "cluster", "resume", "dev", "--no-wait")[0] == 0
    assert growth.clusters.get("growth", "dev").spec["suspended"] is False
    growth.clusters.apply("growth", "dev", {"idle_timeout": "30m"})
    exit_code, _, err = run(capsys, "cluster", "extend", "dev", "2h")
    assert exit_code == 0
    assert "is not suspended for idleness until" in err
    assert run(capsys, "cluster", "extend", "dev", "later")[0] == 2
    exit_code, out, _ = run(capsys, "cluster", "usage")
    assert (exit_code, out.split()[:3]) == (0, ["CLUSTER", "UID", "NODE-HOURS"])


def test_reaching_a_cluster_resumes_it_if_it_was_suspended_for_idleness(growth: Client, platform: Platform) -> None:
    cluster = growth.clusters.get("growth", "dev")
    suspension = Suspension(reason="Idle", at=utcnow())
    status = ClusterStatus(phase="Suspended", observed_generation=1, suspension=suspension)
    platform.store.set_status(cluster.metadata.uid, status)
    with pytest.raises(errors.Timeout):
        growth.clusters.reach("growth", "dev", timeout=0.3)
    after = growth.clusters.get("growth", "dev")
    assert ClusterStatus.model_validate(after.status).suspension is None
    assert after.metadata.generation == 2


def test_lists_are_tables_or_json(growth: Client, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, out, _ = run(capsys, "cluster", "list")
    assert exit_code == 0
    assert out.splitlines()[0].split() == ["NAME", "PHASE", "SIZE", "CLIENT", "AGE"]
    _, out, _ = run(capsys, "-o", "json", "cluster", "list")
    assert json.loads(out)[0]["metadata"]["name"] == "dev"
    _, out, _ = run(capsys, "team", "get", "growth")
    assert "name: growth" in out
    _, out, _ = run(capsys, "leases")
    assert out.splitlines()[0].startswith("CLUSTER")


def test_with_two_teams_one_must_be_named(growth: Client, capsys: pytest.CaptureFixture[str]) -> None:
    growth.teams.apply("sales", spec={})
    exit_code, _, err = run(capsys, "cluster", "list")
    assert exit_code == 2
    assert "growth, sales" in err
    for argv in (("cluster", "list", "--team", "growth"), ("--team", "growth", "cluster", "list")):
        assert run(capsys, *argv)[0] == 0


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("{parameters: {day: 2013-01-02}}", "spec.parameters.day: '2013-01-02' is a date"),
        ("{steps: {one: {resources: {cpu: .nan}}}}", "spec.steps.one.resources.cpu: nan is no number"),
        ("{steps: [1, {2013-01-02: x}]}", "spec.steps[1]: '2013-01-02' is a date"),
        ("{cluster: !!binary aGVsbG8=}", "spec.cluster"),
        ("{cluster: 0x" + "f" * 5000 + "}", "spec.cluster: it is a number of more than 300 digits"),
    ],
)
def test_a_value_that_json_can_not_represent_is_refused_by_file_and_field(
    growth: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: str, field: str
) -> None:
    (tmp_path / "a.yaml").write_text(f"kind: Pipeline\nmetadata: {{name: p}}\nspec: {spec}\n")
    for verb in ("apply", "plan"):
        exit_code, _, err = run(capsys, verb, "-f", str(tmp_path / "a.yaml"))
        assert (exit_code, f"{tmp_path / 'a.yaml'}[0].{field}" in err) == (2, True), err


def test_a_document_made_in_python_is_refused_by_field(growth: Client) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"pipeline\.parameters\.x: inf is no number"):
        growth.plan([_document("Pipeline", "p", {"parameters": {"x": float("inf")}})], team="growth")
    itself: list[object] = []
    itself.append(itself)
    with pytest.raises(errors.InvalidSpec, match="holds itself"):
        growth.plan([_document("Pipeline", "p", {"steps": itself})], team="growth")


def test_a_package_that_is_no_string_is_forbidden_by_field(
    growth: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("kind: Pipeline\nmetadata: {name: p}\nspec: {package: 12, steps: {}}\n")
    exit_code, out, _ = run(capsys, "plan", "-f", str(tmp_path / "a.yaml"))
    assert (exit_code, "pipeline.package" in out) == (6, True)
    exit_code, _, err = run(capsys, "apply", "-f", str(tmp_path / "a.yaml"))
    assert (exit_code, "pipeline.package" in err) == (2, True)


def test_a_missing_object_exits_4_and_prints_a_problem_if_asked(
    growth: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, out, err = run(capsys, "cluster", "get", "dve", "-o", "json")
    assert (exit_code, out) == (4, "")
    problem = json.loads(err)
    assert (problem["status"], problem["type"]) == (404, "urn:rayplane:problem:not-found")


def test_a_wrong_token_exits_3(
    growth: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("nonsense")
    wrong.chmod(0o600)
    monkeypatch.setenv("RAYPLANE_TOKEN_PATH", str(wrong))
    exit_code, _, err = run(capsys, "cluster", "list", "--team", "growth")
    assert exit_code == 3
    assert "wrong or was revoked" in err


@pytest.mark.parametrize("data", [None, "archive", "purge"])
def test_deleting_a_team_says_before_it_waits_whether_its_data_is_archived(
    client: Client, platform: Platform, capsys: pytest.CaptureFixture[str], data: str | None
) -> None:
    uid = client.teams.apply("growth", spec={}).metadata.uid
    asked = ["--data", data] if data else []
    exit_code, out, err = run(capsys, "team", "delete", "growth", *asked, "--no-wait")
    assert (exit_code, out) == (0, "")
    first, second = err.splitlines()
    assert f"growth~{uid}" in first
    if data == "purge":
        assert first.startswith("Team growth goes with all its data. Its audit log and its leases stay")
    else:
        assert f"files in _archive/growth~{uid} of the storage root" in first
        assert "MLflow's workspace growth" in first
    assert second == "team growth is being deleted"
    assert TeamStatus.model_validate(client.teams.get("growth").status).data == (data or "archive")


def test_deleting_a_team_as_json_prints_only_the_team(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.teams.apply("growth", spec={})
    exit_code, out, err = run(capsys, "team", "delete", "growth", "--data", "purge", "--no-wait", "-o", "json")
    assert (exit_code, err) == (0, "")
    assert json.loads(out)["status"]["data"] == "purge"


def test_a_data_option_other_than_archive_or_purge_is_refused_and_deletes_no_team(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.teams.apply("growth", spec={})
    exit_code, _, err = run(capsys, "team", "delete", "growth", "--data", "shred")
    assert exit_code == 2
    assert "archive" in err
    assert client.teams.get("growth").metadata.deleted_at is None


def test_a_team_that_is_being_archived_is_not_purged(client: Client) -> None:
    client.teams.apply("growth", spec={})
    assert client.teams.delete("growth").status["data"] == "archive"
    with pytest.raises(errors.Conflict, match="data: archive"):
        client.teams.delete("growth", data="purge")


def test_the_audit_log_of_one_or_all_teams_is_a_table_or_json(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    client = growth
    client.teams.apply("ads", spec={})
    platform.store.audit(
        "", "refuse", kind="Request", team="", name="/v1/teams",
        detail={"address": "10.0.0.7", "method": "GET", "path": "/v1/teams", "status": 401, "reason": "unknown-token",
                "count": 12},
    )  # fmt: skip
    exit_code, out, _ = run(capsys, "audit")
    assert exit_code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["TIME", "WHO", "ACTION", "TEAM", "WHAT", "DETAIL"]
    assert "401 unknown-token from 10.0.0.7 12 times: GET /v1/teams" in lines[1]
    assert len(lines) == 5
    _, out, _ = run(capsys, "audit", "--team", "growth", "--action", "apply", "-o", "json")
    assert [(entry["kind"], entry["name"]) for entry in json.loads(out)] == [("Cluster", "dev"), ("Team", "growth")]
    _, out, _ = run(capsys, "audit", "--since", "1h", "--limit", "2", "-o", "json")
    assert [entry["action"] for entry in json.loads(out)] == ["refuse", "apply"]
    exit_code, _, message = run(capsys, "audit", "--since", "yesterday")
    assert exit_code == 2
    assert "is not a duration" in message


def test_following_the_audit_log_shows_each_entry_once_the_oldest_first(
    growth: Client, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayplane.client.cli import audit as command

    monkeypatch.setattr(command, "EVERY", 0.01)
    first = list(growth.audit())[::-1]
    followed = command._follow(first, growth.audit)
    assert [next(followed)["id"] for _ in first] == [entry["id"] for entry in first]
    for number in range(3):
        platform.store.audit("ada", "apply", kind="Job", team="growth", name=f"j{number}")
    assert [next(followed)["name"] for _ in range(3)] == ["j0", "j1", "j2"]
