"""Rules for a RayCronJob that its definition does not have: breaking one, it is accepted and then refused. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import available_timezones

from rayplane.gateway.backends.kubernetes.preflight import cron, raycluster, rayjob
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, nearest, shown

MOST_NAME = rayjob.MOST_NAME - 6
"""The most characters of its name: the operator adds six for the names of its jobs."""


def wrong(cron_job: dict[str, Any], old: dict[str, Any] | None) -> Iterator[Finding]:
    """Findings about a RayCronJob as the API server would store it; ``old`` is the present one, if any."""
    del old  # every field may change
    metadata, spec = cron_job["metadata"], cron_job["spec"]
    yield from raycluster.name_wrong(metadata.get("name") or "", "RayCronJob", MOST_NAME)
    schedule = spec.get("schedule") or ""
    if re.search(r"TZ=", schedule):
        message = f"{shown(schedule)} carries a time zone"
        yield Finding("spec.schedule", "ray.schedule", message, "Set 'timeZone' instead.")
    elif problem := cron.wrong(schedule):
        message = f"{shown(schedule)} {problem}"
        yield Finding("spec.schedule", "ray.schedule", message, "Write it as in '30 2 * * 1-5'.")
    zone = spec.get("timeZone")
    if zone is not None and zone not in available_timezones():
        message = f"{shown(zone)} is no time zone"
        yield Finding("spec.timeZone", "ray.time-zone", message, nearest(zone, available_timezones()))
    yield from rayjob.spec_wrong(spec.get("jobTemplate") or {}, {}, "spec.jobTemplate")
