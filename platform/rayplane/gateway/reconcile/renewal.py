"""Renew the secrets of running clusters, jobs and services, and report failures in their status."""

from __future__ import annotations

from typing import TypeVar

from rayplane.errors import RayplaneError
from rayplane.gateway.backends.base import ObjectRef, Renewing
from rayplane.gateway.reconcile import launch
from rayplane.gateway.reconcile.status import S, editing
from rayplane.gateway.store import Store
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Status

Ref = TypeVar("Ref", bound=ObjectRef)

CONDITION = "TokenCurrent"
SOON = 15.0
"""Seconds until a failed renewal is repeated."""


def renew(platform: Platform, port: Renewing[Ref], ref: Ref) -> str:
    """Put the current secrets where the running processes read them; the reason if that fails, else empty."""
    try:
        port.renew(ref, launch.secrets(platform, ref.team, ref.uid))
    except RayplaneError as exc:
        ends = platform.signer.grace_ends()
        accepted = "is accepted no more" if ends is None else f"is accepted until {ends.isoformat(timespec='seconds')}"
        return f"Its new token can't be put where its processes read it; a former one {accepted}. {exc}"
    return ""


def record(store: Store, uid: str, model: type[S], status: S, lacking: str, generation: int) -> None:
    """Write the condition into the stored status, if it is news; else no writer waits."""
    if _is_news(status, lacking):
        with editing(store, uid, model) as edited:
            tell(edited, lacking, generation)


def _is_news(status: Status, lacking: str) -> bool:
    """True if the status does not say this yet. It has no condition as long as no renewal ever failed."""
    known = status.condition(CONDITION)
    if known is None:
        return bool(lacking)
    return (known.status == "False", known.message) != (bool(lacking), lacking)


def tell(status: Status, lacking: str, generation: int) -> None:
    """Set the condition in the status, if it is news."""
    if _is_news(status, lacking):
        status.set_condition(CONDITION, not lacking, "NotRenewed" if lacking else "Renewed", lacking, generation)
