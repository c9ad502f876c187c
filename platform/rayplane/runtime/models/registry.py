"""Register a run's model and point an alias at it, idempotently."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from rayplane.errors import Failed
from rayplane.nouns.model import ModelVersion
from rayplane.runtime import report


def register(name: str, *, model_uri: str, run_id: str, alias: str | None = None) -> ModelVersion:
    """Register a logged model of a run as a version of the model ``name``, and point ``alias`` at it.

    Registering the same model of the same run again returns its version. Reports the version to the platform. Raises
    Failed if MLflow could not make the version.
    """
    client = MlflowClient()
    _ensure_model(client, name)
    version = _registered(client, name, model_uri, run_id) or _create(client, name, model_uri, run_id)
    if alias is not None:
        client.set_registered_model_alias(name, alias, version.version)
    record = ModelVersion(name=name, version=str(version.version), run_id=run_id, aliases=[alias] if alias else [])
    report.emit("model.registered", record.model_dump(mode="json"))
    return record


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except (MlflowException, RestException) as exc:
        if exc.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _registered(client: MlflowClient, name: str, model_uri: str, run_id: str) -> RegisteredVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    same = [v for v in versions if v.source == model_uri and v.status == "READY"]
    return min(same, key=lambda v: int(v.version), default=None)


def _create(client: MlflowClient, name: str, model_uri: str, run_id: str) -> RegisteredVersion:
    model_id = model_uri.removeprefix("models:/") if model_uri.startswith("models:/m-") else None
    version = client.create_model_version(name, source=model_uri, run_id=run_id, model_id=model_id)
    if version.status != "READY":
        raise Failed(
            f"Version {version.version} of model '{name}' is {version.status}: {version.status_message}.",
            remedy="Look at the model in MLflow, then run this again.",
        )
    return version
