"""One local Ray for the tests that need it, as a cluster of the platform would set it up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import plugins
from rayplane.nouns.job import RunContext
from rayplane.runtime import context
from tests.support import mlflow_store
from tests.unit.runtime.conftest import TOKEN, WorkerGateway


class Cluster:
    """What the tests change of it: the context that a worker is told."""

    def __init__(self, gateway: WorkerGateway, folder: Path, experiment: str) -> None:
        self.gateway = gateway
        self.experiment = experiment
        root = f"file://{folder}/storage"
        self.context = RunContext(
            team="flights",
            cluster="dev",
            gateway_url=gateway.url,
            storage_root=root,
            job="train",
            job_uid="uid1",
            job_uri=f"{root}/flights/jobs/uid1",
            submission_id="uid1-1",
        )
        gateway.routes["POST", "/v1/run-context"] = lambda body: (200, self.context.model_dump(mode="json"))

    def values(self) -> dict[str, object]:
        """What jobs reported by name; the last counts."""
        told = [e["data"] for e in self.gateway.events() if e["type"] == "output.recorded"]
        return {data["name"]: data["value"] for data in told}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    import ray
    from ray import serve

    folder = tmp_path_factory.mktemp("cluster")
    with (
        pytest.MonkeyPatch.context() as patch,
        # Short: the path of a socket below it has at most 107 bytes.
        tempfile.TemporaryDirectory(prefix="rp-t-", dir="/tmp", ignore_cleanup_errors=True) as short,
        mlflow_store.store(folder) as experiment,
    ):
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)
        gateway = WorkerGateway()
        environment = {
            "RAYPLANE_GATEWAY_URL": gateway.url,
            "RAYPLANE_TOKEN_PATH": str(folder / "token"),
            "RAYPLANE_SUBMISSION_ID": "uid1-1",
            "RAY_TRAIN_CALLBACKS": plugins.TRAIN_CALLBACK,
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            "MLFLOW_TRACKING_URI": mlflow_store.uri(),
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setattr(context, "_current", None)
        ray.shutdown()
        ray.init(
            "local",
            num_cpus=6,
            include_dashboard=False,
            object_store_memory=200_000_000,
            _temp_dir=short,
            log_to_driver=False,
            runtime_env={"env_vars": environment},
        )
        try:
            yield Cluster(gateway, folder, experiment)
        finally:
            serve.shutdown()
            ray.shutdown()
            gateway.close()
