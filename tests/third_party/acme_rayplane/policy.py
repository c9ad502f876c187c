"""An admission policy: every cluster says who pays for it."""

from __future__ import annotations

from rayplane.errors import Refused
from rayplane.gateway.admission.policy import AdmissionRequest


class CostCenterPolicy:
    """A cluster has the label ``cost-center``."""

    kinds = ("Cluster",)

    def check(self, request: AdmissionRequest) -> None:
        """Raise Refused without the label."""
        if "cost-center" not in request.labels:
            raise Refused(
                f"Cluster '{request.team}/{request.name}' names no cost center.",
                remedy="Add the label 'cost-center' to its metadata.",
            )
