"""Jobs: submit once, refuse bad specs, stop, read logs, and the run context."""

from __future__ import annotations

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rayplane.errors import Conflict, Forbidden, InvalidInput, InvalidSpec, NotFound, Refused, Unauthenticated
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.backends.base import Capability
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import job, packages
from rayplane.nouns.base import check_name
from rayplane.nouns.job import JobSpec
from rayplane.nouns.team import TeamSpec
from rayplane.storage import layout
from rayplane.testing.fakes import ENVIRONMENT


def submit(bench: Any, ada: Principal, name: str | None = None, **spec: Any) -> AnyObject:
    wanted = JobSpec(**{"entrypoint": "python -m jobs.train", "cluster": "dev", **spec})
    return job.submit(wanted, team="growth", name=name, principal=ada, platform=bench.platform)


def test_a_job_is_pending_with_its_environment_and_audited(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada, "nightly", metadata={"rayplane.git_commit": "abc", "rayplane.ray": "2.60.0"})
    assert made.status_data["phase"] == "Pending"
    assert made.status_data["environment"] == ENVIRONMENT.model_dump()
    assert made.status_data["git_commit"] == "abc"
    assert made.status_data["log_uri"] == bench.platform.storage.uri(layout.job_log("growth", made.metadata.uid))
    assert made.metadata.owner == "ada"
    assert bench.woken == [1]
    assert bench.store.audit_log("growth").items[0]["action"] == "submit"


def test_a_job_without_a_name_gets_a_short_unique_one(bench: Any, ada: Principal) -> None:
    names = {
        submit(bench, ada, entrypoint=e).metadata.name
        for e in ["python -m jobs.Train_All --x", "./run.sh", "true", "/"]
    }
    assert len(names) == 4
    assert {name.rpartition("-")[0] for name in names} == {"train-all", "run", "true", "job"}
    for name in names:
        assert check_name(name)
    assert submit(bench, ada).metadata.name != submit(bench, ada).metadata.name


def test_the_same_job_twice_is_one_and_another_spec_is_a_conflict(bench: Any, ada: Principal) -> None:
    first = submit(bench, ada, "nightly")
    assert submit(bench, ada, "nightly") == first
    bench.settle("Job", "nightly", "Succeeded")
    assert submit(bench, ada, "nightly").metadata.uid == first.metadata.uid
    with pytest.raises(Conflict, match="'growth/nightly' is there with another spec"):
        submit(bench, ada, "nightly", parameters={"days": "30"})
    with pytest.raises(Conflict):
        bench.apply("Job", "nightly", {"entrypoint": "false", "cluster": "dev"})
    assert bench.store.count("Job") == 1


def test_a_stopped_job_is_still_the_same_job(bench: Any, ada: Principal) -> None:
    first = submit(bench, ada, "nightly")
    stopped = job.stop("growth", "nightly", principal=ada, platform=bench.platform)
    assert stopped.spec_data["stop_requested"] is True
    assert stopped.metadata.generation == 2
    assert job.stop("growth", "nightly", principal=ada, platform=bench.platform) == stopped
    assert submit(bench, ada, "nightly").metadata.uid == first.metadata.uid


def test_stopping_a_job_that_has_ended_changes_nothing(bench: Any, ada: Principal) -> None:
    submit(bench, ada, "nightly")
    done = bench.settle("Job", "nightly", "Succeeded")
    assert job.stop("growth", "nightly", principal=ada, platform=bench.platform) == done


def test_concurrent_identical_submissions_create_one_job(bench: Any, ada: Principal) -> None:
    with ThreadPoolExecutor(8) as pool:
        uids = list(pool.map(lambda _: submit(bench, ada, submission_id="raysubmit_1").metadata.uid, range(8)))
    assert len(set(uids)) == 1
    assert bench.store.count("Job") == 1


def test_a_job_is_found_by_its_ray_facing_id(bench: Any, ada: Principal) -> None:
    bench.apply("Cluster", "other", {})
    named = submit(bench, ada, "nightly")
    stock = submit(bench, ada, submission_id="raysubmit_1")
    elsewhere = submit(bench, ada, submission_id="raysubmit_1", cluster="other")

    def find(cluster: str | None, id: str) -> str | None:
        match = job.find_by_submission_id("growth", cluster, id, platform=bench.platform)
        name = match.metadata.name if match else None
        if cluster is not None:
            text = job.read_by_submission_id("growth", cluster, id, platform=bench.platform)
            assert (text and text.name) == name
        return name

    assert find("dev", "raysubmit_1") == stock.metadata.name
    assert find("other", "raysubmit_1") == elsewhere.metadata.name
    assert find(None, "raysubmit_1") == stock.metadata.name
    assert find("dev", "nightly") == find(None, "nightly") == named.metadata.name
    assert find("other", "nightly") is None
    assert find("dev", stock.metadata.name) is None
    assert find("dev", "raysubmit_2") is None
    with pytest.raises(Conflict, match="raysubmit_1"):
        submit(bench, ada, submission_id="raysubmit_1", entrypoint="false")


def test_a_job_needs_an_existing_team_and_cluster(bench: Any, ada: Principal) -> None:
    with pytest.raises(
        NotFound, match=r"Cluster 'growth/dve' is not there. Did you mean 'dev'?.*rayplane cluster apply dve"
    ):
        submit(bench, ada, cluster="dve")
    bench.delete("Cluster", "dev")
    with pytest.raises(Conflict, match="is being deleted"):
        submit(bench, ada)
    with pytest.raises(NotFound, match="Team 'ads'"):
        job.submit(
            JobSpec(entrypoint="x", cluster="dev"), team="ads", name=None, principal=ada, platform=bench.platform
        )
    assert bench.store.count("Job") == 0


def test_a_package_must_have_been_uploaded(bench: Any, ada: Principal, make_zip: Any) -> None:
    sha256, data = make_zip()
    with pytest.raises(InvalidSpec, match=r"has no package.*Upload it first"):
        submit(bench, ada, package=f"sha256:{sha256}")
    with pytest.raises(InvalidSpec, match="not a content address"):
        submit(bench, ada, package="latest")
    packages.put("growth", sha256, io.BytesIO(data), principal=ada, platform=bench.platform)
    assert submit(bench, ada, package=f"sha256:{sha256}").spec_data["package"] == f"sha256:{sha256}"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"env": {"RAY_ADDRESS": "auto"}}, "job.env.RAY_ADDRESS"),
        ({"env": {"DB_PASSWORD": "hunter2"}}, "job.env.DB_PASSWORD"),
        ({"parameters": {"db": "postgresql://a:hunter2@db/x"}}, "job.parameters.db"),
        ({"sources": {"raw": "s3://key:hunter2@bucket/x"}}, "job.sources.raw"),
        ({"pip": ["--index-url https://me:hunter2@pypi.corp/simple"]}, "job.pip.0"),
        ({"entrypoint": "curl https://me:hunter2@host/"}, "job.entrypoint"),
    ],
)
def test_secrets_and_reserved_variables_are_refused(
    bench: Any, ada: Principal, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        submit(bench, ada, **spec)
    assert message in str(caught.value)
    assert caught.value.remedy
    assert "hunter2" not in str(caught.value)


def test_a_client_with_another_version_of_ray_is_refused(bench: Any, ada: Principal) -> None:
    with pytest.raises(Refused, match=r"Cluster 'growth/dev' runs Ray 2.60.0, but this client has Ray 2.50.1"):
        submit(bench, ada, metadata={"rayplane.ray": "2.50.1"})


def test_without_mlflow_only_an_explicitly_tracked_job_is_refused(bench: Any, ada: Principal) -> None:
    settings = bench.platform.settings.model_copy(update={"mlflow_url": None})
    bench.platform = dataclasses.replace(bench.platform, settings=settings)
    assert submit(bench, ada, "a").spec_data["tracked"] is False
    assert submit(bench, ada, "a").metadata.name == "a"
    with pytest.raises(Refused, match="no MLflow"):
        submit(bench, ada, "b", tracked=True)


def test_a_job_of_a_pipeline_has_pipeline_run_and_step_as_labels(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada, pipeline="flights/flights-3/train")
    assert made.metadata.labels == {"pipeline": "flights", "run": "flights-3", "step": "train"}


def test_the_log_is_read_from_an_offset_until_the_job_has_ended(bench: Any, ada: Principal, monkeypatch: Any) -> None:
    made = submit(bench, ada, "nightly")
    storage, path = bench.platform.storage, layout.job_log("growth", made.metadata.uid)

    def read(offset: int) -> tuple[bytes, int, bool]:
        return job.logs("growth", "nightly", offset, principal=ada, platform=bench.platform)

    assert read(0) == (b"", 0, False)
    storage.append(path, b"one\n")
    assert read(0) == (b"one\n", 4, False)
    storage.append(path, b"two\n")
    assert read(4) == (b"two\n", 8, False)
    bench.settle("Job", "nightly", "Failed")
    assert read(8) == (b"", 8, True)
    monkeypatch.setattr(job, "LOG_CHUNK", 3)
    assert read(0) == (b"one", 3, False)
    assert read(5) == (b"wo\n", 8, True)
    with pytest.raises(InvalidInput):
        read(-1)


def test_the_run_context_has_everything_of_the_job_and_is_the_same_each_time(bench: Any, ada: Principal) -> None:
    made = submit(
        bench,
        ada,
        "nightly",
        parameters={"days": "30"},
        inputs={"raw": "a" * 16},
        sources={"flights": "file:///x.csv"},
        values={"train.auc": 0.76},
        pipeline="flights/flights-1/train",
        metadata={"rayplane.git_commit": "abc"},
    )
    bench.settle("Job", "nightly", "Running", run_id="r1")
    uid, principal = made.metadata.uid, bench.cluster_principal()
    context = job.run_context(f"{uid}-2", principal=principal, platform=bench.platform)
    assert context.model_dump(exclude={"schema_version", "environment", "mlflow", "feast"}) == {
        "team": "growth",
        "cluster": "dev",
        "gateway_url": bench.platform.settings.url,
        "storage_root": bench.platform.settings.root_uri,
        "job": "nightly",
        "job_uid": uid,
        "job_uri": bench.platform.storage.uri(f"growth/jobs/{uid}"),
        "submission_id": f"{uid}-2",
        "attempt": 2,
        "run_id": "r1",
        "experiment": "flights",
        "parameters": {"days": "30"},
        "inputs": {"raw": "a" * 16},
        "sources": {"flights": "file:///x.csv"},
        "values": {"train.auc": 0.76},
        "pipeline": "flights/flights-1/train",
        "git_commit": "abc",
    }
    assert context.environment == ENVIRONMENT
    assert context.mlflow is not None
    assert context.mlflow.workspace == "growth"
    own = bench.platform.storage.local_path("growth/feast")
    assert context.feast is not None
    assert (context.feast.registry_url, context.feast.online_path) == (
        f"sqlite:///{own}/registry.db",
        f"{own}/online.db",
    )
    assert job.run_context(f"{uid}-2", principal=principal, platform=bench.platform) == context


def test_teams_without_a_folder_of_their_own_share_a_feast_registry(bench: Any) -> None:
    bench.backend.capabilities -= {Capability.TEAM}
    home = bench.platform.settings.home_paths
    access = job.run_context(None, principal=bench.cluster_principal(), platform=bench.platform).feast
    assert access is not None
    assert access.registry_url == f"sqlite:///{home.feast}/registry.db"
    assert access.online_path == str(home.feast / "online" / "growth.db")


def test_a_feast_project_has_no_hyphen(bench: Any) -> None:
    bench.apply("Team", "ml-ads", {}, team="")
    bench.apply("Cluster", "dev", {}, team="ml-ads")
    context = job.run_context(None, principal=bench.cluster_principal(team="ml-ads"), platform=bench.platform)
    assert context.feast is not None
    assert context.feast.project == "ml_ads"


def test_without_a_submission_id_a_cluster_gets_a_context_without_a_job(bench: Any, ada: Principal) -> None:
    context = job.run_context(None, principal=bench.cluster_principal(), platform=bench.platform)
    assert (context.team, context.cluster, context.job, context.job_uri) == ("growth", "dev", None, None)
    with pytest.raises(InvalidInput, match="Only a cluster"):
        job.run_context(None, principal=ada, platform=bench.platform)


def test_a_worker_gets_no_context_of_another_cluster_team_or_unknown_job(bench: Any, ada: Principal) -> None:
    made = submit(bench, ada, "nightly")
    bench.apply("Cluster", "other", {})
    bench.apply("Team", "ads", {}, team="")
    bench.apply("Cluster", "dev", {}, team="ads")
    id = f"{made.metadata.uid}-1"
    for principal in (bench.cluster_principal("other"), bench.cluster_principal("dev", "ads")):
        with pytest.raises(Forbidden):
            job.run_context(id, principal=principal, platform=bench.platform)
    cluster = bench.store.get("Cluster", "growth", "dev").metadata.uid
    for wrong in ("", "x", "x-1", f"{made.metadata.uid}", f"{made.metadata.uid}-x", f"{cluster}-1"):
        with pytest.raises(NotFound):
            job.run_context(wrong, principal=ada, platform=bench.platform)


def test_a_deleted_clusters_token_is_not_valid(bench: Any) -> None:
    principal = bench.cluster_principal()
    bench.store.remove(bench.store.get("Cluster", "growth", "dev").metadata.uid)
    with pytest.raises(Unauthenticated, match="cluster is gone"):
        job.run_context(None, principal=principal, platform=bench.platform)


def test_a_team_has_no_more_unfinished_jobs_than_its_quota_allows(bench: Any, ada: Principal) -> None:
    bench.apply("Team", "growth", {"quota": {"jobs": 2}}, team="")
    submit(bench, ada, "one")
    submit(bench, ada, "two", cluster=None, nodes={"size": "small"})
    message = r"'growth/three' does not fit: quota 'jobs' is exceeded \(2 have not ended \+ 1 wanted of 2\)"
    with pytest.raises(Refused, match=message) as refused:
        submit(bench, ada, "three")
    assert "rayplane job stop" in (refused.value.remedy or "")
    assert submit(bench, ada, "one").metadata.name == "one", "the existing job does not count as a new one"
    for name in ("one", "two"):
        bench.settle("Job", name, "Succeeded")
    submit(bench, ada, "three")
    bench.apply("Team", "growth", {"quota": {"jobs": None}}, team="")
    for number in range(5):
        submit(bench, ada, f"more-{number}")


def test_the_default_quota_is_ten_thousand_jobs(bench: Any) -> None:
    assert TeamSpec.model_validate(bench.store.get("Team", "", "growth").spec).quota.jobs == 10_000
