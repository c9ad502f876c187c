"""Service: a deployed model that follows an alias."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from rayplane.nouns.base import Count, Instant, Name, Package, Record, Seconds, Spec, Status
from rayplane.nouns.cluster import ONE_PLACE, Endpoint, Nodes, require_cluster_or_nodes
from rayplane.nouns.environment import Environment

_MODEL_URI = re.compile(r"^models:/[A-Za-z0-9_.\-]+(@[A-Za-z0-9_\-]+|/[0-9]+)$")
_APP = re.compile(r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")


class Replicas(Spec):
    """Least and greatest number of replicas."""

    min: Count = 1
    """Replicas that are always there."""
    max: Count = Field(default=1, ge=1)
    """Replicas that Serve may add up to as requests come; at least ``min``."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class ServiceSpec(Spec):
    """The model to serve, and the cluster or nodes to serve it on."""

    model_config = ConfigDict(json_schema_extra={"oneOf": ONE_PLACE})

    model: Annotated[str, WithJsonSchema({"type": "string", "pattern": _MODEL_URI.pattern})]
    """``models:/<name>@<alias>`` (followed) or ``models:/<name>/<version>`` (fixed)."""
    cluster: Name | None = None
    """The team's cluster that serves it; None with ``nodes``."""
    nodes: Nodes | None = None
    """Nodes of its own; None on a cluster."""
    app: Annotated[str, WithJsonSchema({"type": "string", "pattern": _APP.pattern})] = (
        "rayplane.runtime.serving.app:build"
    )
    """``module:callable`` of the Serve application builder."""
    package: Package | None = None
    """Content address of the code package that ``app`` comes from, if it is not rayplane's own."""
    feature_service: str | None = None
    """Feast feature service that is read online; default: the one that training recorded on the model."""
    replicas: Replicas = Field(default_factory=Replicas)
    """Least and greatest number of replicas."""
    max_ongoing_requests: Count = Field(default=100, ge=1)
    """Requests that one replica works on at once; more wait."""
    startup_timeout: Seconds = 300
    """Seconds after a rollout by which the application must run, else the service is Failed."""

    @field_validator("model")
    @classmethod
    def _is_a_model_uri(cls, value: str) -> str:
        if not _MODEL_URI.fullmatch(value):
            raise ValueError(f"'{value}' is not a model: write models:/<name>@<alias> or models:/<name>/<version>")
        return value

    @field_validator("app")
    @classmethod
    def _names_a_builder(cls, value: str) -> str:
        if not _APP.fullmatch(value):
            raise ValueError(f"'{value}' is not an application: write module:callable, as in my_app.serving:build")
        return value

    @model_validator(mode="after")
    def _on_cluster_or_nodes(self) -> ServiceSpec:
        require_cluster_or_nodes(self.cluster, self.nodes)
        return self


class Revision(Record):
    """One rolled-out model version."""

    number: int
    """Counted from 1; every rollout of another version or spec raises it."""
    model: str
    """Name of the model."""
    version: str
    """Version of the model."""
    run_id: str | None = None
    """MLflow run that made the version; None while unknown."""
    deployed_at: Instant
    """Time of the rollout."""


class ServiceStatus(Status):
    """Phases: Pending, Deploying, Ready, Failed, Deleting."""

    url: str | None = None
    """Address for predictions: clients POST JSON here."""
    revision: Revision | None = None
    """The model version that is served, or being rolled out; None before the first rollout."""
    incarnation: str | None = None
    """Id of the Ray head that it was deployed to."""
    environment: Environment | None = None
    """Interpreter and libraries that it runs in; None while unknown."""
    endpoint: Endpoint | None = None
    """Addresses of its own Ray, while it has nodes of its own."""
