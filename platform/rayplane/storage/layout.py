"""Layout of the storage root: builds relative paths for each kind of data. Pure: accesses no file."""

from __future__ import annotations

import re

LONGEST = 220
"""The most bytes of a file's name: file systems allow 255, and the name is longer while the file is written."""
PARTIAL = re.compile(r"\..*\.[0-9a-f]{32}")
"""Name under which a file is written before it gets its own: ``.<name>.<32 hexadecimal digits>``."""


def packages(team: str) -> str:
    """Folder of a team's code packages."""
    return f"{team}/packages"


def package(team: str, sha256: str) -> str:
    """A code package (zip), content-addressed."""
    return f"{team}/packages/{sha256}.zip"


def package_alias(team: str, ray_name: str) -> str:
    """File with the sha256 of a package that a stock Ray client uploaded under another name."""
    return f"{team}/packages/by-ray-name/{ray_name}"


def dataset(team: str, name: str) -> str:
    """Folder of a dataset's versions."""
    return f"{team}/datasets/{name}"


def dataset_version(team: str, name: str, version: str) -> str:
    """Folder of one version: ``part-*.parquet``; complete once ``_version.json`` is there."""
    return f"{team}/datasets/{name}/{version}"


VERSION_FILE = "_version.json"


def jobs(team: str) -> str:
    """Folder of a team's jobs, with a folder for each."""
    return f"{team}/jobs"


def job(team: str, uid: str) -> str:
    """Folder of one job's files."""
    return f"{team}/jobs/{uid}"


def job_log(team: str, uid: str) -> str:
    """Log of the driver, of all attempts in order."""
    return f"{team}/jobs/{uid}/driver.log"


def job_record(team: str, uid: str) -> str:
    """The job's object as JSON, written when it ends."""
    return f"{team}/jobs/{uid}/record.json"


EVENTS = "events"
"""Folder inside a job's folder for its events, each a JSON file named by the event's id."""


def feast(team: str) -> str:
    """Folder of a team's own Feast registry and online store, on backends where a team sees only its own folder."""
    return f"{team}/feast"


def mlflow_artifacts() -> str:
    """Folder of MLflow's artifacts, in which the server creates a folder per workspace."""
    return "mlflow"


def mlflow_workspace(workspace: str) -> str:
    """Folder of one MLflow workspace's artifacts, created by the MLflow server."""
    return f"{mlflow_artifacts()}/workspaces/{workspace}"


def team(name: str) -> str:
    """Folder of all of a team's files, except its runs' artifacts."""
    return name


def archive(archived: str) -> str:
    """Folder of a deleted team's files; ``archived`` is the name of its records, which no team can have."""
    return f"{ARCHIVE}/{archived}"


ARCHIVE = "_archive"
"""Folder of deleted teams' files."""
