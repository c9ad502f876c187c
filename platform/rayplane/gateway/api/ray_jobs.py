"""Translate Ray's Jobs API: a submission to a JobSpec, a job to Ray's JobDetails. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from rayplane.errors import InvalidInput
from rayplane.gateway.store.texts import JobText
from rayplane.gateway.store.typed import Job
from rayplane.nouns.base import Plain, Quantity, parse
from rayplane.nouns.job import NOT_BLANK, JobSpec, Variables

_STATUS = {
    "Pending": "PENDING",
    "Starting": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
    "Stopped": "STOPPED",
}
_REQUEST_FIELDS = frozenset(
    {
        "entrypoint",
        "submission_id",
        "job_id",
        "runtime_env",
        "metadata",
        "entrypoint_num_cpus",
        "entrypoint_num_gpus",
        "entrypoint_memory",
    }
)


class RuntimeEnv(BaseModel):
    """The part of Ray's runtime environment that the platform supports."""

    model_config = ConfigDict(extra="forbid")
    working_dir: Annotated[str, WithJsonSchema({"type": "string", "pattern": "^gcs://."})] | None = None
    """The URI of a package that was uploaded."""
    env_vars: Variables | None = None
    pip: list[str] | None = None
    excludes: list[str] | None = None


class Submission(BaseModel):
    """The part of Ray's ``JobSubmitRequest`` that the platform supports. For documentation: ``to_spec`` parses it."""

    model_config = ConfigDict(extra="forbid")
    entrypoint: Annotated[str, WithJsonSchema({"type": "string", "pattern": NOT_BLANK})]
    submission_id: Plain | None = None
    job_id: Plain | None = None
    runtime_env: RuntimeEnv | None = None
    metadata: dict[str, str] | None = None
    entrypoint_num_cpus: Quantity | None = None
    entrypoint_num_gpus: Quantity | None = None
    entrypoint_memory: Quantity | None = None


_NOT_CARRIED = {
    "py_modules": "put the modules into the working_dir",
    "conda": "use 'pip', or a cluster whose environment has the packages",
    "uv": "use 'pip'",
    "container": "choose the cluster's environment",
    "image_uri": "choose the cluster's environment",
    "java_jars": "put them into the working_dir",
    "entrypoint_resources": "use --entrypoint-num-cpus, --entrypoint-num-gpus or --entrypoint-memory",
    "entrypoint_label_selector": "leave it out",
}
_IGNORED = frozenset({"excludes", "_ray_commit", "_ray_release", "_inject_current_ray", "_wandb", "_validate"})
"""Keys that only the client uses, or that describe the client."""
_DEFAULT_CONFIG = {"setup_timeout_seconds": 600, "eager_install": True, "log_files": []}


def to_spec(request: Mapping[str, Any], *, cluster: str, resolve: Callable[[str], str | None]) -> JobSpec:
    """The JobSpec of a ``JobSubmitRequest`` (as JSON). ``resolve`` maps an uploaded package's name to its sha256.

    Raises InvalidInput that names the unsupported part, and what to do instead.
    """
    fields = {k: v for k, v in request.items() if v not in (None, {}, [])}
    for key in fields:
        if key not in _REQUEST_FIELDS:
            raise _unsupported(key)
    environment = fields.get("runtime_env", {})
    if not isinstance(environment, dict):
        raise InvalidInput("runtime_env must be an object.", remedy="Write it as in Ray's documentation.")
    spec: dict[str, Any] = {
        "entrypoint": fields.get("entrypoint", ""),
        "cluster": cluster,
        "submission_id": fields.get("submission_id") or fields.get("job_id"),
        "metadata": fields.get("metadata", {}),
        "resources": {
            "cpu": fields.get("entrypoint_num_cpus", 0),
            "gpu": fields.get("entrypoint_num_gpus", 0),
            "memory": fields.get("entrypoint_memory", 0),
        },
    }
    for key, value in environment.items():
        spec.update(_carry(key, value, resolve))
    return parse(JobSpec, spec, "job")


def details(job: JobText) -> dict[str, Any]:
    """Ray's ``JobDetails`` of a stored job; instants are milliseconds since the epoch.

    A list has thousands of jobs, so it builds no model of each.
    """
    # Not by pydantic's parser: it refuses what old rows may hold, 200 levels of nesting and half of a surrogate pair.
    spec, status = json.loads(job.spec), json.loads(job.status)
    environment: dict[str, Any] = {}
    for key, field in (("working_dir", "package"), ("env_vars", "env"), ("pip", "pip")):
        if spec.get(field):
            environment[key] = spec[field]
    started_at = status.get("started_at")
    return {
        "type": "SUBMISSION",
        "job_id": None,
        "submission_id": _public_id(job.name, spec),
        "driver_info": None,
        "status": _ray_status(status),
        "entrypoint": spec["entrypoint"],
        "message": status.get("message") or None,
        "error_type": None,
        "start_time": _millis(started_at or job.created_at),
        "end_time": _millis(status.get("ended_at")),
        "metadata": spec.get("metadata", {}),
        "runtime_env": environment,
        "driver_agent_http_address": None,
        "driver_node_id": None,
        "driver_exit_code": status.get("exit_code"),
    }


def public_id(job: Job) -> str:
    """The id by which Ray's clients know a job: the submission id that a client chose, or the job's name."""
    return _public_id(job.metadata.name, job.spec_data)


def _public_id(name: str, spec: Mapping[str, Any]) -> str:
    return str(spec.get("submission_id") or name)


def ray_status(job: Job) -> str:
    """The job's status in Ray's words: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    return _ray_status(job.status_data)


def _ray_status(status: Mapping[str, Any]) -> str:
    return _STATUS[str(status.get("phase", "Pending"))]


def _carry(key: str, value: Any, resolve: Callable[[str], str | None]) -> dict[str, Any]:
    if key in _IGNORED or value in (None, {}, []):
        return {}
    if key == "env_vars":
        return {"env": value}
    if key == "working_dir":
        return {"package": _package(str(value), resolve)}
    if key == "pip":
        return {"pip": _pip(value)}
    if key == "config" and isinstance(value, dict) and all(_DEFAULT_CONFIG.get(k) == v for k, v in value.items()):
        return {}
    raise _unsupported(f"runtime_env['{key}']", key)


def _package(uri: str, resolve: Callable[[str], str | None]) -> str:
    scheme, _, name = uri.partition("://")
    if scheme != "gcs" or not name:
        raise InvalidInput(
            f"runtime_env['working_dir'] is '{uri}', which the platform does not fetch.",
            remedy="Give a local folder: Ray's client uploads it.",
        )
    sha256 = resolve(name)
    if sha256 is None:
        raise InvalidInput(
            f"Package '{uri}' was not uploaded here.", remedy="Submit again: the client uploads it anew."
        )
    return f"sha256:{sha256}"


def _pip(value: Any) -> list[str]:
    if isinstance(value, dict):
        extra = {k for k, v in value.items() if k != "packages" and v not in (None, False, [], "")}
        if extra:
            raise InvalidInput(
                f"runtime_env['pip'] has {', '.join(sorted(extra))}, which the platform does not carry.",
                remedy="Give the packages alone.",
            )
        value = value.get("packages", [])
    if isinstance(value, list):
        return [str(item) for item in value]
    raise InvalidInput("runtime_env['pip'] must be a list of requirements.", remedy="Write it as ['package==1.2'].")


def _unsupported(what: str, key: str | None = None) -> InvalidInput:
    remedy = _NOT_CARRIED.get(key or what)
    return InvalidInput(
        f"{what} is not carried by the platform{': ' + remedy if remedy else ''}.",
        remedy="It carries working_dir, env_vars and pip.",
    )


def _millis(instant: datetime | str | None) -> int | None:
    """Milliseconds since the epoch of a datetime, or of one as ISO text; None for None."""
    if instant is None:
        return None
    at = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    return int(at.timestamp() * 1000)
