"""The table of the eight nouns, and of the pipeline's runs, which are listed and stored like nouns.

The common routes, the command groups and the rules of a noun come from its row. Importing the table imports no spec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayplane.errors import InvalidSpec
from rayplane.nouns.noun_type import AnyNoun, NounType

if TYPE_CHECKING:
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
    help="Who owns and pays.",
    spec_code="rayplane.nouns.team:TeamSpec",
    status_code="rayplane.nouns.team:TeamStatus",
    team_scoped=False,
    columns=(_PHASE, ("BACKEND", "spec.backend")),
)
CLUSTER: NounType[ClusterSpec, ClusterStatus] = NounType(
    kind="Cluster",
    singular="cluster",
    plural="clusters",
    help="Ray clusters of a team.",
    spec_code="rayplane.nouns.cluster:ClusterSpec",
    status_code="rayplane.nouns.cluster:ClusterStatus",
    columns=(_PHASE, ("SIZE", "spec.size"), ("CLIENT", "status.endpoint.client_address")),
)
JOB: NounType[JobSpec, JobStatus] = NounType(
    kind="Job",
    singular="job",
    plural="jobs",
    help="Runs of an entrypoint.",
    spec_code="rayplane.nouns.job:JobSpec",
    status_code="rayplane.nouns.job:JobStatus",
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
    help="DAGs of jobs.",
    spec_code="rayplane.nouns.pipeline:PipelineSpec",
    status_code="rayplane.nouns.pipeline:PipelineStatus",
    columns=(_PHASE, ("CLUSTER", "spec.cluster"), ("LAST RUN", "status.last_run")),
)
RUN: NounType[RunSpec, RunStatus] = NounType(
    kind="PipelineRun",
    singular="run",
    plural="runs",
    help="Runs of a pipeline.",
    spec_code="rayplane.nouns.pipeline:RunSpec",
    status_code="rayplane.nouns.pipeline:RunStatus",
    columns=(_PHASE, ("PIPELINE", "spec.pipeline"), ("STARTED", "status.started_at"), ("ENDED", "status.ended_at")),
)
DATASET: NounType[DatasetSpec, DatasetStatus] = NounType(
    kind="Dataset",
    singular="dataset",
    plural="datasets",
    help="Named data with immutable versions.",
    spec_code="rayplane.nouns.dataset:DatasetSpec",
    status_code="rayplane.nouns.dataset:DatasetStatus",
    columns=(("LATEST", "status.latest"), ("ROWS", "status.rows"), ("VERSIONS", "status.versions")),
)
FEATURE: NounType[FeatureSpec, FeatureStatus] = NounType(
    kind="Feature",
    singular="feature",
    plural="features",
    help="Feature sets.",
    spec_code="rayplane.nouns.feature:FeatureSpec",
    status_code="rayplane.nouns.feature:FeatureStatus",
    columns=(_PHASE, ("VIEWS", "status.views"), ("MATERIALIZED", "status.materialized_at")),
)
MODEL: NounType[ModelSpec, ModelStatus] = NounType(
    kind="Model",
    singular="model",
    plural="models",
    help="Registered models.",
    spec_code="rayplane.nouns.model:ModelSpec",
    status_code="rayplane.nouns.model:ModelStatus",
    columns=(("LATEST", "status.latest"), ("ALIASES", "status.aliases")),
)
SERVICE: NounType[ServiceSpec, ServiceStatus] = NounType(
    kind="Service",
    singular="service",
    plural="services",
    help="Deployed models.",
    spec_code="rayplane.nouns.service:ServiceSpec",
    status_code="rayplane.nouns.service:ServiceStatus",
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


def by_kind(kind: str) -> AnyNoun:
    """The noun of a document's ``kind``; raises InvalidSpec suggesting the nearest kind, or listing all."""
    nouns: tuple[AnyNoun, ...] = (*NOUNS, RUN)
    noun = next((noun for noun in nouns if noun.kind == kind), None)
    if noun is None:
        near = next((known.kind for known in nouns if known.kind.lower() == kind.lower().rstrip("s")), None)
        known = ", ".join(n.kind for n in NOUNS)
        raise InvalidSpec(
            f"kind: '{kind}' is unknown.", remedy=f"Did you mean '{near}'?" if near else f"Known: {known}."
        )
    return noun
