"""Find a pipeline step's cached result; it counts only if every output of it is still there."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from rayplane.errors import InvalidInput, NotFound
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.job import Output
from rayplane.nouns.pipeline import StepResult
from rayplane.storage import layout

_LARGEST_VERSION = 2**20
"""The most bytes of a dataset version's file: a larger one counts as not whole."""


class StepCache:
    """The results of steps that earlier runs kept, by team and key."""

    def __init__(self, platform: Platform, mlflow: MlflowRest | None) -> None:
        self._platform = platform
        self._mlflow = mlflow

    def find(self, team: str, key: str) -> StepResult | None:
        """The result under this key; None if there is none, or one of its outputs is gone."""
        result = self._platform.store.get_step_result(team, key)
        if result is None or not all(self._is_there(team, output) for output in result.outputs):
            return None
        return result

    def _is_there(self, team: str, output: Output) -> bool:
        if output.kind == "dataset":
            return self._dataset_is_whole(team, output)
        if self._mlflow is None:
            return output.kind not in ("run", "model")
        workspace = self._platform.workspace(team)
        if output.kind == "run":
            return _exists(lambda m: m.get_run(workspace, output.value), self._mlflow)
        if output.kind == "model":
            name, version = output.name, str(output.value)
            return _exists(lambda m: m.model_version(workspace, name, version), self._mlflow)
        return True

    def _dataset_is_whole(self, team: str, output: Output) -> bool:
        storage = self._platform.storage
        folder = layout.dataset_version(team, output.name, str(output.value))
        try:
            # A team's code may write this file: a huge one must not fill the gateway's memory.
            data = storage.read_from(f"{folder}/{layout.VERSION_FILE}", 0, _LARGEST_VERSION + 1)
            if len(data) > _LARGEST_VERSION:
                return False
            version = DatasetVersion.model_validate_json(data)
        except (NotFound, InvalidInput, ValidationError):
            return False
        parts = [name for name in storage.list(folder) if name.endswith(".parquet")]
        return bool(parts) and sum(storage.size(f"{folder}/{part}") for part in parts) == version.bytes


def _exists(ask: Callable[[MlflowRest], object], mlflow: MlflowRest) -> bool:
    try:
        return ask(mlflow) is not None
    except NotFound:
        return False
