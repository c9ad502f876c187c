"""A team's quota: the compute that its objects may ask for together, and its unfinished jobs.

Pure: specs and sizes in, usage and reasons out.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.errors import Refused
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import Quota, Size, Usage

_UNIT = {"clusters": "", "cpu": " cores", "memory": " GiB", "gpu": " GPUs"}
# Sums of floats differ in their last digits: 0.1 + 0.2 cores must fit into 0.3.
_SLACK = 1e-9


def demand(spec: ClusterSpec, size: Size, *, suspended: bool = False) -> Usage:
    """The most that a cluster can hold: its head and its maximum of workers.

    A cluster that a user or (``suspended``) the platform has suspended holds no compute, and the compute of one that
    others run (``address``) is not the platform's: these only count as clusters.
    """
    if suspended or spec.suspended or spec.address is not None:
        return Usage(clusters=1)
    nodes = 1 + spec.workers.max
    return Usage(clusters=1, cpu=nodes * size.cpu, memory=nodes * size.memory, gpu=nodes * size.gpu)


def total(usages: Iterable[Usage]) -> Usage:
    """The sum of the usages; zero for none."""
    summands = list(usages)
    return Usage(
        clusters=sum(u.clusters for u in summands),
        cpu=sum(u.cpu for u in summands),
        memory=sum(u.memory for u in summands),
        gpu=sum(u.gpu for u in summands),
    )


def exceeded(quota: Quota, others: Usage, wanted: Usage, before: Usage | None = None) -> list[str]:
    """All reasons why ``wanted`` does not fit beside ``others``; empty if it fits.

    ``before`` is the previous demand of the same object: an amount that does not grow is never a reason, so that a team
    above its quota (an admin lowered it) can still shrink.
    """
    current = before or Usage()
    reasons = []
    for name in ("clusters", "cpu", "memory", "gpu"):
        limit = getattr(quota, name)
        used, more, old = (float(getattr(u, name)) for u in (others, wanted, current))
        if limit is not None and more > old and used + more > limit * (1 + _SLACK) + _SLACK:
            amounts = (
                f"{_amount(name, used)} used + {_amount(name, more)} wanted of {_amount(name, limit)}{_UNIT[name]}"
            )
            reasons.append(f"quota '{name}' is exceeded ({amounts})")
    return reasons


def require(quota: Quota, others: Usage, wanted: Usage, before: Usage | None = None, *, what: str) -> None:
    """Raise Refused with all reasons why ``what`` does not fit, if any."""
    reasons = exceeded(quota, others, wanted, before)
    if reasons:
        raise Refused(
            f"{what} does not fit: {'; '.join(reasons)}.",
            remedy="Free some with 'rayplane cluster suspend' or 'delete', or ask for a smaller size or fewer workers.",
        )


def limits_compute(quota: Quota) -> bool:
    """True if the quota limits anything but the number of jobs."""
    return any(limit is not None for limit in (quota.clusters, quota.cpu, quota.memory, quota.gpu))


def require_job(quota: Quota, others: int, *, what: str) -> None:
    """Raise Refused if the quota has no room for one more job beside ``others`` unfinished ones."""
    if quota.jobs is not None and others >= quota.jobs:
        raise Refused(
            f"{what} does not fit: quota 'jobs' is exceeded ({others} have not ended + 1 wanted of {quota.jobs}).",
            remedy="Wait until some have ended, stop some with 'rayplane job stop', or have the team's quota raised.",
            quota="jobs",
        )


def _amount(name: str, value: float) -> str:
    return f"{value / 2**30 if name == 'memory' else value:g}"
