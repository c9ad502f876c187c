"""Limits that the platform's admins set for a team; its own admin may only tighten them. Pure: specs in, fields out."""

from __future__ import annotations

from rayplane.nouns.team import TeamSpec

_AMOUNTS = ("cpu", "memory", "gpu")


def raised(before: TeamSpec, wanted: TeamSpec) -> list[str]:
    """Every part of ``wanted`` that gives the team more than ``before``, by its field; empty if none does."""
    more = []
    if wanted.backend != before.backend:
        more.append("backend")
    for name in (*_AMOUNTS, "clusters", "jobs"):
        if _more(getattr(before.quota, name), getattr(wanted.quota, name)):
            more.append(f"quota.{name}")
    for name, size in wanted.sizes.items():
        old = before.sizes.get(name)
        if old is None or any(getattr(size, amount) > getattr(old, amount) for amount in _AMOUNTS):
            more.append(f"sizes.{name}")
    for name in ("idle_timeout", "delete_after_idle", "max_lifetime", "max_extension"):
        if _more(getattr(before, name), getattr(wanted, name)):
            more.append(name)
    return more


def _more(old: float | None, new: float | None) -> bool:
    """True if the new limit is looser; None is no limit."""
    return old is not None and (new is None or new > old)
