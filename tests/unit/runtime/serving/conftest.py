"""One local Ray for the tests that need it, with the environment of a cluster of the platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import plugins
from rayplane.gateway.backends.base import RAY_ENVIRONMENT
from rayplane.nouns.job import RunContext
from rayplane.runtime import context
from tests.support import mlflow_store
from tests.support.warm import Warm, local_ray
from tests.unit.runtime.conftest import TOKEN, WorkerGateway


class Cluster:
    """A cluster's gateway, experiment, and the run context that its workers get; tests change the context."""

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
        """The values that jobs reported, by name; a later value replaces an earlier one."""
        outputs = [e["data"] for e in self.gateway.events() if e["type"] == "output.recorded"]
        return {data["name"]: data["value"] for data in outputs}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Iterator[Cluster]:
    from ray import serve

    folder = tmp_path_factory.mktemp("cluster")
    with (
        pytest.MonkeyPatch.context() as patch,
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
            **RAY_ENVIRONMENT,
            "MLFLOW_TRACKING_URI": mlflow_store.uri(),
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setattr(context, "_current", None)
        ray = local_ray(warm, num_cpus=6, object_store_memory=200_000_000, runtime_env={"env_vars": environment})
        try:
            with ray:
                yield Cluster(gateway, folder, experiment)
                serve.shutdown()
        finally:
            gateway.close()
