"""The flights pipeline in tests: the team's code in a folder, sources as files, runs awaited to their end."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rayplane.client.sdk import Client
from rayplane.nouns.base import Document, parse
from rayplane.nouns.pipeline import RunStatus
from tests.data import slices
from tests.support.local_platform import LocalPlatform

ROOT = Path(__file__).parents[2]
TEAM = "flights"
# 30 days of January show that the parts work together, not that the model is good.
SLICE_GATE = {"min_auc": "0.5", "min_gain": "-1", "max_ece": "1", "min_slice_auc": "0", "min_slice_rows": "100"}


@dataclass
class Flights:
    """A copy of the team's code and of its sources, and the platform that runs it."""

    platform: LocalPlatform
    folder: Path
    sources: Path
    name: str = "flights"

    @classmethod
    def slice(cls, platform: LocalPlatform, folder: Path, days: int = 30) -> Flights:
        """Copy the code, and write the sources' first days as Parquet files."""
        for part in ("jobs", "features", "serving"):
            shutil.copytree(ROOT / part, folder / "code" / part, ignore=shutil.ignore_patterns("__pycache__"))
        slices.write(folder / "raw", days)
        return cls(platform, folder / "code", folder / "raw")

    @property
    def client(self) -> Client:
        """An SDK client of the platform."""
        return self.platform.client

    def apply(self, *, only: list[str] | None = None) -> None:
        """Apply the documents with the present code; the pipeline with ``only`` these steps, if given."""
        documents = [
            parse(Document, value, "flights")
            for value in yaml.safe_load_all((self.folder / "jobs" / "flights.yaml").read_text())
        ]
        with self.client as api:
            api.apply_documents([d for d in documents if d.kind in ("Team", "Cluster")])
            package = api.packages.upload(TEAM, self.folder)
            for document in documents:
                if document.kind in ("Team", "Cluster"):
                    continue
                spec: dict[str, Any] = dict(document.spec)
                if document.kind == "Pipeline":
                    steps = spec["steps"]
                    spec |= {"package": package, "steps": {k: v for k, v in steps.items() if not only or k in only}}
                    spec["parameters"] = {**spec["parameters"], **SLICE_GATE}
                api.apply_documents([document.model_copy(update={"spec": spec})])

    def run(self, **parameters: str) -> RunStatus:
        """Run the pipeline on the sources' files until it succeeds or fails."""
        arguments = {"source": f"{self.sources.as_uri()}/", "suffix": ".parquet", "materialize_at": "", **parameters}
        with self.client as api:
            run = api.pipelines.run(TEAM, self.name, arguments)
            ended = api.pipelines.wait_run(
                TEAM, self.name, run.metadata.name, phases={"Succeeded", "Failed", "Stopped"}, timeout=900
            )
        return RunStatus.model_validate(ended.status)


def ran(status: RunStatus) -> set[str]:
    """Names of the steps that were run, not taken from the cache."""
    assert status.phase == "Succeeded", f"{status.phase}: {status.message}"
    return {step.name for step in status.steps if step.phase == "Succeeded"}


def value_of(status: RunStatus, step: str, name: str) -> Any:
    """A value that a step recorded."""
    return _output(status, step, name, "value")


def version_of(status: RunStatus, step: str, dataset: str) -> str:
    """The version of a dataset that a step published."""
    return str(_output(status, step, dataset, "dataset"))


def _output(status: RunStatus, step: str, name: str, kind: str) -> Any:
    step_run = next(s for s in status.steps if s.name == step)
    return next(o.value for o in step_run.outputs if o.name == name and o.kind == kind)
