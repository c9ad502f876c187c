"""The checks by admission policies, the platform's own and those of third parties: one for each that names the kind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rayplane import plugins
from rayplane.errors import Failed, RayplaneError, Unsupported
from rayplane.gateway.admission.policy import AdmissionRequest, Policy
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.nouns import NOUNS

PREFIX = "policy:"
"""Beginning of the names of these checks, which end with the policy's."""


def checks(draft: Draft) -> Iterator[Check]:
    """The checks of a draft by policies. A policy that can't be loaded refuses every object: it might be one of its."""
    request = AdmissionRequest(
        kind=draft.noun.kind,
        team=draft.team,
        name=draft.name,
        labels=draft.labels,
        spec=draft.spec,
        before=None if draft.before is None else draft.before.plain(),
        team_spec=None if draft.owner is None else draft.of_team,
        principal=draft.principal,
    )
    for name in plugins.names("policies"):
        try:
            policy = _load(name)
        except RayplaneError as exc:
            yield Check(f"{PREFIX}{name}", partial(_refuse, exc))
            continue
        if request.kind in policy.kinds:
            yield Check(f"{PREFIX}{name}", partial(_ask, name, policy, request))


def _load(name: str) -> Policy:
    made = plugins.load("policies", name)
    try:
        policy: Policy = made()
        kinds = {*policy.kinds}
    except Exception as exc:
        raise Failed(
            f"Admission policy '{name}' can't be made: {type(exc).__name__}: {exc}.",
            remedy="Correct the policy, or remove its distribution and restart the gateway.",
        ) from exc
    unknown = sorted(kinds - {noun.kind for noun in NOUNS})
    if unknown:
        raise Unsupported(
            f"Admission policy '{name}' names the kind '{unknown[0]}', which is unknown.",
            remedy=f"Correct the policy; known: {', '.join(noun.kind for noun in NOUNS)}.",
        )
    return policy


def _ask(name: str, policy: Policy, request: AdmissionRequest) -> None:
    try:
        policy.check(request)
    except RayplaneError:
        raise
    except Exception as exc:
        raise Failed(
            f"Admission policy '{name}' failed with {type(exc).__name__}: {exc}.",
            remedy="Correct the policy, or remove its distribution and restart the gateway.",
        ) from exc


def _refuse(error: RayplaneError) -> None:
    raise error
