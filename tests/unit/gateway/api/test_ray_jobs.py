"""Ray's submission as a JobSpec, and a job as Ray's JobDetails."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.runtime_env import RuntimeEnv

from rayplane.errors import InvalidInput
from rayplane.gateway.api import ray_jobs
from rayplane.gateway.store.texts import JobText
from rayplane.nouns.job import JobSpec

SHA = "a" * 64


def _spec(**request: Any) -> JobSpec:
    packages = {"_ray_pkg_1.zip": SHA}
    return ray_jobs.to_spec({"entrypoint": "python a.py", **request}, cluster="dev", resolve=packages.get)


def test_a_submission_of_rays_client_becomes_a_job_spec() -> None:
    environment = RuntimeEnv(
        working_dir="gcs://_ray_pkg_1.zip", env_vars={"A": "b"}, pip=["polars==1.0"], excludes=["*.csv"]
    ).to_dict()
    spec = _spec(
        runtime_env=environment,
        metadata={"owner": "me"},
        submission_id="raysubmit_Ab",
        entrypoint_num_cpus=0.5,
        entrypoint_memory=2**30,
    )
    assert (spec.package, spec.env, spec.pip) == (f"sha256:{SHA}", {"A": "b"}, ["polars==1.0"])
    assert (spec.resources.cpu, spec.resources.memory) == (0.5, 2**30)
    assert (spec.metadata, spec.submission_id, spec.cluster) == ({"owner": "me"}, "raysubmit_Ab", "dev")


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"runtime_env": {"conda": {"dependencies": []}}}, "conda"),
        ({"runtime_env": {"py_modules": ["gcs://x.zip"]}}, "working_dir"),
        ({"runtime_env": {"working_dir": "s3://bucket/a.zip"}}, "s3://bucket/a.zip"),
        ({"runtime_env": {"working_dir": "gcs://_ray_pkg_2.zip"}}, "not uploaded"),
        ({"runtime_env": {"pip": {"packages": ["a"], "pip_version": "==24"}}}, "pip_version"),
        ({"runtime_env": {"config": {"setup_timeout_seconds": 3}}}, "config"),
        ({"entrypoint_resources": {"special": 1}}, "entrypoint_resources"),
        ({"entrypoint_label_selector": {"a": "b"}}, "entrypoint_label_selector"),
        ({"runtime_env": ["x"]}, "must be an object"),
        ({"entrypoint": "  "}, "blank"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, "env"),
    ],
)
def test_an_unsupported_part_of_a_submission_is_refused_by_name(request_: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        _spec(**request_)


@pytest.mark.parametrize("environment", [{}, {"conda": None}, {"py_modules": []}, {"config": {"eager_install": True}}])
def test_empty_parts_of_a_runtime_environment_are_accepted(environment: dict[str, Any]) -> None:
    assert _spec(runtime_env=environment).env == {}


def _job(phase: str, **status: Any) -> JobText:
    spec = {"entrypoint": "python a.py", "cluster": "dev", "env": {"A": "b"}, "metadata": {"k": "v"}}
    created_at = datetime(2026, 1, 1, tzinfo=UTC)
    return JobText("a-1", created_at, json.dumps(spec), json.dumps({"phase": phase, **status}))


@pytest.mark.parametrize(
    ("phase", "word"),
    [
        ("Pending", "PENDING"),
        ("Starting", "PENDING"),
        ("Running", "RUNNING"),
        ("Succeeded", "SUCCEEDED"),
        ("Failed", "FAILED"),
        ("Stopped", "STOPPED"),
    ],
)
def test_rays_client_parses_the_details_of_a_job(phase: str, word: str) -> None:
    details = JobDetails(**ray_jobs.details(_job(phase, ended_at="2026-01-01T00:00:02.5Z", exit_code=3)))
    assert details.status == word
    assert details.submission_id == "a-1"
    assert details.start_time == 1767225600000
    assert details.end_time == 1767225602500
    assert details.driver_exit_code == 3
    assert details.runtime_env == {"env_vars": {"A": "b"}}


@pytest.mark.parametrize("pip", [{"packages": "numpy"}, {"packages": None}, "numpy", 3])
def test_pip_requirements_that_are_not_a_list_are_refused(pip: Any) -> None:
    with pytest.raises(InvalidInput, match="must be a list"):
        ray_jobs.to_spec({"entrypoint": "true", "runtime_env": {"pip": pip}}, cluster="dev", resolve=lambda name: None)
