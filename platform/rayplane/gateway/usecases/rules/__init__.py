"""The rule book: for each kind, what its objects must meet, what their writes bring about, what forbids to delete them.

``apply`` raises what the first check raises that refuses, ``plan`` collects what all of them raise, and ``why`` asks
which refuse now: one list for the three.
"""

from __future__ import annotations

from collections.abc import Mapping

from rayplane.gateway.usecases.rules.base import Rules
from rayplane.gateway.usecases.rules.cluster import ClusterRules
from rayplane.gateway.usecases.rules.job import JobRules
from rayplane.gateway.usecases.rules.pipeline import PipelineRules
from rayplane.gateway.usecases.rules.service import ServiceRules
from rayplane.gateway.usecases.rules.team import TeamRules


class _Reconciled(Rules):
    """Runs of pipelines: asked for by a verb of their own."""

    reconciled = True


RULES: Mapping[str, Rules] = {
    "Team": TeamRules(),
    "Cluster": ClusterRules(),
    "Job": JobRules(),
    "Pipeline": PipelineRules(),
    "PipelineRun": _Reconciled(),
    "Dataset": Rules(),
    "Feature": Rules(),
    "Model": Rules(),
    "Service": ServiceRules(),
}
"""By kind."""
