"""`rayplane://<team>/<cluster>`: the hooks for stock Ray, against the real API."""

from __future__ import annotations

import platform as host
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobSubmissionClient

import rayplane
from rayplane import errors
from rayplane.client import ray_hooks
from rayplane.client.sdk import Client
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Metadata, Object
from rayplane.nouns.cluster import ClusterStatus, Endpoint
from rayplane.nouns.environment import Environment
from tests.unit.gateway.api.served import platform_without_compute, serve


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with platform_without_compute(tmp_path) as made:
        yield made


@pytest.fixture
def url(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serve(platform) as served:
        monkeypatch.setenv("RAYPLANE_URL", served)
        monkeypatch.setenv("RAYPLANE_TOKEN_PATH", str(platform.settings.home_paths.token))
        with Client() as client:
            client.teams.apply("growth", spec={})
        yield served


def test_ray_finds_the_hooks_in_the_package() -> None:
    assert {"get_job_submission_client_cluster_info", "ClientBuilder"} <= set(dir(rayplane))
    assert issubclass(rayplane.ClientBuilder, ray.client_builder.ClientBuilder)


def test_jobs_go_through_the_gateway_with_the_users_token(url: str, platform: Platform) -> None:
    client = JobSubmissionClient("rayplane://growth/dev", create_cluster_if_needed=True)
    assert client.get_address() == f"{url}/growth/dev"
    job = client.submit_job(entrypoint="true")
    metadata = platform.store.get("Job", "growth", job).spec_data["metadata"]
    assert metadata == {"rayplane.ray": ray.__version__, "rayplane.python": host.python_version()}


def test_a_cluster_is_created_only_if_ray_asks_for_it(url: str, platform: Platform) -> None:
    with pytest.raises(errors.NotFound, match="dev"):
        ray_hooks.get_job_submission_client_cluster_info("growth/dev")
    assert platform.store.list("Cluster", "growth").items == []
    ray_hooks.get_job_submission_client_cluster_info("growth/dev", create_cluster_if_needed=True)
    assert [c.metadata.name for c in platform.store.list("Cluster", "growth").items] == ["dev"]


@pytest.mark.slow
def test_stock_ray_job_submit_takes_the_address(url: str, platform: Platform, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("print(1)\n")
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", "rayplane://growth/dev"]
    done = subprocess.run(
        [*command, "--working-dir", ".", "--no-wait", "--", "python", "a.py", "--name", "a b"],
        cwd=code, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = platform.store.list("Job", "growth").items
    assert job.spec_data["entrypoint"] == "python a.py --name 'a b'"
    assert job.spec_data["package"].startswith("sha256:")


@pytest.mark.parametrize("address", ["", "growth", "growth/dev/x", "/"])
def test_an_address_that_names_no_cluster_is_refused(address: str) -> None:
    with pytest.raises(errors.InvalidInput, match="rayplane://<team>/<cluster>"):
        ray_hooks.split(address)


@pytest.mark.parametrize(("ray_", "python"), [("2.59.0", None), (None, "3.9")])
def test_another_ray_or_python_is_refused_before_a_cluster_is_created(ray_: str | None, python: str | None) -> None:
    minor = ".".join(host.python_version_tuple()[:2])
    other = Environment(
        interpreter="local", ray=ray_ or ray.__version__, python=python or minor, lock_hash="", rayplane="0.1.0"
    )
    with pytest.raises(errors.Refused, match="runs Ray") as refused:
        ray_hooks.require_match(other, "Cluster 'growth/dev'")
    assert f"ray=={other.ray}" in (refused.value.remedy or "")
    ray_hooks.require_match(other.model_copy(update={"ray": ray.__version__, "python": minor}), "it")


def test_a_cluster_without_ray_client_is_unsupported() -> None:
    status = ClusterStatus(phase="Ready", endpoint=Endpoint(dashboard_url="http://x"))
    cluster = Object(
        kind="Cluster", metadata=Metadata(name="dev", team="growth"), status=status.model_dump(mode="json")
    )
    with pytest.raises(errors.Unsupported, match="growth/dev"):
        ray_hooks._client_address(cluster)


def test_ray_reads_the_clusters_token_although_it_was_imported_before(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t" * 32)
    # In its own process, since Ray's authentication mode is process-wide.
    code = (
        "import ray\n"
        "from ray._private.authentication import http_token_authentication as http\n"
        "headers = http.get_auth_headers_if_auth_enabled\n"
        "assert headers({}) == {}\n"
        "from rayplane.client import ray_hooks\n"
        f"ray_hooks._use_token({str(token)!r})\n"
        "print(headers({}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "t" * 32 in done.stdout
