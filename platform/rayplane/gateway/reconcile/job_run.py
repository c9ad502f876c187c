"""Keep a tracked job's MLflow run: one for each job uid, which all of its attempts share."""

from __future__ import annotations

import logging

from rayplane.errors import InvalidInput
from rayplane.gateway.mlflow_rest import MlflowRest, RunEnd
from rayplane.gateway.reconcile.look import Look
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.usecases.job import experiment_of
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import Attempt, JobStatus

log = logging.getLogger(__name__)

UID_TAG = "rayplane.job_uid"
_RUN_END: dict[str, RunEnd] = {"Succeeded": "FINISHED", "Failed": "FAILED", "Stopped": "KILLED"}


class JobRuns:
    """The MLflow runs of jobs. Every method may be repeated; without an MLflow server none can be allocated."""

    def __init__(self, platform: Platform, mlflow: MlflowRest | None) -> None:
        self._platform = platform
        self._mlflow = mlflow

    def allocate(self, look: Look, environment: Environment | None) -> None:
        """Create the job's MLflow run, or find the one of an interrupted look: there is one for each job uid."""
        if self._mlflow is None:
            raise InvalidInput(
                f"Job '{look.team}/{look.name}' is to be tracked, but no MLflow server is set.",
                remedy="Set RAYPLANE_MLFLOW_URL, or submit it with tracked: false.",
            )
        workspace = self._platform.workspace(look.team)
        experiment_id = self._mlflow.ensure_experiment(workspace, experiment_of(look.spec))
        run_id = self._mlflow.find_run(workspace, experiment_id, UID_TAG, look.uid)
        if run_id is None:
            tags = _tags(look, environment or look.status.environment)
            run_id = self._mlflow.create_run(workspace, experiment_id, tags=tags, name=look.name)
        with editing(self._platform.store, look.uid, JobStatus) as status:
            status.run_id, status.experiment_id = run_id, experiment_id

    def resume(self, look: Look, attempt: Attempt) -> None:
        """Mark the run as running again for an attempt after the first."""
        if look.spec.tracked and look.status.run_id and attempt.number > 1 and self._mlflow is not None:
            self._mlflow.resume_run(self._platform.workspace(look.team), look.status.run_id)

    def end(self, look: Look, final: JobStatus) -> None:
        """End the run as the job ended; one that was deleted in the meantime stays so."""
        run_id = look.status.run_id
        if run_id is None or self._mlflow is None:
            return
        workspace = self._platform.workspace(look.team)
        if self._mlflow.get_run(workspace, run_id) is None:
            log.warning("job %s/%s: its MLflow run %s was deleted in the meantime", look.team, look.name, run_id)
            return
        tags = {
            "rayplane.phase": final.phase,
            "rayplane.attempts": str(len(final.attempts)),
            "rayplane.submission": final.attempts[-1].submission_id if final.attempts else "",
        }
        if final.git_commit:
            tags["mlflow.source.git.commit"] = final.git_commit
        self._mlflow.set_tags(workspace, run_id, tags)
        self._mlflow.end_run(workspace, run_id, _RUN_END[final.phase])


def _tags(look: Look, environment: Environment | None) -> dict[str, str]:
    """Tags that identify the job on its MLflow run, set when the run is created."""
    nodes = look.spec.nodes
    tags = {
        UID_TAG: look.uid,
        "rayplane.team": look.team,
        "rayplane.cluster": look.spec.cluster,
        "rayplane.nodes": nodes.size if nodes is not None else None,
        "rayplane.job": look.name,
        "rayplane.package": look.spec.package,
        "rayplane.pipeline": look.spec.pipeline,
        "rayplane.environment": environment.key if environment else None,
        "rayplane.ray": environment.ray if environment else None,
        "rayplane.python": environment.python if environment else None,
        "mlflow.user": look.obj.metadata.owner,
        "mlflow.source.name": look.spec.entrypoint,
        "mlflow.source.git.commit": look.status.git_commit,
    }
    return {key: value for key, value in tags.items() if value}
