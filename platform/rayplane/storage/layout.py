"""Which path under the storage root is whose. Pure: builds relative paths, touches nothing."""

from __future__ import annotations


def packages(team: str) -> str:
    """Folder of a team's code packages."""
    return f"{team}/packages"


def package(team: str, sha256: str) -> str:
    """A code package (zip), content-addressed."""
    return f"{team}/packages/{sha256}.zip"


def package_alias(team: str, ray_name: str) -> str:
    """The name by which a stock Ray client uploaded a package; the file holds its sha256."""
    return f"{team}/packages/by-ray-name/{ray_name}"


def dataset(team: str, name: str) -> str:
    """Folder of a dataset's versions."""
    return f"{team}/datasets/{name}"


def dataset_version(team: str, name: str, version: str) -> str:
    """Folder of one version: ``part-*.parquet``; complete once ``_version.json`` is there."""
    return f"{team}/datasets/{name}/{version}"


VERSION_FILE = "_version.json"


def jobs(team: str) -> str:
    """Folder of what a team's jobs leave, a folder each."""
    return f"{team}/jobs"


def job(team: str, uid: str) -> str:
    """Folder of one job."""
    return f"{team}/jobs/{uid}"


def job_log(team: str, uid: str) -> str:
    """The driver's log of all attempts, in order."""
    return f"{team}/jobs/{uid}/driver.log"


def job_record(team: str, uid: str) -> str:
    """What became of the job: its object as JSON, written when it ends."""
    return f"{team}/jobs/{uid}/record.json"


EVENTS = "events"
"""Folder inside a job's folder that holds its events, one JSON file each, named by the event's id."""

CHECKPOINTS = "checkpoints"
"""Folder inside a job's folder for Ray Train's and Tune's checkpoints."""


def feast(team: str) -> str:
    """Folder of a team's own Feast registry and online store, where teams see only their own folders."""
    return f"{team}/feast"


def mlflow_artifacts() -> str:
    """Where the MLflow server keeps artifacts, below which it makes a folder per workspace."""
    return "mlflow"


def mlflow_workspace(workspace: str) -> str:
    """Folder of the artifacts of one MLflow workspace, made by the MLflow server."""
    return f"{mlflow_artifacts()}/workspaces/{workspace}"


def team(name: str) -> str:
    """Folder of all that a team has in the storage root, but for its runs' artifacts."""
    return name


def archive(archived: str) -> str:
    """Folder of all that a deleted team left; ``archived`` is the name of its records. No team can be called so."""
    return f"{ARCHIVE}/{archived}"


ARCHIVE = "_archive"
"""Folder of all that deleted teams left."""
