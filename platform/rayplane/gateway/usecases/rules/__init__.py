"""The rules of each kind: checks of its objects, effects of their writes, and checks of their deletion.

``apply`` raises the error of the first failing check, ``plan`` collects the errors of all, and ``why`` reports the
checks that fail now: the three share one list.
"""

from __future__ import annotations

from collections.abc import Mapping

from rayplane.gateway.usecases.rules.base import Rules
from rayplane.gateway.usecases.rules.cluster import ClusterRules
from rayplane.gateway.usecases.rules.job import JobRules
from rayplane.gateway.usecases.rules.pipeline import PipelineRules
from rayplane.gateway.usecases.rules.service import ServiceRules
from rayplane.gateway.usecases.rules.team import TeamRules
from rayplane.nouns import NOUNS


class _Reconciled(Rules):
    """The rules of pipeline runs, which have checks in their own verb (``usecases/pipeline.py``) instead."""

    reconciled = True


RULES: Mapping[str, Rules] = {
    **{noun.kind: Rules() for noun in NOUNS},
    "Team": TeamRules(),
    "Cluster": ClusterRules(),
    "Job": JobRules(),
    "Pipeline": PipelineRules(),
    "PipelineRun": _Reconciled(),
    "Service": ServiceRules(),
}
"""Kind -> its rules; a kind of the table of nouns without rules of its own has those of the base class."""
