"""Tables of the routes of Ray's dashboard that the gateway answers, and that it refuses. Pure."""

from __future__ import annotations

from rayplane.gateway.admission.roles import Action

ALLOW: dict[tuple[str, str], Action] = {
    ("GET", "/api/version"): "read",
    ("GET", "/api/packages/{protocol}/{package_name}"): "read",
    ("PUT", "/api/packages/{protocol}/{package_name}"): "write",
    ("GET", "/api/jobs/"): "read",
    ("POST", "/api/jobs/"): "write",
    ("GET", "/api/jobs/{job_or_submission_id}"): "read",
    ("DELETE", "/api/jobs/{job_or_submission_id}"): "write",
    ("POST", "/api/jobs/{job_or_submission_id}/stop"): "write",
    ("GET", "/api/jobs/{job_or_submission_id}/logs"): "read",
    ("GET", "/api/jobs/{job_or_submission_id}/logs/tail"): "read",
}
"""(method, route template) -> the action that the principal's role must allow in the team."""

REFUSED: dict[tuple[str, str], str] = {
    ("GET", "/api/component_activities"): "activity is the platform's own business: see 'rayplane cluster get'",
}
"""(method, route template) of Ray's Jobs API -> the reason for refusing it. All others are refused without a reason."""
