"""What a RayCronJob's definition takes, though the operator would refuse it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import available_timezones

from rayplane.gateway.backends.kubernetes.preflight import cron, raycluster, rayjob
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, nearest, shown

MOST_NAME = rayjob.MOST_NAME - 6
"""Characters of its name: its jobs are called so, with six more."""


def wrong(cron_job: dict[str, Any], old: dict[str, Any] | None) -> Iterator[Finding]:
    """What is wrong with a RayCronJob as it is stored; ``old`` is what is there now."""
    del old  # nothing of it may not change
    metadata, spec = cron_job["metadata"], cron_job["spec"]
    yield from raycluster.name_wrong(metadata.get("name") or "", "RayCronJob", MOST_NAME)
    schedule = spec.get("schedule") or ""
    if re.search(r"TZ=", schedule):
        message = f"{shown(schedule)} carries a time zone"
        yield Finding("spec.schedule", "ray.schedule", message, "Set 'timeZone' instead.")
    elif said := cron.wrong(schedule):
        message = f"{shown(schedule)} {said}"
        yield Finding("spec.schedule", "ray.schedule", message, "Write it as in '30 2 * * 1-5'.")
    zone = spec.get("timeZone")
    if zone is not None and zone not in available_timezones():
        message = f"{shown(zone)} is no time zone"
        yield Finding("spec.timeZone", "ray.time-zone", message, nearest(zone, available_timezones()))
    yield from rayjob.spec_wrong(spec.get("jobTemplate") or {}, {}, "spec.jobTemplate")
