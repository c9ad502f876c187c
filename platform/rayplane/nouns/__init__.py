"""The table of the eight nouns, and of the pipeline's runs, which are listed and stored like nouns."""

from __future__ import annotations

from rayplane.errors import InvalidSpec
from rayplane.nouns.base import AnyNoun, NounType
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus
from rayplane.nouns.dataset import DatasetSpec, DatasetStatus
from rayplane.nouns.feature import FeatureSpec, FeatureStatus
from rayplane.nouns.job import JobSpec, JobStatus
from rayplane.nouns.model import ModelSpec, ModelStatus
from rayplane.nouns.pipeline import PipelineSpec, PipelineStatus, RunSpec, RunStatus
from rayplane.nouns.service import ServiceSpec, ServiceStatus
from rayplane.nouns.team import TeamSpec, TeamStatus

_PHASE = ("PHASE", "status.phase")

TEAM: NounType[TeamSpec, TeamStatus] = NounType(
    kind="Team",
    singular="team",
    plural="teams",
    spec=TeamSpec,
    status=TeamStatus,
    team_scoped=False,
    columns=(_PHASE, ("BACKEND", "spec.backend")),
)
CLUSTER: NounType[ClusterSpec, ClusterStatus] = NounType(
    kind="Cluster",
    singular="cluster",
    plural="clusters",
    spec=ClusterSpec,
    status=ClusterStatus,
    columns=(_PHASE, ("SIZE", "spec.size"), ("CLIENT", "status.endpoint.client_address")),
)
JOB: NounType[JobSpec, JobStatus] = NounType(
    kind="Job",
    singular="job",
    plural="jobs",
    spec=JobSpec,
    status=JobStatus,
    columns=(
        _PHASE,
        ("CLUSTER", "spec.cluster"),
        ("NODES", "spec.nodes.size"),
        ("RUN", "status.run_id"),
        ("ENTRYPOINT", "spec.entrypoint"),
    ),
)
PIPELINE: NounType[PipelineSpec, PipelineStatus] = NounType(
    kind="Pipeline",
    singular="pipeline",
    plural="pipelines",
    spec=PipelineSpec,
    status=PipelineStatus,
    columns=(_PHASE, ("CLUSTER", "spec.cluster"), ("LAST RUN", "status.last_run")),
)
RUN: NounType[RunSpec, RunStatus] = NounType(
    kind="PipelineRun",
    singular="run",
    plural="runs",
    spec=RunSpec,
    status=RunStatus,
    columns=(_PHASE, ("PIPELINE", "spec.pipeline"), ("STARTED", "status.started_at"), ("ENDED", "status.ended_at")),
)
DATASET: NounType[DatasetSpec, DatasetStatus] = NounType(
    kind="Dataset",
    singular="dataset",
    plural="datasets",
    spec=DatasetSpec,
    status=DatasetStatus,
    columns=(("LATEST", "status.latest"), ("ROWS", "status.rows"), ("VERSIONS", "status.versions")),
)
FEATURE: NounType[FeatureSpec, FeatureStatus] = NounType(
    kind="Feature",
    singular="feature",
    plural="features",
    spec=FeatureSpec,
    status=FeatureStatus,
    columns=(_PHASE, ("VIEWS", "status.views"), ("MATERIALIZED", "status.materialized_at")),
)
MODEL: NounType[ModelSpec, ModelStatus] = NounType(
    kind="Model",
    singular="model",
    plural="models",
    spec=ModelSpec,
    status=ModelStatus,
    columns=(("LATEST", "status.latest"), ("ALIASES", "status.aliases")),
)
SERVICE: NounType[ServiceSpec, ServiceStatus] = NounType(
    kind="Service",
    singular="service",
    plural="services",
    spec=ServiceSpec,
    status=ServiceStatus,
    columns=(
        _PHASE,
        ("MODEL", "spec.model"),
        ("VERSION", "status.revision.version"),
        ("CLUSTER", "spec.cluster"),
        ("NODES", "spec.nodes.size"),
        ("URL", "status.url"),
    ),
)

NOUNS: tuple[AnyNoun, ...] = (TEAM, CLUSTER, JOB, PIPELINE, DATASET, FEATURE, MODEL, SERVICE)
"""The eight nouns, in the order in which `apply` writes them."""

_BY_KIND: dict[str, AnyNoun] = {noun.kind: noun for noun in (*NOUNS, RUN)}


def by_kind(kind: str) -> AnyNoun:
    """The noun of a document's ``kind``; raises InvalidSpec suggesting the nearest kind, or listing all."""
    noun = _BY_KIND.get(kind)
    if noun is None:
        near = next((known for known in _BY_KIND if known.lower() == kind.lower().rstrip("s")), None)
        known = ", ".join(n.kind for n in NOUNS)
        raise InvalidSpec(
            f"kind: '{kind}' is unknown.", remedy=f"Did you mean '{near}'?" if near else f"Known: {known}."
        )
    return noun
