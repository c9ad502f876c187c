"""Lineage: from which inputs a dataset, model, run or view was made, and what was made from it."""

from __future__ import annotations

from typing import Literal

from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.team import require_team_name
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Edge
from rayplane.nouns.feature import Materialization


def reachable(
    team: str, node: str, direction: Literal["up", "down"], *, principal: Principal, platform: Platform
) -> list[Edge]:
    """Every edge up or down from a node, over any number of hops; none for an unknown node.

    Raises Forbidden to other teams' principals, NotFound for a name that no team can have.
    """
    authorize(principal, "read", team)
    require_team_name(team)
    return platform.store.edges(team, node, direction)


def dataset(name: str, version: str) -> str:
    """The node of a dataset version."""
    return f"dataset:{name}@{version}"


def source(uri: str, content_hash: str) -> str:
    """The node of data outside the platform, with the hash of its content."""
    return f"source:{uri}#{content_hash}"


def run(run_id: str) -> str:
    """The node of an MLflow run."""
    return f"run:{run_id}"


def model(name: str, version: str) -> str:
    """The node of a model version."""
    return f"model:{name}/{version}"


def job(name: str) -> str:
    """The node of a job."""
    return f"job:{name}"


def service(name: str, revision: int) -> str:
    """The node of a service's revision."""
    return f"service:{name}#{revision}"


def view(name: str, version: str) -> str:
    """The node of a feature view, fed by a dataset version."""
    return f"view:{name}@{version}"


def of_version(version: DatasetVersion, maker: str | None) -> list[Edge]:
    """The edges into a published version: from its inputs, and from the job that made it."""
    target = dataset(version.name, version.version)
    edges = [Edge(source=dataset(i.name, i.version), target=target) for i in version.inputs]
    return [*edges, Edge(source=job(maker), target=target)] if maker else edges


def of_materialization(record: Materialization) -> list[Edge]:
    """The edges into the views that were materialized: from the dataset version that fed each."""
    return [Edge(source=dataset(v.dataset, v.version), target=view(v.view, v.version)) for v in record.views]
