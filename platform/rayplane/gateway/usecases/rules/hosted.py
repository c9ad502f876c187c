"""The rules that jobs and services share: each is on a cluster of its team or on nodes of its own."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases.cluster import note_work
from rayplane.gateway.usecases.rules.base import Effect, Rules
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.gateway.usecases.rules.nodes import nodes_of


class HostedRules(Rules):
    """The cluster exists and hears of its new work, or the backend can provide the nodes."""

    reconciled = True

    def before(self, draft: Draft) -> Iterator[Check]:
        yield from super().before(draft)
        if draft.spec.nodes is not None:
            yield from nodes_of(draft, draft.spec.nodes)

    def reserve(self, draft: Draft) -> Iterator[Check]:
        if draft.spec.cluster is not None:
            yield Check("cluster", lambda: draft.platform.cluster(draft.team, draft.spec.cluster))

    def written(self, draft: Draft) -> Iterator[Effect]:
        if draft.spec.cluster is not None:
            yield lambda obj: _note_work(draft, obj)

    def asks(self, draft: Draft) -> bool:
        return draft.spec.nodes is not None


def _note_work(draft: Draft, obj: AnyObject) -> AnyObject:
    note_work(draft.platform.cluster(draft.team, draft.spec.cluster), draft.platform)
    return obj
